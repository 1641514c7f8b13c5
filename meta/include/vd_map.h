// SPDX-License-Identifier: Apache-2.0
/*
 * Block maps: which layer owns a block of a disk, or that it is zero.
 *
 * A disk with layers has one *live map*, of the layer that is written, and at most VD_VIEW_MAPS
 * frozen maps below it, nearest first. A lookup asks them in that order; the first that knows the
 * block answers.
 *
 *   live     two bits a block (below, own, zero) in a sparse table in memory, so that a lookup and
 *            a change take no lock and never touch the source. Each change is one record in an
 *            append-only log, written unsynced when it is made: a SIGKILL loses nothing. A *mark*
 *            in the log says "the data of every record before me is durable"; it is written, with
 *            fdatasync, by a flush. After a power cut (the boot ID differs) what stands behind the
 *            last mark is forgotten: the log may have reached the disk before its data did.
 *   frozen   immutable, shared by every disk and program that names it. One layer's: the live map
 *            as it was, in memory until it is *baked* into a table. Merged: a table of many layers'
 *            extents.
 *
 * Files in the store's folder `maps`:
 *
 *   ID.map      the table: a sorted array of extents in pages of 4 KiB, each with its CRC32C, a
 *               list of layers, an index of pages. Never changed, only replaced by rename
 *   ID.<n>.log  the log, from number n on that the table names (0 without a table). *Folding*
 *               begins a new log, writes a table of what the old ones hold, and removes them
 *   *.new       not finished; locked while somebody writes it
 *
 * So a map is found from its ID alone, whatever step it is in. Tables are read page by page: a page
 * is verified when it is read, kept in a bounded cache in memory, and never mapped, so damage,
 * truncation or an I/O error of the source is an error of one lookup, and a hot lookup makes no
 * system call.
 *
 * Ideas: logs and immutable sorted tables after the log-structured merge tree (O'Neil et al., 1996)
 * and Bigtable's SSTables; the order "take, sync data, then make exactly that durable" after soft
 * updates.
 *
 * Layers are named by disk ID. All functions: any thread unless they say otherwise.
 */
#ifndef VD_MAP_H
#define VD_MAP_H

#include "vd_base.h"
#include "vd_id.h"
#include "vd_meta.h"

#define VD_VIEW_MAPS 3u                /* frozen maps that a lookup may have to ask */
#define VD_MAP_BLOCKS_MAX (1ull << 50) /* block numbers and counts are below this */

struct vd_maps;     /* the folder, and what of it is in memory; one a program and store */
struct vd_map;      /* a frozen map; reference-counted, one a map ID */
struct vd_live_map; /* the map of a live layer; one owner */

/* Opens the store's folder `maps`; whoever writes the first file makes it, its absence is no error.
 * PAGE_CACHE_BYTES bounds the pages of tables kept in memory (0: 16 MiB). S is borrowed. 0, -errno.
 * */
int vd_maps_open(struct vd_meta_store *s, size_t page_cache_bytes,
                 struct vd_maps **ret_maps) VD_WARN_UNUSED;
/* No map may be in use. NULL is allowed. */
void vd_maps_close(struct vd_maps *maps);

/* ---- the live map ---- */

enum vd_block_state {
    VD_BLOCK_BELOW = 0, /* not this layer's: ask the maps below */
    VD_BLOCK_OWN = 1,   /* in this layer's file */
    VD_BLOCK_ZERO = 2,  /* reads as zeroes, whatever any file holds */
};

/* Which records of a log to believe. */
enum vd_map_trust {
    VD_MAP_TRUST_ALL,    /* nobody's power was cut since they were written */
    VD_MAP_TRUST_MARKED, /* only those that a mark vouches for */
};

/* Makes the files of a new, empty live map ID of the layer LAYER, of a disk of SIZE_BYTES; durable
 * when it returns. 0, -EEXIST, -EROFS, -ENOSPC, -errno. */
int vd_live_map_make(struct vd_maps *maps, const struct vd_id *id, const struct vd_id *layer,
                     uint64_t size_bytes) VD_WARN_UNUSED;

/*
 * Reads the live map ID into memory. Nothing is written, and records may come only after
 * vd_live_map_begin. TRUST decides where records behind the last mark count. 0; -ENOENT; -EUCLEAN:
 * RET_WHY names file and cause; -errno. Blocks.
 */
