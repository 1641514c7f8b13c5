// SPDX-License-Identifier: Apache-2.0
/*
 * Locks of byte ranges of a disk, that requests hold from submit to done.
 *
 * A range is shared or exclusive; two that overlap are held together only if both are shared. They
 * are granted in the order in which they came: whoever overlaps one that waits, waits behind it.
 *
 * A request that has to wait is deferred, so that it holds no thread; who lets the last range before
 * it go grants it and resumes it. Where the host does not defer (the disk drains, or no memory) it
 * blocks if its thread may wait, and asks for such a thread if not. So nobody who holds a range may
 * wait for another range of the same lock.
 *
 * Granting order is that of ticket locks; a range that waits counts those before it that it overlaps, as a task of
 * a dataflow scheduler counts its inputs.
 */
#ifndef VDISKFS_FILTER_RANGE_H
#define VDISKFS_FILTER_RANGE_H

#include <pthread.h>
#include <vdiskfs/filter.h>

enum range_state { RANGE_IDLE = 0, RANGE_QUEUED, RANGE_HELD };

/* The owner's memory, zeroed at first, that must stay until it is dropped. */
struct range {
    uint64_t first, end; /* bytes: FIRST up to but not END */
    bool exclusive;
    /* the lock's: */
    enum range_state state; /* lock: mu */
    bool has_token;         /* lock: mu; a deferred request waits for it */
    int verdict;            /* what that is resumed with */
    uint64_t token;
    size_t blockers;           /* lock: mu; how many before it that it must not be held with */
    size_t place;              /* lock: mu; among those held */
    struct range *prev, *next; /* lock: mu; those that wait */
};

struct range_held {
    uint64_t first, end;
    struct range *range;
};

struct range_lock {
    struct vd_filter_disk *disk;
    void (*failed)(struct range *r);
    pthread_mutex_t mu; /* leaf: no service is called with it */
    pthread_cond_t granted;
    struct range_held *held; /* lock: mu, all of these */
    size_t nheld, room, nqueued;
    struct range *head, *tail; /* in the order in which they came */
    uint64_t waited;           /* how often a range had to wait */
};

/* FAILED(R) is called, with R dropped, if the host failed the request that waited for R. -ENOMEM. */
int range_lock_init(struct range_lock *l, struct vd_filter_disk *disk,
                    void (*failed)(struct range *r)) __attribute__((warn_unused_result));
/* Nobody holds a range, and nobody waits. */
void range_lock_destroy(struct range_lock *l);

/*
 * In the submit of RQ: takes R for it. VD_FILTER_PASS: held, go on. VD_FILTER_DEFER: return that at once, RQ and R are
 * others' from now on; RQ is resumed with VERDICT once R is held, and rq->data is DATA then if that is not NULL. VD_FILTER_WAIT:
 * return that; R is not held. -ENOMEM. May block if RQ may wait.
 */
int range_enter(struct range_lock *l, struct range *r, struct vd_filter_request *rq, int verdict,
                void *data) __attribute__((warn_unused_result));

/* Takes R on a thread that may wait, in TIMEOUT_NS (UINT64_MAX: any time). 0; -ETIMEDOUT: not held; -ENOMEM. */
int range_wait(struct range_lock *l, struct range *r, uint64_t timeout_ns)
    __attribute__((warn_unused_result));

/* Lets R, which is held, go: R is its owner's again. Resumes requests. Does not wait. */
void range_drop(struct range_lock *l, struct range *r);

/* How often a range had to wait. */
uint64_t range_waited(struct range_lock *l);

#endif
