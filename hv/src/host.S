// From one of EL2's translations to the other: see host.rs.

        .text

// extern "C" fn host_switch(to: &Translation): puts EL2's registers of `to` into force with the MMU off, and turns it on again. What
// runs and what it uses are mapped onto themselves in both. No memory is touched while the MMU is off.
        .global host_switch
        .type   host_switch, %function
host_switch:
        ldp     x1, x2, [x0]                    // HCR_EL2; TCR_EL2
        ldp     x3, x4, [x0, #16]               // TTBR0_EL2; TTBR1_EL2
        ldp     x5, x6, [x0, #32]               // CPTR_EL2; CNTHCTL_EL2
        mrs     x7, daif
        mrs     x8, sctlr_el2
        bic     x9, x8, #1                      // M
        msr     daifset, #0xf
        msr     sctlr_el2, x9
        isb
        tlbi    alle2                           // of the one that is left
        dsb     nsh
        msr     hcr_el2, x1
        isb                                     // the names below mean other registers from here on
        msr     tcr_el2, x2
        msr     ttbr0_el2, x3
        tbz     x1, #34, 1f                     // E2H
        msr     S3_4_C2_C0_1, x4                // TTBR1_EL2
1:      msr     cptr_el2, x5
        msr     cnthctl_el2, x6
        isb
        tlbi    alle2
        dsb     nsh
        isb
        msr     sctlr_el2, x8
        isb
        msr     daif, x7
        ret
        .size   host_switch, . - host_switch
