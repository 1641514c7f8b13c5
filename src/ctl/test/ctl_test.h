// SPDX-License-Identifier: Apache-2.0
#ifndef CTL_TEST_H
#define CTL_TEST_H

#include <check.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "vd_ctl.h"

/* A server in a run directory of its own, whose command "wait" waits for open_gate(). */
struct fixture {
    char rundir[1024];
    struct vd_id id;
    struct vd_ctl_server *server;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    unsigned waiting; /* lock: mu */
    bool gate;        /* lock: mu */
};

void fixture_begin(struct fixture *f);
void fixture_start(struct fixture *f);
void fixture_end(struct fixture *f);
void fixture_await_waiting(struct fixture *f, unsigned n);
void fixture_open_gate(struct fixture *f);

/* A raw connection, and lines by hand. */
int raw_connect(const struct fixture *f);
void raw_send(int fd, const void *buf, size_t len);
/* Waits at most 5 s for a whole line. Its length without the newline, or -1 at the end of the
 * stream. */
ssize_t raw_line(int fd, char *buf, size_t len);

/* "echo" with TEXT must come back. */
void expect_alive(const struct fixture *f);

TCase *case_hostile(void);

#endif
