// EL1 vectors. Only a synchronous exception from EL1 with its own stack pointer is looked at; it may be a probe's, or a TLB
// conflict abort. Everything else goes to hv by HVC with every register as it was.

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
        .balign 128                             // EL1 with SP_EL1
        b       vector_synchronous
        .rept   3
        vector_unexpected
        .endr
        .rept   8                               // EL0
        vector_unexpected
        .endr

        .balign 128
        .type   vector_synchronous, %function
vector_synchronous:
        sub     sp, sp, #{FRAME_SIZE}           // struct Frame
        stp     x0, x1, [sp, #0]
        stp     x2, x3, [sp, #16]
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x19, [sp, #144]
        stp     x20, x21, [sp, #160]
        stp     x22, x23, [sp, #176]
        stp     x24, x25, [sp, #192]
        stp     x26, x27, [sp, #208]
        stp     x28, x29, [sp, #224]
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
        ldp     x2, x3, [sp, #16]
        ldp     x4, x5, [sp, #32]
        ldp     x6, x7, [sp, #48]
        ldp     x8, x9, [sp, #64]
        ldp     x10, x11, [sp, #80]
        ldp     x12, x13, [sp, #96]
        ldp     x14, x15, [sp, #112]
        ldp     x16, x17, [sp, #128]
        ldp     x18, x19, [sp, #144]
        ldp     x20, x21, [sp, #160]
        ldp     x22, x23, [sp, #176]
        ldp     x24, x25, [sp, #192]
        ldp     x26, x27, [sp, #208]
        ldp     x28, x29, [sp, #224]
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
