// Probes: accesses that may fault. Each has exactly one instruction at which an exception is expected, so that the
// handler can tell a probe by its address, write 0 to x0 and the syndrome to x1, and go on behind it.
//
// All return the value (of a store, 0) in x0 and the syndrome in x1, 0 where nothing was taken.

        .text
        .balign 4

        .global probe_load
        .type   probe_load, %function
probe_load:                                     // x0 = VA
        mov     x1, xzr
        .global probe_load_at
probe_load_at:
        ldr     x0, [x0]
        ret
        .size   probe_load, . - probe_load

        .global probe_store
        .type   probe_store, %function
probe_store:                                    // x0 = VA, x1 = value
        mov     x2, x0
        mov     x3, x1
        mov     x0, xzr
        mov     x1, xzr
        .global probe_store_at
probe_store_at:
        str     x3, [x2]
        ret
        .size   probe_store, . - probe_store

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
