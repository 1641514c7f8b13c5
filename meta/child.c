// SPDX-License-Identifier: Apache-2.0
/*
 * The child that walks a suspect environment. It shares nothing with us that it could spoil: its
 * memory is a copy, its only descriptors are the suspect (read-only), the file to fill and a pipe.
 * It dies with us, after a minute, or of what it reads; no core is dumped. Its verdict comes
 * through the pipe, so that it counts even where somebody else reaps our children.
 *
 * We may have many threads, and the child calls malloc: glibc makes that work after fork(2).
 */
#include "rebuild.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define DEADLINE_S 60

struct verdict {
    int r;
    char why[VD_META_WHY];
};
static_assert(sizeof(struct verdict) <= 4096, "one write to a pipe");

static void isolate(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct rlimit no_core = {0, 0}, cpu = {DEADLINE_S, DEADLINE_S + 1};
    setrlimit(RLIMIT_CORE, &no_core);
    setrlimit(RLIMIT_CPU, &cpu);
    prctl(PR_SET_DUMPABLE, 0);
    alarm(DEADLINE_S);
}

/* Moves the three descriptors to 10, 11, 12 and closes all others but standard error. */
static void keep_only(int fds[3])
{
    int high[3];
    for (int i = 0; i < 3; i++) {
        high[i] = fcntl(fds[i], F_DUPFD, 64);
        if (high[i] < 0)
            _exit(1);
    }
    for (int i = 0; i < 3; i++)
        if (dup2(high[i], 10 + i) < 0)
            _exit(1);
    close(0);
    close(1);
    syscall(SYS_close_range, 3u, 9u, 0u);
    syscall(SYS_close_range, 13u, ~0u, 0u);
}

static _Noreturn void child(pid_t parent, int in_fd, int out_fd, int pipe_fd, uint64_t min_txnid)
{
    isolate(parent);
    keep_only((int[]){in_fd, out_fd, pipe_fd});
    struct verdict v = {0};
    v.r = vd__rebuild(10, 11, min_txnid, v.why);
    ssize_t n = write(12, &v, sizeof(v));
    _exit(n == (ssize_t)sizeof(v) ? 0 : 1);
}

/* The verdict, or what became of the child if it left none. */
static int hear(int pipe_fd, pid_t pid, char ret_why[VD_META_WHY])
{
    struct verdict v;
    ssize_t n;
    do
        n = read(pipe_fd, &v, sizeof(v));
    while (n < 0 && errno == EINTR);
    int status = 0;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof(v)) {
        v.why[sizeof(v.why) - 1] = '\0';
        snprintf(ret_why, VD_META_WHY, "%s", v.why[0] ? v.why : "its structure is damaged");
        return v.r;
    }
    int sig = got == pid && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (sig == SIGKILL) /* from outside, for want of memory perhaps: it says nothing of the file */
        return -EINTR;
    if (sig == SIGALRM || sig == SIGXCPU)
        snprintf(ret_why, VD_META_WHY, "checking it took longer than %d s", DEADLINE_S);
    else
        snprintf(ret_why, VD_META_WHY, "its structure is damaged (the checking process died)");
    return -EUCLEAN;
}

int vd__rebuild_in_child(int in_fd, int out_fd, uint64_t min_txnid, char ret_why[VD_META_WHY])
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    vd_cleanup_close int read_fd = p[0], write_fd = p[1];
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        child(parent, in_fd, out_fd, write_fd, min_txnid);
    close(vd_steal_fd(&write_fd));
    return hear(read_fd, pid, ret_why);
}
