//! How a record rides on a console: one line, `#@ ` and the base64 of its CBOR followed by the CRC-32 of that.
//!
//! A console is a hostile place. Firmware writes into the middle of a line, bytes are dropped, newlines are lost,
//! a kernel puts timestamps in front, a terminal adds CR and colours, two consoles end up in one file. The
//! [`Reader`] therefore looks for the marker anywhere, and believes nothing but the checksum. A CBOR item says
//! itself where it ends, so whatever stands behind a record, even if it looks like base64, does no harm.
//! What is damaged is reported as damaged; no record comes out that did not go in.

use crc::{CRC_32_ISO_HDLC, Crc, Table};
use data_encoding::{BASE64, BASE64_NOPAD};
use minicbor::{Decoder, Encode};

use crate::record::{self, Decoded, MAX_RECORD, Record, Report};

/// What a record's line starts with; to KTAP it is a diagnostic line.
pub const MARKER: &str = "#@ ";

/// Bytes of a CRC-32.
const CRC_LEN: usize = 4;

/// Longest line in bytes, without its end.
pub const MAX_LINE: usize = MARKER.len() + (MAX_RECORD + CRC_LEN).div_ceil(3) * 4;

/// Longest frame body in bytes, as [`encode_report`] makes it.
pub const MAX_BODY: usize = MAX_RECORD + CRC_LEN;

/// Sixteen tables are several times as fast as one; a guest, which is copied anew for every instance, does with one.
#[cfg(not(target_os = "none"))]
type Tables = Table<16>;
#[cfg(target_os = "none")]
type Tables = Table<1>;

static CRC: Crc<u32, Tables> = Crc::<u32, Tables>::new(&CRC_32_ISO_HDLC);

/// CRC-32/ISO-HDLC, the CRC of zip and Ethernet.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// Why a record could not be put into a line, or a report into a buffer: it is larger than [`MAX_RECORD`], or than
/// the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge;

impl core::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("it is larger than a record may be")
    }
}

impl core::error::Error for TooLarge {}

/// Writes `value` and its CRC-32 into `body`, and returns the length of both in bytes.
fn encode_checked(value: impl Encode<()>, body: &mut [u8]) -> Result<usize, TooLarge> {
    let room = body.len().saturating_sub(CRC_LEN).min(MAX_RECORD);
    let mut rest = &mut body[..room];
    // The codec has no errors of its own: only writing fails.
    minicbor::encode(value, &mut rest).map_err(|_| TooLarge)?;
    let size = room - rest.len();
    let (cbor, crc) = body.split_at_mut(size);
    crc[..CRC_LEN].copy_from_slice(&crc32(cbor).to_le_bytes());
    Ok(size + CRC_LEN)
}

/// Writes the line of `record`, without a line end, into `line`; [`MAX_LINE`] bytes are always enough.
///
/// # Errors
/// If the record is larger than [`MAX_RECORD`] (only registers and their names can make it so), or `line` is too
/// short for it.
pub fn encode_line<'l>(record: &Record<'_>, line: &'l mut [u8]) -> Result<&'l str, TooLarge> {
    let mut body = [0; MAX_BODY];
    let size = encode_checked(record, &mut body)?;
    let line = line.get_mut(..MARKER.len() + BASE64.encode_len(size)).ok_or(TooLarge)?;
    let (marker, text) = line.split_at_mut(MARKER.len());
    marker.copy_from_slice(MARKER.as_bytes());
    BASE64.encode_mut(&body[..size], text);
    Ok(core::str::from_utf8(line).expect("base64 is ASCII"))
}

/// Writes the frame body of `report` into `body` and returns its length in bytes; [`MAX_BODY`] bytes are always
/// enough.
///
/// # Errors
/// If `body` is too short for it.
pub fn encode_report(report: &Report, body: &mut [u8]) -> Result<usize, TooLarge> {
    encode_checked(report, body)
}

/// Why bytes are not a frame body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// Too short to hold a checksum.
    Short,
    /// The checksum does not match.
    Crc,
    /// The checksum matches, but the contents are not what this version knows.
    Contents,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Short => "it is cut short",
            Self::Crc => "its checksum does not match",
            Self::Contents => "it is undamaged, but not of this version",
        })
    }
}

