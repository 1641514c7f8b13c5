// SPDX-License-Identifier: Apache-2.0
/*
 * Pages of tables in memory: bounded, one cache a struct vd_maps.
 *
 * A set of four slots for each hash of (map's number, page). A slot is read under a sequence
 * number, odd while it changes: words are loaded one by one with acquire, the number is looked at
 * again, and what was found counts if it is the same (Lamport 1977; H.-J. Boehm, "Can seqlocks get
 * along with programming language memory models?", 2012: acquire loads and release stores of the
 * words need no fence). So a hit takes no lock, makes no system call and writes at most the slot's
 * mark of use. Who misses reads the page with no lock held, answers from what it read, and puts it
 * in a slot under the lock of the set's shard.
 *
 * A map's number is never used again, so pages of a map that was closed are never found.
 */
#ifndef VD__MAP_PAGES_H
#define VD__MAP_PAGES_H

#include "map_table.h"

struct vd__pages;

/* NULL: no memory. */
struct vd__pages *vd__pages_new(size_t bytes);
void vd__pages_free(struct vd__pages *c); /* NULL is allowed */

/* Where BLOCK is in page PAGE of the map MAP_NO (not 0), LIMIT being where the page after begins.
 * False: the page is not here. */
bool vd__pages_search(struct vd__pages *c, uint64_t map_no, uint64_t page, uint64_t block,
                      uint64_t limit, struct vd__extent *ret_e);

/* Keeps a verified page. */
void vd__pages_put(struct vd__pages *c, uint64_t map_no, uint64_t page,
                   const _Atomic uint64_t *words);

#endif
