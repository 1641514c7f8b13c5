// SPDX-License-Identifier: Apache-2.0
/*
 * A key from a file or a command. What is read is at most KEY_TEXT_MAX bytes, read by system calls into a buffer that is
 * wiped. A command has COMMAND_SECONDS: a disk that waits for a key must not wait for ever.
 *
 * The command is a child of the daemon: descriptors are closed by O_CLOEXEC, its signals are as a shell expects
 * them, and it leads a process group, so that it is stopped with what it has started.
 */
#include "key.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMAND_SECONDS 60

int key_from_file(const char *path, uint8_t ret_key[XTS_KEY_BYTES], char why[KEY_WHY])
{
    uint8_t text[KEY_TEXT_MAX];
    size_t len = 0;
    ssize_t n = 0;
    /* O_NONBLOCK: a fifo that nobody writes to must not stop us */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        int r = -errno;
        snprintf(why, KEY_WHY, "its key-file %.200s cannot be opened: %s", path, strerror(-r));
        return r;
    }
    while (len < sizeof(text) &&
           ((n = read(fd, text + len, sizeof(text) - len)) > 0 || (n < 0 && errno == EINTR)))
        len += n > 0 ? (size_t)n : 0;
    int r = n < 0 ? -errno : 0;
    close(fd);
    char what[KEY_WHY];
    if (r < 0) {
        snprintf(why, KEY_WHY, "its key-file %.200s cannot be read: %s", path, strerror(-r));
    } else {
        r = key_parse(text, len, ret_key, what);
        if (r < 0)
            snprintf(why, KEY_WHY, "key-file %.200s: %.180s", path, what);
    }
    explicit_bzero(text, sizeof(text));
    return r;
}

/* ---- commands ---- */

static int spawn_shell(const char *command, int out, pid_t *ret_pid)
{
    char *argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)command, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, usual;
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    sigaddset(&usual, SIGCHLD);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGHUP);
    sigaddset(&usual, SIGTERM);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &usual);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETPGROUP);
    int r = -posix_spawn(ret_pid, argv[0], &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads FD to its end, or until TEXT is full. The count, -ETIMEDOUT, -errno. */
static ssize_t read_until(int fd, uint8_t *text, size_t room, int64_t until_ms)
{
    size_t len = 0;
    while (len < room) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until_ms - now_ms();
        if (left <= 0)
            return -ETIMEDOUT;
        int ready = poll(&p, 1, (int)left);
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (ready <= 0)
            continue;
        ssize_t n = read(fd, text + len, room - len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        len += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)len;
}

/* Waits for PID to end: 0 and its status; -ETIMEDOUT; -ECHILD: somebody else has waited for it. */
static int wait_until(pid_t pid, int *ret_status, int64_t until_ms)
{
    for (;;) {
        pid_t p = waitpid(pid, ret_status, WNOHANG);
        if (p == pid)
            return 0;
        if (p < 0 && errno != EINTR)
            return -errno;
        if (now_ms() >= until_ms)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

static int why_status(int status, char why[KEY_WHY])
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status))
        snprintf(why, KEY_WHY, "its key-command ended with exit code %d", WEXITSTATUS(status));
    else
        snprintf(why, KEY_WHY, "its key-command was killed by signal %d", WTERMSIG(status));
    return -ENOKEY;
}

/* What COMMAND prints, in TEXT: the count; -errno with WHY. */
static ssize_t run_command(const char *command, uint8_t *text, size_t room, char why[KEY_WHY])
{
    int64_t until_ms = now_ms() + COMMAND_SECONDS * 1000;
    int out[2], status = 0;
    pid_t pid;
    if (pipe2(out, O_CLOEXEC) < 0) {
        int r = -errno;
        snprintf(why, KEY_WHY, "no pipe for its key-command: %s", strerror(-r));
        return r;
    }
    int r = spawn_shell(command, out[1], &pid);
    close(out[1]);
    if (r < 0) {
        close(out[0]);
        snprintf(why, KEY_WHY, "its key-command cannot be run: %s", strerror(-r));
        return r;
    }
    ssize_t len = read_until(out[0], text, room, until_ms);
    close(out[0]);
    r = wait_until(pid, &status, until_ms);
    if (r == -ETIMEDOUT) {
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    if (r == 0 && len >= 0)
        r = why_status(status, why);
    else if (r == -ETIMEDOUT || len == -ETIMEDOUT)
        snprintf(why, KEY_WHY, "its key-command did not end in %d seconds", COMMAND_SECONDS);
    else
        snprintf(why, KEY_WHY, "how its key-command ended is not known: %s",
                 strerror(r < 0 ? -r : (int)-len));
    return r < 0 ? r : len;
}

int key_from_command(const char *command, uint8_t ret_key[XTS_KEY_BYTES], char why[KEY_WHY])
{
    uint8_t text[KEY_TEXT_MAX];
    char what[KEY_WHY];
    ssize_t n = run_command(command, text, sizeof(text), why);
    int r = n < 0 ? (int)n : key_parse(text, (size_t)n, ret_key, what);
    if (n >= 0 && r < 0)
        snprintf(why, KEY_WHY, "what its key-command prints: %.200s", what);
    explicit_bzero(text, sizeof(text));
    return r;
}
