// EL1 vectors. Only a synchronous exception from EL1 with its own stack pointer, or from EL0 in AArch64, is looked at; it may
// be a probe's, or a TLB conflict abort. Everything else goes to hv by HVC with every register as it was.

        .text
        .balign 2048
        .global payload_vectors
payload_vectors:
        .macro  vector_unexpected
        .balign 128
        hvc     #{UNEXPECTED}
        b       .
        .endm

        .rept   4                               // EL1 with SP_EL0
        vector_unexpected
        .endr
        .rept   2                               // EL1 with SP_EL1, EL0 in AArch64
        .balign 128
        b       vector_synchronous
        .rept   3
        vector_unexpected
        .endr
        .endr
        .rept   4                               // EL0 in AArch32
        vector_unexpected
        .endr

        .balign 128
        .type   vector_synchronous, %function
vector_synchronous:
        sub     sp, sp, #{FRAME_SIZE}           // struct Frame
        stp     x0, x1, [sp, #0]
        gprs_store sp
        mrs     x1, elr_el1
        mrs     x2, spsr_el1
        stp     x30, x1, [sp, #240]
        str     x2, [sp, #256]
        mov     x0, sp
        mrs     x1, esr_el1
        mrs     x2, far_el1
        bl      {synchronous}                   // w0 = handled
        ldr     x2, [sp, #256]
        ldp     x30, x1, [sp, #240]
        msr     spsr_el1, x2
        msr     elr_el1, x1
        .macro  vector_restore
        gprs_load sp
        ldp     x0, x1, [sp, #0]
        add     sp, sp, #{FRAME_SIZE}
        .endm
        cbz     w0, 1f
        vector_restore
        eret
1:      vector_restore
        hvc     #{UNEXPECTED}
        b       .
        .size   vector_synchronous, . - vector_synchronous
