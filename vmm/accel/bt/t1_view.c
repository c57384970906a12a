#include "vmm/accel/bt/t1_priv.h"
#include "vmm/accel/bt/t2.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/base.h"

/*
 * Views of the translator: counters, and a jitdump (-accel bt,jitdump=FOLDER), from
 * which `perf` names translated blocks by the address of their guest code:
 *
 *     perf record -k mono lodge-vmm -accel bt,jitdump=/tmp ...
 *     perf inject --jit -i perf.data -o named.data
 *     perf report -i named.data
 *
 * The format is that of Linux, tools/perf/Documentation/jitdump-specification.txt: a
 * header, then a record for each piece of code, all in the host's byte order. perf
 * learns of the file from a mapping of it, which has to be executable.
 */

struct t1_jitdump {
    GMutex lock; /* one record at a time */
    FILE *file;
    void *mark; /* the mapping */
    uint64_t index;
};

struct dump_header {
    uint32_t magic, version, total_size, elf_mach, pad, pid;
    uint64_t timestamp, flags;
};

struct dump_load {
    uint32_t id, total_size;
    uint64_t timestamp;
    uint32_t pid, tid;
    uint64_t vma, address, size, index;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

struct t1_jitdump *t1_jitdump_new(const char *folder, GError **error)
{
    const long page = sysconf(_SC_PAGESIZE);
    g_autofree char *path = g_strdup_printf("%s/jit-%d.dump", folder, (int)getpid());
    struct t1_jitdump *d = g_new0(struct t1_jitdump, 1);
    g_mutex_init(&d->lock);
    d->mark = MAP_FAILED;
    d->file = fopen(path, "w+e");
    const struct dump_header h = {
        .magic = 0x4a695444,
        .version = 1,
        .total_size = sizeof(h),
        .elf_mach = 62, /* EM_X86_64 */
        .pid = (uint32_t)getpid(),
        .timestamp = now_ns(),
    };
    bool ok = d->file && fwrite(&h, sizeof(h), 1, d->file) == 1 && !fflush(d->file);
    if (ok) {
        d->mark = mmap(NULL, (size_t)page, PROT_READ | PROT_EXEC, MAP_PRIVATE,
                       fileno(d->file), 0);
    }
    if (d->mark == MAP_FAILED) {
        error_errno(error, errno, "-accel bt: jitdump: '%s'", path);
        t1_jitdump_free(d);
        return NULL;
    }
    return d;
}

void t1_jitdump_free(struct t1_jitdump *d)
{
    if (!d) {
        return;
    }
    if (d->mark != MAP_FAILED) {
        munmap(d->mark, (size_t)sysconf(_SC_PAGESIZE));
    }
    if (d->file) {
        fclose(d->file);
    }
    g_mutex_clear(&d->lock);
    g_free(d);
}

void t1_jitdump_code(struct t1_jitdump *d, const char *name, const uint8_t *address,
                     uint32_t size)
{
    size_t name_size = strlen(name) + 1;
    struct dump_load l = {
        .total_size = (uint32_t)(sizeof(l) + name_size + size),
        .timestamp = now_ns(),
        .pid = (uint32_t)getpid(),
        .tid = (uint32_t)syscall(SYS_gettid),
        .vma = (uintptr_t)address,
        .address = (uintptr_t)address,
        .size = size,
    };
    g_mutex_lock(&d->lock);
    l.index = d->index++;
    /* A full disk ends the dump, not the machine. */
    if (fwrite(&l, sizeof(l), 1, d->file) != 1 ||
        fwrite(name, name_size, 1, d->file) != 1 ||
        fwrite(address, size, 1, d->file) != 1) {
        clearerr(d->file);
    }
    g_mutex_unlock(&d->lock);
}

uint64_t t1_nb_enters(const struct t0_cpu *c)
{
    return c->core->t1 ? c->core->t1->enters : 0;
}

void t1_dump(struct t0_cpu *c, FILE *out)
{
    const struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    fprintf(out,
            "bt: translated %" PRIu64 " blocks, %u of %u bytes; %" PRIu64
            " evictions of %" PRIu64 " blocks; %" PRIu64 " enters, %" PRIu64
            " resolves, %" PRIu64 " branches and %" PRIu64
            " instructions by T0, %" PRIu64 " of these for their memory\n",
            t1->translated, t1_code_bytes(t1), t1->size, t1->evictions, t1->evicted,
            t1->enters, t1->resolves, t1->branches, t1->steps,
            t1->fallbacks[X86_NB_OPS]);
    if (c->core->tvm->lockstep) {
        fprintf(out, "bt: %" PRIu64 " blocks checked in lockstep\n", t1->checked);
    }
    fprintf(out, "bt: left to T0:");
    for (unsigned i = 0; i < X86_NB_OPS; i++) {
        if (t1->fallbacks[i]) {
            fprintf(out, " %s %" PRIu64, x86_op_name(i), t1->fallbacks[i]);
        }
    }
    fprintf(out, "\n");
    t2_dump(c, out);
}
