// SPDX-License-Identifier: Apache-2.0
/*
 * Disks with layers: their records, the files of layers, and what refers to what.
 *
 * A disk begins plain: its file, at the path where the user put it, holds all its blocks, and it
 * has no *view* record. With its first snapshot, or as a clone, it gets a view: a live map
 * (vd_map.h) of the layer that is written and up to VD_VIEW_MAPS frozen maps below it. The disk's
 * file stays where it is and what it is for others: it bears the disk's name, its mode and owner,
 * clients' locks and the owner's lock. Its bytes are the disk's first layer:
 *
 *   home FILE     the live layer is the disk's own file (a clone before its first snapshot)
 *   home LAYERS   the file's bytes are frozen; the live layer is layers/<disk ID>
 *
 *   SOURCE/.vdiskfs/layers/<disk ID>         a layer's data, sparse, each block at its own offset.
 *                                            Of a disk's file that was frozen it is a second hard
 *                                            link, so that nothing done to the name touches the
 *                                            layer
 *   SOURCE/.vdiskfs/layers/<disk ID>.layer   a frozen layer's record: what its file must look like
 *   STORE/refs                               held shared while a reference to a map or layer is
 *                                            being made, exclusive while what nothing refers to is
 *                                            removed
 *
 * The folder `layers` is always in the source, on one file system with the disks, also where the
 * store is elsewhere.
 *
 * The disk's file of a disk with layers bears the attribute user.vdiskfs.layered beside
 * user.vdiskfs: "1:" and the live layer's disk ID (home LAYERS), or "1:own" (home FILE). It tells
 * those who only stat the file where its size and times are, and it keeps a file whose metadata is
 * gone, or that was copied with its attributes, from being served as a plain disk: vd_meta_bind
 * refuses it, by name, with what to do. A source without extended attributes has no disks with
 * layers.
 */
#ifndef VD_VIEW_H
#define VD_VIEW_H

#include "vd_map.h"
#include "vd_meta.h"

#define VD_META_XATTR_LAYERED "user.vdiskfs.layered"
#define VD_SNAPSHOT_NAME_MAX 255

enum vd_home { VD_HOME_FILE = 1, VD_HOME_LAYERS = 2 };

/* Database `view`, one record; none in a plain disk. */
struct vd_view_record {
    enum vd_home home;
    bool moving;       /* the live layer's file is about to take the place of the disk's file */
    uint64_t file_ino; /* inode of the disk's file */
    struct vd_id live_map;
    uint32_t nmaps; /* frozen maps, nearest first */
    struct vd_id maps[VD_VIEW_MAPS];
    struct vd_id parent; /* UUID of the disk it was cloned from; zero: none */
    struct vd_id origin; /* disk ID of the newest layer of the parent's that it began with */
};

/* Database `snapshot`, keyed by name. */
struct vd_snapshot_record {
    char name[VD_SNAPSHOT_NAME_MAX + 1];
    struct vd_id disk_id; /* of the layer that was frozen */
    uint64_t created_s, size_bytes;
    uint32_t nmaps;
    struct vd_id maps[VD_VIEW_MAPS];
};

/* As the records of vd_meta.h. put: -EINVAL too for more maps than VD_VIEW_MAPS, a zero ID among
 * those that a record has, an unknown home. A name is 1 to 255 bytes without '/' and control
 * characters (-EINVAL). del: -ENOENT too. */
int vd_meta_get_view(struct vd_meta *m, struct vd_view_record *ret_r) VD_WARN_UNUSED;
int vd_meta_put_view(struct vd_meta *m, const struct vd_view_record *r) VD_WARN_UNUSED;
int vd_meta_del_view(struct vd_meta *m) VD_WARN_UNUSED;
int vd_meta_get_snapshot(struct vd_meta *m, const char *name,
                         struct vd_snapshot_record *ret_r) VD_WARN_UNUSED;
int vd_meta_put_snapshot(struct vd_meta *m, const struct vd_snapshot_record *r) VD_WARN_UNUSED;
int vd_meta_del_snapshot(struct vd_meta *m, const char *name) VD_WARN_UNUSED;
/* Oldest first (created_s, then name). FN gets copies made before its first call, so it may change
 * the session's records. A non-zero return ends the walk and is returned. */
