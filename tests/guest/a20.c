/* The A20 gate of a PC: the keyboard controller's output port and port 0x92 hold line
 * 20 of the processor's address bus low. The guest's own code is above 1 MiB: what runs
 * with the gate off is below. */
#include "tests/guest/lib/legacy.h"

#define HIGH \
    ((volatile uint32_t *)0x100500) /* of the guest's image: not to be written */
#define LOW ((volatile uint32_t *)0x500)

/* FS:0500 is LOW and GS:0510 is HIGH; SI is a function that switches the gate by AL's
 * bit 1. EAX, ECX, EDX: what is read with the gate off, after a store to HIGH, and on.
 */
CODE16(look, "xor %ax, %ax; mov %ax, %fs; mov $0xffff, %ax; mov %ax, %gs\n"
             "mov $0, %al; call *%si; movl %gs:0x510, %ebp; movl $0x5707e, %gs:0x510\n"
             "movl %fs:0x500, %ecx; mov $2, %al; call *%si; movl %gs:0x510, %edx\n"
             "movl %ebp, %eax; int3");
CODE16(
    port_92,
    "movb %al, %bl; in $0x92, %al; and $0xfc, %al; or %bl, %al; out %al, $0x92; ret");
/* The controller takes one byte at a time: input buffer empty. */
#define READY "9: in $0x64, %al; test $2, %al; jnz 9b\n"
CODE16(output_port, "mov %al, %bl; " READY "mov $0xd1, %al; out %al, $0x64\n" READY
                    "mov %bl, %al; or $0xdd, %al; out %al, $0x60\n" READY
                    "mov $0xff, %al; out %al, $0x64; ret");
CODE16(commands, "or $0xdd, %al; mov %al, %bl; " READY
                 "mov %bl, %al; out %al, $0x64\n" READY "ret");

static void switched_by(const uint8_t *code, const uint8_t *end)
{
    uint32_t high = *HIGH;
    struct context c = real_context();
    *LOW = 0x10310301;
    PUT16(VM_CODE, look);
    memcpy((void *)(VM_CODE + 0x100), code, (size_t)(end - code));
    c.gpr[ESI] = 0x100;
    struct trap t = run_real(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX], 0x10310301);
    CHECK_EQ(t.c.gpr[ECX], 0x5707e);
    CHECK_EQ(t.c.gpr[EDX], high);
    CHECK_EQ(*LOW, 0x5707e);
    CHECK_EQ(*HIGH, high);
}

GUEST_TEST(it_is_on_at_the_start)
{
    CHECK_EQ(inb(0x92) & 2, 2);
    outb(0x64, 0xd0);
    while (!(inb(0x64) & 1)) {
    }
    CHECK_EQ(inb(0x60) & 3, 3);
}

GUEST_TEST(port_92_switches_it)
{
    switched_by(port_92, port_92_end);
}

GUEST_TEST(the_keyboard_controllers_output_port_switches_it)
{
    switched_by(output_port, output_port_end);
}

GUEST_TEST(two_commands_of_the_keyboard_controller_switch_it)
{
    switched_by(commands, commands_end);
}

/* A word across 1 MiB: the second half is at 0. */
CODE16(crossing,
       "mov $0xffff, %ax; mov %ax, %gs; in $0x92, %al; and $0xfc, %al; out %al, $0x92\n"
       "mov %gs:0xf, %dx; or $2, %al; out %al, $0x92; int3");

GUEST_TEST(it_counts_for_each_byte)
{
    struct context c = real_context();
    PUT16(VM_CODE, crossing);
    struct trap t = run_real(&c);
    uint8_t first;
    __asm__ volatile("movb 0, %0" : "=q"(first));
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EDX] >> 8 & 0xff, first);
}

/* Instructions come from below, too. */
CODE16(fetching,
       "in $0x92, %al; and $0xfc, %al; out %al, $0x92; lcall $0xffff, $0x610\n"
       "in $0x92, %al; or $2, %al; out %al, $0x92; int3");
CODE16(below, "mov $0x600d, %dx; lret");

GUEST_TEST(instructions_are_fetched_through_it)
{
    struct context c = real_context();
    PUT16(VM_CODE, fetching);
    PUT16(0x600, below);
    struct trap t = run_real(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EDX] & 0xffff, 0x600d);
}

/* Page tables and what they lead to. With the gate on CR3 leads to a directory whose
 * second entry maps other memory. */
CODE32(paged, "mov $0x10, %eax; mov %eax, %cr4; mov %esi, %cr3\n"
              "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
              "mov (%edi), %ebx\n"
              "in $0x92, %al; and $0xfc, %al; out %al, $0x92\n"
              "mov (%edi), %ecx\n"
              "or $2, %al; out %al, $0x92\n"
              "mov (%edi), %edx; int3");

GUEST_TEST(page_tables_are_read_through_it)
{
    uint32_t *high = (uint32_t *)0x160000, *low = (uint32_t *)0x60000;
    uint32_t *table = (uint32_t *)0x61000;
    for (unsigned i = 0; i < 1024; i++) {
        high[i] = low[i] = i << 22 | 0x87;
        table[i] = i << 12 | 7;
    }
    low[1] = 0x161000 | 7; /* this table is at 0x61000 with the gate off */
    table[0] = 0x162000 | 7;
    *(uint32_t *)0x62000 = 0x0ff;
    *(uint32_t *)0x162000 = 0xbad;
    *(volatile uint32_t *)0x500000 = 0;
    high[1] = 0x800087;
    *(volatile uint32_t *)0x800000 = 0x107;
    struct context c = kernel_context((void *)LOW_FREE);
    memcpy((void *)LOW_FREE, paged, (size_t)(paged_end - paged));
    c.gpr[ESI] = 0x160000;
    c.gpr[EDI] = 0x400000;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EBX], 0x107);
    CHECK_EQ(t.c.gpr[ECX], 0x0ff);
    CHECK_EQ(t.c.gpr[EDX], 0x107);
}
