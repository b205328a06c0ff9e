//! JSON that is read by programs and, now and then, by people: one array, with line ends where they help.

use std::io::{self, Write as _};

use serde::Serialize;

/// Writes `items` as one JSON array; the members of the `outer` outermost levels have lines of their own.
///
/// # Errors
/// Those of `out`.
pub fn array<T: Serialize>(items: &[T], outer: usize, out: &mut dyn io::Write) -> io::Result<()> {
    value(&items, outer, out)
}

/// Writes any value likewise.
///
/// # Errors
/// Those of `out`.
pub fn value<T: Serialize>(value: &T, outer: usize, out: &mut dyn io::Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Lines::new(outer)))?;
    out.write_all(b"\n")?;
    out.flush()
}

/// JSON with a line for each member of the outermost levels, and everything below on that line.
struct Lines {
    /// How many outermost levels have a line for each member.
    outer: usize,
    /// Objects and arrays that are open.
    depth: usize,
    /// Whether the innermost of them has members.
    filled: bool,
}

impl Lines {
    const fn new(outer: usize) -> Self {
        Self { outer, depth: 0, filled: false }
    }

    fn open(&mut self, out: &mut (impl io::Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn member(&mut self, out: &mut (impl io::Write + ?Sized), first: bool) -> io::Result<()> {
        let inline = self.depth > self.outer;
        match (first, inline) {
            (true, _) => {}
            (false, false) => out.write_all(b",")?,
            (false, true) => out.write_all(b", ")?,
        }
        self.filled = true;
        self.new_line(out, self.depth)
    }

    fn close(&mut self, out: &mut (impl io::Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        if self.filled {
            self.new_line(out, self.depth - 1)?;
        }
        self.depth -= 1;
        self.filled = true;
        out.write_all(bracket)
    }

    fn new_line(&self, out: &mut (impl io::Write + ?Sized), indent: usize) -> io::Result<()> {
        if self.depth > self.outer { Ok(()) } else { write!(out, "\n{:1$}", "", 2 * indent) }
    }
}

impl serde_json::ser::Formatter for Lines {
    fn begin_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.member(out, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn begin_array_value<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.member(out, first)
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }
}
