/*
 * The program in the guest of `./dev bench cpu`: its init, and its workloads.
 *
 *     init                 (process 1) set the guest up, then serve commands
 *     cpubench serve ROOT CPUS
 *                          the same on the host: ROOT becomes the root directory, in
 *                          mounts of our own, on the first CPUS processors
 *     cpubench WORK SIZE...   one workload, which prints its checksum
 *     cpubench text BYTES     pseudo-text for the compressors
 *
 * Commands come a line at a time, "NUMBER COMMAND"; a COMMAND that does not begin with
 * one of our workloads goes to the shell. "begin NUMBER" is written before the
 * command's process is made and "end NUMBER" after it has ended, for the clock of
 * whoever reads them. Then "sum NUMBER STATUS HASH": the wait status, and a checksum of
 * all that it wrote to its standard output.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/bench/cpu/work.h"

#define OUTPUT "/tmp/output"

struct work {
    const char *name;
    uint64_t (*fn)(const uint64_t *arg);
};

#define WORK_ENTRY(id) {#id, work_##id},
static const struct work works[] = {WORKS(WORK_ENTRY)};

_Noreturn void work_fail(const char *what)
{
    fprintf(stderr, "cpubench: %s: %s\n", what, strerror(errno));
    exit(1);
}

void *work_memory(size_t size)
{
    void *p =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        work_fail("memory");
    }
    return p;
}

uint32_t work_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

uint64_t work_hash(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++) {
        h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    }
    return h;
}

static const struct work *find_work(const char *name)
{
    for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++) {
        if (strcmp(works[i].name, name) == 0) {
            return &works[i];
        }
    }
    return NULL;
}

/* Runs @w with the numbers in @words, of which there may be any number. */
static int run_work(const struct work *w, char **words)
{
    uint64_t arg[WORK_ARGS] = {0};
    for (unsigned i = 0; i < WORK_ARGS && words[i]; i++) {
        arg[i] = strtoull(words[i], NULL, 0);
    }
    printf("%016" PRIx64 "\n", w->fn(arg));
    return fflush(stdout) == 0 ? 0 : 1;
}

static int print_text(size_t size)
{
    static const char *const parts[] = {"lo",  "dge", "ma",  "chi", "ne", "tra",
                                        "ns",  "la",  "tor", "of",  "a",  "the",
                                        "ing", "s",   "re",  "con"};
    uint64_t state = 1;
    size_t written = 0;
    while (written < size) {
        uint32_t r = work_random(&state);
        for (unsigned n = r % 4 + 1; n; n--, r >>= 4) {
            written += (size_t)printf("%s", parts[(r >> 4) & (r & 0x10000 ? 15 : 5)]);
        }
        putchar(r % 9 ? ' ' : '\n');
        written++;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

/* In the child of a command; its output is a file, so that hashing it is not timed. */
static _Noreturn void run_command(char *line)
{
    int out = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0 || dup2(out, 1) < 0) {
        work_fail(OUTPUT);
    }
    char copy[1024], *save, *words[WORK_ARGS + 2] = {0};
    snprintf(copy, sizeof(copy), "%s", line);
    char *word = strtok_r(copy, " ", &save);
    for (unsigned i = 0; word && i < WORK_ARGS + 1; i++) {
        words[i] = word;
        word = strtok_r(NULL, " ", &save);
    }
    const struct work *w = words[0] ? find_work(words[0]) : NULL;
    if (w) {
        exit(run_work(w, words + 1));
    }
    execl("/bin/sh", "sh", "-c", line, NULL);
    work_fail("/bin/sh");
}

static uint64_t hash_output(void)
{
    struct stat st;
    int fd = open(OUTPUT, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0) {
        return 0;
    }
    size_t size = (size_t)st.st_size;
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED) {
        return 0;
    }
    uint64_t h = work_hash(p, size);
    munmap(p, size);
    return h;
}

static _Noreturn void serve(void)
{
    char line[1024];
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("cpubench: ready\n");
    while (fgets(line, sizeof(line), stdin)) {
        char *end;
        line[strcspn(line, "\r\n")] = 0;
        unsigned long number = strtoul(line, &end, 10);
        if (end == line || *end != ' ') {
            continue;
        }
        unlink(OUTPUT);
        printf("begin %lu.\n", number);
        int status = -1;
        pid_t child = fork();
        if (child == 0) {
            run_command(end + 1);
        }
        if (child < 0 || waitpid(child, &status, 0) != child) {
            status = -1;
        }
        printf("end %lu.\n", number);
        printf("sum %lu %d %016" PRIx64 ".\n", number, status, hash_output());
    }
    exit(0);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) {
        work_fail(path);
    }
    close(fd);
}

static void set_environment(void)
{
    clearenv();
    setenv("PATH", "/usr/bin:/bin", 1);
    setenv("LC_ALL", "C", 1);
    setenv("HOME", "/tmp", 1);
    if (chdir("/tmp") < 0) {
        work_fail("/tmp");
    }
}

/* Process 1 of a guest. */
static _Noreturn void serve_guest(void)
{
    struct termios t;
    mount("proc", "/proc", "proc", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    if (mount("tmpfs", "/tmp", "tmpfs", 0, NULL) < 0) {
        work_fail("mount of /tmp");
    }
    int tty = open("/dev/ttyS0", O_RDWR);
    if (tty < 0 || tcgetattr(tty, &t) < 0) {
        work_fail("/dev/ttyS0");
    }
    t.c_lflag = ICANON; /* no echo: it would be taken for our own words */
    tcsetattr(tty, TCSANOW, &t);
    for (int fd = 0; fd < 3; fd++) {
        dup2(tty, fd);
    }
    set_environment();
    serve();
}

/* The same beside the guests, on the host's own kernel. */
static _Noreturn void serve_host(const char *root, unsigned cpus)
{
    char map[64], path[4096];
    unsigned uid = getuid();
    cpu_set_t set;
    CPU_ZERO(&set);
    for (unsigned i = 0; i < cpus; i++) {
        CPU_SET(i, &set);
    }
    if (sched_setaffinity(0, sizeof(set), &set) < 0) {
        work_fail("sched_setaffinity");
    }
    if (unshare(CLONE_NEWNS | (uid ? CLONE_NEWUSER : 0)) < 0) {
        work_fail("unshare");
    }
    if (uid) {
        snprintf(map, sizeof(map), "0 %u 1", uid);
        write_file("/proc/self/uid_map", map);
    }
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    static const char *const binds[] = {"/dev", "/proc"};
    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s%s", root, binds[i]);
        if (mount(binds[i], path, NULL, MS_BIND | MS_REC, NULL) < 0) {
            work_fail(path);
        }
    }
    snprintf(path, sizeof(path), "%s/tmp", root);
    if (mount("tmpfs", path, "tmpfs", 0, NULL) < 0 || chroot(root) < 0) {
        work_fail(path);
    }
    set_environment();
    serve();
}

int main(int argc, char **argv)
{
    if (getpid() == 1) {
        serve_guest();
    }
    if (argc == 4 && strcmp(argv[1], "serve") == 0) {
        serve_host(argv[2], (unsigned)atoi(argv[3]));
    }
    if (argc == 3 && strcmp(argv[1], "text") == 0) {
        return print_text(strtoull(argv[2], NULL, 0));
    }
    const struct work *w = argc > 1 ? find_work(argv[1]) : NULL;
    if (!w) {
        fprintf(stderr,
                "usage: cpubench serve ROOT CPUS | text BYTES | WORK SIZE...\n");
        return 2;
    }
    return run_work(w, argv + 2);
}
