// x0 = first Elf64_Rela, x1 = end, x2 = where the image stands.
1:      cmp     x0, x1
        b.hs    2f
        ldp     x3, x4, [x0], #16       // r_offset, r_info (R_AARCH64_RELATIVE, checked by the build)
        ldr     x5, [x0], #8            // r_addend
        add     x5, x5, x2
        str     x5, [x3, x2]
        b       1b
2:      ret
