//! The one way out: KTAP lines and records, by UART or by semihosting.
//!
//! Lines end with CR LF, which terminals, LAVA's monitors and the record reader all take. A whole line is
//! written under one lock, so that lines of several CPUs do not mix. Before the plan is read the UART is used;
//! semihosting, one trap a line instead of one a byte, only where the plan asks for it, since without a
//! debugger or emulator behind it the trap would be an exception.

use core::{
    fmt::{self, Write},
    ptr::NonNull,
};

use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use semihosting::io::{Stdout, Write as _};
use spin::Mutex;
use wire::{
    frame,
    record::{Record, Text},
};

use crate::platform::UartInfo;

enum Sink {
    None,
    Uart(Uart<'static>),
    Semihosting(Stdout),
}

struct Console {
    sink: Sink,
    line: [u8; frame::MAX_LINE + 2],
    used: usize,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console { sink: Sink::None, line: [0; frame::MAX_LINE + 2], used: 0 });

/// The UART that `info` names. Its line settings are firmware's; where nobody switched it on (QEMU without
/// firmware), that alone is done.
fn uart(info: UartInfo) -> Option<Uart<'static>> {
    /// Control register: UARTEN and TXE.
    const CR: u64 = 0x30;
    const ON: u32 = 1 | 1 << 8;
    if info.has_control {
        let control = (info.base + CR) as *mut u32;
        // SAFETY: a register of the PL011 that the DTB names; see below.
        unsafe {
            let value = control.read_volatile();
            if value & ON != ON {
                control.write_volatile(value | ON);
            }
        }
    }
    let registers = NonNull::new(info.base as *mut PL011Registers)?;
    // SAFETY: the DTB names this as the console, it is mapped as Device memory (or the MMU is off), and the console's
    // lock holds the only driver made for it.
    Some(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
}

/// Writes to the UART from now on, if there is one.
pub(crate) fn use_uart(info: Option<UartInfo>) {
    CONSOLE.lock().sink = info.and_then(uart).map_or(Sink::None, Sink::Uart);
}

/// Writes through semihosting from now on; stays with the UART if the host declines.
pub(crate) fn use_semihosting() {
    if let Ok(stdout) = semihosting::io::stdout() {
        CONSOLE.lock().sink = Sink::Semihosting(stdout);
    }
}

/// Prints `text` with the MMU off, where a lock would not work: atomic read-modify-writes need caches.
pub(crate) fn print_early(info: Option<UartInfo>, text: &str) {
    if let Some(mut uart) = info.and_then(uart) {
        put(&mut uart, text.as_bytes());
        while uart.is_busy() {
            core::hint::spin_loop();
        }
    }
}

/// Waits until the last byte is on the wire: what comes next may take the UART's clock or power away.
pub(crate) fn drain() {
    if let Sink::Uart(uart) = &CONSOLE.lock().sink {
        while uart.is_busy() {
            core::hint::spin_loop();
        }
    }
}

fn put(uart: &mut Uart<'_>, bytes: &[u8]) {
    for byte in bytes {
        while uart.is_tx_fifo_full() {
            core::hint::spin_loop();
        }
        uart.write_word(*byte);
    }
}

impl Console {
    fn flush_line(&mut self) {
        self.line[self.used..self.used + 2].copy_from_slice(b"\r\n");
        let line = &self.line[..self.used + 2];
        match &mut self.sink {
            Sink::None => {}
            Sink::Uart(uart) => put(uart, line),
            // Nothing can be done about a host that takes no output.
            Sink::Semihosting(stdout) => drop(stdout.write_all(line)),
        }
        self.used = 0;
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // What does not fit is dropped: a line is never longer than the reader's buffer.
            if self.used < frame::MAX_LINE {
                self.line[self.used] = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// Writes one line of text.
pub(crate) fn line(args: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    // Writing to the buffer cannot fail.
    let _ = console.write_fmt(args);
    console.flush_line();
}

/// Writes one record.
pub(crate) fn record(record: &Record<'_>) {
    let mut console = CONSOLE.lock();
    match frame::encode_line(record, &mut console.line).map(str::len) {
        Ok(len) => console.used = len,
        Err(_) => {
            console.used = 0;
            let _ = console.write_str("# a record did not fit its line and was dropped");
        }
    }
    console.flush_line();
}

/// Writes a diagnostic, as a line for people and as a record.
pub(crate) fn log(args: fmt::Arguments<'_>) {
    let text: Text = wire::record::text(args);
    line(format_args!("# {text}"));
    record(&Record::Log { text });
}

/// Says why hv cannot go on.
pub(crate) fn fatal(args: fmt::Arguments<'_>) {
    // The panic may have come while this CPU held the lock; the machine is at its end, so the lock is taken over.
    // SAFETY: nobody else needs the console any more; at worst two last lines mix.
    unsafe { CONSOLE.force_unlock() };
    // It may have come in the middle of a line.
    CONSOLE.lock().used = 0;
    let text: Text = wire::record::text(args);
    line(format_args!("Bail out! {text}"));
    record(&Record::Fatal { text });
}
