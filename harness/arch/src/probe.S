// Probes: accesses that may fault. From probe_begin to probe_end an exception may be expected anywhere: the handler writes
// 0 to x0 and the syndrome to x1, and goes on behind the instruction. All instructions there that can fault are the
// accesses themselves.
//
// All return the value (of a store, 0) in x0 and the syndrome in x1, 0 where nothing was taken.

        .text
        .balign 4
        .arch_extension lse

        .global probe_begin
probe_begin:

        .global probe_load
        .type   probe_load, %function
probe_load:                                     // x0 = VA
        mov     x1, xzr
        ldr     x0, [x0]
        ret
        .size   probe_load, . - probe_load

        .global probe_load32
        .type   probe_load32, %function
probe_load32:                                   // x0 = VA
        mov     x1, xzr
        ldr     w0, [x0]
        ret
        .size   probe_load32, . - probe_load32

        .global probe_store
        .type   probe_store, %function
probe_store:                                    // x0 = VA, x1 = value
        mov     x2, x0
        mov     x3, x1
        mov     x0, xzr
        mov     x1, xzr
        str     x3, [x2]
        ret
        .size   probe_store, . - probe_store

// As the two above, with the permissions of EL0.
        .global probe_user_load
        .type   probe_user_load, %function
probe_user_load:                                // x0 = VA
        mov     x1, xzr
        ldtr    x0, [x0]
        ret
        .size   probe_user_load, . - probe_user_load

        .global probe_user_store
        .type   probe_user_store, %function
probe_user_store:                               // x0 = VA, x1 = value
        mov     x2, x0
        mov     x3, x1
        mov     x0, xzr
        mov     x1, xzr
        sttr    x3, [x2]
        ret
        .size   probe_user_store, . - probe_user_store

        .global probe_swap
        .type   probe_swap, %function
probe_swap:                                     // x0 = VA, x1 = value; returns what was there
        mov     x2, x0
        mov     x3, x1
        mov     x1, xzr
        swpal   x3, x0, [x2]
        ret
        .size   probe_swap, . - probe_swap

// An exclusive pair. Where the store-exclusive fails it is not tried again.
        .global probe_exclusive
        .type   probe_exclusive, %function
probe_exclusive:                                // x0 = VA, x1 = value, x2 = where to store the status, 1 if the store failed
        mov     x3, x0
        mov     x4, x1
        mov     x1, xzr
        mov     w5, #1
        ldaxr   x0, [x3]
        cbnz    x1, 1f
        stlxr   w5, x4, [x3]
1:      str     x5, [x2]
        ret
        .size   probe_exclusive, . - probe_exclusive

        .global probe_clean
        .type   probe_clean, %function
probe_clean:                                    // x0 = VA
        mov     x2, x0
        mov     x0, xzr
        mov     x1, xzr
        dc      cvac, x2
        ret
        .size   probe_clean, . - probe_clean

        .global probe_end
probe_end:

// No exception: what the translation meets is in PAR_EL1.
        .global probe_translate
        .type   probe_translate, %function
probe_translate:                                // x0 = VA; returns PAR_EL1
        mov     x1, xzr
        at      s1e1r, x0
        isb
        mrs     x0, par_el1
        ret
        .size   probe_translate, . - probe_translate

// The same of EL2's own translation; from EL2.
        .global probe_translate_el2
        .type   probe_translate_el2, %function
probe_translate_el2:                            // x0 = VA; returns PAR_EL1
        mov     x1, xzr
        at      s1e2r, x0
        isb
        mrs     x0, par_el1
        ret
        .size   probe_translate_el2, . - probe_translate_el2

// A hypercall that has the very next instruction take an exception, which is the load.
        .global probe_load_behind_hvc
        .type   probe_load_behind_hvc, %function
probe_load_behind_hvc:                          // x0-x3 = hypercall, x4 = VA
        hvc     #0
        ldr     x0, [x4]                        // the injected abort is taken here, and this is tried again
        mov     x1, xzr
        ret
        .size   probe_load_behind_hvc, . - probe_load_behind_hvc

// A call into the window. What is called returns in x0 and leaves all other registers alone; whatever exception it
// takes, x30 tells the handler that it was called from here.
        .global probe_fetch
        .type   probe_fetch, %function
probe_fetch:                                    // x0 = VA
        mov     x1, xzr
        mov     x2, x30
        blr     x0
        .global probe_fetch_return
probe_fetch_return:
        mov     x30, x2
        ret
        .size   probe_fetch, . - probe_fetch

// The same at EL0, with every exception masked. What is there ends with SVC, and leaves all registers but x0 alone; whatever
// exception comes, x30 tells the handler where it came from. Entering EL0 and leaving it synchronise the context.
        .global probe_user_fetch
        .type   probe_user_fetch, %function
probe_user_fetch:                               // x0 = VA
        mov     x1, xzr
        mov     x2, x30
        mov     x3, #0x3c0                      // EL0t; D, A, I, F
        adr     x30, probe_user_fetch_return
        msr     elr_el1, x0
        msr     spsr_el1, x3
        eret
        dsb     nsh                             // nothing behind it is executed, not even speculatively
        isb
        .global probe_user_fetch_return
probe_user_fetch_return:                        // at EL1 again, by the handler
        mov     x30, x2
        ret
        .size   probe_user_fetch, . - probe_user_fetch
