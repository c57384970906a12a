/*
 * Where the other processors begin. The code from smp_trampoline to its end is copied
 * to the page that STARTUP names; it goes straight to the kernel's own addresses.
 */

    .section .rodata
    .code16
    .globl smp_trampoline, smp_trampoline_end
smp_trampoline:
    cli
    cld
    mov %cs, %bx
    mov %bx, %ds
    mov %edx, %esi
    mov %cr0, %edi
    lgdtl smp_gdt - smp_trampoline
    mov %edi, %eax
    and $~0x60000000, %eax          /* CD, NW */
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x30, $ap32
smp_gdt:
    .word 127
    .long guest_gdt
smp_trampoline_end:

    .text
    .code32
/* %esi: EDX at the start; %edi: CR0; %bx: CS */
ap32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x620, %eax                /* as start.S */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    ljmp $0x08, $ap64

    .code64
ap64:
    movzwl %bx, %r8d
    mov $1, %eax
    cpuid
    shr $24, %ebx
    and $15, %ebx
    mov %ebx, %ecx
    shl $14, %rcx
    lea smp_stacks + 16384(%rcx), %rsp
    mov %esi, %ecx                  /* edx */
    mov %edi, %edx                  /* cr0 */
    mov %ebx, %edi
    mov %ecx, %esi
    mov %r8d, %ecx                  /* cs */
    xor %ebp, %ebp
    call smp_ap_main
1:  hlt
    jmp 1b

    .bss
    .align 16
smp_stacks:
    .skip 16 * 16384
    .section .note.GNU-stack, "", @progbits
