#ifndef VMM_ACCEL_BT_T1_H
#define VMM_ACCEL_BT_T1_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

struct t0_cpu;
struct t0_block;
struct t1_jitdump;

/*
 * T1, the same-architecture translator: hot blocks of flat 64-bit and 32-bit code
 * become host code that is mostly the guest's own instructions.
 *
 * Registers. Eleven guest registers live in host registers, most in the one of the
 * same number; five are used less by compilers and stay in c->gpr:
 *
 *     host   rax rdx rbx rbp rsi rdi r8 r12 r13   the same
 *            r14 = guest rsp, r15 = guest rcx
 *            r9 = instructions retired (c->insns): in memory it would make the
 *            latency of a store and a load out of every short loop
 *            rcx, r10, r11      scratch
 *            rsp                c - T1_BIAS
 *     memory r9 r10 r11 r14 r15 of the guest
 *
 * The host's RSP is never the guest's. It points just below the struct t0_cpu, so that
 * [rsp + n] reaches every field and no register is spent on a pointer; below it is a
 * stack of T1_STACK bytes for the glue's return addresses and for signal frames. C
 * functions run on the thread's own stack. RSP modulo 64 is 12, which makes it a shift
 * count too: "shrx r, r, rsp" is a page number.
 *
 * Flags. The guest's arithmetic flags are the host's, always. Whatever is done between
 * two guest instructions leaves them alone: only MOV, LEA, NOT, SHRX, PDEP, PEXT, JRCXZ
 * and LOOP are used for it, so there is nothing to save and nothing to find again after
 * a fault.
 *
 * Memory. Each access looks the page up in T0's software TLB, inline:
 *
 *     lea   r10, [address]
 *     shrx  r11, r10, rsp            page number
 *     pdep  r11, r11, [index mask]   index of the entry, times 32
 *     mov   rcx, [current bank]
 *     lea   r11, [r11 + rcx]         the entry
 *     mov   rcx, [r11 + tag]         a page's complemented address
 *     lea   rcx, [rcx + r10 + size + 4096]  last byte's address - page, and a page
 *     shrx  rcx, rcx, rsp            1 when that is inside the page
 *     loop  slow
 *     mov   rcx, [current bank]
 *     mov   r11, [rcx + r11 + addend]
 *     OP    [r10 + r11]
 *
 * Until such a place in the code turns out to access another page each time, it does
 * with less: it has a slot (struct t1_slot) with what it needs of the page it was in
 * the last time. The addend's load does not wait for the address:
 *
 *     lea   rcx, [base + displacement]
 *     pext  rcx, rcx, [slot.mask]    the page's number, and what is 0 when aligned
 *     mov   r11, [slot.expected]     that, negated
 *     lea   rcx, [rcx + r11 + 1]
 *     loop  refill                   from the TLB, out of line
 *     mov   r11, [slot.addend]
 *     OP    [base + displacement + r11]
 *
 * LOOP is the branch for "not zero" that does not look at flags; where it is slow
 * checks end in JRCXZ: t1_unless() in t1_emit.h.
 *
 * Slots are data, at as much after the executable mapping as the code they belong to is
 * inside of it. All that goes through the stack pointer, which mostly stays in one
 * page, shares one that is in the vCPU's state. Whenever the TLB forgets an entry its
 * copies in slots are forgotten too: t1_slot.c.
 * Accesses through the same register that are near each other share a check, as do a
 * function's pushes or pops: t1_group.c.
 *
 * A miss is looked up out of line, by C code without vector registers that is called
 * with the few registers saved that C may change (t0_tlb_quick()), if that is all there
 * is to it. So is a jump that is not in the table of indirect branches.
 *
 * Anything else (a fault, a page crossing, MMIO, a store to a page with code) executes
 * the instruction in T0, whole: before the probe nothing of it has been done. T0 then
 * also raises its faults, so exceptions are precise by construction. The same way goes
 * every instruction that has no translation.
 *
 * 32-bit code (every level, in long mode and outside; ES, CS, SS and DS with base 0 and
 * no limit, a 32-bit stack pointer) is emitted as 64-bit code, which does the same with
 * registers, upper halves included. Instructions that 64-bit code has not are T0's, but
 * for INC and DEC of one byte, which have another encoding. What differs is addresses:
 * they are cut to 32 bits, FS and GS have a limit to look at, words on the stack have 4
 * bytes, and one that wraps at 4 GiB misses its probe. The upper half of RSP may be
 * anything in compatibility mode: the stack's page is then one below 4 GiB, so that
 * the whole of RSP is compared. Forward branches come back at 4 GiB: the long ones look
 * for attention (t1_branch.c).
 *
 * Where the code is. A block's translation does not know its linear address: the base
 * of the current page is in c->t1.page_base, so that code mapped at several addresses
 * (shared libraries) is translated once. Branches inside the page are plain jumps.
 * Over a page the instruction TLB must map the target's page to the one that the
 * target was decoded from, as in T0 (t0_branch.c). An instruction over a page boundary
 * is a block of its own, which looks there for its second page. Indirect branches look
 * in c->t1.jumps, which is dropped together with T0's jump cache.
 *
 * A block that T0 has executed T1_HEAT times is translated; then its first op is a
 * handler that enters the translation. T0 and T1 are one machine: a translation that
 * cannot go on returns to the run loop, and T0 that comes to a translated block enters
 * it. When T0 invalidates a block, everything that leads to its translation is undone
 * (t1_block_kill). The translation itself stays until its region of the memory for code
 * is needed for others (t1_cache.c), or all are forgotten together.
 *
 * A block of a page that is stored to all the time (T0_BLOCK_CHECKED, t0_check.c)
 * begins with a comparison of its bytes, and ends after whatever may store: nobody is
 * told of stores to it. Such a block can be no part of anything larger that is entered
 * elsewhere.
 *
 * Attention is looked at on backward and on indirect branches (through entry_poll):
 * every loop has one.
 *
 * What the system does. SYSCALL, SYSRET and IRET between 64-bit code are C code of the
 * same kind (t1_switch.c). Exceptions that a translation's instruction raises, and what
 * is unusual about those three, are T0's work; where they lead is looked up in
 * c->t1.jumps by the C code that was called, and the translation there is entered
 * without the run loop (t1_code.c, go_on), unless an interrupt or anything else comes
 * first. String operations are the host's own on memory that a look in the TLB has
 * found for both of their ends (t1_string.c). STAC and CLAC are a store to c->tlb. The
 * guest's time-stamp counter is the host's and c->t1.tsc_add.
 *
 * Hot loops become larger translations with the same rules, where tier=2 wants it:
 * t2.h.
 *
 * Thread: everything here belongs to the vCPU's thread.
 *
 * Files: t1_emit.h an assembler; t1_block.c translation of a block; t1_insn.c of one
 * instruction, t1_simd.c, t1_x87.c, t1_string.c and t1_sys.c of those kinds,
 * t1_branch.c of branches; t1_link.c where these lead; t1_mem.c registers and memory,
 * t1_slot.c the slots, t1_group.c checks for several accesses; t1_cache.c memory for
 * code; t1_code.c what code calls, and how it is entered; t1_glue.c how it is called;
 * t1_switch.c changes of the level; t1_view.c counters and names for perf;
 * t1_lockstep.c a check.
 */

