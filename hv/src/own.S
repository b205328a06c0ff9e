// The change of a mapping by code that may stand on it itself: see own.rs.

        .text

// extern "C" fn own_run(arguments: *const Arguments) -> u64: calls `entry` with SP_EL0 as the stack and `vectors` as the vectors.
// Ticks for which the descriptor was invalid, or what the handler of an exception has put into x0.
        .global own_run
        .type   own_run, %function
own_run:
        stp     x29, x30, [sp, #-16]!
        stp     x27, x28, [sp, #-16]!
        stp     x25, x26, [sp, #-16]!
        stp     x23, x24, [sp, #-16]!
        stp     x21, x22, [sp, #-16]!
        stp     x19, x20, [sp, #-16]!
        mrs     x1, sp_el0                      // the vCPU's
        mrs     x2, vbar_el2
        stp     x1, x2, [sp, #-16]!
        str     x0, [sp, #-16]!
        ldp     x1, x2, [x0]                    // the descriptor's address; steps
        ldp     x3, x4, [x0, #16]               // the Block with nT; the new descriptor
        ldp     x5, x6, [x0, #32]               // operand of the TLBIs by VA; hooks
        ldp     x7, x8, [x0, #48]               // turns between steps; stack
        ldp     x9, x10, [x0, #64]              // vectors; where to go first
        ldr     x11, [x0, #80]                  // where own_step_out goes
        msr     sp_el0, x8
        msr     vbar_el2, x9
        isb
        msr     spsel, #0                       // exceptions have a stack of their own: SP_EL2, which stays as it is
        blr     x10
        .global own_out                         // an exception from which there is no way back ends here
own_out:
        msr     spsel, #1
        ldr     x1, [sp], #16
        str     x16, [x1, #88]                  // cycles
        ldp     x1, x2, [sp], #16
        msr     sp_el0, x1
        msr     vbar_el2, x2
        isb
        ldp     x19, x20, [sp], #16
        ldp     x21, x22, [sp], #16
        ldp     x23, x24, [sp], #16
        ldp     x25, x26, [sp], #16
        ldp     x27, x28, [sp], #16
        ldp     x29, x30, [sp], #16
        ret
        .size   own_run, . - own_run

// What is between own_code and own_code_end is copied, and runs anywhere: all addresses in it are relative, and it touches no
// memory but the descriptor, and the stack where a hook says so.
        .balign 32
        .global own_code
own_code:

// Executes the steps in x2, five bits each, the number of a slot of own_ops. Between one and the next: where bit 0 of x6 is set, as
// compiled code would, it uses its stack; where bit 1 is set it takes an exception; x7 turns of a loop pass.
own_body:
        adr     x14, own_ops
        mov     x0, xzr                         // ticks for which the descriptor was invalid
        mov     x13, xzr                        // when it became so; x16, if cycles are counted: at which one, then for how many
1:      tbnz    x6, #0, 5f
2:      tbnz    x6, #1, 6f
3:      cbnz    x7, 7f
4:      and     x15, x2, #31
        lsr     x2, x2, #5
        add     x15, x14, x15, lsl #5
        br      x15
5:      stp     x0, x13, [sp, #-16]!
        ldp     x0, x13, [sp], #16
        b       2b
6:      brk     #0                              // the handler goes on behind it
        b       3b
7:      mov     x15, x7
8:      yield
        subs    x15, x15, #1
        b.ne    8b
        b       4b

9:      mrs     x15, pmccntr_el0
        sub     x16, x15, x16
        b       1b

        .macro  op
        b       1b
        .balign 32
        .endm

        .balign 32
own_ops:
        ret                                     // 0: no more steps
        .balign 32
        isb                                     // 1: break
        mrs     x13, cntpct_el0
        str     xzr, [x1]
        op
        str     x3, [x1]                        // 2: the Block with nT
        op
        str     x4, [x1]                        // 3: make
        cbz     x13, 1b
        isb
        mrs     x15, cntpct_el0
        sub     x0, x15, x13
        mov     x13, xzr
        op
        dsb     ishst                           // 4
        op
        dsb     ish                             // 5
        op
        isb                                     // 6
        op
        tlbi    vae2is, x5                      // 7
        op
        tlbi    vale2is, x5                     // 8
        op
        tlbi    alle2is                         // 9
        op
        isb                                     // 10: break, with the cycle counter
        mrs     x16, pmccntr_el0
        mrs     x13, cntpct_el0
        str     xzr, [x1]
        op
        str     x4, [x1]                        // 11: make
        cbz     x13, 1b
        isb
        mrs     x15, cntpct_el0
        sub     x0, x15, x13
        mov     x13, xzr
        b       9b

// Goes to x11 and back: what is called where the code that makes the change is meanwhile to run elsewhere.
        .balign 4
        .global own_step_out
own_step_out:
        mov     x12, x30
        blr     x11
        mov     x30, x12
        ret
        .global own_code_end
own_code_end:

// Vectors that run anywhere, with an entry for each exception from EL2: the word at 16 is the address of what it leads to.
        .macro  vec_anywhere
        .balign 128
        msr     tpidr_el2, x16
        ldr     x16, 1f
        br      x16
        nop
1:      .quad   0
        .endm
        .balign 128
        .global own_vectors
own_vectors:
        .rept   8
        vec_anywhere
        .endr
        .balign 128
        .global own_vectors_end
own_vectors_end:

// What those lead to, 8 bytes each: the entry of the same exception in hv's own vectors.
        .global own_landings
own_landings:
        .set    landing, 0
        .rept   8
        mrs     x16, tpidr_el2
        b       hv_vectors + landing
        .set    landing, landing + 128
        .endr
