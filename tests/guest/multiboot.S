/*
 * A multiboot 1 kernel that writes what it is told to the first serial port: lines
 * "NAME=VALUE", and exits through port 0xf4. Built as an ELF file, and with -DKLUDGE as
 * a flat binary whose header says where it goes.
 */
    .code32
    .section .text
    .globl _start
_start:
    jmp entry

    .align 4
header:
    .long 0x1badb002
#ifdef KLUDGE
    .long 0x00010003
    .long -(0x1badb002 + 0x00010003)
    .long header, _start, end_of_file, end_of_bss, entry
#else
    .long 0x00000003
    .long -(0x1badb002 + 0x00000003)
#endif

    .macro SAY text
    mov $8f, %esi
    call puts
    jmp 9f
8:  .asciz "\text"
9:
    .endm

    .macro LINE
    mov $'\n', %al
    call putc
    .endm

/* NAME=hexadecimal of eax */
    .macro NUMBER name
    push %eax
    SAY "\name="
    pop %eax
    call hex
    LINE
    .endm

entry:
    /* What the specification promises of the processor, before anything changes it. */
    mov %esp, first_esp
    mov $stack_top, %esp
    mov %eax, magic
    mov %ebx, info
    pushf
    pop %eax
    and $0x20200, %eax
    mov %eax, flags                 /* VM and IF */
    mov %cr0, %eax
    and $0x80000001, %eax
    mov %eax, mode

    mov magic, %eax
    NUMBER "magic"
    mov flags, %eax
    NUMBER "vm_if"
    mov mode, %eax
    NUMBER "pg_pe"
    call a20
    NUMBER "a20"
    call bss
    NUMBER "bss"

    mov info, %ebp
    mov (%ebp), %eax
    and $0x4d, %eax
    NUMBER "flags"
    mov 8(%ebp), %eax
    NUMBER "upper"
    mov 4(%ebp), %eax
    cmp $600, %eax
    setae %al
    movzx %al, %eax
    NUMBER "lower_is_600_or_more"

    SAY "cmdline="
    mov 16(%ebp), %esi
    call skip_word
    call puts
    LINE
    SAY "loader="
    mov 64(%ebp), %esi
    call puts
    LINE

    mov 20(%ebp), %ecx
    mov %ecx, %eax
    NUMBER "modules"
    mov 24(%ebp), %edi
1:  test %ecx, %ecx
    jz 2f
    SAY "module="
    mov 8(%edi), %esi
    call skip_word
    call puts
    SAY " aligned "
    mov (%edi), %eax
    and $0xfff, %eax
    call hex
    SAY " bytes "
    mov 4(%edi), %eax
    sub (%edi), %eax
    call hex
    SAY " text "
    mov (%edi), %esi
    mov 4(%edi), %edx
3:  cmp %edx, %esi
    je 4f
    lodsb
    call putc
    jmp 3b
4:  LINE
    add $16, %edi
    dec %ecx
    jmp 1b
2:
    /* RAM at and above 1 MiB, by the memory map, in KiB */
    mov 48(%ebp), %edi
    mov 44(%ebp), %ecx
    add %edi, %ecx
    xor %ebx, %ebx
5:  cmp %ecx, %edi
    jae 6f
    cmpl $1, 20(%edi)
    jne 7f
    cmpl $0, 8(%edi)
    jne 7f
    cmpl $0x100000, 4(%edi)
    jb 7f
    mov 12(%edi), %eax
    shr $10, %eax
    add %eax, %ebx
7:  add (%edi), %edi
    add $4, %edi
    jmp 5b
6:  mov %ebx, %eax
    NUMBER "map"
    mov $0x10, %al
    out %al, $0xf4
1:  hlt
    jmp 1b

/* 1 when bit 20 of addresses counts */
a20:
    movl $0x11111111, 0x00000700
    mov 0x00100700, %edx
    movl $0x22222222, 0x00100700
    xor %eax, %eax
    cmpl $0x11111111, 0x00000700
    sete %al
    mov %edx, 0x00100700
    ret

/* the sum of .bss, but for the stack and what was stored there */
bss:
    xor %eax, %eax
    mov $zeros, %esi
    mov $1024, %ecx
1:  add (%esi), %eax
    add $4, %esi
    loop 1b
    ret

skip_word:                          /* esi: to the first blank, or the end */
    cmpb $0, (%esi)
    je 1f
    cmpb $' ', (%esi)
    je 1f
    inc %esi
    jmp skip_word
1:  ret

hex:                                /* eax */
    push %ecx
    push %edx
    mov %eax, %edx
    mov $8, %ecx
1:  rol $4, %edx
    mov %dl, %al
    and $15, %al
    cmp $10, %al
    jb 2f
    add $'a' - '0' - 10, %al
2:  add $'0', %al
    call putc
    loop 1b
    pop %edx
    pop %ecx
    ret

puts:                               /* esi */
    mov (%esi), %al
    inc %esi
    test %al, %al
    jz 1f
    call putc
    jmp puts
1:  ret

putc:                               /* al */
    push %edx
    push %eax
    mov $0x3fd, %dx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    pop %eax
    mov $0x3f8, %dx
    out %al, %dx
    pop %edx
    ret
end_of_file:

    .bss
    .globl end_of_bss
first_esp: .skip 4
magic:  .skip 4
info:   .skip 4
flags:  .skip 4
mode:   .skip 4
zeros:  .skip 4096
    .skip 4096
stack_top:
end_of_bss:
    .section .note.GNU-stack, "", @progbits
