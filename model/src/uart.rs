//! A PL011 that is always ready to send and never receives.

/// Physical address.
pub(crate) const UART_BASE: u64 = 0x1c09_0000;
/// Bytes of its registers.
pub(crate) const UART_SIZE: u64 = 0x1000;

/// Data, flags and identification; everything between is storage without effect.
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FIRST_STORED: u64 = 0x20;
const LAST_STORED: u64 = 0x38;
const FIRST_ID: u64 = 0xfe0;
/// Transmit FIFO empty, receive FIFO empty.
const FLAGS: u32 = 1 << 7 | 1 << 4;
/// PrimeCell part 0x011, revision 1, and the PrimeCell class.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The console.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uart {
    stored: [u32; 7],
}

impl Uart {
    /// Reads the register at `offset`.
    #[must_use]
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            FR => FLAGS,
            FIRST_STORED..=LAST_STORED => self.stored[((offset - FIRST_STORED) / 4) as usize],
            FIRST_ID.. => ID.get(((offset - FIRST_ID) / 4) as usize).map_or(0, |byte| u32::from(*byte)),
            _ => 0,
        }
    }

    /// Writes the register at `offset`; returns the byte that was sent, if one was.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> Option<u8> {
        match offset {
            DR => return Some(value as u8),
            FIRST_STORED..=LAST_STORED => self.stored[((offset - FIRST_STORED) / 4) as usize] = value,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_and_identifies_itself() {
        let mut uart = Uart::default();
        assert_eq!(uart.write(DR, 0x141), Some(b'A'));
        assert_eq!(uart.write(0x30, 0x101), None);
        assert_eq!(uart.read(0x30), 0x101);
        assert_eq!(uart.read(FR) & 1 << 5, 0, "never full");
        assert_eq!((uart.read(0xfe0), uart.read(0xffc)), (0x11, 0xb1));
    }
}
