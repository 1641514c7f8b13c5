// SPDX-License-Identifier: Apache-2.0
/* What a sweep knows: who refers to what (sweep_mark.c), and what is to go (sweep.c). One thread's.
 */
#ifndef VD__META_SWEEP_H
#define VD__META_SWEEP_H

#include "idset.h"
#include "store.h"
#include "vd_view.h"

struct vd__ids {
    struct vd_id *p;
    size_t n, room;
};
int vd__ids_add(struct vd__ids *l, const struct vd_id *id) VD_WARN_UNUSED;

struct vd__sweep {
    struct vd_meta_store *s;
    struct vd_maps *maps;
    char *why;
    const struct vd_id *except; /* this disk is not looked at; or NULL */

    /* found by vd__sweep_mark */
    struct vd__idset disks;              /* that have metadata */
    struct vd__idset layers;             /* referred to */
    struct vd__idset frozen_layers;      /* of those, the ones that a frozen map or a snapshot names */
    struct vd__idset live, frozen;       /* maps referred to */
    struct vd__ids frozen_ids, named_by; /* the same, and the first disk that names each */
    struct vd__idset second_names;       /* layers: the files of clones that have their names */
    struct vd__ids unborn;               /* disks: clones whose file never got its name */
};

/* Reads the metadata of every disk and every map that one names. 0; -EUCLEAN with why where one
 * cannot be read, or is not there; -errno. */
int vd__sweep_mark(struct vd__sweep *w) VD_WARN_UNUSED;
/* Counts the layers of the map ID in. 0, -errno. */
int vd__sweep_mark_map(struct vd__sweep *w, const struct vd_id *id) VD_WARN_UNUSED;
/* Finishes removals that were cut (gone.c). 0 or -errno. */
int vd__sweep_gone(struct vd_meta_store *s) VD_WARN_UNUSED;
void vd__sweep_free(struct vd__sweep *w);

#endif
