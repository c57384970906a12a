/* What the kernel does for a program; see work.h. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/cpu/work.h"

#define PAGE 4096

uint64_t work_getppid(const uint64_t *arg)
{
    uint64_t sum = 0;
    pid_t parent = getppid();
    for (uint64_t i = 0; i < arg[0]; i++) {
        sum += syscall(SYS_getppid) == parent;
    }
    return sum;
}

uint64_t work_open_stat(const uint64_t *arg)
{
    static const char path[] = "/data/text";
    struct stat st;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        int fd = open(path, O_RDONLY);
        if (fd < 0 || fstat(fd, &st) < 0) {
            work_fail(path);
        }
        sum += (uint64_t)st.st_size;
        close(fd);
        sum += (uint64_t)(stat(path, &st) == 0);
    }
    return sum;
}

static uint64_t child_status(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        work_fail("fork");
    }
    return (uint64_t)status;
}

uint64_t work_fork(const uint64_t *arg)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        pid_t child = fork();
        if (child == 0) {
            _exit((int)(i & 7));
        }
        sum = sum * 3 + child_status(child);
    }
    return sum;
}

uint64_t work_exec(const uint64_t *arg)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/true", "true", NULL);
            _exit(1);
        }
        sum = sum * 3 + 1 + child_status(child);
    }
    return sum;
}

uint64_t work_pipe(const uint64_t *arg)
{
    int to[2], from[2];
    uint8_t byte = 0;
    if (pipe(to) < 0 || pipe(from) < 0) {
        work_fail("pipe");
    }
    pid_t child = fork();
    if (child == 0) {
        close(to[1]);
        while (read(to[0], &byte, 1) == 1) {
            byte++;
            if (write(from[1], &byte, 1) != 1) {
                _exit(1);
            }
        }
        _exit(0);
    }
    for (uint64_t i = 0; i < arg[0]; i++) {
        if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1) {
            work_fail("pipe");
        }
    }
    close(to[1]);
    return byte + child_status(child);
}

uint64_t work_fault(const uint64_t *arg)
{
    size_t size = arg[0] << 10;
    uint64_t sum = 0;
    for (uint64_t t = 0; t < arg[1]; t++) {
        uint8_t *p = work_memory(size);
        madvise(p, size, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < size; at += PAGE) {
            sum += ++p[at];
        }
        munmap(p, size);
    }
    return sum;
}

uint64_t work_mmap(const uint64_t *arg)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        uint8_t *p = work_memory(65536);
        sum += p[(i & 15) * PAGE] += 1;
        munmap(p, 65536);
    }
    return sum;
}

static uint8_t *trapped;

static void make_writable(int number)
{
    (void)number;
    mprotect(trapped, PAGE, PROT_READ | PROT_WRITE);
}

uint64_t work_sigsegv(const uint64_t *arg)
{
    struct sigaction action = {.sa_handler = make_writable};
    trapped = work_memory(PAGE);
    sigaction(SIGSEGV, &action, NULL);
    for (uint64_t i = 0; i < arg[0]; i++) {
        mprotect(trapped, PAGE, PROT_READ);
        ++*(volatile uint32_t *)trapped;
    }
    return *(uint32_t *)trapped;
}

uint64_t work_tmpfs(const uint64_t *arg)
{
    static uint8_t data[PAGE];
    uint64_t sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        char name[32];
        snprintf(name, sizeof(name), "/tmp/file%u", (unsigned)(i % 10));
        int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0) {
            work_fail(name);
        }
        memset(data, (int)i, sizeof(data));
        for (unsigned n = 0; n < 16; n++) {
            sum += (uint64_t)write(fd, data, sizeof(data));
        }
        lseek(fd, 0, SEEK_SET);
        while (read(fd, data, sizeof(data)) == sizeof(data)) {
            sum += data[77];
        }
        close(fd);
        unlink(name);
    }
    return sum;
}

uint64_t work_clock(const uint64_t *arg)
{
    struct timespec last = {0}, now;
    uint64_t backwards = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        backwards += now.tv_sec < last.tv_sec ||
                     (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec);
        last = now;
    }
    return backwards;
}
