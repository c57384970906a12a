/*
 * The firmware behind -machine kernel-entry=16bit: what a Linux kernel asks when it is
 * entered in real mode, and nothing more. One page, shown as ROM at the end of the first
 * MiB and of the first 4 GiB; assembled into the VMM as data.
 *
 * It starts at the reset vector, finds the word GO at linear 0x4f0, where the loader put
 * it, sets up vectors, BIOS data area, interrupt controllers and timer, and enters the
 * kernel's setup code (boot.rst, "16-bit boot"; registers: "Running the Kernel"). Without
 * GO it was entered by a jump to the BIOS, which is how operating systems reset a PC: it
 * does that.
 *
 * What is where (offsets in segment F000, where the page begins at 0xf000):
 *   f000  parameters, which the loader fills in: boot_bzimage.c
 *   f2a0  code
 *   fff0  the reset vector
 *
 * Interrupts keep all registers but those that the interface says; flags are returned in
 * the caller's: 8(%bp), above the saved bp and ds, IP and CS.
 */
#define SEG      0xf000
#define BASE     0xf000           /* of the page in its segment */
#define A(label) ((label) - boot_rom + BASE)

#define PARAM_SEG     BASE
#define PARAM_SP      (BASE + 2)
#define PARAM_ABOVE   (BASE + 4)  /* KiB of RAM from 1 MiB on */
#define PARAM_LOW     (BASE + 8)  /* KiB of RAM from 0 on */
#define PARAM_NB_E820 (BASE + 10)
#define PARAM_E820    (BASE + 16)
#define E820_SIZE     20

#define GO    0x4f0               /* linear: the inter-application area */
#define GO_IS 0x474f
#define KEY   0x4f2               /* a character that INT 16h has seen; 0: none */

#define BDA_COM1      0x400
#define BDA_EBDA      0x40e
#define BDA_EQUIPMENT 0x410
#define BDA_MEMORY    0x413
#define BDA_KBD_HEAD  0x41a
#define BDA_MODE      0x449
#define BDA_COLUMNS   0x44a
#define BDA_CRTC      0x463
#define BDA_TICKS     0x46c
#define BDA_MIDNIGHT  0x470
#define BDA_KBD_START 0x480
#define BDA_ROWS      0x484

#define TICKS_A_DAY 0x1800b0
#define COM1        0x3f8
#define FLAGS       8             /* of the caller, at bp */
#define CF          0x01
#define ZF          0x40

    .section .rodata
    .code16
    .balign 16
    .globl boot_rom, boot_rom_end
boot_rom:
    .skip 16 + 32 * E820_SIZE
    .org boot_rom - boot_rom + 0x2a0

/* ---- entering and leaving an interrupt ---- */

    .macro ENTER                    /* ds becomes 0 */
    push %ds
    push %bp
    mov %sp, %bp
    push %ax
    xor %ax, %ax
    mov %ax, %ds
    pop %ax
    .endm

leave_ok:
    andw $~CF, FLAGS(%bp)
leave_as_is:
    pop %bp
    pop %ds
    iret

leave_error:                        /* ah stays */
    orw $CF, FLAGS(%bp)
    jmp leave_as_is

/* ---- start ---- */

start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    cmpw $GO_IS, GO
    jne reset
    movw $0, GO
    movw $0, KEY

    /* Vectors: all to nothing, the interrupts of devices to their end. */
    xor %di, %di
    mov $256, %cx
1:  mov $A(int_none), %ax
    stosw
    mov $SEG, %ax
    stosw
    loop 1b
    mov $A(vectors), %si
2:  lodsw %cs:(%si), %ax
    cmp $0xffff, %ax
    je 3f
    mov %ax, %di
    lodsw %cs:(%si), %ax
    mov %ax, (%di)
    jmp 2b
