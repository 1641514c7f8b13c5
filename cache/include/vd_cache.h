// SPDX-License-Identifier: Apache-2.0
/*
 * The block cache: answers (disk ID, generation, block) from local storage.
 *
 * One interface, struct vd_cache_ops, serves the engine in this process (vd_cache_open) and, later,
 * the client of a cache daemon. Callers use the inline functions below, never the table itself.
 *
 * The rules that make it never stale:
 *   - A *fill* holds a token for its blocks from before the backing is read until it is committed. A
 *     *write* poisons every token it overlaps and clears every cached copy before the backing is
 *     written, and admits no new token on its blocks until it ends. A poisoned fill is dropped.
 *   - A write refreshes the cache only if it was alone on its blocks from begin to end.
 *   - Every block has a checksum (of two CRC32C) over its key and its bytes, verified in the caller's buffer. What fails
 *     is dropped, counted, and reported as not cached.
 * So the order is always: fill_begin, read backing, fill_commit; and write_begin, write backing,
 * write_end. Between begin and end no lock is held; both may be called on different threads.
 *
 * Errors of the cache's own files never become errors of a read: they are misses. After the first
 * failed write to its files or a failed mapping the cache is *dead*: all reads miss, nothing is
 * admitted, vd_cache_dead() says so (the caller must then make sure that its writes, which can no
 * longer invalidate, are noticed: see witness).
 *
 * Ideas: fill tokens after memcached's leases (Nishtala et al., NSDI 2013); the seqlock of a slot
 * after Linux; policy after S3-FIFO (Yang et al., SOSP 2023).
 */
#ifndef VD_CACHE_H
#define VD_CACHE_H

#include <sys/types.h>

#include "vd_base.h"
#include "vd_id.h"
#include "vd_list.h"

struct vd_cache;
struct vd_cache_layer;

struct vd_cache_key {
    struct vd_id disk_id;
    uint64_t generation;
};

struct vd_cache_config {
    const char *dir;         /* made (0700, parents too) where missing */
    uint64_t size_bytes;     /* capacity; rounded down to whole slots, at least one */
    uint32_t slot_bytes;     /* 4 KiB to 1 MiB, power of two; of an existing cache must be the same or 0 (new: 64 KiB) */
    const char *note;        /* what the holder is, for the message of whoever finds it locked */
    unsigned stopping_ms;    /* how long to wait for a holder that has begun to stop */
    unsigned ready_ms;       /* how long open waits for the index to be usable before it returns */
};

/* Blocks of one read. Caller-owned; untouched by the cache once it is done. */
#define VD_CACHE_WORDS ((VD_IO_MAX_BLOCKS + 63) / 64)
struct vd_cache_read {
    uint64_t first_block;
    uint32_t nblocks; /* <= VD_IO_MAX_BLOCKS */
    uint8_t *buf;     /* nblocks * VD_BLOCK_SIZE; blocks that are not hits hold anything afterwards */
    /* results */
    uint32_t nhit;
    uint64_t hit[VD_CACHE_WORDS]; /* bit i: block first_block + i is in buf, verified */
    /* called, on any thread, where vd_cache_read returned 1 */
    void (*done)(struct vd_cache_read *r);
    void *user;
};

/* A token for blocks that are about to be read from the backing. Caller-owned memory, which must stay
 * in place from a begin that returned 0 until commit or abort, and from one that returned 1 until
 * ready was called. */
struct vd_cache_fill {
    uint64_t first_block;
    uint32_t nblocks;
    void (*ready)(struct vd_cache_fill *f); /* see vd_cache_fill_begin */
    void *user;
    /* private to the cache */
    struct vd_list link;
    struct vd_list waiters;
    bool poisoned;
};

/* A write, truncation, discard or any change of blocks under way. Caller-owned, in place until end. */
struct vd_cache_write {
    uint64_t first_block;
    uint64_t nblocks; /* UINT64_MAX - first_block for "to the end" */
    /* private to the cache */
    struct vd_list link;
    bool alone;
};

