//! Prints what one instruction costs in the interpreter alone: a loop on the flat machine, whose environment does
//! next to nothing.

use std::{error::Error, hint::black_box, time::Instant};

use model::a64::{
    Op, Stop, decode, execute,
    flat::{Flat, Region},
};

const CODE: u64 = 0x1000;
const DATA: u64 = 0x8000;
const ITERATIONS: u64 = 20_000_000;

/// What compiled code is made of: arithmetic, loads, stores, comparisons, branches, a call.
const LOOP: [u32; 17] = [
    0xa9bf_7bfd, // stp x29, x30, [sp, #-16]!
    0x9100_03fd, // mov x29, sp
    0xf940_0021, // ldr x1, [x1]
    0x8b00_0042, // add x2, x2, x0
    0xca41_2043, // eor x3, x2, x1, lsr #8
    0x9240_0c63, // and x3, x3, #0xf
    0x3823_6a83, // strb w3, [x20, x3]
    0x3940_0284, // ldrb w4, [x20]
    0xd342_1c84, // ubfx x4, x4, #2, #6
    0xf100_109f, // cmp x4, #4
    0x9a84_10a5, // csel x5, x5, x4, ne
    0xaa13_03e1, // mov x1, x19
    0x9400_0005, // bl f
    0xa8c1_7bfd, // ldp x29, x30, [sp], #16
    0xf100_0400, // subs x0, x0, #1
    0x54ff_fe21, // b.ne loop
    0xd440_0000, // hlt #0; f: ret
];
const RET: u32 = 0xd65f_03c0;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<u32> = LOOP.into_iter().chain([RET]).collect();
    let ops: Vec<Op> = words.iter().map(|word| decode(*word)).collect();
    let mut machine = Flat::new(CODE, vec![Region { base: DATA, bytes: vec![0; 4096] }]);
    machine.x[0] = ITERATIONS;
    machine.x[1] = DATA;
    (machine.x[19], machine.x[20], machine.sp) = (DATA, DATA + 64, DATA + 4096);

    let start = Instant::now();
    let mut executed = 0u64;
    let stop = loop {
        let index = (machine.pc.wrapping_sub(CODE) / 4) as usize;
        let op = *ops.get(index).ok_or("the loop left its code")?;
        executed += 1;
        if let Err(stop) = execute(op, &mut machine) {
            break stop;
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    black_box(&machine);
    if stop != Stop::Exit(0) {
        return Err(format!("the loop ended with {stop:?}").into());
    }
    let executed_float = executed as f64;
    println!(
        "{executed} instructions, {:.2} ns each, {:.0} million a second",
        seconds * 1e9 / executed_float,
        executed_float / seconds / 1e6
    );
    Ok(())
}
