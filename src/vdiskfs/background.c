// SPDX-License-Identifier: Apache-2.0
#include "background.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "vd_log.h"

static _Noreturn void wait_for_child(int pipe_fd)
{
    char word;
    ssize_t n;
    do
        n = read(pipe_fd, &word, 1);
    while (n < 0 && errno == EINTR);
    _exit(n == 1 ? 0 : 1); /* the end of the pipe: the child is gone, and has said why */
}

int vd_background_start(struct vd_background *b)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();
    if (pid < 0) {
        int r = -errno;
        close(fds[0]);
        close(fds[1]);
        return r;
    }
    if (pid > 0) {
        close(fds[1]);
        wait_for_child(fds[0]);
    }
    close(fds[0]);
    b->pipe_fd = fds[1];
    if (setsid() < 0 || chdir("/") < 0)
        return -errno;
    return 0;
}

void vd_background_ready(struct vd_background *b)
{
    if (b->pipe_fd < 0)
        return;
    vd_log_to_syslog();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        (void)dup2(null, fd);
    if (null > 2)
        close(null);
    ssize_t n;
    do
        n = write(b->pipe_fd, "", 1);
    while (n < 0 && errno == EINTR);
    close(b->pipe_fd);
    b->pipe_fd = -1;
}
