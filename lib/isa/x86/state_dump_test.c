#include "lib/isa/x86/state.h"

#include <glib.h>
#include <stdlib.h>

static char *dump(const struct x86_state *s, unsigned parts)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    x86_state_dump(s, parts, out);
    fclose(out);
    return text;
}

/* What QEMU 7.2 prints of the same registers. */
static void real_mode_is_as_qemu_prints_it(void)
{
    struct x86_state s;
    x86_state_reset(&s, 0x60fb1, false);
    s.cr0 = 0x60000010;
    s.fpu.fcw = 0x37f;
    s.fpu.ftw = 0;
    char *text = dump(&s, X86_DUMP_FPU | X86_DUMP_CC);

    g_assert_cmpstr(text, ==,
                    "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1\n"
                    "ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000\n"
                    "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"
                    "ES =0000 00000000 0000ffff 00009300\n"
                    "CS =f000 ffff0000 0000ffff 00009b00\n"
                    "SS =0000 00000000 0000ffff 00009300\n"
                    "DS =0000 00000000 0000ffff 00009300\n"
                    "FS =0000 00000000 0000ffff 00009300\n"
                    "GS =0000 00000000 0000ffff 00009300\n"
                    "LDT=0000 00000000 0000ffff 00008200\n"
                    "TR =0000 00000000 0000ffff 00008b00\n"
                    "GDT=     00000000 0000ffff\n"
                    "IDT=     00000000 0000ffff\n"
                    "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\n"
                    "DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 "
                    "DR3=0000000000000000 \n"
                    "DR6=00000000ffff0ff0 DR7=0000000000000400\n"
                    "CCS=00000000 CCD=00000000 CCO=EFLAGS\n"
                    "EFER=0000000000000000\n"
                    "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80\n"
                    "FPR0=0000000000000000 0000 FPR1=0000000000000000 0000\n"
                    "FPR2=0000000000000000 0000 FPR3=0000000000000000 0000\n"
                    "FPR4=0000000000000000 0000 FPR5=0000000000000000 0000\n"
                    "FPR6=0000000000000000 0000 FPR7=0000000000000000 0000\n"
                    "XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 "
                    "0000000000000000\n"
                    "XMM02=0000000000000000 0000000000000000 XMM03=0000000000000000 "
                    "0000000000000000\n"
                    "XMM04=0000000000000000 0000000000000000 XMM05=0000000000000000 "
                    "0000000000000000\n"
                    "XMM06=0000000000000000 0000000000000000 XMM07=0000000000000000 "
                    "0000000000000000\n");
    free(text);
}

static struct x86_segment segment(uint16_t sel, uint16_t attr, uint32_t limit)
{
    return (struct x86_segment){.sel = sel, .attr = attr, .limit = limit};
}

static void long_mode_is_as_qemu_prints_it(void)
{
    struct x86_state s;
    x86_state_reset(&s, 0x60fb1, false);
    s.cr0 = 0x80050033;
    s.cr3 = 0x123456000;
    s.efer = 0xd01;
    s.rip = UINT64_C(0xffffffff81000000);
    s.rflags = 0x246;
    s.gpr[X86_R15] = 0x15;
    s.activity = X86_HALTED;
    s.seg[X86_CS] = segment(0x10, 0xa09b, UINT32_MAX);
    s.seg[X86_SS] = segment(0x18, 0xc093, UINT32_MAX);
    s.seg[X86_DS] = segment(0, 0, 0);
    s.seg[X86_GS].base = UINT64_C(0xffff888007c00000);
    s.tr = segment(0x40, 0x008b, 0x4087);
    char *text = dump(&s, 0);
    static const char *const lines[] = {
        "RIP=ffffffff81000000 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n",
        ("R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 "
         "R15=0000000000000015\n"),
        "CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\n",
        "SS =0018 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\n",
        "DS =0000 0000000000000000 00000000 00000000\n",
        "GS =0000 ffff888007c00000 0000ffff 00009300 DPL=0 DS   [-WA]\n",
        "TR =0040 0000000000000000 00004087 00008b00 DPL=0 TSS64-busy\n",
        "GDT=     0000000000000000 0000ffff\n",
        "CR0=80050033 CR2=0000000000000000 CR3=0000000123456000 CR4=00000000\n",
        "EFER=0000000000000d01\n",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        if (!strstr(text, lines[i])) {
            g_error("no line %sin:\n%s", lines[i], text);
        }
    }
    free(text);
}

/* FPR is the physical register, whatever the top of stack is. */
static void x87_registers_are_the_physical_ones(void)
{
    struct x86_state s;
    x86_state_reset(&s, 0, false);
    s.fpu.fsw = 6 << 11;
    s.fpu.st[0][0] = 0x60;
    s.fpu.st[1][0] = 0x70;
    s.fpu.st[2][9] = 0x3f;
    char *text = dump(&s, X86_DUMP_FPU);
    g_assert_nonnull(strstr(text, "FSW=3000 [ST=6]"));
    g_assert_nonnull(strstr(text, "FPR6=0000000000000060 0000 FPR7=0000000000000070"));
    g_assert_nonnull(strstr(text, "FPR0=0000000000000000 3f00"));
    free(text);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state_dump/real", real_mode_is_as_qemu_prints_it);
    g_test_add_func("/state_dump/long", long_mode_is_as_qemu_prints_it);
    g_test_add_func("/state_dump/x87", x87_registers_are_the_physical_ones);
    return g_test_run();
}
