/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86-64, System V: a function keeps rbx, rbp, r12 to r15, the control bits of MXCSR and the x87 control word; all
 * else is the caller's to save. So these, and the stack pointer, are all that a switch has to exchange.
 *
 *   vd__switch_fast(void **from, void *to)   saves them on this stack, rsp in *from; loads those on the stack TO
 *   vd__switch_begin   where a new stack begins: r12 is a function, r13 its argument
 *   vd__switch_land    where the kernel returns to after a fault was contained, with rsp as *from had it
 */
#if defined(__x86_64__)
    .text

    .globl vd__switch_fast
    .hidden vd__switch_fast
    .type vd__switch_fast, @function
    .align 16
vd__switch_fast:
    .cfi_startproc
    endbr64
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    pushq %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r12, 0
    pushq %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r13, 0
    pushq %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r14, 0
    pushq %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r15, 0
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
.Lload:
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    popq %r15
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r15
    popq %r14
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r14
    popq %r13
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r13
    popq %r12
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r12
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    popq %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbp
    ret
    .cfi_endproc
    .size vd__switch_fast, .-vd__switch_fast

    .globl vd__switch_land
    .hidden vd__switch_land
    .type vd__switch_land, @function
    .align 16
vd__switch_land:
    endbr64
    fninit
    cld
    jmp .Lload
    .size vd__switch_land, .-vd__switch_land

    .globl vd__switch_begin
    .hidden vd__switch_begin
    .type vd__switch_begin, @function
    .align 16
vd__switch_begin:
    .cfi_startproc
    .cfi_undefined %rip
    endbr64
    xorl %ebp, %ebp
    movq %r13, %rdi
    callq *%r12
    ud2
    .cfi_endproc
    .size vd__switch_begin, .-vd__switch_begin
#endif
    .section .note.GNU-stack, "", @progbits