/* What a cache durably remembers of a disk: the proof that it saw every write. The disk decides what
 * it means (src/disk/witness.c); the cache only keeps it. */
struct vd_cache_witness {
    struct vd_id token;      /* equal to the token in the disk's metadata, or this cache missed writes */
    uint64_t generation;     /* key under which this cache holds the disk's live layer */
    bool attached;           /* a mount has it attached; cleared by a clean detach, after the barrier */
    bool written;            /* attached to be written */
    struct vd_id boot_id;    /* boot during which attached was set */
    uint64_t ino, size_bytes; /* identity of the data file at the last attach or clean detach */
    int64_t mtime_ns, ctime_ns;
};

struct vd_cache_stats {
    uint64_t capacity_bytes, used_bytes; /* used: slots in use * slot size */
    uint64_t slots, slot_bytes;
    uint64_t inserts, evictions, invalidations; /* blocks, slots, blocks */
    uint64_t checksum_errors, errors;
    bool ready; /* the index is usable; before that everything misses */
    bool dead;
};

struct vd_cache_ops {
    int (*layer_open)(struct vd_cache *c, const struct vd_cache_key *key,
                      struct vd_cache_layer **ret_layer);
    void (*layer_close)(struct vd_cache_layer *l);
    int (*read)(struct vd_cache_layer *l, struct vd_cache_read *r);
    int (*fill_begin)(struct vd_cache_layer *l, struct vd_cache_fill *f);
    void (*fill_commit)(struct vd_cache_layer *l, struct vd_cache_fill *f, const void *buf,
                        const uint64_t *which);
    void (*fill_abort)(struct vd_cache_layer *l, struct vd_cache_fill *f);
    void (*write_begin)(struct vd_cache_layer *l, struct vd_cache_write *w);
    void (*write_end)(struct vd_cache_layer *l, struct vd_cache_write *w, const void *buf,
                      uint64_t first_block, uint32_t nblocks);
    void (*layer_drop)(struct vd_cache_layer *l);
    int (*forget)(struct vd_cache *c, const struct vd_cache_key *key);
    int (*flush)(struct vd_cache *c);
    int (*barrier)(struct vd_cache *c);
    void (*map)(struct vd_cache_layer *l, uint64_t first_block, uint32_t nblocks, uint64_t *ret_bits);
    uint64_t (*layer_bytes)(struct vd_cache_layer *l);
    int (*witness_load)(struct vd_cache *c, const struct vd_id *disk_id,
                        struct vd_cache_witness *ret_w);
    int (*witness_store)(struct vd_cache *c, const struct vd_id *disk_id,
                         const struct vd_cache_witness *w);
    void (*stats)(struct vd_cache *c, struct vd_cache_stats *ret_stats);
    bool (*dead)(struct vd_cache *c);
    int (*verify)(struct vd_cache *c, int (*report)(void *user, const char *what), void *user);
    void (*close)(struct vd_cache *c);
};

/* The head of every implementation's own struct. */
struct vd_cache {
    const struct vd_cache_ops *ops;
};
struct vd_cache_layer {
    const struct vd_cache_ops *ops;
    struct vd_cache *cache;
};

/*
 * Opens (or makes) the cache in CONFIG->dir with the engine of this process. Blocks for file I/O and as
 * the config says. On failure RET_WHY (WHY_LEN bytes, may be 0) names the file and the cause.
 * Damage of a cache's files is no failure: they are set aside with a log line, and it begins empty.
 *   0; -EBUSY: held by another process (RET_WHY names its pid and note); -EINVAL: bad configuration or
 *   another slot size than the cache has; -ENOSPC, -EACCES, any -errno of its files.
 * A cache that is stopping keeps its lock until it is closed; vd_cache_stopping() tells those who wait.
 */
int vd_cache_open(const struct vd_cache_config *config, struct vd_cache **ret_cache, char *ret_why,
                  size_t why_len) VD_WARN_UNUSED;

