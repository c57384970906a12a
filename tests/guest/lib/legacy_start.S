/* PVH entry, exception stubs, and the ways into and out of what legacy.h runs. */

    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start32

    .text
    .code32
    .globl start32
start32:
    cld
    mov $stack_top, %esp
    lgdt legacy_gdtr
    ljmp $0x08, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    xor %ebp, %ebp
    call legacy_main
2:  hlt
    jmp 2b

/* --- Stubs ------------------------------------------------------------------ */

    .align 16
    .globl legacy_stubs
legacy_stubs:
    .set i, 0
    .rept 256
    .align 16
    pushl $i
    jmp caught
    .set i, i + 1
    .endr

    .globl task_end
task_end:
    pushfl
    push %cs
    push $0                         /* EIP: of no interest */
    pushl $0x100

/* Stack: vector, [error,] the frame. Only DS and the tables need to be usable. */
caught:
    push %eax
    push %ds
    mov $0x10, %eax
    mov %eax, %ds
    mov %ecx, legacy_rec + 4
    mov %edx, legacy_rec + 8
    mov %ebx, legacy_rec + 12
    mov %ebp, legacy_rec + 20
    mov %esi, legacy_rec + 24
    mov %edi, legacy_rec + 28
    pop %eax
    mov %eax, legacy_rec + 32
    pop %eax
    mov %eax, legacy_rec
    mov %esp, legacy_rec + 16
    pushfl
    pop %eax
    mov %eax, legacy_rec + 36
    xor %eax, %eax
    mov %cs, %eax
    mov %eax, legacy_rec + 40
    mov %ss, %eax
    mov %eax, legacy_rec + 44
    mov %es, %eax
    mov %eax, legacy_rec + 48
    mov %fs, %eax
    mov %eax, legacy_rec + 52
    mov %gs, %eax
    mov %eax, legacy_rec + 56
    mov $0x10, %eax
    mov %eax, %ss
    mov saved_esp, %esp
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    cld
    ljmp $0x08, $1f                 /* CS may have a base */
1:  call legacy_caught
leave:
    pop %ebp
    pop %edi
    pop %esi
    pop %ebx
    popfl
    ret

/* void legacy_enter(const struct context *c): comes back through `caught`. Offsets of
 * struct context: gpr 0, eip 32, eflags 36, seg 40. */
    .globl legacy_enter
legacy_enter:
    mov 4(%esp), %eax
    pushfl
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov %esp, saved_esp
    mov %eax, %esi
    testl $0x20000, 36(%esi)
    jnz to_vm86
    testl $3, 42(%esi)
    jnz to_outer
    mov 44(%esi), %ss
    mov 16(%esi), %esp
    jmp 1f
to_vm86:
    pushw $0
    pushw 50(%esi)
    pushw $0
    pushw 48(%esi)
    pushw $0
    pushw 46(%esi)
    pushw $0
    pushw 40(%esi)
to_outer:
    pushw $0
    pushw 44(%esi)
    pushl 16(%esi)
1:  pushl 36(%esi)
    pushw $0
    pushw 42(%esi)
    pushl 32(%esi)
    pushl 24(%esi)
    testl $0x20000, 36(%esi)
    jnz 2f
    pushl 46(%esi)
    pushl 40(%esi)
    pushl 48(%esi)
    pushl 50(%esi)
    jmp 3f
2:  pushl $0x10
    pushl $0x10
    pushl $0x10
    pushl $0x10
3:  mov (%esi), %eax
    mov 4(%esi), %ecx
    mov 8(%esi), %edx
    mov 12(%esi), %ebx
    mov 20(%esi), %ebp
    mov 28(%esi), %edi
    pop %gs
    pop %fs
    pop %es
    pop %ds
    pop %esi
    iretl

/* --- Real mode -------------------------------------------------------------- */

/* void legacy_enter_real(void): the context is at REAL_CONTEXT, the trampoline has been
 * copied to TRAMPOLINE. */
    .globl legacy_enter_real
legacy_enter_real:
    pushfl
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov %esp, saved_esp
    mov real_data_sel, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov $0x58, %eax
    mov %eax, %ss
    lidt %cs:real_idtr
    ljmp $0x50, $0x8000

    .globl legacy_real_back
legacy_real_back:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov saved_esp, %esp
    cld
    call legacy_caught_real
    jmp leave

/* Copied to 0x8000; runs with CS.base 0 in protected mode, then as 0000:80xx. The
 * context is at 0x7000, the record at 0x7100, the GDT's pointer at 0x7200. */
    .section .rodata
    .globl trampoline, trampoline_end
    .code16
trampoline:
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $0, $(0x8000 + real_entry - trampoline)
real_entry:
    xor %ax, %ax
    mov %ax, %ds
    mov 0x7000 + 44, %ss
    mov 0x7000 + 16, %esp
    pushw 0x7000 + 36
    pushw 0x7000 + 42
    pushw 0x7000 + 32
    mov 0x7000, %eax
    mov 0x7000 + 4, %ecx
    mov 0x7000 + 8, %edx
    mov 0x7000 + 12, %ebx
    mov 0x7000 + 20, %ebp
    mov 0x7000 + 24, %esi
    mov 0x7000 + 28, %edi
    mov 0x7000 + 40, %es
    mov 0x7000 + 48, %fs
    mov 0x7000 + 50, %gs
    mov 0x7000 + 46, %ds
    iretw

/* At 0x8100: one stub of 6 bytes for each vector. */
    .org trampoline + 0x100
    .set i, 0
    .rept 256
    .byte 0x68
    .word i
    .byte 0xe9
    .word real_caught - . - 2
    .set i, i + 1
    .endr
real_caught:
    push %ds
    push %eax
    xor %ax, %ax
    mov %ax, %ds
    mov %ecx, 0x7100 + 4
    mov %edx, 0x7100 + 8
    mov %ebx, 0x7100 + 12
    mov %ebp, 0x7100 + 20
    mov %esi, 0x7100 + 24
    mov %edi, 0x7100 + 28
    pop %eax
    mov %eax, 0x7100
    popw 0x7100 + 32
    mov %esp, 0x7100 + 16
    pushfl
    popl 0x7100 + 36
    mov %cs, 0x7100 + 40
    mov %ss, 0x7100 + 44
    mov %es, 0x7100 + 48
    mov %fs, 0x7100 + 52
    mov %gs, 0x7100 + 56
    lgdtl 0x7200
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x08, $legacy_real_back
trampoline_end:

    .data
    .globl legacy_gdtr
legacy_gdtr:
    .word 511
    .long legacy_gdt

    .bss
    .align 16
saved_esp:
    .skip 4
    .align 4096
    .skip 32768
stack_top:
    .section .note.GNU-stack, "", @progbits