3:
    movw $COM1, BDA_COM1
    movw $0x9fc0, BDA_EBDA
    movw $0x0200, BDA_EQUIPMENT     /* one serial port */
    mov %cs:PARAM_LOW, %ax
    mov %ax, BDA_MEMORY
    movl $0x001e001e, BDA_KBD_HEAD
    movl $0x003e001e, BDA_KBD_START
    movb $3, BDA_MODE
    movw $80, BDA_COLUMNS
    movw $0x3d4, BDA_CRTC
    movb $24, BDA_ROWS
    movb $16, BDA_ROWS + 1
    movl $0, BDA_TICKS
    movb $0, BDA_MIDNIGHT
    mov $0x9fc0, %ax
    mov %ax, %es
    movb $1, %es:0                  /* the extended BIOS data area: 1 KiB */

    /* 8259: vectors 0x08 and 0x70, all masked but the timer. */
    mov $0x11, %al
    out %al, $0x20
    out %al, $0xa0
    mov $0x08, %al
    out %al, $0x21
    mov $0x70, %al
    out %al, $0xa1
    mov $0x04, %al
    out %al, $0x21
    mov $0x02, %al
    out %al, $0xa1
    mov $0x01, %al
    out %al, $0x21
    out %al, $0xa1
    mov $0xfa, %al
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1
    /* 8254 channel 0: 18.2 Hz. */
    mov $0x36, %al
    out %al, $0x43
    xor %al, %al
    out %al, $0x40
    out %al, $0x40
    mov $0x02, %al                  /* A20 */
    out %al, $0x92
    /* COM1: 115200 8N1, no interrupts. */
    mov $COM1 + 3, %dx
    mov $0x80, %al
    out %al, %dx
    mov $COM1, %dx
    mov $1, %al
    out %al, %dx
    inc %dx
    dec %ax
    out %al, %dx
    mov $COM1 + 3, %dx
    mov $0x03, %al
    out %al, %dx
    inc %dx
    out %al, %dx                    /* DTR, RTS */

    /* The kernel's setup code: at offset 0x200 of its segment. */
    mov %cs:PARAM_SEG, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    mov %cs:PARAM_SP, %sp
    add $0x20, %ax
    push %ax
    pushw $0
    xor %eax, %eax
    xor %ebx, %ebx
    xor %ecx, %ecx
    xor %edx, %edx
    xor %esi, %esi
    xor %edi, %edi
    xor %ebp, %ebp
    lret

reset:
    mov $0xfe, %al
    out %al, $0x64
1:  hlt
    jmp 1b

    .macro VECTOR n, handler
    .word \n * 4, A(\handler)
    .endm
vectors:
    VECTOR 0x08, int_timer
    VECTOR 0x09, irq_1
    VECTOR 0x0a, irq_1
    VECTOR 0x0b, irq_1
    VECTOR 0x0c, irq_1
    VECTOR 0x0d, irq_1
    VECTOR 0x0e, irq_1
    VECTOR 0x0f, irq_1
    VECTOR 0x70, irq_2
    VECTOR 0x71, irq_2
    VECTOR 0x72, irq_2
    VECTOR 0x73, irq_2
    VECTOR 0x74, irq_2
    VECTOR 0x75, irq_2
    VECTOR 0x76, irq_2
    VECTOR 0x77, irq_2
    VECTOR 0x10, int_video
    VECTOR 0x11, int_equipment
    VECTOR 0x12, int_memory
    VECTOR 0x13, int_disk
    VECTOR 0x15, int_system
    VECTOR 0x16, int_keyboard
    VECTOR 0x18, int_no_boot
    VECTOR 0x19, int_no_boot
    VECTOR 0x1a, int_time
    .word 0xffff

/* ---- interrupts of devices ---- */

int_none:
    iret

irq_2:
    push %ax
    mov $0x20, %al
    out %al, $0xa0
    out %al, $0x20
    pop %ax
    iret

int_timer:
    ENTER
    push %eax
    mov BDA_TICKS, %eax
    inc %eax
    cmp $TICKS_A_DAY, %eax
    jb 1f
    xor %eax, %eax
    movb $1, BDA_MIDNIGHT
1:  mov %eax, BDA_TICKS
    int $0x1c
    pop %eax
    pop %bp
    pop %ds
