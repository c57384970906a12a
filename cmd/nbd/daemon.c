#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/nbd/nbd.h"
#include "lib/base/base.h"

/*
 * --fork. The child's standard error is a pipe to the parent, which shows what comes
 * until the child closes it. The child says that it is ready with a single 0 byte,
 * which no message has; without it the parent ends with an error.
 */

static void wait_ready(int fd) G_GNUC_NORETURN;

static void wait_ready(int fd)
{
    char buf[1024];
    bool ready = false;
    ssize_t n;
    while ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        size_t text = n > 0 ? (size_t)n : 0;
        char *mark = memchr(buf, 0, text);
        if (mark) {
            ready = true;
            text = (size_t)(mark - buf);
        }
        fwrite(buf, 1, text, stderr);
    }
    fflush(stderr);
    _exit(ready ? 0 : 1);
}

bool nbd_fork(const struct nbd_args *a, GError **error)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return error_errno(error, errno, "Error setting up communication pipe");
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        close(fds[0]);
        close(fds[1]);
        return error_errno(error, errno, "Failed to fork");
    }
    if (pid > 0) {
        close(fds[1]);
        wait_ready(fds[0]);
    }
    close(fds[0]);
    setsid();
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        close(null);
    }
    return true; /* where we were: names of files are relative to it */
}

void nbd_fork_ready(const struct nbd_args *a)
{
    if (a->fork) {
        (void)!write(STDERR_FILENO, "", 1);
        dup2(STDOUT_FILENO, STDERR_FILENO);
    }
}

bool nbd_write_pid(const struct nbd_args *a, GError **error)
{
    if (!a->pid_file) {
        return true;
    }
    int fd = open(a->pid_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_errno(error, errno, "Could not create '%s'", a->pid_file);
    }
    g_autofree char *text = g_strdup_printf("%ld\n", (long)getpid());
    ssize_t len = (ssize_t)strlen(text);
    bool ok = write(fd, text, (size_t)len) == len ||
              error_errno(error, errno, "Could not write '%s'", a->pid_file);
    close(fd);
    return ok;
}
