// SPDX-License-Identifier: Apache-2.0
/*
 * The engine: struct vd_cache_ops over the files of one cache directory, in this process.
 *
 *   lock        held (OFD) for life; says who holds it (lock.c)
 *   slots       what is in each slot: the truth (slots.h)
 *   data        the bytes, slot after slot; sparse
 *   index.mdb   key -> slot, derived (index.h)
 *   state       policy state and the index's checksum: there only after a clean stop (state.c)
 *   pending     what was dropped while the index was being rebuilt (pending.c)
 *   witness/    a small file a disk (witness.c)
 *   damaged/    what was set aside last (dir.c)
 *
 * Lock order, outer to inner:
 *
 *   alloc_mu       -> a stripe -> layer mu
 *   alloc_mu       -> table_mu -> layer mu
 *   sync_mu        -> pending.mu
 *
 * alloc_mu     which slot holds which key: index writes, policy but hit(). Changes of a slot's key.
 *              Its holder may wait for a stripe in flush and forget; in allocation it only tries,
 *              since a stripe is held during data writes. A holder of a stripe never takes
 *              alloc_mu.
 * stripe       of a slot number: its data writes, setting its words, changes of its key.
 * layer mu     fills and writes in flight; setting a word of the layer's slots (so that "not
 *              poisoned" and "set" are one step). Held for list walks and stores only, never for
 *              I/O.
 * table_mu     the table of layers and their reference counts.
 * pending.mu   what write_begin leaves to a running rebuild.
 * sync_mu      one barrier at a time, and the end of the pending log.
 *
 * Why a drop cannot be lost. Words are set only under layer mu by whom nobody has poisoned. A write
 * poisons under layer mu and then looks the slots up: any word set before was in a slot that was in
 * the index before, so the lookup finds it, or the slot has been wiped for another key since; and
 * after the poisoning none is set until the write ends. The lookup takes no lock: it clears what it
 * finds, and a slot that moved meanwhile only loses a block.
 */
#ifndef VD__CACHE_ENGINE_H
#define VD__CACHE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "hint.h"
#include "index.h"
#include "slots.h"
#include "vd_cache.h"
#include "vd_cache_policy.h"
#include "vd_counter.h"

#define VD__STRIPES 1024u
#define VD__TABLE_BUCKETS 256u

enum vd__counter { INSERTS, EVICTIONS, INVALIDATIONS, CHECKSUM_ERRORS, ERRORS, NCOUNTERS };

struct vd__stripe {
    _Alignas(64) pthread_mutex_t mu;
};

/* Drops that wait for the index; see pending.c. */
struct vd__pending {
    pthread_mutex_t mu;
    struct vd__pending_range *ranges; /* lock: mu */
    size_t n, capacity;               /* lock: mu */
    bool all;                         /* lock: mu; everything is to be dropped */
    int fd;                           /* the log; lock: mu to append, sync_mu to sync and close */
};

struct vd__engine {
    struct vd_cache cache;
    char *dir, *note;
    int dirfd, lock_fd, data_fd;
    const uint8_t *data_map; /* the first data_map_bytes of `data`, to read; NULL: not mapped */
    size_t data_map_bytes;
    struct vd_sigbus_region *data_bus;
    struct vd__slots slots;
    struct vd__index index;
    struct vd__hint hint;
    uint64_t prepared_bytes; /* lock: alloc_mu; `data` is allocated up to here */
    struct vd_cache_policy *policy; /* lock: alloc_mu, but for hit and used */

    atomic_bool ready, dead, stopping;
    pthread_mutex_t alloc_mu, table_mu, sync_mu;
    struct vd__stripe stripes[VD__STRIPES];
    struct vd_list table[VD__TABLE_BUCKETS]; /* of vd__layer.link; lock: table_mu */

    struct vd__pending pending;
    pthread_t rebuilder;
    bool rebuilding; /* the thread was started; the opener's and the closer's */
    pthread_mutex_t ready_mu;
    pthread_cond_t ready_cond; /* ready, dead or the rebuilder has ended; with ready_mu */
    bool rebuilt;              /* lock: ready_mu */

