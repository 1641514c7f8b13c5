// SPDX-License-Identifier: Apache-2.0
/* From a map's files into memory, and from there into a table. */
#ifndef VD__MAP_LOAD_H
#define VD__MAP_LOAD_H

#include "map.h"
#include "map_log.h"

/* What was found of a map that is not frozen into a table of its own. */
struct vd__loaded {
    struct vd__bits *bits;
    struct vd_id layer;
    uint64_t size_bytes;
    uint64_t nextents;            /* of the table */
    uint64_t nrecords;            /* of the logs, marks too */
    uint64_t first_log, last_log; /* first: that the table names */
    bool clean;                   /* the last log can be gone on with */
    struct vd__maplog_scan last;  /* of the last log */
};
void vd__loaded_clear(struct vd__loaded *l);

/* Opens the table. 0, -ENOENT, -EUCLEAN with RET_WHY, -errno. */
int vd__map_open_table(struct vd_maps *maps, const struct vd_id *id, struct vd__maptab **ret_t,
                       char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/*
 * Reads the table (T, or NULL: there is none) and the logs up to number UPTO (UINT64_MAX: all).
 * Logs are believed by TRUST; one that an older one without its END stands before has no marks, and
 * is believed only with VD_MAP_TRUST_ALL. 0; -ENOENT: there is neither table nor log; -EUCLEAN with
 * RET_WHY; -errno.
 */
int vd__map_load(struct vd_maps *maps, const struct vd_id *id, const struct vd__maptab *t,
                 enum vd_map_trust trust, uint64_t upto, struct vd__loaded *ret_l,
                 char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* Writes BITS as ID's table, durable, in place of the one there is. RET_NEXTENTS may be NULL. */
int vd__map_write_table(struct vd_maps *maps, const struct vd__maptab_head *head,
                        const struct vd_id *layer, const struct vd__bits *bits,
                        uint64_t *ret_nextents) VD_WARN_UNUSED;
/* Removes logs FIRST to LAST; what cannot be removed is left for a sweep. */
void vd__map_unlink_logs(struct vd_maps *maps, const struct vd_id *id, uint64_t first,
                         uint64_t last);

/* What it means that there is neither table nor first log: -ENOENT; -EUCLEAN with WHY where there
 * is a later log; -errno. */
int vd__map_missing(struct vd_maps *maps, const struct vd_id *id,
                    char why[VD_META_WHY]) VD_WARN_UNUSED;

/* Is T (NULL: none) still what has the table's name? */
bool vd__map_still_named(struct vd_maps *maps, const struct vd_id *id, const struct vd__maptab *t);

/*
 * Reads ID, whatever step it is in: RET_T is its table where that is frozen, else RET_T is NULL and
 * RET_L holds what its table and logs say. Another program may be baking it meanwhile. 0, -ENOENT,
 * -EUCLEAN with RET_WHY, -errno.
 */
int vd__map_load_any(struct vd_maps *maps, const struct vd_id *id, enum vd_map_trust trust,
                     struct vd__maptab **ret_t, struct vd__loaded *ret_l,
                     char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

#endif
