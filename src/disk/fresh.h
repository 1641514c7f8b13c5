// SPDX-License-Identifier: Apache-2.0
/* A new live layer, made beside the old one and put in its place: what snapshot and revert share. */
#ifndef VD_DISK_FRESH_H
#define VD_DISK_FRESH_H

#include "disk.h"

struct fresh {
    struct vd_id disk_id, map_id, token;
    struct live *live; /* refs 1; taken by the view */
    struct vd_cache_witness witness;
    struct vd_identity identity;
};

/* Makes file, map and, where the disk is owned exclusively, the cache's witness. With own_mu held. TIMES: the file gets this one's. */
int vd__fresh_make(struct vd_disk *d, uint64_t size_bytes, const struct stat *times,
                   struct fresh *ret_f);
/* Undoes it. */
void vd__fresh_drop(struct vd_disk *d, struct fresh *f);
/* Its records: the disk's live layer, and the view but for its maps. */
int vd__fresh_records(struct vd_disk *d, const struct fresh *f, struct vd_meta *m,
                      struct vd_view_record *view);
/* In memory, after the commit: V, made of f->live, is the disk's view. */
void vd__fresh_take(struct vd_disk *d, struct fresh *f, struct view *v);

#endif