    struct {
        VD_COUNTER_SET(NCOUNTERS);
    } counters;
};

/* One key in use, shared by all who have opened it. */
struct vd__layer {
    struct vd_cache_layer layer;
    struct vd__engine *engine;
    struct vd_cache_key key;
    uint32_t seed;       /* vd__block_seed of key */
    struct vd_list link; /* lock: table_mu */
    unsigned refs;       /* lock: table_mu */
    pthread_mutex_t mu;
    struct vd_list fills;  /* vd_cache_fill.link, those that hold a token; lock: mu */
    struct vd_list writes; /* vd_cache_write.link; lock: mu */
};

#define vd__count(e, counter, n) vd_counter_add(&(e)->counters, NCOUNTERS, counter, n)

static inline struct vd__engine *vd__engine(struct vd_cache *c)
{
    return (struct vd__engine *)c;
}

static inline struct vd__layer *vd__layer(struct vd_cache_layer *l)
{
    return (struct vd__layer *)l;
}

static inline pthread_mutex_t *vd__stripe(struct vd__engine *e, uint32_t slot)
{
    return &e->stripes[slot % VD__STRIPES].mu;
}

static inline off_t vd__data_off(const struct vd__engine *e, uint32_t slot, uint32_t block)
{
    return (off_t)((uint64_t)slot * e->slots.slot_bytes + (uint64_t)block * VD_BLOCK_SIZE);
}

/* An error of the files that only means that there is no room. */
static inline bool vd__no_room(int err)
{
    return err == -ENOSPC || err == -EDQUOT || err == -EFBIG || err == -ENOMEM;
}

static inline bool vd__overlap(uint64_t a, uint64_t na, uint64_t b, uint64_t nb)
{
    return a < b + nb && b < a + na;
}

