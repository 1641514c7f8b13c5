// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of src/filter share.
 *
 *   library.c  a shared object: checked, loaded, its text
 *   config.c   KEY=VALUE lines to values
 *   chain.c    attachments, and chains of them
 *   upcall.c   calling a filter: frames, faults, quarantine
 *   request.c  the way of a request down and up
 *   defer.c     requests that a filter holds: tokens, resuming, letting go
 *   timer.c    requests that are held for a time
 *   service.c  what a filter may ask
 *   report.c   what people are told
 *
 * A request (struct vd__io) belongs to one thread at a time: the one that runs it; while it is held, whoever takes its
 * token out of the table; while it is below, whoever completes it.
 *
 * Locks, none held over an upcall:
 *   fs->mu       libraries
 *   fs->hold_mu  the table of tokens; a->mu is taken under it
 *   timer's mu   before hold_mu never: tokens are taken out with it let go
 *   f->mu        draining, who waits; leaf
 *   a->mu        why an attachment failed; leaf
 */
#ifndef VD__FILTER_H
#define VD__FILTER_H

#include <pthread.h>
#include <stdatomic.h>

#include "vd_counter.h"
#include "vd_filter.h"
#include "vd_list.h"
#include "vd_upcall.h"

/* ---- libraries ---- */

struct vd__library {
    struct vd_list link;
    char name[VD_FILTER_NAME_MAX + 1];
    const struct vd_filter_ops *ops;
    int fd; /* kept open */
    unsigned noptions;
    struct vd_upcall_text text;
};

/* Loads NAME, or finds it loaded. Libraries stay until the process ends. 0; -ENOENT, -EPERM, -ENOEXEC with WHY. */
int vd__library_get(struct vd_filters *fs, const char *name, struct vd__library **ret_lib,
                    char why[VD_FILTER_WHY]) VD_WARN_UNUSED;

/* ---- configuration ---- */

struct vd__config {
    struct vd_filter_value values[64];
    bool has_required, required; /* the key that every filter has */
    char *text;                  /* what values point into */
};
#define VD__OPTIONS_MAX 64u

/* TEXT is lines of KEY=VALUE. 0; -EINVAL with WHY, -ENOMEM. After 0 clear C. */
int vd__config_parse(const struct vd_filter_option *options, const char *text,
                     struct vd__config *ret_c, char why[VD_FILTER_WHY]) VD_WARN_UNUSED;
void vd__config_clear(struct vd__config *c);

/* ---- the mount's, a disk's ---- */

enum { N_REQUESTS, N_ERRORS, N_FAULTS, N_DEFERRED, N_SAMPLES, N_SAMPLED_NS, N_COUNT };

struct vd__held;
struct vd__timer;

struct vd_filters {
    char *dir;
    pthread_mutex_t mu;
    struct vd_list libraries; /* lock: mu */
    struct vd_list disks;     /* lock: mu; struct vd_filtered */
    atomic_bool stopping;

    pthread_mutex_t hold_mu;
    struct vd__held *held; /* lock: hold_mu; by the low bits of a token */
    uint32_t nheld, free_held;
    uint64_t next_seq;

    struct vd_list left; /* lock: mu; attachments of quarantined filters, whose threads may go on */

    struct vd__timer *timer;
    struct {
        VD_COUNTER_SET(1);
    } inflight;
    struct {
        _Alignas(64) struct vd__io *_Atomic place[4];
        atomic_ullong next_id;
    } pool[VD_COUNTER_SHARDS];
};

/* One filter on one disk. */
struct vd__attachment {
    struct vd_filter_disk disk; /* what the filter has */
    struct vd_list link;        /* fs->left */
    struct vd_filtered *f;
    struct vd__library *lib; /* NULL: missing */
    struct vd_filter_spec spec;
    void *self;
    bool started;
    struct vd_chain *_Atomic making; /* the chain that it will be in; NULL: the disk's */
    char why[VD_FILTER_WHY];
    atomic_bool quarantined;
    atomic_uint serving; /* services on threads of the filter's own */
    atomic_bool dead;    /* detached, though such threads may go on: no service any more */
    pthread_mutex_t mu;
    struct vd_list
        abandoned; /* lock: mu; requests that were failed while it held them: their memory is still its */
    struct {
        VD_COUNTER_SET(N_COUNT);
    } counters;
};
#define vd__count(a, i, n) vd_counter_add(&(a)->counters, N_COUNT, i, n)

struct vd_filtered {
    struct vd_list link; /* lock: fs->mu */
    struct vd_filters *fs;
    const struct vd_filter_below *below;
    void *disk;
    struct vd_filtered_info info;
    struct vd_chain *_Atomic chain;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    atomic_bool draining; /* lock: mu to set */
    atomic_bool ended;    /* services of filters' own threads end */
};

struct vd_chain {
    struct vd_filtered *f;
    unsigned n;
    bool changes; /* a filter may change what was read */
    bool wants_events;
    struct vd__attachment *a[VD_FILTERS_MAX];
};

/* ---- requests ---- */

enum vd__defer_state { HOLD_RUNNING, HOLD_HELD, HOLD_RESUMED };

struct vd__memory {
    struct vd__memory *next;
    void *data;
};

