// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of mirror share. mirror.c says what it does and what must hold.
 *
 *   mirror.c   options, attaching, events of size, detaching
 *   change.c   requests: a change goes to the target, then to the disk
 *   state.c    what is the same and what is not; breaks; the target open or not
 *   period.c   the record in the metadata: what is known after a crash, or of others' writes
 *   resync.c   the thread that makes both the same again
 *   status.c   what people are told
 *
 * Locks, in their order: a range (ranges), open_mu or sync_mu, mu. No mutex is held over a service that waits, mu over
 * no system call either, since done takes it. A range may be held over services only where requests are, in callbacks: a service that the mirror's
 * own thread calls waits while the chain is changed, and that waits for requests, which would wait for
 * the range.
 */
#ifndef VDISKFS_MIRROR_H
#define VDISKFS_MIRROR_H

#include <pthread.h>
#include <time.h>
#include <vdiskfs/filter.h>

#include "../crypt/range.h"
#include "record.h"
#include "regions.h"
#include "target.h"

#define FOREVER UINT64_MAX
#define SECOND_NS 1000000000ull
#define EVENT_WAIT_NS (5 * SECOND_NS) /* that an event waits for requests under way */

enum mirror_state {
    MIRRORED, /* both are the same, but for changes under way. Without a target open: nothing has been changed yet */
    RESYNC,   /* the dirty regions may differ, and are copied */
    BROKEN    /* the same, and there is no target */
};

/* Of this mount's changes of the disk: none before the record says that there may be some. */
enum mirror_period { PERIOD_NONE, PERIOD_STARTING, PERIOD_ACTIVE };

/* What the thread is copying. Changes of it are noted: they go to the target themselves, so their bytes are not copied. */
#define WINDOW_NOTES 64u
struct window {
    bool active, spoiled; /* spoiled: nothing of it may be copied, or counted as copied */
    uint64_t offset, end;
    unsigned n;
    struct {
        uint64_t offset, end;
    } changed[WINDOW_NOTES]; /* in order, apart */
};

/* What the thread does next (resync.c). */
enum mirror_step { STEP_NONE, STEP_OWN, STEP_OPEN, STEP_LOOK, STEP_COPY, STEP_FINISH, STEPS };

/* Room to copy with. */
struct buffers {
    uint8_t *data, *there; /* of the disk, of the target */
    size_t bytes;
};

struct mirror {
    struct vd_filter_disk *disk;
    char *path;
    bool create, read_only;
    uint64_t retry_ns, rate; /* bytes a second; 0: no limit */
    uint64_t disk_dev, disk_ino, attach_epoch;

    struct range_lock
        ranges; /* changes, alone; from the end of the disk to UINT64_MAX by those behind it */
    pthread_mutex_t open_mu;      /* one opens the target */
    pthread_mutex_t sync_mu;      /* one makes it durable */
    _Atomic uint64_t syncs_begun; /* lock: sync_mu to set */
    uint64_t sync_good;           /* lock: sync_mu; the last that went well, */
    const struct target *synced;  /* lock: sync_mu; and of which target */

    pthread_mutex_t mu;
    pthread_cond_t wake;           /* for the thread */
    pthread_cond_t period_changed; /* lock: mu, all of these: */
    enum mirror_state state;
    time_t since;
    struct target *target;
    struct regions dirty;    /* where target and disk may differ */
    struct regions unsynced; /* written to the target since the last sync began */
    struct regions syncing;  /* and before, while that is under way */
    struct window window;
    enum mirror_period period;
    uint64_t period_epoch;
    unsigned snapshots; /* that may each change the epoch once */
    bool resting;       /* ownership was given up: no resync until the next change */
    bool need_period;   /* what was copied counts only once this mount owns the disk */
    bool touched;       /* the target was written outside a period */
    bool compare;       /* the target may be almost right: read it before it is written */
    uint64_t shrink_to, shrink_until_ns; /* the disk is about to be cut; UINT64_MAX: not */
    bool had_target;
    struct target_id last_id; /* of the one before a break */
    uint64_t last_size, parent_dev;
    uint64_t breaks, copied_bytes;
    char last_error[TARGET_WHY], logged[TARGET_WHY];
    bool read_said; /* that the disk could not be read */

    pthread_t thread;
    bool running;     /* start and detach only */
    bool stop, poked; /* lock: mu */
    /* thread only: */
    uint64_t not_before_ns[STEPS];
    uint64_t cursor, chunk; /* where to copy next, and how much */
    struct buffers buffers;
};

uint64_t mirror_now_ns(void);

/* ---- state.c ---- */

/* With mu held. */
void mirror_set_state(struct mirror *m, enum mirror_state state);
/* With mu held: bytes OFFSET to END may differ. */
void mirror_mark(struct mirror *m, uint64_t offset, uint64_t end);
/* With mu held: anything may differ. COMPARE: probably little does. */
void mirror_mark_all(struct mirror *m, bool compare);
/* With mu held: nothing differs. */
void mirror_mark_none(struct mirror *m);
/* With mu held, and all ranges: T, which may be longer, does not differ from the disk, of SIZE bytes. */
void mirror_settled(struct mirror *m, const struct target *t, uint64_t size);
/* With mu held: the thread has something to do. */
void mirror_poke(struct mirror *m);
/* With mu held: a change of OFFSET to END goes to the target; or (SPOIL) may have gone to one of both only. */
void mirror_note(struct mirror *m, uint64_t offset, uint64_t end, bool spoil);

/* The target that is open, with a reference; NULL. */
struct target *mirror_target(struct mirror *m);
/* The same, opened if it was not. NULL: it cannot be, which is a break. */
struct target *mirror_open(struct mirror *m);
/* With mu held: the caller closes what is returned (NULL: nothing), by target_unref without it. */
struct target *mirror_take_target(struct mirror *m);
/* T failed at WHAT: if it is the one that is open, it is so no more. */
void mirror_break(struct mirror *m, struct target *t, const char *what, int error);
/* Makes durable what was written to T before. A failure is a break. */
int mirror_sync(struct mirror *m, struct target *t);
/* With the range from SIZE, the disk's size, to UINT64_MAX held: T can be written up to END, and what is new reads as zeroes
 * or is dirty. */
int mirror_grow(struct mirror *m, struct target *t, uint64_t size, uint64_t end);

/* ---- period.c ---- */

/* Before a change: 0; -errno: the disk must not be changed. Waits. */
int mirror_period_begin(struct mirror *m);
/* With mu held: is the epoch NOW another than that of the period, without a reason? Takes what has a reason for the period's. */
bool mirror_period_lost(struct mirror *m, uint64_t now);
int mirror_release(struct mirror *m);
/* Reads the record: 0, and whether it says that target and disk are the same now. */
bool mirror_record_is_good(struct mirror *m, uint64_t epoch);
int mirror_put_record(struct mirror *m, const struct record *rec);

/* ---- resync.c ---- */

int mirror_thread_start(struct mirror *m);
/* 0, -ENOMEM. */
int mirror_buffers_make(struct buffers *b, size_t bytes);
void mirror_buffers_free(struct buffers *b);
/* Writes to T what B holds of W, but for what was changed meanwhile. Its range is held. COMPARE: only what differs. */
int mirror_copy_out(struct target *t, const struct window *w, struct buffers *b, bool compare);

/* ---- change.c ---- */

void mirror_change_failed(struct range *r);
int mirror_submit(void *self, struct vd_filter_request *rq);
void mirror_done(void *self, struct vd_filter_request *rq);

/* ---- status.c ---- */

int mirror_status(void *self, char *ret_json, size_t len);

#endif