impl core::error::Error for FrameError {}

/// Reads a frame body that [`encode_report`] made.
///
/// # Errors
/// If it is damaged or not a report. Unlike a console's reader it skips nothing: hv and its payloads are built
/// together.
pub fn decode_report(body: &[u8]) -> Result<Report, FrameError> {
    let (cbor, crc) = body.split_last_chunk::<CRC_LEN>().ok_or(FrameError::Short)?;
    if crc32(cbor) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Crc);
    }
    let mut decoder = Decoder::new(cbor);
    let report = decoder.decode().map_err(|_| FrameError::Contents)?;
    if decoder.position() == cbor.len() { Ok(report) } else { Err(FrameError::Contents) }
}

/// What a [`Reader`] found.
#[expect(clippy::large_enum_variant, reason = "handed to the sink at once; without a heap there is no box for it")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A record, undamaged. Fields that this version does not know are left out, which
    /// [`Statistics::partial`] counts.
    Record(Record<'a>),
    /// An undamaged record that this version cannot read.
    Skipped {
        /// The number of its type if that is unknown; else a value in it is.
        number: Option<u32>,
    },
    /// Text that is no record: a line without its end, a part of one before or behind a record, or [`MAX_LINE`]
    /// bytes of a longer one. Never blank. It need not be UTF-8.
    Text(&'a [u8]),
    /// A marker without an undamaged record behind it.
    Damaged {
        /// From the marker to the line's end, the next marker, or [`MAX_LINE`] bytes.
        bytes: &'a [u8],
    },
}

/// What a [`Reader`] has seen so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Records delivered.
    pub records: u64,
    /// Of these, records with fields that this version does not know.
    pub partial: u64,
    /// Undamaged records that this version cannot read.
    pub skipped: u64,
    /// Damaged records. One that lost its marker is not noticed here, but by its number missing in the sequence.
    pub lost: u64,
}

/// Bytes that decide every [`boundary`]: a piece of the longest length, and a marker behind it.
const PENDING: usize = MAX_LINE + MARKER.len();

/// Finds records in a stream of bytes that arrives in pieces of any size.
///
/// The stream is cut at line ends (CR and LF alike) and before every marker; a piece without either is cut after
/// [`MAX_LINE`] bytes. How the stream was divided into calls of [`push`](Self::push) makes no difference.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The start of a piece whose end has not arrived.
    pending: [u8; PENDING],
    pending_len: usize,
    pieces: Pieces,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pending: [0; PENDING],
            pending_len: 0,
            pieces: Pieces {
                decoded: [0; DECODED],
                statistics: Statistics { records: 0, partial: 0, skipped: 0, lost: 0 },
            },
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub const fn statistics(&self) -> Statistics {
        self.pieces.statistics
    }

    /// Damaged records so far.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.pieces.statistics.lost
    }

    /// Takes the next bytes of the stream and hands to `sink` what is complete.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        while !bytes.is_empty() {
            let held = self.pending_len;
            if held == 0 {
                // The usual case: whole lines, read where they stand.
                let Some(cut) = boundary(bytes, 0) else {
                    self.pending[..bytes.len()].copy_from_slice(bytes);
                    self.pending_len = bytes.len();
                    return;
                };
                self.pieces.read(&bytes[..cut.end], sink);
                bytes = &bytes[cut.next..];
                continue;
            }
            let filled = PENDING.min(held + bytes.len());
            self.pending[held..filled].copy_from_slice(&bytes[..filled - held]);
            // What was held has no boundary in it, but may end with a part of a marker.
            let Some(cut) = boundary(&self.pending[..filled], held.saturating_sub(MARKER.len() - 1)) else {
                self.pending_len = filled;
                return;
            };
            self.pieces.read(&self.pending[..cut.end], sink);
            // `bytes` goes on behind the cut; if that lies in what was held, the rest of it stays there.
            self.pending.copy_within(cut.next.min(held)..held, 0);
            self.pending_len = held.saturating_sub(cut.next);
            bytes = &bytes[cut.next.saturating_sub(held)..];
        }
    }

    /// Ends the stream: what is still held is read as it is. The reader can then start another stream.
    pub fn finish(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        let held = &self.pending[..core::mem::take(&mut self.pending_len)];
        let (piece, rest) = held.split_at(held.len().min(MAX_LINE));
        self.pieces.read(piece, sink);
        self.pieces.read(rest, sink);
    }
}