int vd_live_map_open(struct vd_maps *maps, const struct vd_id *id, enum vd_map_trust trust,
                     struct vd_live_map **ret_lm, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/*
 * Makes the map ready to be changed: opens the log for appending. Where logs hold records behind
 * their last mark (a writer died), everything that was believed at the open is made durable first
 * by a fold, so that what was forgotten stays forgotten: the caller has synced the data of the
 * layer before, and records that this boot now writes to the disk only after it. By the disk's only
 * owner. 0; -ESTALE: somebody has written to the map since it was opened (close it and open it
 * again); -errno (then it is not ready, and may be tried again). Blocks.
 */
int vd_live_map_begin(struct vd_live_map *lm) VD_WARN_UNUSED;

/* Frees memory, closes files; durable is what was marked. Nobody may be using it. NULL is allowed.
 * */
void vd_live_map_close(struct vd_live_map *lm);

const struct vd_id *vd_live_map_id(const struct vd_live_map *lm);
const struct vd_id *vd_live_map_layer(const struct vd_live_map *lm);
uint64_t vd_live_map_size(const struct vd_live_map *lm); /* of the disk, bytes; as last recorded */
/* True if it holds no extent at all. */
bool vd_live_map_empty(const struct vd_live_map *lm);

/* The state of block FIRST; RET_RUN (at most NBLOCKS > 0) says how many blocks from it on have the
 * same one. Takes no lock, makes no system call. A change made before the call is seen. FIRST +
 * NBLOCKS is at most VD_MAP_BLOCKS_MAX. */
enum vd_block_state vd_live_map_get(const struct vd_live_map *lm, uint64_t first, uint64_t nblocks,
                                    uint64_t *ret_run);

/* Records that NBLOCKS from FIRST on are now STATE (OWN or ZERO): appends to the log (unsynced),
 * then changes the table. For OWN the data have been written (not synced) before. Changes of the
 * same blocks are kept apart by the caller. 0; -ENOMEM, -ENOSPC, -EDQUOT (nothing changed, it may
 * be tried again); -errno of the log (then nothing changed, and every later change fails with -EIO:
 * what a failed append left in the log is not known); -EROFS: it is frozen. */
int vd_live_map_set(struct vd_live_map *lm, uint64_t first, uint64_t nblocks,
                    enum vd_block_state state) VD_WARN_UNUSED;
/* Records a new size of the disk. */
int vd_live_map_set_size(struct vd_live_map *lm, uint64_t size_bytes) VD_WARN_UNUSED;

/*
 * A flush: pending = vd_live_map_pending(lm); fdatasync(data); vd_live_map_mark(lm, pending). The
 * mark covers the records that were there at the first call and no later ones; it returns at once
 * where an earlier mark covers them. Marks of several threads are grouped: who comes while one is
 * being written shares the next. 0; -ENOSPC, -EDQUOT (no space for the mark itself: it may be tried
 * again); -errno of the log: nothing more can be made durable, every later mark and change fails
 * (-EIO). Blocks for the device.
 */
uint64_t vd_live_map_pending(const struct vd_live_map *lm);
int vd_live_map_mark(struct vd_live_map *lm, uint64_t pending) VD_WARN_UNUSED;

/* Is the log long enough that a fold pays? (records since the last fold: a quarter of the extents,
 * at least 64 Ki, at most 256 Ki) */
bool vd_live_map_wants_fold(const struct vd_live_map *lm);
/* Folds: changes, flushes and lookups go on meanwhile, and wait at most for one sync. SYNC_DATA
 * (with USER; 0 or -errno) must make the layer's data durable. One fold at a time, and none while
 * it is frozen (the caller sees to it). 0, -errno (the map goes on with its logs). Blocks long. */
int vd_live_map_fold(struct vd_live_map *lm, int (*sync_data)(void *user),
                     void *user) VD_WARN_UNUSED;

/* Every extent in order, zero extents too; changes meanwhile may or may not be seen. A non-zero
 * return ends the walk and is returned. */
int vd_live_map_each(const struct vd_live_map *lm,
                     int (*fn)(void *user, uint64_t first, uint64_t nblocks,
                               enum vd_block_state state),
                     void *user);

/*
 * The layer has been frozen (every record marked, no change, mark or fold under way or to come):
 * hands out the same table as a frozen map under the same ID, sharing the memory. O(1) in the
 * number of extents, no I/O. LM takes no more changes, but answers lookups of those who still have
 * it until vd_live_map_close, which then leaves the files to the frozen map. 0; -ENOMEM, -EBUSY:
 * something is not marked (LM is as it was).
 */
int vd_live_map_freeze(struct vd_live_map *lm, struct vd_map **ret_map) VD_WARN_UNUSED;

/* Attributes of the log that was read last, of a map that was opened and not begun: as long as they
 * are the same nobody has changed the map. 0; -ESTALE: there is a later log; -ENOENT, -errno. */
int vd_live_map_stat(const struct vd_live_map *lm, struct stat *ret_st) VD_WARN_UNUSED;

/* ---- frozen maps ---- */

#define VD_MAP_NONE UINT32_MAX        /* the map does not know the block */
#define VD_MAP_ZERO (UINT32_MAX - 1u) /* the block is zero */

/* The frozen map ID: a new reference. From memory where somebody has it already. Opening reads the
 * head of a table (its layers, its index of pages) or, of one that is not baked, the whole log. 0;
 * -ENOENT; -EUCLEAN with RET_WHY; -errno. Blocks. */
int vd_map_get(struct vd_maps *maps, const struct vd_id *id, struct vd_map **ret_map,
               char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
struct vd_map *vd_map_ref(struct vd_map *m);
void vd_map_unref(struct vd_map *m); /* NULL is allowed */

const struct vd_id *vd_map_id(const struct vd_map *m);
uint32_t vd_map_nlayers(const struct vd_map *m);
const struct vd_id *vd_map_layer(const struct vd_map *m, uint32_t i); /* nearest (newest) first */
uint64_t vd_map_nextents(const struct vd_map *m); /* of an unbaked one an estimate */
bool vd_map_is_baked(const struct vd_map *m);

/*
 * Who owns block FIRST, in RET_LAYER: a number for vd_map_layer, VD_MAP_ZERO or VD_MAP_NONE;
 * RET_RUN (at most NBLOCKS > 0) says for how many blocks from it on the answer is the same (it may
 * be fewer than that: ask again). FIRST + NBLOCKS is at most VD_MAP_BLOCKS_MAX. 0; -EAGAIN: a page
 * would have to be read and MAY_BLOCK is false; -EUCLEAN: the page is damaged (logged once a map);
 * -errno. Takes no lock where the page is in memory. Needs 6 KiB of stack.
 */
int vd_map_find(struct vd_map *m, uint64_t first, uint64_t nblocks, bool may_block,
                uint32_t *ret_layer, uint64_t *ret_run) VD_WARN_UNUSED;

/* Every extent in order, a long one perhaps in pieces; LAYER as above, never NONE. Reads the table
 * past the page cache. A non-zero return ends the walk and is returned. -EUCLEAN (logged once a
 * map), -errno. */
int vd_map_each(struct vd_map *m,
                int (*fn)(void *user, uint64_t first, uint64_t nblocks, uint32_t layer),
                void *user) VD_WARN_UNUSED;

/* Writes the table of a map that is not baked, and removes its logs; the map stays the same to
 * those who use it, and in their memory, until they let go: vd_map_get from now on opens the table.
 * No-op where it is baked. 0, -errno. Blocks long. */
int vd_map_bake(struct vd_map *m) VD_WARN_UNUSED;

/* Makes the frozen map ID in which LAYER owns blocks [0, NBLOCKS): of a plain disk. Durable. 0,
 * -EEXIST, -errno. */
int vd_map_make_whole(struct vd_maps *maps, const struct vd_id *id, const struct vd_id *layer,
                      uint64_t nblocks) VD_WARN_UNUSED;

/*
 * Makes the frozen map ID that answers as MAPS[0..N) asked in order do; its layers are theirs in
 * order. Blocks at or past NBLOCKS are left out (they are past the end of every disk that will
 * ask). Reads and writes sequentially; twice where layers may be left out. KEEP_LAYER (NULL: all)
 * says of a layer whether it stays in the list although no extent of the result names it; it is
 * asked of every layer before the merge, in any case once. PROGRESS (may be NULL) is called now and
 * then with extents done and in all (an estimate), and may sleep to limit the rate; a non-zero
 * return ends the merge and is returned. What is cut leaves a file that vd_maps_each removes.
 * Durable when it returns 0. -EEXIST; -EUCLEAN with RET_WHY; -errno.
 */
struct vd_map_merge {
    struct vd_map *const *maps;
    unsigned nmaps;
    uint64_t nblocks;
    bool (*keep_layer)(void *user, const struct vd_id *layer);
    int (*progress)(void *user, uint64_t done, uint64_t total);
    void *user;
};
int vd_maps_merge(struct vd_maps *maps, const struct vd_map_merge *merge, const struct vd_id *id,
                  char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* Calls FN for each map that has a file, in no order; it may remove maps. With REMOVE_LEFTOVERS
 * what is left over goes first: files nobody finishes, logs that a table made needless. A non-zero
 * return ends the walk and is returned. */
int vd_maps_each(struct vd_maps *maps, bool remove_leftovers,
                 int (*fn)(void *user, const struct vd_id *id), void *user) VD_WARN_UNUSED;
/* Moves a map's files to the store's trash and deletes them. 0, also where there are none; -EBUSY:
 * in use in this program; -errno. */
int vd_maps_remove(struct vd_maps *maps, const struct vd_id *id) VD_WARN_UNUSED;

/* Reads everything of map ID (every page, every record) and calls REPORT with a sentence for what
 * is wrong; a non-zero return ends it and is returned. Its owner may be using it. The number of
 * sentences; -ENOENT; -errno. */
int vd_maps_verify(struct vd_maps *maps, const struct vd_id *id,
                   int (*report)(void *user, const char *what), void *user) VD_WARN_UNUSED;

#endif
