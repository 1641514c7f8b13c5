// SPDX-License-Identifier: Apache-2.0
/*
 * One process a cache. The lock itself is the kernel's, so a dead holder holds nothing; the text in
 * the file is for whoever finds it taken: "running PID NOTE" or "stopping PID NOTE", padded with
 * newlines to a fixed length so that one write replaces it whole. For an instant it may still be
 * that of the holder before; a pid that is gone, or no text at all, is therefore given a moment.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "engine.h"
#include "vd_file.h"
#include "vd_time.h"

#define TEXT_BYTES 256u
#define STARTING_MS 200u

struct holder {
    bool stopping;
    long pid;
    char note[TEXT_BYTES];
};

void vd__lock_say(int fd, bool stopping, const char *note)
{
    char text[TEXT_BYTES + 1];
    memset(text, '\n', sizeof(text));
    int n = snprintf(text, TEXT_BYTES, "%s %ld %s", stopping ? "stopping" : "running",
                     (long)getpid(), note ? note : "");
    n = (int)vd_min((size_t)n, (size_t)TEXT_BYTES - 1);
    for (int i = 0; i < n; i++)
        if (text[i] == '\n')
            text[i] = ' ';
    text[n] = '\n';
    /* A courtesy to others: where it fails they only know less. */
    int r = vd_pwrite_full(fd, text, TEXT_BYTES, 0);
    (void)r;
}

static bool read_holder(int fd, struct holder *h)
{
    char text[TEXT_BYTES + 1] = {0}, word[16];
    ssize_t n = vd_pread_full(fd, text, TEXT_BYTES, 0);
    int at = 0;
    if (n <= 0 || sscanf(text, "%15s %ld %n", word, &h->pid, &at) < 2 || at == 0 || h->pid <= 0)
        return false;
    h->stopping = !strcmp(word, "stopping");
    snprintf(h->note, sizeof(h->note), "%.*s", (int)strcspn(text + at, "\n"), text + at);
    return true;
}

int vd__lock_take(int dirfd, const char *dir, const char *note, unsigned stopping_ms, int *ret_fd,
                  char *ret_why, size_t why_len)
{
    vd_cleanup_close int fd =
        openat(dirfd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        int err = errno;
        snprintf(ret_why, why_len, "%s/lock: %s", dir, strerror(err));
        return -err;
    }
    uint64_t began = vd_now_ms();
    struct timespec pause = {.tv_nsec = 200000};
    for (;;) {
        int r = vd_lock_try(fd, VD_LOCK_EXCLUSIVE, 0, 0);
        if (r == 0) {
            vd__lock_say(fd, false, note);
            *ret_fd = vd_steal_fd(&fd);
            return 0;
        }
        if (r != -EAGAIN) {
            snprintf(ret_why, why_len, "%s/lock: %s", dir, strerror(-r));
            return r;
        }
        struct holder h = {0};
        bool known = read_holder(fd, &h);
        bool gone = !known || (kill((pid_t)h.pid, 0) < 0 && errno == ESRCH);
        unsigned patience_ms = known && h.stopping ? stopping_ms : gone ? STARTING_MS : 0;
        if (vd_now_ms() - began >= patience_ms) {
            if (known)
                snprintf(ret_why, why_len, "%s: in use by pid %ld%s%s%s%s", dir, h.pid,
                         *h.note ? " (" : "", h.note, *h.note ? ")" : "",
                         h.stopping ? ", which is stopping" : "");
            else
                snprintf(ret_why, why_len, "%s: in use by another process", dir);
            return -EBUSY;
        }
        nanosleep(&pause, NULL);
        pause.tv_nsec = vd_min(2 * pause.tv_nsec, 10000000l);
    }
}
