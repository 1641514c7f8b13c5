// SPDX-License-Identifier: Apache-2.0
/*
 * The disk's own state, private to src/disk.
 *
 * Life (d->life, lock: ds->mu):  ATTACHING -> ATTACHED -> DETACHING -> gone
 *   An open that finds ATTACHING or DETACHING waits on ds->changed. Who takes refs from 1 to 0
 *   moves it to DETACHING and queues the detach on the reaper lane.
 *
 * Ownership (d->state, lock: d->mu to change, atomic to read):
 *   NONE       no lock on the file; layer is NULL: reads go past the cache; size is the file's
 *   SHARED     read lock; layer may be set
 *   EXCLUSIVE  write lock, token drawn and durable; layer may be set; writes allowed
 *   Changes upwards are made by one thread at a time (own_mu); downwards also by a release request,
 *   which takes d->mu only, so that it never waits for one of our own requests to another mount.
 *
 * The cache layer (d->layer) is read by every request without a lock. It is replaced only under
 * d->mu, and what it was is kept in d->retired until the detach, when no request is under way: so a
 * request may use the layer it loaded for as long as it lives.
 *
 * Lock order: ds->mu, then nothing. d->own_mu -> d->mu. d->size_mu, then nothing. No lock is held
 * over a wait but own_mu and size_mu, which only those who want the same thing wait for.
 */
#ifndef VD_DISK_PRIVATE_H
#define VD_DISK_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "vd_counter.h"
#include "vd_disk.h"
#include "vd_list.h"

enum disk_counter {
    C_HITS,
    C_MISSES,
    C_HIT_BYTES,
    C_MISS_BYTES,
    C_BACKING_READS,
    C_BACKING_READ_BYTES,
    C_COALESCED,
    C_READAHEAD_BYTES,
    C_BYPASSED,
    C_WRITES,
    C_WRITE_BYTES,
    C_FLUSHES,
    C_ERRORS,
    C_COUNT
};
struct disk_counters {
    VD_COUNTER_SET(C_COUNT);
};
#define count(d, i, delta) vd_counter_add(&(d)->counters, C_COUNT, i, delta)

enum disk_life { LIFE_ATTACHING, LIFE_ATTACHED, LIFE_DETACHING };

#define IO_SHARDS VD_COUNTER_SHARDS
#define IO_SMALL_BLOCKS 33u
#define IO_KEEP_SMALL 4
#define IO_KEEP_LARGE 2

struct io;

/* Requests' memory, kept for reuse: no allocation on a hit. Each place is taken and filled by an
 * atomic exchange; see io.c. */
struct io_pool {
    struct {
        _Alignas(64) struct io *_Atomic small[IO_KEEP_SMALL];
        struct io *_Atomic large[IO_KEEP_LARGE];
    } shard[IO_SHARDS];
};

/* The counters of a disk's earlier attachments. */
struct past_disk {
    struct vd_list link;
    dev_t dev;
    ino_t ino;
    uint64_t count[C_COUNT];
};

struct vd_disks {
    struct vd_disks_config config;
    struct vd_lane *reaper; /* detaches and removals run here */
    struct vd_lane *opener; /* opens, which may wait for all sorts of things */
    struct io_pool ios;
    atomic_bool stopping; /* everything is about to be detached */

    pthread_mutex_t mu;
    pthread_cond_t changed; /* some disk's life changed */
    struct vd_list disks;   /* lock: mu */
    struct vd_list past; /* lock: mu; struct past_disk, one for each that was ever attached */
};

struct retired_layer {
    struct vd_list link;
    struct vd_cache_layer *layer;
};

struct vd_disk {
    struct vd_disks *ds;
    struct vd_list link; /* lock: ds->mu */
    enum disk_life life; /* lock: ds->mu */
    unsigned refs;       /* lock: ds->mu */
    unsigned opens;      /* lock: ds->mu */
    dev_t dev;
    ino_t ino;
    struct past_disk *past; /* fixed; its counters change under ds->mu */
    struct vd_job detach_job;

    struct vd_backing *backing;
    struct vd_lane *lane;
    struct vd_id uuid;    /* zero: no metadata, never cached; fixed after attach */
    struct vd_id disk_id; /* fixed after attach */