static inline bool vd__bit(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static inline void vd__set_bit(uint64_t *bits, uint32_t i)
{
    bits[i / 64] |= 1ull << (i % 64);
}

/* A run of blocks inside one slot, cut from a range: see vd__segment. */
struct vd__segment {
    uint64_t slotno;
    uint32_t block; /* of the first, in the slot */
    uint32_t n;
    uint32_t at; /* of the first, in the range */
};

/* The segment that begins AT blocks into [FIRST, FIRST + N). */
struct vd__segment vd__segment(const struct vd__engine *e, uint64_t first, uint32_t n, uint32_t at);

/* engine.c */

/* Gives the cache up, once, with a log line: from now on it answers nothing. */
void vd__die(struct vd__engine *e, const char *fmt, ...) VD_PRINTF(2, 3);
/* Whether it has been given up; notices a failed mapping. */
bool vd__dead(struct vd__engine *e);
/* Ready and not dead. */
bool vd__usable(struct vd__engine *e);
int vd__barrier(struct vd_cache *c);

/* hit.c, fill.c, write.c, layer.c, forget.c, verify.c, witness.c: the operations */

int vd__read(struct vd_cache_layer *l, struct vd_cache_read *r);
void vd__map(struct vd_cache_layer *l, uint64_t first_block, uint32_t nblocks, uint64_t *ret_bits);
uint64_t vd__layer_bytes(struct vd_cache_layer *l);
int vd__fill_begin(struct vd_cache_layer *l, struct vd_cache_fill *f);
void vd__fill_commit(struct vd_cache_layer *l, struct vd_cache_fill *f, const void *buf,
                     const uint64_t *which);
void vd__fill_abort(struct vd_cache_layer *l, struct vd_cache_fill *f);
void vd__write_begin(struct vd_cache_layer *l, struct vd_cache_write *w);
void vd__write_end(struct vd_cache_layer *l, struct vd_cache_write *w, const void *buf,
                   uint64_t first_block, uint32_t nblocks);
int vd__layer_open(struct vd_cache *c, const struct vd_cache_key *key,
                   struct vd_cache_layer **ret_layer);
void vd__layer_close(struct vd_cache_layer *l);
void vd__layer_drop(struct vd_cache_layer *l);
int vd__forget(struct vd_cache *c, const struct vd_cache_key *key);
int vd__flush(struct vd_cache *c);
int vd__verify(struct vd_cache *c, int (*report)(void *user, const char *what), void *user);
int vd__witness_load(struct vd_cache *c, const struct vd_id *disk_id,
                     struct vd_cache_witness *ret_w);
int vd__witness_store(struct vd_cache *c, const struct vd_id *disk_id,
                      const struct vd_cache_witness *w);

/* layer.c: poisons every fill and marks every write as not alone, of one layer, or of all with KEY
 * (NULL: of all). */
void vd__layer_poison(struct vd__layer *l);
void vd__poison(struct vd__engine *e, const struct vd_cache_key *key);

/* write.c: clears KEY's blocks from FIRST on, N of them, in the slots that the index knows. Any
 * thread; no lock. An index that cannot be read ends the cache. */
void vd__clear_range(struct vd__engine *e, const struct vd_cache_key *key, uint64_t first,
                     uint64_t n);
/* The same, left to the rebuild where one is running. */
void vd__drop_range(struct vd__engine *e, const struct vd_cache_key *key, uint64_t first,
                    uint64_t n);

/* alloc.c: the slot of L's SLOTNO, found or allocated, with its stripe locked. 0, -EBUSY nothing
 * can be evicted just now, -ENOSPC, -errno. Blocks. */
int vd__slot_take(struct vd__layer *l, uint64_t slotno, uint32_t *ret_slot) VD_WARN_UNUSED;
/* Looks SLOTNO up in the index as it is now: 0, -ENOENT, -errno. */
int vd__lookup(struct vd__engine *e, const struct vd_cache_key *key, uint64_t slotno,
               uint32_t *ret_slot);

/* admit.c: writes blocks into their slots and makes them valid, as long as *GATE is OPEN under
 * L->mu. */
struct vd__admission {
    struct vd__layer *layer;
    const uint8_t *buf; /* all NBLOCKS */
    uint64_t first_block;
    uint32_t nblocks;
    const uint64_t *which; /* NULL: all */
    const bool *gate;      /* lock: layer->mu */
    bool open;
};
void vd__admit(const struct vd__admission *a);

/* pending.c. Load reads the log of an earlier process; add says whether the rebuild took the range
 * (else the index is ready, and the caller clears it there). Take moves ranges and all to the
 * caller, or, when there is nothing, makes the cache ready and returns false. End, with sync_mu
 * held, removes the log. */
int vd__pending_load(struct vd__engine *e) VD_WARN_UNUSED;
bool vd__pending_add(struct vd__engine *e, const struct vd__pending_range *range);
bool vd__pending_take(struct vd__engine *e, struct vd__pending *ret_taken);
void vd__pending_end(struct vd__engine *e);

/* rebuild.c: the index and the policy from the slot table, on a thread of its own. */
int vd__rebuild_start(struct vd__engine *e) VD_WARN_UNUSED;
void vd__rebuild_wait(struct vd__engine *e, unsigned timeout_ms);
void vd__rebuild_stop(struct vd__engine *e);

/* state.c: load, before the index is opened, removes `state`, durably, and says whether index and
 * policy are as the last process left them (not TRUSTed: they are not). Save comes after the index
 * was closed. */
int vd__state_load(struct vd__engine *e, bool trust, bool *ret_clean) VD_WARN_UNUSED;
int vd__state_save(struct vd__engine *e) VD_WARN_UNUSED;

/* lock.c */
int vd__lock_take(int dirfd, const char *dir, const char *note, unsigned stopping_ms, int *ret_fd,
                  char *ret_why, size_t why_len) VD_WARN_UNUSED;
void vd__lock_say(int fd, bool stopping, const char *note);

/* dir.c: makes PATH and its parents and opens it; moves what is there into `damaged`; removes what
 * interrupted replacements have left. */
int vd__dir_open(const char *path, int *ret_fd) VD_WARN_UNUSED;
int vd__dir_set_aside(int dirfd) VD_WARN_UNUSED;
void vd__dir_sweep(int dirfd, const char *name);

#endif
