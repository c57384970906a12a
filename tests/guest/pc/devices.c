/*
 * What guests that test processors ask a PC for: fw_cfg and pc-testdev. Lines
 * "NAME=VALUE" on the first serial port, then an exit through port 0xf4.
 */
#include <stddef.h>
#include <stdint.h>

static void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static uint16_t in16(uint16_t port)
{
    uint16_t v;

    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static uint32_t in32(uint16_t port)
{
    uint32_t v;

    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

/* ---- text ---- */

static void put(char c)
{
    while (!(in8(0x3fd) & 0x20)) {
    }
    out8(0x3f8, c);
}

static void puts_(const char *s)
{
    while (*s)
        put(*s++);
}

static void hex(uint64_t v)
{
    char digits[17];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[v & 15];
        v >>= 4;
    } while (v);
    while (n > 0)
        put(digits[--n]);
}

static void say(const char *name, uint64_t v)
{
    puts_(name);
    put('=');
    hex(v);
    put('\n');
}

/* ---- fw_cfg ---- */

static uint32_t be32(uint32_t v)
{
    return __builtin_bswap32(v);
}

static uint64_t item(uint16_t key, unsigned len)
{
    uint64_t v = 0;

    out16(0x510, key);
    for (unsigned i = 0; i < len; i++)
        v |= (uint64_t)in8(0x511) << 8 * i;
    return v;
}

static uint32_t dma(uint32_t control, void *to, uint32_t len)
{
    volatile struct {
        uint32_t control, len, high, low;
    } request = {be32(control), be32(len), 0, be32((uintptr_t)to)};

    out32(0x514, 0);
    out32(0x518, be32((uintptr_t)&request));
    __asm__ volatile("" : : : "memory");
    return be32(request.control);
}

static struct {
    uint32_t size;
    uint16_t key, reserved;
    char name[56];
} file;

static char text[256];

static void show_file(void)
{
    uint32_t len = be32(file.size);

    if (file.name[0] != 'o' || file.name[1] != 'p' || file.name[2] != 't')
        return;
    puts_(file.name);
    put('=');
    hex(len);
    put(' ');
    len = len < sizeof(text) ? len : sizeof(text) - 1;
    dma((uint32_t)__builtin_bswap16(file.key) << 16 | 8 | 2, text, len);
    text[len] = 0;
    puts_(text);
    put('\n');
}

static void show_files(void)
{
    uint32_t n;

    dma(0x19 << 16 | 8 | 2, &n, 4);
    n = be32(n);
    for (uint32_t i = 0; i < n; i++) {
        dma(0x19 << 16 | 8 | 4, 0, 4 + i * sizeof(file)); /* select, skip */
        dma(2, &file, sizeof(file));
        show_file();
    }
}

static void show_fw_cfg(void)
{
    say("signature", item(0x00, 4));
    say("id", item(0x01, 4));
    say("uuid", item(0x02, 8));
    say("ram", item(0x03, 8));
    say("cpus", item(0x05, 2));
    say("max_cpus", item(0x0f, 2));
    say("irq0", item(0x8002, 4));
    say("nothing", item(0x1f, 4));
    say("dma", in32(0x514));
    say("dma_low", in32(0x518));
    show_files();
    say("dma_error", dma(0x00 << 16 | 8 | 16, text, 1));
    say("dma_far", dma(0x00 << 16 | 8 | 2, (void *)0xf0000000, 4));
}

/* ---- pc-testdev ---- */

static void show_testdev(void)
{
    volatile uint8_t *mem = (void *)0xff000000;

    out32(0xe0, 0x12345678);
    say("echo32", in32(0xe0));
    say("echo16", in16(0xe2));
    say("echo8", in8(0xe1));
    out8(0xe3, 0x9a);
    out16(0xe0, 0xbcde);
    say("echo_mixed", in32(0xe0));
    out32(0xe8, 0xcafe0123);
    say("bytes", in32(0xe8));
    say("same", in32(0xe0));
    *(volatile uint32_t *)(mem + 0x100) = 0xdeadbeef;
    mem[0x101] = 0x77;
    say("memory", *(volatile uint32_t *)(mem + 0x100));
    say("memory16", *(volatile uint16_t *)(mem + 0x102));
    out32(0xe4, 0x200000); /* flush a page: nothing to be seen */

    /* Input 5 of the first 8259, which is masked, shows in its request register. */
    out8(0x21, 0xff);
    out8(0x20, 0x0a);
    out8(0x2005, 0);
    say("irr_low", in8(0x20) & 0x20);
    out8(0x2005, 1);
    say("irr_high", in8(0x20) & 0x20);
    out8(0x2005, 0);
}

void pc_main(uint32_t info);

void pc_main(uint32_t info)
{
    (void)info;
    /* Edge-triggered inputs, as firmware leaves them. */
    out8(0x20, 0x11);
    out8(0x21, 0x08);
    out8(0x21, 0x04);
    out8(0x21, 0x01);
    show_fw_cfg();
    show_testdev();
    out32(0xf4, 0x10);
}