/* Says, for other processes that find the cache locked, that this one is about to close it. */
void vd_cache_stopping(struct vd_cache *c);

/* Walks the slot table of a cache that no process need have open (read-only, no lock taken; of a
 * running one the answer is of the moment): calls FN for each slot with a valid block. 0, -ENOENT no
 * cache there, -EUCLEAN not a slot table, -errno, or what FN returned when it was not 0. */
int vd_cache_scan(const char *dir,
                  int (*fn)(void *user, const struct vd_cache_key *key, uint64_t first_block,
                            const uint64_t *valid, uint32_t nblocks),
                  void *user) VD_WARN_UNUSED;

/* The same walk, with every valid block's checksum verified against `data`; REPORT is called with a
 * sentence for each bad block (a non-zero return ends the walk). The number of bad blocks, or -errno. */
int vd_cache_scan_verify(const char *dir, int (*report)(void *user, const char *what), void *user)
    VD_WARN_UNUSED;

/* What the cache in DIR holds of KEY: calls FN with the number and the bytes of each block that its
 * checksum proves good; others are passed over. No lock taken; of a running cache, what it holds at
 * the moment. 0, -ENOENT, -EUCLEAN, -errno, or what FN returned when it was not 0. Blocks. */
int vd_cache_scan_blocks(const char *dir, const struct vd_cache_key *key,
                         int (*fn)(void *user, uint64_t block, const void *bytes),
                         void *user) VD_WARN_UNUSED;

/* Reads the witness that the cache in DIR keeps of DISK_ID; no lock taken. 0, -ENOENT, -EUCLEAN. */
int vd_cache_scan_witness(const char *dir, const struct vd_id *disk_id,
                          struct vd_cache_witness *ret_w) VD_WARN_UNUSED;

/* Closes: all layers must be closed and no call under way. A clean stop (barrier, index checksum, policy
 * state) unless the cache is dead. NULL is allowed. Blocks. */
static inline void vd_cache_close(struct vd_cache *c)
{
    if (c)
        c->ops->close(c);
}

/* Registers KEY: takes a reference to the one struct of (disk ID, generation) in this cache, so that
 * all who share the key share its tokens. 0, -ENOMEM. Does not block. */
static inline int vd_cache_layer_open(struct vd_cache *c, const struct vd_cache_key *key,
                                      struct vd_cache_layer **ret_layer)
{
    return c->ops->layer_open(c, key, ret_layer);
}

/* Gives the reference back; no fill, write or read of this caller may be under way. NULL is allowed. */
static inline void vd_cache_layer_close(struct vd_cache_layer *l)
{
    if (l)
        l->ops->layer_close(l);
}

/* Copies what is cached of R's blocks into R->buf and verifies it there.
 * 0: finished, done is not called. 1: done will be called, later or already. Any thread; no lock shared
 * between callers, no allocation, no system call but the copy's. */
static inline int vd_cache_read(struct vd_cache_layer *l, struct vd_cache_read *r)
{
    return l->ops->read(l, r);
}

/* Asks for a token on F's blocks, before the backing is read.
 * 0: held; commit or abort must follow. 1: another fill holds some of the blocks: F->ready is called
 * (any thread, from inside that fill's commit or abort; it must not block) when it has ended; F is then
 * free and the caller should read the cache again; where F->ready is NULL, -EAGAIN instead. -EAGAIN: a
 * write is under way there, or the cache is dead or not ready: read past the cache. Any thread, does not block. */
static inline int vd_cache_fill_begin(struct vd_cache_layer *l, struct vd_cache_fill *f)
{
    return l->ops->fill_begin(l, f);
}

/* Ends the token, and admits the blocks of BUF whose bit is set in WHICH (bit i: block
 * F->first_block + i; BUF holds all of F's blocks) unless the token was poisoned. Writes the cache's
 * files: may block on the cache device. Any thread. */
