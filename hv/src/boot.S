// Entry of the Image: arm64 Linux header, then the way to Rust at EL2 with the MMU on.
//
// Boot protocol: MMU off, x0 = DTB, the Image cleaned to the Point of Coherency. Everything written here goes to
// memory past the caches, so the Image's range is first cleaned and invalidated (its zero-initialised part may
// hold lines of whoever ran before) and, when all is written, invalidated again before the MMU goes on.
//
// Kept across the whole sequence: x19 DTB, x20 EL at entry, x21 base of the Image, x22 its end.

        .section .head, "ax"
        .global _head
_head:  b       boot_start                      // code0
        .long   0                               // code1
        .quad   0                               // text_offset
        .quad   __image_end - _head             // image_size
        .quad   (1 << 3) | (1 << 1)             // flags: anywhere in memory, 4K pages, little-endian
        .quad   0, 0, 0
        .ascii  "ARM\x64"                       // magic at 0x38
        .long   0

        .text
        .balign 4
        .type   boot_start, %function
boot_start:
        msr     spsel, #1
        msr     daifset, #0xf
        mov     x19, x0
        mrs     x20, CurrentEL
        ubfx    x20, x20, #2, #2
        adr     x21, _head
        adrp    x22, __image_end                // page aligned by the linker script
        cmp     x20, #3
        b.ne    2f

        // EL3: hand EL2 everything that this Image and its payloads use, then go there.
        ldr     x0, ={SCR_EL3}
        mrs     x1, id_aa64mmfr0_el1
        ubfx    x1, x1, #56, #4                 // FEAT_FGT: its registers do not trap
        cbz     x1, 10f
        orr     x0, x0, #(1 << 27)              // FGTEn
10:     mrs     x1, id_aa64mmfr1_el1
        ubfx    x1, x1, #40, #4                 // FEAT_HCX: HCRX_EL2 does not trap
        cbz     x1, 11f
        orr     x0, x0, #(1 << 38)              // HXEn
11:     msr     scr_el3, x0
        msr     cptr_el3, xzr
        msr     mdcr_el3, xzr
        mrs     x0, id_aa64pfr0_el1
        ubfx    x0, x0, #24, #4                 // GIC system registers?
        cbz     x0, 1f
        mrs     x0, S3_6_C12_C12_5              // ICC_SRE_EL3
        orr     x0, x0, #1                      // SRE
        orr     x0, x0, #8                      // Enable
        msr     S3_6_C12_C12_5, x0
        isb
1:      ldr     x0, =0x30c50830                 // SCTLR_EL2: RES1 bits, everything off
        msr     sctlr_el2, x0
        mov     x0, #(1 << 31)                  // HCR_EL2.RW
        msr     hcr_el2, x0
        mov     x0, #0x3c9                      // EL2h, DAIF masked
        msr     spsr_el3, x0
        adr     x0, 2f
        msr     elr_el3, x0
        isb
        eret

2:      mrs     x0, CurrentEL
        cmp     x0, #(2 << 2)
        b.ne    3f
        mov     x0, #(1 << 31)                  // HCR_EL2.RW; E2H=0, or the registers below would be others
        msr     hcr_el2, x0
        isb
3:      mov     x0, x21                         // whatever a cache holds of our range goes to memory
        bl      boot_cache_civac
        adrp    x0, __rela_start
        add     x0, x0, :lo12:__rela_start
        adrp    x1, __rela_end
        add     x1, x1, :lo12:__rela_end
        mov     x2, x21
        bl      {RELOCATE}
        adrp    x0, __bss_start
        add     x0, x0, :lo12:__bss_start
4:      stp     xzr, xzr, [x0], #16
        cmp     x0, x22
        b.lo    4b

        adrp    x0, {STACKS}
        add     x0, x0, :lo12:{STACKS}
        add     sp, x0, #{STACK_SIZE}           // CPU 0's stack
        mov     x0, x19
        mov     x1, x20
        mov     x2, x21
        mov     x3, x22
        bl      {discover}                      // does not return at EL1
        // x0 = address of the MMU's register values
        mov     x23, x0
        mov     x0, x21
        bl      boot_cache_ivac
        mov     x0, x23
        bl      boot_mmu_on
        bl      {boot_main}
        b       .
        .size   boot_start, . - boot_start

// x0 = address of MmuRegisters (mair, tcr, ttbr0, sctlr). Turns the MMU of this PE on; the tables are in memory.
        .type   boot_mmu_on, %function
boot_mmu_on:
        ldp     x1, x2, [x0]
        ldp     x3, x4, [x0, #16]
        msr     mair_el2, x1
        msr     tcr_el2, x2
        msr     ttbr0_el2, x3
        isb
        tlbi    alle2
        dsb     nsh
        ic      iallu
        dsb     nsh
        isb
        msr     sctlr_el2, x4
        isb
        ret
        .size   boot_mmu_on, . - boot_mmu_on

// Cleans and invalidates / invalidates [x0, x22) by lines. Clobbers x1, x2.
        .macro  boot_cache_op name, op
        .type   \name, %function
\name:  dsb     sy                              // stores with the MMU off come before maintenance only by this
        mrs     x1, ctr_el0
        ubfx    x1, x1, #16, #4
        mov     x2, #4
        lsl     x1, x2, x1
5:      dc      \op, x0
        add     x0, x0, x1
        cmp     x0, x22
        b.lo    5b
        dsb     sy
        ret
        .size   \name, . - \name
        .endm
        boot_cache_op boot_cache_civac, civac
        boot_cache_op boot_cache_ivac, ivac

// Entry of a secondary CPU by PSCI CPU_ON: x0 = its index. MMU off; what it reads before the MMU is on was cleaned
// to the Point of Coherency by CPU 0.
        .global boot_secondary
        .type   boot_secondary, %function
boot_secondary:
        msr     spsel, #1
        msr     daifset, #0xf
        mov     x19, x0
        mov     x0, #(1 << 31)                  // HCR_EL2.RW, E2H=0
        msr     hcr_el2, x0
        isb
        adrp    x1, {STACKS}
        add     x1, x1, :lo12:{STACKS}
        mov     x2, #{STACK_SIZE}
        madd    x1, x19, x2, x1
        add     sp, x1, x2
        adrp    x0, {MMU_REGISTERS}
        add     x0, x0, :lo12:{MMU_REGISTERS}
        bl      boot_mmu_on
        mov     x0, x19
        bl      {secondary_main}
        b       .
        .size   boot_secondary, . - boot_secondary
