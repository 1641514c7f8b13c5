// SPDX-License-Identifier: Apache-2.0
/*
 * What the files map_*.c share: the folder, temporary files, what of the folder is in memory.
 *
 * Locks: vd_maps.mu is taken alone, but for vd_map.bake_mu before it; the live map's are in
 * map_live.h.
 */
#ifndef VD__MAP_H
#define VD__MAP_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "map_bits.h"
#include "map_pages.h"
#include "map_table.h"
#include "vd_list.h"

#define VD__MAPS_FOLDER "maps"
#define VD__MAPS_BUCKETS 256u
#define VD__MAP_NAME 96 /* a file's name in the folder */

struct vd_maps {
    struct vd_meta_store *store;
    char path[PATH_MAX]; /* for messages */
    pthread_mutex_t mu;
    atomic_int fd;                            /* -1: no folder yet; set once, lock: mu */
    uint64_t last_no;                         /* lock: mu */
    struct vd_list buckets[VD__MAPS_BUCKETS]; /* of vd_map.link; lock: mu */
    struct vd_list live;                      /* of vd_live_map.link; lock: mu */
    struct vd__pages *pages;
};

/*
 * A frozen map answers from a table, or, while it is not baked, from bits. Baking makes no
 * difference to it: who has it goes on with its bits, and whoever asks for the ID next gets a new
 * struct.
 */
struct vd_map {
    struct vd_maps *maps;
    struct vd_list link; /* lock: maps->mu */
    bool outdated;       /* not for vd_map_get; lock: maps->mu */
    atomic_uint refs;    /* reaches 0 under maps->mu only */
    struct vd_id id;
    uint64_t no;              /* in the cache of pages */
    struct vd__maptab *table; /* or NULL; constant */
    struct vd__bits *bits;    /* else these; constant */
    struct vd_id layer;       /* of bits */
    uint64_t size_bytes, last_log, first_log, nextents;
    pthread_mutex_t bake_mu;
    atomic_bool baked;
    atomic_flag complained; /* of damage, in the log */
};

/* ---- the folder (map_files.c) ---- */

/* The folder's descriptor, made where it is missing with MAKE. -ENOENT, -errno. Any thread. */
int vd__maps_fd(struct vd_maps *maps, bool make) VD_WARN_UNUSED;

enum vd__map_file { VD__MAP_TABLE, VD__MAP_LOG, VD__MAP_TEMP };
void vd__map_table_name(const struct vd_id *id, char ret_name[VD__MAP_NAME]);
void vd__map_log_name(const struct vd_id *id, uint64_t number, char ret_name[VD__MAP_NAME]);
/* What a file of this name is. 0, -EINVAL: not ours. */
int vd__map_name_parse(const char *name, enum vd__map_file *ret_kind, struct vd_id *ret_id,
                       uint64_t *ret_log);
/* Opens a regular file of the folder. 0, -ENOENT, -EINVAL, -errno. */
int vd__map_open_file(struct vd_maps *maps, const char *name, int flags,
                      int *ret_fd) VD_WARN_UNUSED;
/* Has ID a table or a first log? -EEXIST: yes; 0, -errno. Makes the folder. */
int vd__map_taken(struct vd_maps *maps, const struct vd_id *id) VD_WARN_UNUSED;
/* "PATH/NAME: TEXT" into WHY; TEXT may be in WHY. Returns -EUCLEAN. */
int vd__map_why(const struct vd_maps *maps, const char *name, const char *text,
                char why[VD_META_WHY]);
/* Calls FN for each file of ours in the folder. */
int vd__maps_each_file(struct vd_maps *maps,
                       int (*fn)(void *user, const char *name, enum vd__map_file kind,
                                 const struct vd_id *id, uint64_t log),
                       void *user) VD_WARN_UNUSED;

/* A file under a temporary name, NAME.<random>.new, locked against those who sweep. */
struct vd__temp {
    int dirfd, fd;
    char name[VD__MAP_NAME]; /* "": it is named or gone */
};
int vd__temp_make(struct vd_maps *maps, const char *name, struct vd__temp *ret_t) VD_WARN_UNUSED;
/* Makes it durable, then NAME, durably. FD stays open. 0, -errno (after a failed sync of the folder
 * it may have the name). */
int vd__temp_name(struct vd__temp *t, const char *name) VD_WARN_UNUSED;
/* Closes it; removes it where it has no name. */
void vd__temp_drop(struct vd__temp *t);
/* Removes NAME if nobody is writing it. */
int vd__temp_sweep(int dirfd, const char *name) VD_WARN_UNUSED;

/* ---- frozen maps in memory (map_frozen.c) ---- */

/* A struct with one reference that nobody finds yet, and neither table nor bits. NULL: no memory.
 * */
struct vd_map *vd__map_new(struct vd_maps *maps, const struct vd_id *id);
/* Lets vd_map_get find it; one of the same ID that is there already becomes outdated. */
void vd__map_publish(struct vd_map *m);
/* Is the map of this ID in use in this program, frozen or live? */
bool vd__map_in_use(struct vd_maps *maps, const struct vd_id *id);

#endif