static inline void vd_cache_fill_commit(struct vd_cache_layer *l, struct vd_cache_fill *f,
                                        const void *buf, const uint64_t *which)
{
    l->ops->fill_commit(l, f, buf, which);
}

static inline void vd_cache_fill_abort(struct vd_cache_layer *l, struct vd_cache_fill *f)
{
    l->ops->fill_abort(l, f);
}

/* Before the backing changes: when it returns no cached copy of W's blocks is readable, no fill that
 * began before will be admitted, and none can begin. Any thread; does not wait for the cache device. */
static inline void vd_cache_write_begin(struct vd_cache_layer *l, struct vd_cache_write *w)
{
    l->ops->write_begin(l, w);
}

/* After the backing changed (or failed to). Where BUF is not NULL, the NBLOCKS whole blocks from
 * FIRST_BLOCK (within W) now hold BUF's bytes in the backing; they are admitted if W was alone on them.
 * Pass NULL after a failed or partial write. May block on the cache device where BUF is given. */
static inline void vd_cache_write_end(struct vd_cache_layer *l, struct vd_cache_write *w,
                                      const void *buf, uint64_t first_block, uint32_t nblocks)
{
    l->ops->write_end(l, w, buf, first_block, nblocks);
}

/* Drops every cached block of L, and poisons every token. */
static inline void vd_cache_layer_drop(struct vd_cache_layer *l)
{
    l->ops->layer_drop(l);
}

/* Frees the slots of a key that will not be asked for again (an old generation, a removed disk). 0 or
 * -errno. Blocks for index writes. */
static inline int vd_cache_forget(struct vd_cache *c, const struct vd_cache_key *key)
{
    return c->ops->forget(c, key);
}

/* Drops everything, of every key. Fills under way are poisoned. 0 or -errno. */
static inline int vd_cache_flush(struct vd_cache *c)
{
    return c->ops->flush(c);
}

/* Makes durable what was admitted and what was dropped before the call: first `data`, then `slots`.
 * 0 or -errno (then the cache is dead). Blocks for the device. */
static inline int vd_cache_barrier(struct vd_cache *c)
{
    return c->ops->barrier(c);
}

/* Which of NBLOCKS (any number) blocks from FIRST_BLOCK are cached, unverified: bit i of RET_BITS. */
static inline void vd_cache_map(struct vd_cache_layer *l, uint64_t first_block, uint32_t nblocks,
                                uint64_t *ret_bits)
{
    l->ops->map(l, first_block, nblocks, ret_bits);
}

/* Bytes of valid blocks held for L. Walks the index entries of L. */
static inline uint64_t vd_cache_layer_bytes(struct vd_cache_layer *l)
{
    return l->ops->layer_bytes(l);
}

/* The witness of DISK_ID. Load: 0, -ENOENT, -EUCLEAN (damaged: treat as absent). Store is durable when
 * it returns 0. Blocks. Callers serialise calls for one disk. */
static inline int vd_cache_witness_load(struct vd_cache *c, const struct vd_id *disk_id,
                                        struct vd_cache_witness *ret_w)
{
    return c->ops->witness_load(c, disk_id, ret_w);
}
static inline int vd_cache_witness_store(struct vd_cache *c, const struct vd_id *disk_id,
                                         const struct vd_cache_witness *w)
{
    return c->ops->witness_store(c, disk_id, w);
}

static inline void vd_cache_get_stats(struct vd_cache *c, struct vd_cache_stats *ret_stats)
{
    c->ops->stats(c, ret_stats);
}
static inline bool vd_cache_is_dead(struct vd_cache *c)
{
    return c->ops->dead(c);
}

/* As vd_cache_scan_verify, of an open cache: bad blocks found (and dropped), or -errno. Blocks. */
static inline int vd_cache_verify(struct vd_cache *c, int (*report)(void *user, const char *what),
                                  void *user)
{
    return c->ops->verify(c, report, user);
}

VD_DEFINE_CLEANUP(struct vd_cache, vd_cache_close)

#endif