int vd_meta_each_snapshot(struct vd_meta *m,
                          int (*fn)(void *user, const struct vd_snapshot_record *r),
                          void *user) VD_WARN_UNUSED;

/* ---- the attribute of disks with layers; PATH_FD may be O_PATH ---- */

/* As LIVE: the file is no disk's any more (another took its place, or it is about to be adopted), but
 * must not be served as a plain disk either. vd_meta_bind refuses it like any other that is marked
 * and has no metadata; it does not keep vd_meta_sweep from removing what nobody refers to. */
extern const struct vd_id vd_layered_moved;

/* LIVE NULL: home FILE. Not durable until the file is synced. 0, -ENOTSUP where the file system
 * takes none, -errno. */
int vd_layered_mark(int path_fd, const struct vd_id *live) VD_WARN_UNUSED;
int vd_layered_unmark(int path_fd) VD_WARN_UNUSED; /* 0 where there is none */
/* 0 with RET_LIVE (zero: home FILE); -ENODATA: none; -EUCLEAN: not of our making; -errno. One
 * system call. */
int vd_layered_get(int path_fd, struct vd_id *ret_live) VD_WARN_UNUSED;

/* ---- files of layers ---- */

/* What a frozen layer's file must look like, and the token by which a cache knows whether it saw
 * every write of it. */
struct vd_layer_file {
    struct vd_id disk_id;
    struct vd_id token;
    uint64_t size_bytes;
    int64_t mtime_ns;
    uint64_t created_s;
    struct vd_id owner; /* UUID of the disk that froze it */
};

/* Makes layers/<ID>, sparse, SIZE_BYTES long, mode 0600, durable with its name, and opens it for
 * reading and writing. 0, -EEXIST, -ENOSPC, -EROFS, -errno. */
int vd_layer_make(struct vd_meta_store *s, const struct vd_id *id, uint64_t size_bytes,
                  int *ret_fd) VD_WARN_UNUSED;
/* Opens it. 0, -ENOENT, -errno; a symbolic link or a file that is not regular is -ELOOP, -EINVAL.
 */
int vd_layer_open(struct vd_meta_store *s, const struct vd_id *id, bool write,
                  int *ret_fd) VD_WARN_UNUSED;
int vd_layer_stat(struct vd_meta_store *s, const struct vd_id *id,
                  struct stat *ret_st) VD_WARN_UNUSED;
/* Makes layers/<ID> a second name of the file FD; durable. 0 also where it is that already; -EXDEV:
 * other file system; -EEXIST: another file; -EPERM, -errno. */
int vd_layer_link(struct vd_meta_store *s, const struct vd_id *id, int fd) VD_WARN_UNUSED;
/* ".vdiskfs/layers/<ID>", relative to the source, for `info` and messages. */
void vd_layer_rel(const struct vd_id *id, char *ret_path, size_t len);