/* Who waits for a request that is to be served on its own thread. */
struct vd__waiter {
    pthread_mutex_t mu;
    pthread_cond_t go;
    bool ready; /* lock: mu; the request was resumed */
    bool ended; /* this thread only */
    ssize_t result;
    void *buf; /* of a read */
};

struct vd__io {
    struct vd_job job;
    struct vd_list link; /* abandoned */
    struct vd_filtered *f;
    struct vd_chain *chain;
    struct vd_filter_request rq;
    unsigned at;     /* the filter that is next, or is being asked */
    uint32_t passed; /* bit i: filter i passed it and has not been told of its end */
    bool may_wait;
    bool borrowed;  /* caller_data is the caller's, and may be in rq.data and left_data */
    bool submitted; /* a bit of statistics: this filter has counted it */
    bool abandoned;
    unsigned ticket;
    vd_filter_done done;
    void *user;
    struct vd__waiter *waiter; /* NULL: nobody; the request goes from thread to thread */
    struct vd__memory *memory;
    /* while held */
    _Atomic enum vd__defer_state hold;
    void *caller_data; /* of a write */
    uint64_t token; /* 0: never held by the filter that is asked */
    int verdict;
    int64_t verdict_result;
    void *self_data[VD_FILTERS_MAX];
    void *left_data[VD_FILTERS_MAX]; /* of a write: the bytes as each filter passed them on */
};

struct vd__io *vd__io_get(struct vd_filters *fs);
void vd__io_put(struct vd__io *io);
void vd__pool_drain(struct vd_filters *fs);

/* Goes on with IO at io->at. */
void vd__run(struct vd__io *io);
/* A held request that was resumed with io->verdict. */
void vd__run_on(struct vd__io *io);
/* The request from place AT on, on this thread. */
ssize_t vd__run_now(struct vd_chain *c, unsigned at, enum vd_filter_op op, unsigned flags,
                    uint64_t off, void *data, uint64_t len);
/* Data that are the caller's are copied. 0, -ENOMEM. */
int vd__io_own_data(struct vd__io *io);
void *vd__io_alloc(struct vd__io *io, size_t len);

/* ---- upcalls ---- */

/* What a thread is doing for a filter: innermost first. */
struct vd__frame {
    struct vd__frame *outer;
    struct vd__attachment *a;
    struct vd__io *io; /* NULL: no request's */
    char *why;         /* where vd_filter_why leaves its text; NULL: with the attachment */
    bool inside;       /* the chain cannot be replaced meanwhile */
    bool may_wait;
};
/* The calling thread's innermost frame, or NULL. */
struct vd__frame *vd__frame_here(void);

/* Runs FN(ARG) as a callback of A (WHAT: its name for messages). 0; -EIO: it faulted, and is quarantined; -ELOOP, -ENOMEM. */
int vd__upcall(struct vd__attachment *a, struct vd__frame *frame, const char *what,
               void (*fn)(void *arg), void *arg);
/* In FN, before it calls the next filter A: a fault is that one's from now on. */
void vd__upcall_next(struct vd__frame *frame, struct vd__attachment *a);
/* Out of the chain: its disk goes on without it, or refuses. */
void vd__quarantine(struct vd__attachment *a, const char *why);

static inline bool vd__usable(const struct vd__attachment *a)
{
    return a->lib && !atomic_load_explicit(&a->quarantined, memory_order_relaxed);
}

/* < 0: A stands above B. */
int vd__place_cmp(const struct vd__attachment *a, const struct vd__attachment *b);

/* ---- holding ---- */

/* A token for IO, which A holds. 0, -ENOMEM, -ESHUTDOWN. */
int vd__defer(struct vd__attachment *a, struct vd__io *io, uint64_t *ret_token) VD_WARN_UNUSED;
/* IO is not to be held after all (its filter answered something else, or faulted). */
void vd__defer_undo(struct vd__io *io);
/* After submit answered DEFER. False: it was resumed already, go on by io->verdict. */
bool vd__defer_left(struct vd__io *io);
/* A NULL: whoever holds it. 0, -ESTALE. */
int vd__resume(struct vd_filters *fs, const struct vd__attachment *a, uint64_t token, int verdict,
               int64_t result);
/* Fails all that A (NULL: any filter of F) holds. How many; the last one's filter. */
unsigned vd__defer_fail(struct vd_filtered *f, const struct vd__attachment *a,
                        const struct vd__attachment **ret_a);

/* The same of every disk. */
unsigned vd__defer_fail_all(struct vd_filters *fs);

/* ---- timer ---- */

int vd__timer_new(struct vd_filters *fs, struct vd__timer **ret_t) VD_WARN_UNUSED;
void vd__timer_free(struct vd__timer *t);
/* TOKEN, of F's disk, is resumed with PASS in NS. 0, -ENOMEM. */
int vd__timer_add(struct vd__timer *t, struct vd_filtered *f, uint64_t token,
                  uint64_t ns) VD_WARN_UNUSED;
/* All of F, now. */
void vd__timer_fire(struct vd__timer *t, struct vd_filtered *f);
/* In NS all that filters of any disk hold is failed. */
void vd__timer_force(struct vd__timer *t, uint64_t ns);

/* ---- services ---- */

extern const struct vd_filter_host vd__filter_host;

#endif