irq_1:
    push %ax
    mov $0x20, %al
    out %al, $0x20
    pop %ax
    iret

/* ---- INT 10h: a teletype on COM1 and port 0xe9 ---- */

putc:                               /* al */
    push %dx
    push %cx
    push %ax
    out %al, $0xe9
    mov $COM1 + 5, %dx
    xor %cx, %cx
1:  in %dx, %al
    test $0x20, %al
    loopz 1b
    pop %ax
    mov $COM1, %dx
    out %al, %dx
    pop %cx
    pop %dx
    ret

int_video:
    cmp $0x0e, %ah
    je 1f
    cmp $0x0f, %ah
    je 2f
    cmp $0x03, %ah
    je 3f
    cmp $0x09, %ah
    je 1f
    cmp $0x0a, %ah
    je 1f
    cmp $0x13, %ah
    je 4f
    iret                            /* modes, VGA, VESA: there are none */
1:  call putc
    iret
2:  mov $80 << 8 | 3, %ax           /* 80 columns, mode 3 */
    mov $0, %bh
    iret
3:  mov $0x0607, %cx                /* cursor shape and place */
    xor %dx, %dx
    iret
4:  push %ax
    push %bp
    push %cx
5:  jcxz 6f
    mov %es:(%bp), %al
    call putc
    inc %bp
    dec %cx
    jmp 5b
6:  pop %cx
    pop %bp
    pop %ax
    iret

/* ---- INT 11h, 12h, 13h ---- */

int_equipment:
    ENTER
    mov BDA_EQUIPMENT, %ax
    jmp leave_as_is

int_memory:
    ENTER
    mov BDA_MEMORY, %ax
    jmp leave_as_is

int_disk:                           /* no disk: bad command */
    ENTER
    mov $0x01, %ah
    jmp leave_error

/* ---- INT 15h ---- */

int_system:
    ENTER
    cmp $0xe820, %ax
    je system_e820
    cmp $0xe801, %ax
    je system_e801
    cmp $0x88, %ah
    je system_88
    cmp $0x86, %ah
    je system_wait
    cmp $0x24, %ah
    je system_a20
    mov $0x86, %ah                  /* no such function */
    jmp leave_error

system_e820:                        /* ACPI 6.4, 15.1 */
    cmp $0x534d4150, %edx
    jne system_bad
    cmp $E820_SIZE, %ecx
    jb system_bad
    movzwl %cs:PARAM_NB_E820, %eax
    cmp %eax, %ebx
    jae system_bad
    push %si
    push %di
    imul $E820_SIZE, %bx, %si
    add $PARAM_E820, %si
    mov $E820_SIZE, %cx
    cld
1:  lodsb %cs:(%si), %al
    stosb
    loop 1b
    pop %di
    pop %si
    inc %ebx
    cmp %cs:PARAM_NB_E820, %bx
    jb 2f
    xor %ebx, %ebx
2:  mov $E820_SIZE, %ecx
    mov $0x534d4150, %eax
    jmp leave_ok
system_bad:
    mov $0x86, %ah
    jmp leave_error

system_e801:                        /* KiB up to 16 MiB; 64 KiB pieces above */
    mov %cs:PARAM_ABOVE, %edx
    mov %edx, %ecx
    cmp $0x3c00, %edx
    jbe 1f
    mov $0x3c00, %ecx
1:  sub %ecx, %edx
    shr $6, %edx
    mov %cx, %ax
    mov %dx, %bx
    jmp leave_ok

system_88:                          /* KiB from 1 MiB on, up to 64 MiB */
    push %edx
    mov %cs:PARAM_ABOVE, %edx
    cmp $0xfc00, %edx
    jbe 1f
    mov $0xfc00, %edx
1:  mov %dx, %ax
    pop %edx
    jmp leave_ok

system_wait:                        /* cx:dx microseconds, by the refresh bit */
    push %eax
    push %ecx
    push %edx
    shl $16, %ecx
    mov %dx, %cx
    shr $4, %ecx                    /* it toggles every 15 us */
    inc %ecx
    in $0x61, %al
    mov %al, %ah
