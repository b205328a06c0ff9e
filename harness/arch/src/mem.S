// memcpy and memset for guests whose accesses must be aligned, since they run with their MMU off too. In the place of
// those of compiler-builtins, which are weak: records are copied around a good deal, and these take a fifth of the
// instructions.

// x0 = to, x1 = from, x2 = bytes. Returns x0.
        .section .text.memcpy, "ax"
        .global memcpy
        .type   memcpy, %function
memcpy:
        mov     x3, x0
        cmp     x2, #16
        b.lo    9f
        eor     x4, x0, x1
        tst     x4, #3
        b.ne    9f
1:      tst     x3, #7                          // bytes in front of the first whole word
        b.eq    2f
        ldrb    w5, [x1], #1
        strb    w5, [x3], #1
        sub     x2, x2, #1
        b       1b
2:      tst     x4, #4
        b.ne    5f
        subs    x2, x2, #64                     // both aligned to 8
        b.lo    4f
3:      ldp     x4, x5, [x1]
        ldp     x6, x7, [x1, #16]
        ldp     x8, x9, [x1, #32]
        ldp     x10, x11, [x1, #48]
        stp     x4, x5, [x3]
        stp     x6, x7, [x3, #16]
        stp     x8, x9, [x3, #32]
        stp     x10, x11, [x3, #48]
        add     x1, x1, #64
        add     x3, x3, #64
        subs    x2, x2, #64
        b.hs    3b
4:      adds    x2, x2, #64 - 8
        b.mi    8f
0:      ldr     x4, [x1], #8
        str     x4, [x3], #8
        subs    x2, x2, #8
        b.pl    0b
        b       8f
5:      subs    x2, x2, #32                     // both aligned to 4
        b.lo    7f
6:      ldp     w4, w5, [x1]
        ldp     w6, w7, [x1, #8]
        ldp     w8, w9, [x1, #16]
        ldp     w10, w11, [x1, #24]
        stp     w4, w5, [x3]
        stp     w6, w7, [x3, #8]
        stp     w8, w9, [x3, #16]
        stp     w10, w11, [x3, #24]
        add     x1, x1, #32
        add     x3, x3, #32
        subs    x2, x2, #32
        b.hs    6b
7:      adds    x2, x2, #32 - 8
        b.mi    8f
0:      ldp     w4, w5, [x1], #8
        stp     w4, w5, [x3], #8
        subs    x2, x2, #8
        b.pl    0b
8:      add     x2, x2, #8
9:      subs    x2, x2, #4                      // bytes, four at a time and one at a time
        b.lo    11f
10:     ldrb    w4, [x1]
        ldrb    w5, [x1, #1]
        ldrb    w6, [x1, #2]
        ldrb    w7, [x1, #3]
        strb    w4, [x3]
        strb    w5, [x3, #1]
        strb    w6, [x3, #2]
        strb    w7, [x3, #3]
        add     x1, x1, #4
        add     x3, x3, #4
        subs    x2, x2, #4
        b.hs    10b
11:     adds    x2, x2, #4
        b.eq    13f
12:     ldrb    w5, [x1], #1
        strb    w5, [x3], #1
        subs    x2, x2, #1
        b.ne    12b
13:     ret
        .size   memcpy, . - memcpy

// x0 = to, w1 = byte, x2 = bytes. Returns x0.
        .section .text.memset, "ax"
        .global memset
        .type   memset, %function
memset:
        mov     x3, x0
        cmp     x2, #16
        b.lo    5f
        and     x4, x1, #0xff
        orr     x4, x4, x4, lsl #8
        orr     x4, x4, x4, lsl #16
        orr     x4, x4, x4, lsl #32
1:      tst     x3, #7
        b.eq    2f
        strb    w1, [x3], #1
        sub     x2, x2, #1
        b       1b
2:      subs    x2, x2, #64
        b.lo    4f
3:      stp     x4, x4, [x3]
        stp     x4, x4, [x3, #16]
        stp     x4, x4, [x3, #32]
        stp     x4, x4, [x3, #48]
        add     x3, x3, #64
        subs    x2, x2, #64
        b.hs    3b
4:      adds    x2, x2, #64 - 8
        b.mi    0f
9:      str     x4, [x3], #8
        subs    x2, x2, #8
        b.pl    9b
0:      add     x2, x2, #8
5:      cbz     x2, 7f
6:      strb    w1, [x3], #1
        subs    x2, x2, #1
        b.ne    6b
7:      ret
        .size   memset, . - memset
        .text