/* Writes the record of a frozen layer, durable; replaces one that is there. */
int vd_layer_put(struct vd_meta_store *s, const struct vd_layer_file *l) VD_WARN_UNUSED;
/* 0, -ENOENT, -EUCLEAN (RET_WHY), -errno. */
int vd_layer_get(struct vd_meta_store *s, const struct vd_id *id, struct vd_layer_file *ret_l,
                 char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Are the layer's file and record there, and is the file as the record says (size and mtime)? RET_L
 * (may be NULL) is the record. 0; -EUCLEAN: RET_WHY names the file, what is wrong, and what to do
 * (`vdisk check PATH --repair` for one that changed; restore it from a backup where it is missing);
 * -errno. */
int vd_layer_verify(struct vd_meta_store *s, const struct vd_id *id, struct vd_layer_file *ret_l,
                    char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Removes file and record; 0 also where there are none. Open descriptors go on. */
int vd_layer_remove(struct vd_meta_store *s, const struct vd_id *id) VD_WARN_UNUSED;
/* Every ID in the folder, each once, in no order; FN may remove it. A non-zero return ends the walk
 * and is returned. */
int vd_layer_each(struct vd_meta_store *s, int (*fn)(void *user, const struct vd_id *id),
                  void *user) VD_WARN_UNUSED;

/* ---- what refers to what ---- */

/* Takes STORE/refs. To let go close RET_FD. 0, -ETIMEDOUT after 30 s, -errno. Taken before any
 * disk's lock. */
int vd_refs_lock(struct vd_meta_store *s, bool exclusive, int *ret_fd) VD_WARN_UNUSED;

/* The list of disks that have layers, beside their metadata: as long as a disk is on it and has none, vd_meta_sweep
 * does nothing. put: durable, 0 also if it is there. vd_meta_remove drops what it removes. */
int vd_known_put(struct vd_meta_store *s, const struct vd_id *uuid) VD_WARN_UNUSED;
int vd_known_drop(struct vd_meta_store *s, const struct vd_id *uuid) VD_WARN_UNUSED;
int vd_known_each(struct vd_meta_store *s, int (*fn)(void *user, const struct vd_id *uuid),
                  void *user) VD_WARN_UNUSED;

/* Before the last name of the disk's file PATH_FD goes, and after its metadata went: what is cut in between is finished by the next sweep. 0 or -errno. */
int vd_gone_put(struct vd_meta_store *s, const struct vd_id *uuid, int path_fd) VD_WARN_UNUSED;
int vd_gone_drop(struct vd_meta_store *s, const struct vd_id *uuid) VD_WARN_UNUSED;

/* Does a frozen map or a snapshot of any disk but EXCEPT (of which the caller may hold a session) name the layer ID? 1, 0; -EUCLEAN with RET_WHY where it cannot be told;
 * -errno. Reads the metadata of every disk. */
int vd_layer_is_frozen(struct vd_meta_store *s, struct vd_maps *maps, const struct vd_id *id,
                       const struct vd_id *except, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Removes the record, not the file: of a layer that was about to be frozen and is not. */
int vd_layer_unput(struct vd_meta_store *s, const struct vd_id *id) VD_WARN_UNUSED;

/* The file FD (readable, with the disk's attributes) was restored from a backup, and is the file of disk UUID from now on. The caller has made sure that
 * the file which the record names is gone. 0; -ENOENT, -EUCLEAN (RET_WHY), -errno. */
int vd_meta_rebind_view(struct vd_meta_store *s, const struct vd_id *uuid, int fd,
                        char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* Calls FN for each disk whose view names PARENT as its parent (its UUID and its record's path).
 * -EUCLEAN, RET_WHY naming it, where some disk's metadata cannot be read: who depends on what is
 * not known then. A non-zero return ends the walk and is returned. Blocks: one session a disk of
 * the store, none of them open while FN runs. */
int vd_meta_each_child(struct vd_meta_store *s, const struct vd_id *parent,
                       int (*fn)(void *user, const struct vd_id *uuid, const char *path),
                       void *user, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* The disk UUID for people, whose record says PATH: PATH if a file that bears the disk's name is there, else (it was
 * renamed since it was last opened) "disk UUID (last seen at PATH)". Cut to LEN; never fails. */
void vd_meta_disk_name(const struct vd_meta_store *s, const struct vd_id *uuid, const char *path,
                       char *ret_name, size_t len);

/*
 * Removes maps and layers that no readable metadata refers to, with left-overs of what was cut off:
 * half-made clones (a disk's metadata without a file that ever got its name), a born clone's second
 * name in layers/, temporary files, trash. Does nothing at all (-EUCLEAN, RET_WHY) where any disk's
 * metadata, or a map that one names, cannot be read, or where a layer's file has a name elsewhere
 * too and its attributes say it is the file of a disk whose metadata is missing. Takes refs exclusive: -EBUSY, at once, if somebody
 * holds it. REPORT (may be NULL) is told of each thing removed, or, with DRY_RUN, of each that
 * would be, as a path below the store or .vdiskfs; if it returns less than 0 the sweep ends with
 * that. Maps in use in this program stay, with the layers they name. The number of things removed,
 * or -errno. Blocks long.
 */
int vd_meta_sweep(struct vd_meta_store *s, struct vd_maps *maps, bool dry_run,
                  int (*report)(void *user, const char *what), void *user,
                  char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

#endif
