/* PVH entry, way into long mode, exception stubs, and the calls that catch them. */

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
    mov %ebx, guest_start_info      /* struct hvm_start_info of the PVH boot protocol */
    /* Page directories: 2048 pages of 2 MiB, supervisor, writable. */
    mov $pd, %edi
    mov $0x83, %eax
    xor %edx, %edx
    mov $2048, %ecx
1:  mov %eax, (%edi)
    mov %edx, 4(%edi)
    add $0x200000, %eax
    adc $0, %edx
    add $8, %edi
    loop 1b
    orl $4, pd + 16                 /* the user region at 4 MiB: 2 MiB, U/S set */
    /* Page-directory pointers and the two entries of the top table. */
    mov $pd + 7, %eax
    mov $pdpt, %edi
    mov $4, %ecx
2:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b
    movl $pdpt + 7, pml4
    movl $window_pdpt + 7, pml4 + 8  /* WINDOW is entry 1 */
    movl $window_pd + 7, window_pdpt
    movl $window_pt + 7, window_pd

    mov %cr4, %eax
    or $0x620, %eax                 /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax                 /* SCE, LME, NXE */
    wrmsr
    mov $0x80010033, %eax           /* PG WP NE ET MP PE */
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $0x08, $start64

    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %rsp
    xor %ebp, %ebp
    call guest_main
3:  hlt
    jmp 3b

/* --- Exceptions ------------------------------------------------------------- */

    .macro STUB n
    .align 16
    .if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17) || (\n == 21)
    .else
    push $0
    .endif
    push $\n
    jmp common_stub
    .endm

    .align 16
    .globl guest_stubs
guest_stubs:
    .set i, 0
    .rept 256
    STUB i
    .set i, i + 1
    .endr

/* Stack: vector, error, rip, cs, rflags, rsp, ss. Push registers 15..0 below. */
common_stub:
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    push $0                         /* the rsp slot: filled by C from the frame */
    push %rbx
    push %rdx
    push %rcx
    push %rax
    mov %rsp, %rdi
    cld
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %rsp, %rbp
    and $-16, %rsp
    call guest_trap                 /* returns only for interrupts */
    mov %rbp, %rsp
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    add $8, %rsp
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $16, %rsp
    iretq

/* bool try_call(void (*fn)(void *), void *arg, bool user, uint64_t *rsp_slot) */
    .globl try_call
try_call:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    sub $8, %rsp
    mov %rsp, (%rcx)
    test %edx, %edx
    jnz 1f
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    xor %eax, %eax
    jmp try_out
1:  mov %rdi, %rax
    mov %rsi, %rdi
    push $0x23                      /* SEL_USER_DATA */
    lea user_stack_top(%rip), %rcx  /* not written from here: SMAP */
    push %rcx
    push $0x002
    push $0x2b                      /* SEL_USER64 */
    push %rax
    iretq

/* void try_resume(bool caught, uint64_t rsp): exceptions come back here through
 * guest_trap; %eax says whether one was caught. */
    .globl try_resume
try_resume:
    mov %rsi, %rsp
    mov $0x10, %eax                 /* null after an exception in user mode */
    mov %eax, %ss
    mov %edi, %eax
try_out:
    add $8, %rsp
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .section .user.text, "ax"
user_return:
    int $0x80

    .section .user.data, "aw"
    .align 16
    .skip 16384
user_stack_top:
    .quad user_return               /* where the called function returns to */
    .skip 64

    .data
    .align 16
    .globl guest_gdt
guest_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        /* 08 code, 64-bit */
    .quad 0x00cf93000000ffff        /* 10 data */
    .quad 0x00cffb000000ffff        /* 18 user code, 32-bit */
    .quad 0x00cff3000000ffff        /* 20 user data */
    .quad 0x00affb000000ffff        /* 28 user code, 64-bit */
    .quad 0x00cf9b000000ffff        /* 30 code, 32-bit */
    .quad 0
    .quad 0, 0                      /* 40 TSS */
    .quad 0, 0, 0, 0, 0, 0          /* 50.. the tests' */
    .globl gdt_pointer
gdt_pointer:
    .word 127
    .quad guest_gdt
    .globl guest_start_info
guest_start_info:
    .quad 0

    .bss
    .align 4096
    .globl pml4, window_pdpt, window_pd, window_pt
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4 * 4096
window_pdpt:
    .skip 4096
window_pd:
    .skip 4096
window_pt:
    .skip 4096
    .align 16
    .skip 32768
stack_top:
    .section .note.GNU-stack, "", @progbits
