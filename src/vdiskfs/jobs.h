// SPDX-License-Identifier: Apache-2.0
/*
 * Commands that take minutes: each runs on a thread of its own, under a number by which clients of
 * the control socket ask how far it is. What came of one is told for a while after its end.
 */
#ifndef VD_JOBS_H
#define VD_JOBS_H

#include <sys/types.h>

#include "vd_base.h"
#include "vd_meta.h"

struct vd_jobs;
struct vd_jobs_running;

/* What a job does; memory of the caller's, who gets it back by a call of FREE on any thread. */
struct vd_jobs_work {
    const char *what; /* the command; a string that stays */
    dev_t dev;        /* of one file there is no other job of the same name */
    ino_t ino;
    /* 0, or -errno with a sentence in WHY; -ECANCELED soon after vd_jobs_progress said so. */
    int (*run)(struct vd_jobs_work *w, struct vd_jobs_running *j, char why[VD_META_WHY]);
    void (*free)(struct vd_jobs_work *w);
};

enum vd_jobs_state { VD_JOBS_RUNNING, VD_JOBS_DONE, VD_JOBS_FAILED };

struct vd_jobs_status {
    enum vd_jobs_state state;
    const char *what;
    uint64_t done, total; /* as the job counts; total 0: not known */
    int error;            /* of one that failed: -errno */
    char why[VD_META_WHY];
};

/* 0, -ENOMEM. */
int vd_jobs_new(struct vd_jobs **ret_jobs) VD_WARN_UNUSED;

/* Cancels all that run, refuses new ones. Does not wait. Any thread. */
void vd_jobs_stop(struct vd_jobs *jobs);

/* Does that, and waits for their ends. No other call may be under way or come. NULL is allowed. */
void vd_jobs_free(struct vd_jobs *jobs);

/* Starts W, which is taken where this succeeds. 0 with its number; -EBUSY: that file has one of the
 * same name, RET_ID is its number; -EAGAIN: too many run; -ESHUTDOWN: stopped; -errno. Any thread.
 */
int vd_jobs_start(struct vd_jobs *jobs, struct vd_jobs_work *w, uint64_t *ret_id) VD_WARN_UNUSED;

/* From the work: how far it is. Non-zero: it shall end, with this value (-ECANCELED). USER is the
 * struct vd_jobs_running. Takes no lock. */
int vd_jobs_progress(void *user, uint64_t done, uint64_t total);

/* 0, -ENOENT: there never was such a job, or it ended long ago. Any thread. */
int vd_jobs_get(struct vd_jobs *jobs, uint64_t id, struct vd_jobs_status *ret_s) VD_WARN_UNUSED;
/* Asks job ID to end; nothing where it has. 0, -ENOENT. Does not wait. Any thread. */
int vd_jobs_cancel(struct vd_jobs *jobs, uint64_t id) VD_WARN_UNUSED;

#endif
