// SPDX-License-Identifier: Apache-2.0
/*
 * What the tests of maps share: a store with maps, and a model to compare with.
 *
 * The model cuts the block numbers, up to very high ones, into cells of very different length, some
 * of which end where the tree of a live map has an edge; changes are of whole cells. The try_
 * functions contain no ck_*, for forked processes.
 */
#ifndef MAP_TEST_H
#define MAP_TEST_H

#include "meta_test.h"
#include "vd_map.h"

#define CELLS 600u

struct cells {
    uint64_t edge[CELLS + 1];
};
struct model {
    const struct cells *c;
    uint8_t state[CELLS]; /* enum vd_block_state */
    uint64_t size_bytes;
};

struct mplace {
    struct place p;
    struct vd_maps *maps;
};

void mplace_make(struct mplace *p);
void mplace_drop(struct mplace *p);
/* Closes and opens the maps, as another program would see them. */
void mplace_again(struct mplace *p);
/* Small: all cells within the first few thousand blocks. */
void cells_make(struct cells *c, struct rng *r, bool small);

struct vd_id map_id(uint64_t n);
int sync_nothing(void *user);

struct vd_live_map *must_open_live(struct mplace *p, const struct vd_id *id,
                                   enum vd_map_trust trust);
void must_make_live(struct mplace *p, const struct vd_id *id, const struct vd_id *layer,
                    uint64_t size_bytes);
/* Sets a random run of cells, in map and model. 0 or the error. */
int try_change(struct vd_live_map *lm, struct model *m, struct rng *r);
/* A flush. */
int try_flush(struct vd_live_map *lm);

/* NULL, or what differs. */
const char *differs(const struct vd_live_map *lm, const struct model *m);
void check_live(const struct vd_live_map *lm, const struct model *m);
/* WANT[i] is what vd_map_find must say of cell i, as a number in LAYERS, VD_MAP_ZERO or
 * VD_MAP_NONE. */
void check_frozen(struct vd_map *map, const struct cells *c, const uint32_t *want,
                  const struct vd_id *layers);

/* Path of a file in the folder of maps. */
void map_path(const struct mplace *p, const struct vd_id *id, const char *suffix, char ret[256]);

#endif
