// EL2's vectors, and the switch to and from a vCPU.
//
// A vCPU's registers are in a Frame (vcpu.rs): x0-x30 at 0, then pc, pstate, esr, far, hpfar, sp_el1. While the
// vCPU runs, the EL2 stack of its CPU holds the callee-saved registers of vcpu_enter's caller and, on top, the
// address of the Frame; an exception from EL1 stores the vCPU's state there and returns from vcpu_enter.

        .text
        .balign 2048
        .global hv_vectors
hv_vectors:
        .macro  vec_own kind                    // taken from EL2 itself
        .balign 128
        sub     sp, sp, #{OWN_FRAME_SIZE}
        stp     x0, x1, [sp]
        mov     x1, #\kind
        b       vec_own_common
        .endm
        .macro  vec_guest kind                  // taken from EL1 or EL0
        .balign 128
        stp     x0, x1, [sp, #-16]!
        mov     x1, #\kind
        b       vec_guest_common
        .endm

        vec_own 4                               // SP_EL0 in use: by own.S only
        vec_own 5
        vec_own 6
        vec_own 7
        vec_own 0                               // synchronous
        vec_own 1                               // IRQ
        vec_own 2                               // FIQ
        vec_own 3                               // SError
        vec_guest 0
        vec_guest 1
        vec_guest 2
        vec_guest 3
        vec_guest 8                             // AArch32: never
        vec_guest 8
        vec_guest 8
        vec_guest 8
        .balign 128

// Stack: OwnFrame (x0-x30, elr, spsr). x1 = kind.
        .type   vec_own_common, %function
vec_own_common:
        gprs_store sp
        mrs     x2, elr_el2
        mrs     x3, spsr_el2
        stp     x30, x2, [sp, #240]
        str     x3, [sp, #256]
        mov     x0, sp
        bl      {own_exception}                 // returns only where the access may be tried again
        ldp     x30, x2, [sp, #240]
        ldr     x3, [sp, #256]
        msr     elr_el2, x2
        msr     spsr_el2, x3
        gprs_load sp
        ldp     x0, x1, [sp]
        add     sp, sp, #{OWN_FRAME_SIZE}
        eret
        .size   vec_own_common, . - vec_own_common

// Stack: x0, x1 of the vCPU, then the address of its Frame. x1 = kind.
        .type   vec_guest_common, %function
        .global vec_guest_window
vec_guest_window:
vec_guest_common:
        ldr     x0, [sp, #16]
        gprs_store x0
        ldp     x2, x3, [sp], #32               // its x0, x1; drops the Frame's address too
        stp     x2, x3, [x0]
        mrs     x2, elr_el2
        stp     x30, x2, [x0, #240]
        mrs     x2, spsr_el2
        mrs     x3, esr_el2
        stp     x2, x3, [x0, #256]
        mrs     x2, far_el2
        mrs     x3, hpfar_el2
        stp     x2, x3, [x0, #272]
        .global vec_guest_window_end
vec_guest_window_end:
        mrs     x2, sp_el1
        str     x2, [x0, #288]
        mov     x0, x1
        ldp     x19, x20, [sp], #16
        ldp     x21, x22, [sp], #16
        ldp     x23, x24, [sp], #16
        ldp     x25, x26, [sp], #16
        ldp     x27, x28, [sp], #16
        ldp     x29, x30, [sp], #16
        ret
        .size   vec_guest_common, . - vec_guest_common

// extern "C" fn vcpu_enter(frame: *mut Frame) -> u64: runs the vCPU until its next exception, returns its kind.
        .global vcpu_enter
        .type   vcpu_enter, %function
vcpu_enter:
        stp     x29, x30, [sp, #-16]!
        stp     x27, x28, [sp, #-16]!
        stp     x25, x26, [sp, #-16]!
        stp     x23, x24, [sp, #-16]!
        stp     x21, x22, [sp, #-16]!
        stp     x19, x20, [sp, #-16]!
        stp     x0, xzr, [sp, #-16]!
        ldr     x1, [x0, #288]
        msr     sp_el1, x1
        ldp     x30, x1, [x0, #240]
        .global vcpu_enter_window
vcpu_enter_window:
        msr     elr_el2, x1
        ldr     x1, [x0, #256]
        msr     spsr_el2, x1
        gprs_load x0
        ldp     x0, x1, [x0]
        eret
        .global vcpu_enter_window_end
vcpu_enter_window_end:
        .size   vcpu_enter, . - vcpu_enter

// extern "C" fn own_inject(esr: u64, far: u64): as if the next instruction of EL2 had taken this exception.
        .global own_inject
        .type   own_inject, %function
own_inject:
        msr     esr_el2, x0
        msr     far_el2, x1
        mrs     x0, daif
        mrs     x1, CurrentEL
        orr     x0, x0, x1
        orr     x0, x0, #1                      // EL2h
        msr     spsr_el2, x0
        adr     x0, 5f
        msr     elr_el2, x0
        isb
        adr     x0, hv_vectors + 0x200
        br      x0
5:      ret
        .size   own_inject, . - own_inject
