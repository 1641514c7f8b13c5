// SPDX-License-Identifier: Apache-2.0
/*
 * The slot table: the file `slots`, mapped shared, which alone says what the cache holds. It is
 * changed in place, so that a SIGKILL loses nothing; the index is derived from it.
 *
 * A record holds its slot's key, a seqlock and one word a block. The word is the checksum of the
 * block, over key, number and bytes, or 0: the block is not valid. Validity and checksum are thus
 * one store, and a damaged word is a failed checksum, never a block come back from the dead.
 *
 *   version  odd while the key changes; a reader that saw it change was looking at two slots
 *   writes   counts beginnings of data writes; where it moved, a bad checksum is a torn read, no
 *            damage
 *   word[]   set under the slot's stripe and the layer's mutex (engine.h); cleared by anyone at any
 *            time, since clearing a block of another key that has moved in meanwhile only costs a
 *            miss
 *
 * Fields are little-endian on disk. All are atomics: loads acquire and stores release, which does
 * the work of the seqlock's fences (and which TSan understands).
 */
#ifndef VD__CACHE_SLOTS_H
#define VD__CACHE_SLOTS_H

#include <assert.h>
#include <endian.h>
#include <stdatomic.h>

#include "codec.h"
#include "vd_sigbus.h"

#define VD__SLOT_MIN_BYTES 4096u
#define VD__SLOT_MAX_BYTES (1u << 20)
#define VD__SLOT_MAX_BLOCKS (VD__SLOT_MAX_BYTES / VD_BLOCK_SIZE)
#define VD__SLOT_DEFAULT_BYTES 65536u
#define VD__MAX_SLOTS (1u << 31)

struct vd__slot {
    _Atomic uint64_t disk_id[2]; /* zero: free */
    _Atomic uint64_t generation;
    _Atomic uint64_t slotno;
    _Atomic uint32_t version;
    _Atomic uint32_t writes;
    _Atomic uint64_t reserved;
    _Atomic uint32_t word[];
};
static_assert(sizeof(struct vd__slot) == 48, "record");
static_assert(offsetof(struct vd__slot, word) == 48, "record");
static_assert(sizeof(_Atomic uint32_t) == 4 && sizeof(_Atomic uint64_t) == 8, "plain atomics");

struct vd__slots {
    int fd;
    uint8_t *map;
    size_t map_bytes;
    uint32_t nslots, slot_bytes, slot_blocks, record_bytes;
    struct vd_id incarnation;
    struct vd_sigbus_region *bus;
};

/* Bytes of a record, of the whole file. */
uint32_t vd__slot_record_bytes(uint32_t slot_bytes);
size_t vd__slots_file_bytes(uint32_t nslots, uint32_t record_bytes);

/* Whether a header that decoded makes sense. */
bool vd__slots_header_valid(const struct vd__slots_header *h);

/* Opens or makes `slots` for NSLOTS slots of SLOT_BYTES (0: as it is, or the default) and maps it.
 * RET_CHANGED: the number of slots or the length of the file was not as expected, so that the index
 * and the policy's state no longer fit. S must be zeroed; vd__slots_close takes it however this
 * ends. 0; -EUCLEAN: not a slot table, or spoiled; -EINVAL: of another slot size (then
 * S->slot_bytes is it); -ENOSPC, -errno. */
int vd__slots_open(int dirfd, uint64_t size_bytes, uint32_t slot_bytes, struct vd__slots *s,
                   bool *ret_changed) VD_WARN_UNUSED;
void vd__slots_close(struct vd__slots *s);

/* msync(2) of the table. 0 or -errno. */
int vd__slots_sync(struct vd__slots *s) VD_WARN_UNUSED;

/* Marks the table so that the next open starts empty: best effort, when it can no longer be
 * trusted. */
void vd__slots_spoil(struct vd__slots *s);

static inline struct vd__slot *vd__slot(const struct vd__slots *s, uint32_t i)
{
    return (struct vd__slot *)(s->map + VD__SLOTS_HEADER_BYTES + (size_t)i * s->record_bytes);
}

static inline uint32_t vd__slot_version(struct vd__slot *r)
{
    return le32toh(atomic_load_explicit(&r->version, memory_order_acquire));
}

static inline void vd__slot_set_version(struct vd__slot *r, uint32_t version)
{
    atomic_store_explicit(&r->version, htole32(version), memory_order_release);
}

static inline uint32_t vd__slot_writes(struct vd__slot *r)
{
    return le32toh(atomic_load_explicit(&r->writes, memory_order_acquire));
}

static inline uint32_t vd__slot_word(struct vd__slot *r, uint32_t i)
{
    return le32toh(atomic_load_explicit(&r->word[i], memory_order_acquire));
}

static inline void vd__slot_set_word(struct vd__slot *r, uint32_t i, uint32_t word)
{
    atomic_store_explicit(&r->word[i], htole32(word), memory_order_release);
}

/* The record's key; what it means under an odd version is for the caller to know. */
void vd__slot_key(struct vd__slot *r, struct vd_cache_key *ret_key, uint64_t *ret_slotno);
void vd__slot_set_key(struct vd__slot *r, const struct vd_cache_key *key, uint64_t slotno);
bool vd__slot_is(struct vd__slot *r, const struct vd_cache_key *key, uint64_t slotno);

/* Clears blocks [FIRST, FIRST + N) of the slot; how many were valid. */
uint32_t vd__slot_clear(struct vd__slot *r, uint32_t first, uint32_t n);

/* Clears all blocks of the slot, and its key. Stripe held, or no other thread yet. */
uint32_t vd__slot_wipe(const struct vd__slots *s, struct vd__slot *r);

#endif
