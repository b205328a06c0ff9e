// Header of a payload image (wire::abi::Header), entry of the boot CPU and of the others, and the switch to the MMU.
//
// Entered with the MMU off, x0 = VmInfo, everything cleaned to the Point of Coherency by hv. The linker script
// starts the image with .head.

        .section .head, "ax"
        .global payload_head
payload_head:
        .quad   {MAGIC}
        .quad   __image_end - payload_head      // image_size
        .quad   __memory_end - payload_head     // memory_size
        .quad   payload_entry - payload_head
        .quad   __rela_start - payload_head
        .quad   __rela_end - payload_head
        .quad   0                               // checksum
        .quad   __writable - payload_head       // writable

        .global payload_entry
        .type   payload_entry, %function
payload_entry:
        mov     x19, x0
        mrs     x20, sctlr_el1                  // as they were found: struct EntryState
        mrs     x21, tcr_el1
        mrs     x22, ttbr0_el1
        mrs     x23, ttbr1_el1
        mrs     x24, vbar_el1
        mrs     x25, tpidr_el0
        mrs     x26, tpidr_el1
        mrs     x27, tpidrro_el0
        mrs     x28, daif
        mrs     x29, CurrentEL
        msr     daifset, #0xf
        msr     spsel, #1
        adrp    x0, payload_vectors             // from here on a fault ends in this image
        add     x0, x0, :lo12:payload_vectors
        msr     vbar_el1, x0

        adr     x2, payload_head
        adrp    x0, __rela_start
        add     x0, x0, :lo12:__rela_start
        adrp    x1, __rela_end
        add     x1, x1, :lo12:__rela_end
        bl      {relocate_image}
        adrp    x0, payload_stacks
        add     x0, x0, :lo12:payload_stacks
        add     sp, x0, #{STACK_SIZE}           // vCPU 0's stack
        stp     x28, x29, [sp, #-16]!
        stp     x26, x27, [sp, #-16]!
        stp     x24, x25, [sp, #-16]!
        stp     x22, x23, [sp, #-16]!
        stp     x20, x21, [sp, #-16]!
        mov     x29, xzr                        // ends the chain of frames
        mov     x30, xzr
        mov     x0, x19
        mov     x1, sp
        adr     x2, payload_head
        bl      {boot}                          // does not return
        brk     #0
        .size   payload_entry, . - payload_entry

// Entry of a secondary vCPU by PSCI CPU_ON: x0 = address of its struct Secondary, cleaned to the Point of Coherency.
        .text
        .balign 4
        .global payload_secondary
        .type   payload_secondary, %function
payload_secondary:
        msr     daifset, #0xf
        msr     spsel, #1
        ldp     x19, x20, [x0, #{SECONDARY_STACK}] // top of its stack; its index
        mov     x1, xzr                         // nothing was written
        mov     x2, xzr
        bl      payload_mmu_on                  // struct Secondary starts with its struct Mmu
        mov     sp, x19
        mov     x0, x20
        mov     x29, xzr
        bl      {secondary}                     // does not return
        brk     #0
        .size   payload_secondary, . - payload_secondary

// x0 = struct Mmu, in memory; [x1, x2) = what was written with the MMU off, x1 aligned to a cache line. Turns this PE's
// MMU and caches on; whatever its TLBs and instruction caches hold of former times is dropped. The data caches' lines
// of the range are dropped here, behind the last store past them: other PEs, on which hv has this memory mapped, may
// have fetched older contents meanwhile.
        .global payload_mmu_on
        .type   payload_mmu_on, %function
payload_mmu_on:
        dsb     sy                              // stores to Device memory come before maintenance only by this
        mrs     x3, ctr_el0
        ubfx    x3, x3, #16, #4                 // DminLine
        mov     x4, #4
        lsl     x3, x4, x3
1:      cmp     x1, x2
        b.hs    2f
        dc      civac, x1
        add     x1, x1, x3
        b       1b
2:      dsb     sy
        ldp     x1, x2, [x0]
        ldp     x3, x4, [x0, #16]
        ldp     x5, x6, [x0, #32]
        msr     mair_el1, x1
        msr     tcr_el1, x2
        msr     ttbr0_el1, x3
        msr     ttbr1_el1, x4
        msr     vbar_el1, x5
        isb
        tlbi    vmalle1
        ic      iallu
        dsb     nsh
        isb
        msr     sctlr_el1, x6
        isb
        ret
        .size   payload_mmu_on, . - payload_mmu_on

        .bss
        .balign 16
        .global payload_stacks
payload_stacks:                                 // of all vCPUs by index
        .skip   {STACKS_SIZE}