1:  in $0x61, %al
    xor %ah, %al
    test $0x10, %al
    jz 1b
    xor %al, %ah
    dec %ecx
    jnz 1b
    pop %edx
    pop %ecx
    pop %eax
    jmp leave_ok

system_a20:
    cmp $0x03, %al
    ja system_bad
    je 3f
    cmp $0x01, %al
    ja 2f
    push %ax
    mov %al, %ah
    in $0x92, %al
    and $0xfc, %al
    add %ah, %ah
    or %ah, %al
    out %al, $0x92
    pop %ax
    mov $0, %ah
    jmp leave_ok
2:  in $0x92, %al                   /* 2402: al is whether it is on */
    shr $1, %al
    and $1, %ax
    jmp leave_ok
3:  mov $0x0002, %bx                /* 2403: by port 0x92 */
    mov $0, %ah
    jmp leave_ok

/* ---- INT 16h: what is typed on COM1 ---- */

key_look:                           /* al: the character, 0: none */
    push %dx
    mov KEY, %al
    test %al, %al
    jnz 1f
    mov $COM1 + 5, %dx
    in %dx, %al
    cmp $0xff, %al                  /* no port */
    je 2f
    test $0x01, %al
    jz 2f
    mov $COM1, %dx
    in %dx, %al
    mov %al, KEY
    jmp 1f
2:  xor %al, %al
1:  pop %dx
    ret

int_keyboard:
    ENTER
    and $0xef, %ah                  /* 10h, 11h, 12h are 0, 1, 2 */
    cmp $0x01, %ah
    jb 1f
    je 2f
    cmp $0x02, %ah
    jne leave_as_is
    mov $0, %al                     /* no shift key is down */
    jmp leave_as_is
1:  sti
    call key_look
    test %al, %al
    jz 1b
    movb $0, KEY
    mov $0, %ah
    jmp leave_as_is
2:  andw $~ZF, FLAGS(%bp)
    call key_look
    mov $0, %ah
    test %al, %al
    jnz leave_as_is
    orw $ZF, FLAGS(%bp)
    jmp leave_as_is

/* ---- INT 18h, 19h ---- */

int_no_boot:
    mov $A(text_no_boot), %si
1:  lodsb %cs:(%si), %al
    test %al, %al
    jz 2f
    call putc
    jmp 1b
2:  cli
    hlt
    jmp 2b
text_no_boot:
    .asciz "\r\nThere is nothing to boot.\r\n"

/* ---- INT 1Ah ---- */

cmos:                               /* al -> al */
    out %al, $0x70
    in $0x71, %al
    ret

int_time:
    ENTER
    cmp $0x01, %ah
    jb 1f
    je 2f
    cmp $0x02, %ah
    je 3f
    cmp $0x04, %ah
    je 4f
    jmp leave_error
1:  mov BDA_TICKS + 2, %cx
    mov BDA_TICKS, %dx
    mov BDA_MIDNIGHT, %al
    movb $0, BDA_MIDNIGHT
    jmp leave_ok
2:  mov %cx, BDA_TICKS + 2
    mov %dx, BDA_TICKS
    movb $0, BDA_MIDNIGHT
    jmp leave_ok
3:  push %ax                        /* time: hours, minutes, seconds */
    mov $4, %al
    call cmos
    mov %al, %ch
    mov $2, %al
    call cmos
    mov %al, %cl
    mov $0, %al
    call cmos
    mov %al, %dh
    mov $0, %dl
    pop %ax
    jmp leave_ok
4:  push %ax                        /* date: century, year, month, day */
    mov $0x32, %al
    call cmos
    mov %al, %ch
    mov $9, %al
    call cmos
    mov %al, %cl
    mov $8, %al
    call cmos
    mov %al, %dh
    mov $7, %al
    call cmos
    mov %al, %dl
    pop %ax
    jmp leave_ok

    .org boot_rom - boot_rom + 0xff0
    ljmp $SEG, $A(start)
    .org boot_rom - boot_rom + 0x1000
boot_rom_end:
    .section .note.GNU-stack, "", @progbits