    pthread_mutex_t own_mu;
    pthread_mutex_t mu;
    _Atomic enum vd_owner_state state;
    struct vd_cache_layer *_Atomic layer;
    enum vd_lock locked;             /* lock: mu; what we hold on the file; ahead of state */
    struct vd_list retired;          /* lock: mu */
    struct vd_cache_witness witness; /* lock: own_mu; what the cache holds of us */
    _Atomic uint64_t generation;     /* the witness's, for who must not wait for own_mu */
    struct vd_identity identity;     /* lock: mu; of the file, as far as we know why it changed */
    uint64_t epoch;                  /* lock: mu */
    char path[1024];                 /* below the source when it was attached; fixed */
    uint64_t refused_logged_ms;      /* lock: mu; when a refused write was last logged */

    _Atomic uint64_t size_bytes;
    pthread_mutex_t size_mu; /* leaf; held over truncation and stat of the backing */
    atomic_uint truncations; /* written under size_mu; odd: size_bytes is about to shrink */
    atomic_bool sync_failed; /* an fsync failed: what is cached may not be what the backing holds */

    struct disk_counters counters;
};

/* One request under way. A read that is a hit uses it on one thread only; one that is not, and a
 * write that was put off, carry it to the lane's threads. */
struct io {
    struct vd_job job;
    struct vd_disk *d;
    struct vd_cache_layer *layer;
    uint64_t off;
    size_t len;
    vd_disk_done done;
    void *user;
    struct vd_cache_read look;
    struct vd_cache_fill fill;
    bool waited; /* has waited for another's fill once */
    bool large;
    /* of the requests that are put off */
    enum io_kind { IO_WRITE, IO_FLUSH, IO_ZERO, IO_TRUNCATE } kind;
    int arg;
    uint8_t *data; /* IO_SMALL_BLOCKS or VD_IO_MAX_BLOCKS blocks, aligned to a block */
};

/* io.c */
struct io *vd__disk_io_get(struct vd_disks *ds, uint32_t nblocks);
void vd__disk_io_put(struct vd_disks *ds, struct io *io);
void vd__disk_io_drain(struct vd_disks *ds);

/* attach.c: with life ATTACHING or DETACHING, so alone on the disk but for release requests. */
int vd__disk_attach(struct vd_disk *d, int path_fd, bool write);
void vd__disk_detach(struct vd_disk *d);
void vd__disk_let_go(struct vd_disk *d);
void vd__disk_free(struct vd_disk *d);

/* own.c: brings the disk to STATE (shared or exclusive) or higher. 0, -EBUSY (RET_WHY), -errno.
 * Blocks. */
int vd__disk_acquire(struct vd_disk *d, enum vd_owner_state state, char ret_why[VD_META_WHY]);

/* Puts LAYER (NULL: none) in the place of the disk's layer, which is kept until the detach. Where
 * the lock on the file is gone LAYER is only kept. The second with d->mu held. */
void vd__disk_layer_replace(struct vd_disk *d, struct vd_cache_layer *layer);
void vd__disk_layer_replace_locked(struct vd_disk *d, struct vd_cache_layer *layer);

/* witness.c; all with own_mu held (or at the detach). */
void vd__disk_witness_check(struct vd_disk *d, const struct vd_id *token, bool *ret_cold);
void vd__disk_witness_begin_writes(struct vd_disk *d, const struct vd_id *token);
void vd__disk_witness_detach(struct vd_disk *d, const struct vd_identity *now, bool durable);

/* disks.c */
int vd__disk_identity(struct vd_disk *d, struct vd_identity *ret_id);
/* Drops what the cache holds under KEY, later, on the reaper. */
void vd__disk_forget_later(struct vd_disks *ds, const struct vd_cache_key *key);

/* read.c, write.c: behind the gate. */
void vd__disk_read(struct vd_disk *d, uint64_t off, size_t len, vd_disk_done done, void *user);
void vd__disk_write(struct vd_disk *d, uint64_t off, const void *data, size_t len,
                    vd_disk_done done, void *user);
void vd__disk_change(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len,
                     vd_disk_done done, void *user);

#endif
