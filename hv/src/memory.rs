//! Which RAM the VMs get. Decided once; every VM gets the same.

use arrayvec::ArrayVec;
use wire::abi::MAX_PRIVATE_SIZE;

use crate::platform::{MAX_RESERVED, Machine, Range};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Frames for changes at levels 2 and 3: two blocks of 2 MiB, aligned together.
const SMALL_FRAMES: u64 = 4 * MIB;

/// The VMs' memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Private memory, of which an instance uses the first part.
    pub(crate) private: Range,
    small: Range,
    /// A whole, aligned GiB, where there is one.
    large: Option<Range>,
}

/// Finds `size` bytes at a boundary of `align` in RAM, outside of everything in `taken`.
fn find(ram: &[Range], taken: &[Range], size: u64, align: u64) -> Option<Range> {
    ram.iter().find_map(|range| {
        let mut start = range.start.checked_next_multiple_of(align)?;
        loop {
            let candidate = Range::of(start, size);
            if !range.contains(candidate) {
                return None;
            }
            match taken.iter().find(|t| t.overlaps(candidate)) {
                Some(obstacle) => start = obstacle.end.checked_next_multiple_of(align)?,
                None => return Some(candidate),
            }
        }
    })
}

impl Memory {
    /// Places the VMs' memory; `None` if there is not even room for the private part.
    pub(crate) fn plan(machine: &Machine, image: Range) -> Option<Self> {
        let mut taken: ArrayVec<Range, { MAX_RESERVED + 5 }> = machine.reserved.iter().copied().collect();
        for range in [Some(image), Some(machine.dtb), machine.initrd].into_iter().flatten() {
            taken.push(range.pages());
        }
        let private = find(&machine.ram, &taken, MAX_PRIVATE_SIZE, 2 * MIB)?;
        taken.push(private);
        let small = find(&machine.ram, &taken, SMALL_FRAMES, SMALL_FRAMES)?;
        taken.push(small);
        Some(Self { private, small, large: find(&machine.ram, &taken, GIB, GIB) })
    }

    /// Frames for an instance: `count` of `size` bytes, one behind the other.
    pub(crate) fn frames(&self, size: u64, count: u64) -> Option<Range> {
        let total = size * count;
        let from = if total <= SMALL_FRAMES { Some(self.small) } else { self.large };
        from.map(|r| Range::of(r.start, total)).filter(|wanted| from.is_some_and(|r| r.contains(*wanted)))
    }
}
