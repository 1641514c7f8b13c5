// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that a filter holds. A filter resumes by token, not by pointer: tokens are looked up here and taken out, so a
 * second resume of the same request, or one that comes when the request has been failed, finds nothing and does no harm.
 *
 *   RUNNING   its submit has not returned
 *   HELD      it has, with DEFER: nobody runs it
 *   RESUMED   its token was taken out: by a resume, or to fail it
 *
 *   submit returns DEFER:  RUNNING -> HELD      left alone; else RESUMED already: go on at once
 *   resume:                -> RESUMED           from HELD: put on a thread; from RUNNING: submit will see
 *
 * A request that is failed while it is held is *abandoned*: it is answered, but its memory is the filter's until that is
 * detached.
 */
#include <sched.h>
#include <string.h>

#include "filter.h"

#define INDEX_BITS 24u
#define NO_INDEX UINT32_MAX

struct vd__held {
    uint64_t seq; /* 0: free */
    struct vd__io *io;
    struct vd__attachment *a;
    uint32_t next_free;
};

/* With hold_mu held. */
static int grow(struct vd_filters *fs)
{
    uint32_t n = fs->nheld ? 2 * fs->nheld : 64;
    if (n > 1u << INDEX_BITS)
        return -ENOMEM;
    struct vd__held *held = realloc(fs->held, n * sizeof(*held));
    if (!held)
        return -ENOMEM;
    for (uint32_t i = fs->nheld; i < n; i++)
        held[i] = (struct vd__held){.next_free = i + 1 < n ? i + 1 : NO_INDEX};
    fs->free_held = fs->nheld;
    fs->held = held;
    fs->nheld = n;
    return 0;
}

int vd__defer(struct vd__attachment *a, struct vd__io *io, uint64_t *ret_token)
{
    struct vd_filters *fs = a->f->fs;
    if (atomic_load(&a->f->draining))
        return -ESHUTDOWN;
    int r = vd__io_own_data(io);
    if (r < 0)
        return r;
    pthread_mutex_lock(&fs->hold_mu);
    if (!fs->nheld || fs->free_held == NO_INDEX)
        r = grow(fs);
    if (r == 0) {
        uint32_t i = fs->free_held;
        struct vd__held *h = &fs->held[i];
        fs->free_held = h->next_free;
        *h = (struct vd__held){.seq = ++fs->next_seq, .io = io, .a = a};
        io->token = *ret_token = h->seq << INDEX_BITS | i;
        atomic_store(&io->hold, HOLD_RUNNING);
    }
    pthread_mutex_unlock(&fs->hold_mu);
    /* Who drains takes out what it finds after it has said so: was it too early for this one? */
    if (r == 0 && atomic_load(&a->f->draining)) {
        vd__defer_undo(io);
        return -ESHUTDOWN;
    }
    if (r == 0)
        vd__count(a, N_DEFERRED, 1);
    return r;
}

/* With hold_mu held. */
static void free_place(struct vd_filters *fs, uint32_t i)
{
    fs->held[i] = (struct vd__held){.next_free = fs->free_held};
    fs->free_held = i;
}

/* With hold_mu held: what TOKEN stands for, or NULL. */
static struct vd__held *find(struct vd_filters *fs, uint64_t token)
{
    uint32_t i = (uint32_t)(token & ((1u << INDEX_BITS) - 1));
    if (i >= fs->nheld || !fs->held[i].seq || fs->held[i].seq != token >> INDEX_BITS)
        return NULL;
    return &fs->held[i];
}

void vd__defer_undo(struct vd__io *io)
{
    struct vd_filters *fs = io->f->fs;
    pthread_mutex_lock(&fs->hold_mu);
    struct vd__held *h = find(fs, io->token);
    if (h)
        free_place(fs, (uint32_t)(h - fs->held));
    pthread_mutex_unlock(&fs->hold_mu);
    /* Taken out by a resume: that one only notes its verdict, which nobody wants. This thread still runs it. */
    while (!h && atomic_load(&io->hold) != HOLD_RESUMED)
        sched_yield();
    atomic_store(&io->hold, HOLD_RUNNING);
    io->token = 0;
}

bool vd__defer_left(struct vd__io *io)
{
    enum vd__defer_state running = HOLD_RUNNING;
    if (atomic_compare_exchange_strong(&io->hold, &running, HOLD_HELD))
        return true;
    atomic_store(&io->hold, HOLD_RUNNING);
    return false;
}

/* Taken out of the table, so ours alone to resume. */
static void resume_taken(struct vd__io *io, int verdict, int64_t result)
{
    io->verdict = verdict;
    io->verdict_result = result;
    if (atomic_exchange(&io->hold, HOLD_RESUMED) == HOLD_HELD)
        vd__run_on(io);
}

int vd__resume(struct vd_filters *fs, const struct vd__attachment *a, uint64_t token, int verdict,
               int64_t result)
{
    pthread_mutex_lock(&fs->hold_mu);
    struct vd__held *h = find(fs, token);
    struct vd__io *io = h && (!a || h->a == a) ? h->io : NULL;
    if (io)
        free_place(fs, (uint32_t)(h - fs->held));
    pthread_mutex_unlock(&fs->hold_mu);
    if (!io)
        return -ESTALE;
    resume_taken(io, verdict, result);
    return 0;
}

/* Takes one out that A, or any filter of F (all: F NULL), holds. */
static struct vd__io *take_one(struct vd_filters *fs, const struct vd_filtered *f,
                               const struct vd__attachment *a, struct vd__attachment **ret_a)
{
    struct vd__io *io = NULL;
    pthread_mutex_lock(&fs->hold_mu);
    for (uint32_t i = 0; i < fs->nheld && !io; i++) {
        struct vd__held *h = &fs->held[i];
        if (!h->seq || (f && h->a->f != f) || (a && h->a != a))
            continue;
        io = h->io;
        *ret_a = h->a;
        /* with the lock held, so that the attachment is there */
        pthread_mutex_lock(&h->a->mu);
        if (!io->abandoned) /* its first holder may still know it */
            vd_list_add_tail(&h->a->abandoned, &io->link);
        io->abandoned = true;
        pthread_mutex_unlock(&h->a->mu);
        free_place(fs, i);
    }
    pthread_mutex_unlock(&fs->hold_mu);
    return io;
}

unsigned vd__defer_fail_all(struct vd_filters *fs)
{
    struct vd__attachment *a;
    struct vd__io *io;
    unsigned n = 0;
    while ((io = take_one(fs, NULL, NULL, &a))) {
        resume_taken(io, -EIO, 0);
        n++;
    }
    return n;
}

unsigned vd__defer_fail(struct vd_filtered *f, const struct vd__attachment *a,
                        const struct vd__attachment **ret_a)
{
    struct vd__attachment *one;
    struct vd__io *io;
    unsigned n = 0;
    while ((io = take_one(f->fs, f, a, &one))) {
        if (ret_a)
            *ret_a = one;
        resume_taken(io, -EIO, 0);
        n++;
    }
    return n;
}