#define T1_BIAS  52
#define T1_STACK (64u << 10) /* bytes below the vCPU's state */
#define T1_HEAT  24u

/* Whether the host has the instructions that translations use (BMI2). */
bool t1_supported(void);

/* Write the code of all translations to FOLDER/jit-PID.dump. NULL with @error set. */
struct t1_jitdump *t1_jitdump_new(const char *folder, GError **error);
void t1_jitdump_free(struct t1_jitdump *d);

/* MiB of memory for each vCPU's translations: default and limits of cache-mib. */
#define T1_MIB     24u
#define T1_MIN_MIB 1u
#define T1_MAX_MIB 512u

/* Memory and glue of one vCPU. */
bool t1_init(struct t0_cpu *c, GError **error);
void t1_done(struct t0_cpu *c);

/* @b was decoded: count its executions. */
void t1_block_new(struct t0_cpu *c, struct t0_block *b);

/* @b was invalidated, its ops lead out already. Also while it is being executed. */
void t1_block_kill(struct t0_cpu *c, struct t0_block *b);

/* All blocks were forgotten. Not while a translation runs. */
void t1_flush(struct t0_cpu *c);

/* T0's jump cache was dropped, for what concerns kernel or user code. */
void t1_jumps_flush(struct t0_cpu *c, unsigned user);

/* Whether jumps of kernel code may be to pages that are not global. */
bool t1_kernel_jumps_local(const struct t0_cpu *c);

/* The TLB dropped all entries, of global pages only when @global_too; or those of the
 * page at @la, and maybe others. */
void t1_slots_forget(struct t0_cpu *c, bool global_too);
void t1_slots_forget_page(struct t0_cpu *c, uint64_t la);

/* The bank has changed. */
void t1_bank_changed(struct t0_cpu *c);

/* How often a translation was entered from T0. */
uint64_t t1_nb_enters(const struct t0_cpu *c);

/* Counters, and what had to be executed by T0. */
void t1_dump(struct t0_cpu *c, FILE *out);

#endif
