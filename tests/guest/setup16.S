/*
 * A bzImage whose real-mode setup code asks its firmware what Linux' asks, and says what
 * it is told: lines "NAME=HEX" by INT 10h. It exits through port 0xf4.
 */
    .code16
    .section .text
    .globl setup
setup:
    .org 0x1f1
    .byte 7                         /* setup_sects: this and seven more */
    .word 0
    .long 32                        /* syssize: 512 bytes */
    .word 0, 0xffff, 0, 0xaa55
    .byte 0xeb, start - 1f          /* jmp start */
1:  .ascii "HdrS"
    .word 0x20f
    .long 0
    .word 0, 0
    .byte 0, 1                      /* loadflags: LOADED_HIGH */
    .word 0x8000
    .long 0x100000, 0, 0, 0
    .word 0, 0
    .long 0, 0x7fffffff, 0x200000
    .byte 1, 21
    .word 0
    .long 2047, 0
    .quad 0
    .long 0, 0
    .quad 0, 0x1000000
    .long 0x100000, 0

    .macro SAY name
    mov $9f - setup, %si
    call puts
    jmp 8f
9:  .asciz "\name="
8:
    .endm

    .macro LINE name, reg
    push %eax
    mov \reg, %eax
    push %eax
    SAY \name
    pop %eax
    call hex
    mov $'\n', %al
    call putc
    pop %eax
    .endm

    .macro WORD name, reg
    push %eax
    movzwl \reg, %eax
    LINE \name, %eax
    pop %eax
    .endm

    .macro CARRY name
    pushfw
    push %eax
    mov %sp, %bp
    movzwl 4(%bp), %eax
    and $1, %eax
    LINE \name, %eax
    pop %eax
    popfw
    .endm

start:
    /* How it was entered. */
    mov %ds, %ax
    mov %es, %bx
    mov %ss, %cx
    xor %edx, %edx
    cmp %ax, %bx
    jne 1f
    cmp %ax, %cx
    jne 1f
    mov %cs, %bx
    sub %ax, %bx
    mov %bx, %dx
1:  WORD "cs_minus_ds", %dx
    WORD "sp", %sp
    WORD "ds", %ax
    mov 0x210, %eax
    and $0x8000, %eax               /* CAN_USE_HEAP is bit 7 of 0x211 */
    LINE "heap", %eax
    mov 0x224, %ax
    WORD "heap_end", %ax

    /* The command line, by its linear address. */
    push %es
    mov 0x228, %eax
    shr $4, %eax
    mov %ax, %es
    mov $9f - setup, %si
    call puts
    xor %di, %di
2:  mov %es:(%di), %al
    inc %di
    test %al, %al
    jz 3f
    call putc
    jmp 2b
9:  .asciz "cmdline="
3:  mov $'\n', %al
    call putc
    pop %es
    mov 0x21c, %eax
    LINE "ramdisk", %eax

    sti
    /* Memory */
    int $0x12
    WORD "int12", %ax
    mov $0x88, %ah
    int $0x15
    CARRY "int1588_cf"
    WORD "int1588", %ax
    mov $0xe801, %ax
    int $0x15
    CARRY "e801_cf"
    WORD "e801_ax", %ax
    WORD "e801_bx", %bx
    WORD "e801_cx", %cx
    WORD "e801_dx", %dx
    xor %ebx, %ebx
4:  mov $0xe820, %eax
    mov $0x534d4150, %edx
    mov $20, %ecx
    mov $buffer - setup, %di
    int $0x15
    jc 5f
    push %ebx
    LINE "e820_signature", %eax
    LINE "e820_ecx", %ecx
    mov buffer - setup, %eax
    LINE "e820_base", %eax
    mov buffer - setup + 8, %eax
    LINE "e820_len", %eax
    mov buffer - setup + 16, %eax
    LINE "e820_type", %eax
    pop %ebx
    test %ebx, %ebx
    jnz 4b
5:  mov $0xe820, %eax               /* a wrong signature */
    xor %edx, %edx
    xor %ebx, %ebx
    mov $20, %ecx
    int $0x15
    CARRY "e820_bad_cf"

    /* A20 */
    mov $0x2403, %ax
    int $0x15
    CARRY "a20_support_cf"
    mov $0x2401, %ax
    int $0x15
    CARRY "a20_on_cf"
    mov $0x2402, %ax
    int $0x15
    and $0xff, %ax
    WORD "a20", %ax
    mov $0xc1, %ah                  /* no such function */
    int $0x15
    CARRY "unknown_cf"

    /* Disk, keyboard, screen */
    mov $0x41, %ah
    mov $0x55aa, %bx
    mov $0x80, %dl
    int $0x13
    CARRY "disk_cf"
    mov $0x01, %ah
    int $0x16
    mov $0, %ax
    setz %al
    WORD "no_key", %ax
    mov $0x0f, %ah
    int $0x10
    WORD "mode", %ax
    mov $0x12, %ah
    mov $0x10, %bl
    int $0x10
    and $0xff, %bx
    WORD "ega", %bx

    /* Time: the timer's interrupt counts ticks. */
    mov $0x02, %ah
    int $0x1a
    CARRY "rtc_cf"
    xor %ax, %ax
    int $0x1a
    mov %dx, %bx
6:  hlt
    push %bx
    xor %ax, %ax
    int $0x1a
    pop %bx
    cmp %dx, %bx
    je 6b
    mov $1, %ax
    WORD "ticks", %ax
    mov $0x86, %ah                  /* 1 ms */
    xor %cx, %cx
    mov $1000, %dx
    int $0x15
    CARRY "wait_cf"

    mov $0x10, %al
    out %al, $0xf4
7:  hlt
    jmp 7b

puts:
    lodsb
    test %al, %al
    jz 1f
    call putc
    jmp puts
1:  ret

putc:
    push %ebx
    push %bp
    mov $0x0e, %ah
    mov $7, %bx
    int $0x10
#ifdef SERIAL                       /* where the firmware has a screen for it */
    push %dx
    mov $0x3f8, %dx
    out %al, %dx
    pop %dx
#endif
    pop %bp
    pop %ebx
    ret

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

buffer: .skip 24
    .org 0x1000
    .skip 512
