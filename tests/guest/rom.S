/*
 * A firmware image of 64 KiB that says what it finds where it starts: on port 0xe9 and
 * on the first serial port, with POST codes on port 0x190, and at the end an exit
 * status at port 0xf4. A line "ok NAME" or "not ok NAME" for each thing.
 *
 * It resets the machine twice on its way; the byte at CMOS 0x50 says how often.
 */
#define MARK   0x50
#define PASSED 0x10
#define FAILED 0x11

    .code16
    .section .text
    .globl rom
rom:

/* al: POST code */
    .macro POST code
    mov $\code, %al
    mov $0x190, %dx
    out %al, %dx
    .endm

/* What the flags say is the result of the test called @name. */
    .macro OK condition, name
    mov $9f - rom, %si
    j\condition 8f
    call not_ok
    jmp 7f
9:  .asciz "\name"
8:  call ok
7:
    .endm

putc:
    push %dx
    out %al, $0xe9
    push %ax
    mov $0x3f8 + 5, %dx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    pop %ax
    mov $0x3f8, %dx
    out %al, %dx
    pop %dx
    ret

puts:
    mov %cs:(%si), %al
    inc %si
    test %al, %al
    jz 1f
    call putc
    jmp puts
1:  ret

not_ok:
    movb $1, 0x600
    push %si
    mov $text_not - rom, %si
    call puts
    jmp 1f
ok:
    push %si
1:  mov $text_ok - rom, %si
    call puts
    pop %si
    call puts
    mov $'\n', %al
    jmp putc

text_not: .asciz "not "
text_ok:  .asciz "ok "

/* CMOS byte al -> al */
cmos_get:
    out %al, $0x70
    in $0x71, %al
    ret

start:
    /* ebx: 1 when the processor came by the reset vector. */
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp

    mov $MARK, %al
    call cmos_get
    cmp $0xa1, %al
    je second
    cmp $0xa2, %al
    je third

/* ---- the first start ---- */
    movb $0, 0x600
    POST 1
    cmp $1, %ebx
    OK e, starts_at_the_reset_vector
    mov %cs, %ax
    cmp $0xf000, %ax
    OK e, is_below_1_mib_too

    POST 2
    push $0xf000
    pop %fs
    movw $0x1234, %fs:0x1000
    cmpw $0x5678, %fs:0x1000
    OK e, low_copy_ignores_writes
    movw $0x1234, 0x8000
    cmpw $0x1234, 0x8000
    OK e, memory_keeps_writes

    POST 3
    call protected
    cmpl $0x12345678, 0x604
    OK e, both_copies_are_the_same
    cmpl $0x12345678, 0x608
    OK e, top_of_4_gib_ignores_writes

    POST 4
    call devices

    POST 5
    mov $MARK, %al
    out %al, $0x70
    mov $0xa1, %al
    out %al, $0x71
    mov $0xfe, %al                  /* the keyboard controller's reset pulse */
    out %al, $0x64
1:  hlt
    jmp 1b

/* ---- the second start ---- */
second:
    POST 6
    cmp $1, %ebx
    OK e, keyboard_controller_resets_to_the_reset_vector
    mov $MARK, %al
    out %al, $0x70
    mov $0xa2, %al
    out %al, $0x71
    lidt %cs:no_idt - rom           /* a triple fault */
    int3
1:  hlt
    jmp 1b

/* ---- the third start ---- */
third:
    POST 7
    cmp $1, %ebx
    OK e, triple_fault_resets_to_the_reset_vector
    POST 8
    cmpb $0, 0x600
    mov $FAILED, %al
    jne 1f
    mov $PASSED, %al
1:  out %al, $0xf4
2:  hlt
    jmp 2b

no_idt: .word 0
    .long 0

/* ---- protected mode and back ---- */
protected:
    lgdtl %cs:gdt_pointer - rom
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmp $8, $1f - rom
1:  mov $16, %ax
    mov %ax, %es
    mov $0xfffff000, %edi           /* the last page: `constant` lies in it */
    mov %es:constant - page(%edi), %eax
    mov $0xff000, %esi
    mov %es:constant - page(%esi), %ecx
    xor %eax, %ecx
    add %eax, %ecx                  /* the constant, when both are the same */
    mov %ecx, 0x604
    movl $0, %es:constant - page(%edi)
    mov %es:constant - page(%edi), %eax
    mov %eax, 0x608
    mov $24, %ax
    mov %ax, %es
    mov %cr0, %eax
    and $0xfe, %al
    mov %eax, %cr0
    ljmp $0xf000, $1f - rom
1:  xor %ax, %ax
    mov %ax, %es
    ret

gdt_pointer:
    .word 31
    .long 0xf0000 + gdt - rom
    .align 8
gdt:
    .quad 0
    .quad 0x00009b0f0000ffff        /* 08 code at 0xf0000 */
    .quad 0x00cf93000000ffff        /* 10 data, flat */
    .quad 0x000093000000ffff        /* 18 data as in real mode */

/* ---- what guests like this one use ---- */
devices:
    mov $0xa5, %al
    out %al, $0x21
    in $0x21, %al
    cmp $0xa5, %al
    OK e, pic_mask_reads_back
    mov $0xff, %al
    out %al, $0x21

    mov $0x80, %dx                  /* POST and DMA page ports: harmless */
    out %al, %dx
    in %dx, %al
    mov $0x8f, %dx
    out %al, %dx
    in %dx, %al
    cmp %al, %al
    OK e, port_80_is_harmless

    in $0x61, %al
    and $0x10, %al
    mov %al, %ah
    mov $0xffff, %cx
1:  in $0x61, %al
    and $0x10, %al
    cmp %al, %ah
    jne 2f
    loop 1b
2:  cmp %al, %ah
    OK ne, port_61_refresh_toggles

    mov $0xb0, %al                  /* timer 2, mode 0: OUT rises */
    out %al, $0x43
    mov $1, %al
    out %al, $0x61
    mov $100, %al
    out %al, $0x42
    mov $0, %al
    out %al, $0x42
    mov $0xffff, %cx
1:  in $0x61, %al
    test $0x20, %al
    jnz 2f
    loop 1b
2:  test $0x20, %al
    OK nz, timer_2_ends

    mov $0x0d, %al
    call cmos_get
    test $0x80, %al
    OK nz, rtc_is_valid

    in $0x64, %al
    cmp $0xff, %al
    OK ne, keyboard_controller_answers
    ret

    .org 0x1000
    .word 0x5678

    .org 0xf000
page:
    .org 0xf800
constant:
    .long 0x12345678

/* CS has base 0xffff0000 here, until the far jump. */
    .org 0xfff0
vector:
    mov $1, %ebx
    ljmp $0xf000, $start - rom
    .org 0x10000
