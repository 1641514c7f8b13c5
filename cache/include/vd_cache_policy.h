// SPDX-License-Identifier: Apache-2.0
/*
 * What to keep: the eviction policy of the cache, as a table of operations over slot numbers. A
 * policy knows no files, keys or blocks, so that a trace can be replayed against it in memory.
 *
 * A slot is *free*, *resident*, or *taken* (between take and put or give_back). All functions but
 * hit and used are called under one lock of the caller's; hit and used may run at any time, on any
 * thread. No function blocks; all are O(1) but new, free, save and load.
 */
#ifndef VD_CACHE_POLICY_H
#define VD_CACHE_POLICY_H

#include "vd_base.h"

#define VD_CACHE_NO_SLOT UINT32_MAX

struct vd_cache_policy;

struct vd_cache_policy_ops {
    const char *name; /* at most 15 bytes */

    /* A policy over slots 0 to NSLOTS - 1 (at least one), all free. 0, -ENOMEM. */
    int (*new)(uint32_t nslots, struct vd_cache_policy **ret_policy) VD_WARN_UNUSED;
    void (*free)(struct vd_cache_policy *p);

    /* Resident slot SLOT served a hit. A relaxed load, and a store only where that changes
     * something. Harmless on a slot that has just stopped being resident. */
    void (*hit)(struct vd_cache_policy *p, uint32_t slot);

    /* A free slot, else a resident one to be evicted, for which USABLE (NULL: any will do) said
     * yes; it is taken then. VD_CACHE_NO_SLOT after a bounded number of refusals. */
    uint32_t (*take)(struct vd_cache_policy *p, bool (*usable)(void *user, uint32_t slot),
                     void *user);
    /* A taken or free slot becomes resident, holding the key that hashes to HASH. */
    void (*put)(struct vd_cache_policy *p, uint32_t slot, uint64_t hash);
    /* A taken or resident slot becomes free. */
    void (*give_back)(struct vd_cache_policy *p, uint32_t slot);

    uint32_t (*used)(struct vd_cache_policy *p); /* slots that are not free */

    /* Everything it knows, for a restart: STATE_BYTES bytes at BUF. Load takes a new policy of as
     * many slots; 0, or -EUCLEAN (then it is as new). */
    size_t (*state_bytes)(struct vd_cache_policy *p);
    void (*save)(struct vd_cache_policy *p, void *buf);
    int (*load)(struct vd_cache_policy *p, const void *buf, size_t len) VD_WARN_UNUSED;
};

/* The head of every policy's own struct. */
struct vd_cache_policy {
    const struct vd_cache_policy_ops *ops;
};

/* Three queues: S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache
 * eviction, SOSP 2023), with a filter for correlated references. 22 bytes a slot. */
extern const struct vd_cache_policy_ops vd_cache_policy_s3fifo;

#endif
