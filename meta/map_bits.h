// SPDX-License-Identifier: Apache-2.0
/*
 * Two bits for each block of a layer: its enum vd_block_state, in a sparse tree in memory.
 *
 * A place in the tree holds a constant (everything below is of one state), a node of 512 places,
 * or, at the bottom, a leaf of 32 Ki blocks in 8 KiB. So a discard of terabytes is one store, an
 * empty map costs nothing, and one that is mixed everywhere costs size / 16384.
 *
 * Readers take no lock. A place goes from a constant to another one or to a node or leaf, by
 * compare-and-swap, and never back, so nothing is freed before the tree is. Writers of different
 * blocks may share a word, so each word changes by compare-and-swap as well; writers of the same
 * blocks are kept apart by the caller.
 */
#ifndef VD__MAP_BITS_H
#define VD__MAP_BITS_H

#include "vd_map.h"

struct vd__bits;

/* All blocks VD_BLOCK_BELOW, one reference. NULL: no memory. */
struct vd__bits *vd__bits_new(void);
struct vd__bits *vd__bits_ref(struct vd__bits *b);
void vd__bits_unref(struct vd__bits *b); /* NULL is allowed */
VD_DEFINE_CLEANUP(struct vd__bits, vd__bits_unref)

/* As vd_live_map_get. FIRST + NBLOCKS is at most VD_MAP_BLOCKS_MAX. */
enum vd_block_state vd__bits_get(const struct vd__bits *b, uint64_t first, uint64_t nblocks,
                                 uint64_t *ret_run);

/* Makes the nodes that vd__bits_put of the same arguments will need, so that it cannot fail. What
 * lookups answer does not change. 0, -ENOMEM. */
int vd__bits_prepare(struct vd__bits *b, uint64_t first, uint64_t nblocks,
                     enum vd_block_state state) VD_WARN_UNUSED;
void vd__bits_put(struct vd__bits *b, uint64_t first, uint64_t nblocks, enum vd_block_state state);

/* The next extent at or after *POS, which is moved behind it. False: there is none. */
bool vd__bits_next(const struct vd__bits *b, uint64_t *pos, uint64_t *ret_first,
                   uint64_t *ret_nblocks, enum vd_block_state *ret_state);

#endif
