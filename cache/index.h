// SPDX-License-Identifier: Apache-2.0
/*
 * The index: `index.mdb`, an LMDB environment of (disk ID, generation, slot number) -> slot. It is
 * derived from the slot table and never synced while in use; whoever takes a slot from it checks
 * the slot's own key.
 *
 * Readers come from a pool of read transactions, each claimed by one compare-and-swap and renewed
 * for the lookup, so that a hit takes no lock and allocates nothing. LMDB codes end here: NOTFOUND
 * is -ENOENT, a full map -ENOSPC, a bad page -EUCLEAN.
 */
#ifndef VD__CACHE_INDEX_H
#define VD__CACHE_INDEX_H

#include <stdatomic.h>

#include <lmdb.h>

#include "codec.h"
#include "vd_sigbus.h"

#define VD__READERS 64u

struct vd__reader {
    _Alignas(64) atomic_bool busy;
    MDB_txn *txn; /* owned by who set busy */
    MDB_dbi dbi;
};

struct vd__index {
    MDB_env *env;
    MDB_dbi dbi;
    struct vd_sigbus_region *bus;
    struct vd__reader readers[VD__READERS];
};

/* Opens `index.mdb` in DIR (also open as DIRFD), made where it is missing, for NSLOTS entries; its
 * lock file is made afresh, so the caller holds the cache's lock. IX is zeroed; close takes it
 * however this ends. 0 or -errno. */
int vd__index_open(const char *dir, int dirfd, uint32_t nslots,
                   struct vd__index *ix) VD_WARN_UNUSED;
void vd__index_close(struct vd__index *ix);

/* Flushes the environment to its file. Blocks. 0; -EUCLEAN: the file was cut short; -errno. */
int vd__index_sync(struct vd__index *ix) VD_WARN_UNUSED;

/* Begins a snapshot of the index as it is now. NULL when none is to be had (WAIT: only on an LMDB
 * error, which is in RET_ERROR), else until read_end. Any thread. */
struct vd__reader *vd__index_read_begin(struct vd__index *ix, bool wait, int *ret_error);
void vd__index_read_end(struct vd__reader *r);

/* 0, -ENOENT, -errno. */
int vd__index_get(struct vd__reader *r, const struct vd_cache_key *key, uint64_t slotno,
                  uint32_t *ret_slot);

/* Calls FN, in order, for KEY's entries with slot numbers FIRST to LAST, inside the snapshot. 0,
 * -errno, or what FN returned when it was not 0. */
int vd__index_each(struct vd__reader *r, const struct vd_cache_key *key, uint64_t first,
                   uint64_t last, int (*fn)(void *user, uint64_t slotno, uint32_t slot),
                   void *user);

/* Changes: one writer at a time (the callers' mutex), each one transaction, whole or not at all. */
struct vd__index_entry {
    struct vd_cache_key key;
    uint64_t slotno;
    uint32_t slot;
};
/* Puts E in place of OLD (NULL: none), which is removed if it still leads to its slot. */
int vd__index_replace(struct vd__index *ix, const struct vd__index_entry *old,
                      const struct vd__index_entry *e) VD_WARN_UNUSED;
/* Removes N entries where they still lead to their slots. */
int vd__index_remove(struct vd__index *ix, const struct vd__index_entry *e,
                     size_t n) VD_WARN_UNUSED;
/* Adds N entries; RET_DUP[i] says that one was there already, which stays. */
int vd__index_add(struct vd__index *ix, const struct vd__index_entry *e, size_t n,
                  bool *ret_dup) VD_WARN_UNUSED;
/* Removes all. */
int vd__index_empty(struct vd__index *ix) VD_WARN_UNUSED;

#endif
