/* A multiboot kernel in C: pc_main(info). */
    .code32
    .section .text.start, "ax"
    .globl _start
_start:
    jmp 1f
    .align 4
    .long 0x1badb002
    .long 0
    .long -0x1badb002
1:  mov $stack_top, %esp
    cld
    push %ebx
    call pc_main
2:  hlt
    jmp 2b

    .bss
    .align 16
    .skip 16384
stack_top:
    .section .note.GNU-stack, "", @progbits