/// Where a piece ends and where the next one starts.
struct Cut {
    end: usize,
    next: usize,
}

/// The end of the piece that `data` starts with, if `data` holds enough to tell; there is none before `from`.
fn boundary(data: &[u8], from: usize) -> Option<Cut> {
    let window = &data[..data.len().min(MAX_LINE + 1)];
    let mut at = from;
    while let Some(found) = window[at..].iter().position(|b| matches!(b, b'\n' | b'\r' | b'#')) {
        at += found;
        if data[at] != b'#' {
            return Some(Cut { end: at, next: at + 1 });
        }
        let here = &data[at..data.len().min(at + MARKER.len())];
        if at > 0 && MARKER.as_bytes().starts_with(here) {
            return (here.len() == MARKER.len()).then_some(Cut { end: at, next: at });
        }
        at += 1;
    }
    (data.len() > MAX_LINE).then_some(Cut { end: MAX_LINE, next: MAX_LINE })
}

/// Bytes that the longest line decodes to.
const DECODED: usize = (MAX_LINE - MARKER.len()) / 4 * 3;

/// Reads the pieces that a [`Reader`] cuts.
#[derive(Clone, Debug)]
struct Pieces {
    decoded: [u8; DECODED],
    statistics: Statistics,
}

impl Pieces {
    fn read(&mut self, piece: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        let rest = match piece.strip_prefix(MARKER.as_bytes()) {
            None => piece,
            Some(body) => match self.record(body, sink) {
                Some(rest) => rest,
                None => {
                    self.statistics.lost += 1;
                    return sink(Event::Damaged { bytes: piece });
                }
            },
        };
        if !rest.trim_ascii().is_empty() {
            sink(Event::Text(rest));
        }
    }

    /// Reads the record that `body` starts with and returns what stands behind it; nothing if it is damaged.
    fn record<'b>(&mut self, body: &'b [u8], sink: &mut impl FnMut(Event<'_>)) -> Option<&'b [u8]> {
        let length = body.iter().position(|b| !is_base64(*b)).unwrap_or(body.len());
        let (groups, tail) = body[..length].as_chunks::<4>();
        let mut padded = [b'A'; 4];
        padded[..tail.len()].copy_from_slice(tail);
        let (whole, last) = self.decoded.split_at_mut(groups.len() * 3);
        BASE64_NOPAD.decode_mut(groups.as_flattened(), whole).ok()?;
        // The last group may be part of the record or of what follows it; the bits that complete it do not matter,
        // since the checksum ends before them.
        let known = tail.len() * 3 / 4;
        if known > 0 {
            BASE64_NOPAD.decode_mut(&padded, &mut last[..3]).ok()?;
        }
        let decoded = &self.decoded[..groups.len() * 3 + known];

        let mut decoder = Decoder::new(decoded);
        decoder.skip().ok()?;
        let (cbor, behind) = decoded.split_at(decoder.position());
        if crc32(cbor) != u32::from_le_bytes(*behind.first_chunk()?) {
            return None;
        }
        let statistics = &mut self.statistics;
        match record::decode(cbor) {
            Ok(Decoded::Whole(record)) => {
                statistics.records += 1;
                sink(Event::Record(record));
            }
            Ok(Decoded::Part(record)) => {
                statistics.records += 1;
                statistics.partial += 1;
                sink(Event::Record(record));
            }
            Ok(Decoded::Unknown { number }) => {
                statistics.skipped += 1;
                sink(Event::Skipped { number: Some(number) });
            }
            Err(_) => {
                statistics.skipped += 1;
                sink(Event::Skipped { number: None });
            }
        }

        let used = ((cbor.len() + CRC_LEN) * 4).div_ceil(3);
        let padding = body[used..].iter().take(used.next_multiple_of(4) - used).take_while(|b| **b == b'=').count();
        Some(&body[used + padding..])
    }
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}
