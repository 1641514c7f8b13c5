// SPDX-License-Identifier: Apache-2.0
/*
 * The disk: where filters, metadata, cache, ownership and backing meet. The FUSE side hands
 * requests in here and knows nothing of what lies below; every request passes one gate
 * (src/disk/gate.c), where its filters stand.
 *
 * Life: attach on the first open, detach after the last release (on a thread of the disk's own; an
 * open that comes meanwhile waits for it). One struct vd_disk an inode of the source.
 */
#ifndef VD_DISK_H
#define VD_DISK_H

#include <sys/stat.h>
#include <sys/types.h>

#include "vd_backing.h"
#include "vd_base.h"
#include "vd_cache.h"
#include "vd_filter.h"
#include "vd_id.h"
#include "vd_meta.h"
#include "vd_owner.h"

#define VD_DISK_MIN_BYTES (1u << 20) /* a smaller file is passed through */

struct vd_disks; /* all disks of a mount */
struct vd_disk;

enum vd_cache_mode { VD_CACHE_WRITETHROUGH, VD_CACHE_WRITEAROUND, VD_CACHE_OFF };

struct vd_disks_config {
    struct vd_meta_store *meta; /* NULL: none (read-only source): disks are served uncached */
    struct vd_cache *cache;     /* NULL with VD_CACHE_OFF */
    enum vd_cache_mode cache_mode;
    struct vd_coordinator *coordinator;
    struct vd_owner_self self;
    struct vd_lanes *lanes;
    struct vd_filters *filters; /* NULL: disks are served without */
    bool own_at_open; /* --own=open */
    bool read_only;   /* --read-only: nothing is ever owned exclusively */
    bool backing_direct;
};

/* All pointers in CONFIG are borrowed and must outlive the disks. 0, -ENOMEM. */
int vd_disks_new(const struct vd_disks_config *config, struct vd_disks **ret_disks) VD_WARN_UNUSED;

/* The mount is being torn down: who asks for a disk of ours is told to wait, not refused. Any
 * thread. */
void vd_disks_stopping(struct vd_disks *ds);

/* Detaches all that is left, waits for it. No request may be under way. NULL is allowed. */
void vd_disks_free(struct vd_disks *ds);

/* Is the regular file ST with path descriptor PATH_FD a disk (1 MiB or more, or it has been one)?
 */
bool vd_disks_is_disk(struct vd_disks *ds, int path_fd, const struct stat *st);
/* The same by the file alone, which says no of a small one that is attached and bears no attribute. */
bool vd_disk_file_is_one(int path_fd, const struct stat *st);
/* What is said of one that is none. */
#define VD_DISK_IS_NONE "it is not a disk: a regular file of 1 MiB or more"

/*
 * Opens the disk behind PATH_FD (O_PATH; borrowed), PATH below the source (a hint, for records and
 * messages): attaches it if this is the first open. WRITE: the open is for writing.
 * 0 and a reference; -EUCLEAN: refused, its metadata is damaged (logged once, with file and cause);
 * -ESTALE: another file has taken its place, the name is to be looked up again;
 * -EROFS for WRITE on a read-only mount; -EBUSY with own_at_open; -errno of the file. Blocks.
 */
int vd_disk_open(struct vd_disks *ds, int path_fd, const char *path, bool write,
                 struct vd_disk **ret_disk) VD_WARN_UNUSED;

/* A client opens the disk, after vd_disk_open, or closes it, in place of vd_disk_release: its filters are told. open: 0; -errno
 * with RET_WHY of a filter that refuses; -EIO: a required filter is missing or quarantined. It blocks, close does not. */
int vd_disk_client_open(struct vd_disk *d, bool write, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
void vd_disk_client_close(struct vd_disk *d, bool write);

/* Runs JOB on a thread that may wait: for vd_disk_open, where a worker must not. Jobs must have ended before
 * vd_disks_free. */
void vd_disks_run(struct vd_disks *ds, struct vd_job *job);

/* Gives the reference of one open back. Does not block: the last one starts the detach. */
void vd_disk_release(struct vd_disk *d);

/* PATH_FD's file lost its last name through this mount (unlink, rename over it): its metadata goes
 * to trash and its slots are dropped, at once or after the last release. Does not block for long.
 */
void vd_disks_gone(struct vd_disks *ds, int path_fd);

/*
 * Requests. DONE is called exactly once, on any thread, possibly before the call returns, with USER
 * and a count or -errno; for reads DATA holds the bytes, valid during DONE only. DONE must not
 * block for long. Write data are borrowed until the call returns. Requests of one disk are not
 * ordered among each other, but a request submitted after DONE of another sees its effect.
 *   errors: of the backing, or of a filter (-EIO where a required one is missing or quarantined); -EBUSY: a change of a disk that another mount owns (logged, naming host
 *   and pid); -EROFS; -EUCLEAN: the disk is refused; -EFBIG past 2^62.
 */
typedef void (*vd_disk_done)(void *user, ssize_t result, const void *data);
void vd_disk_read(struct vd_disk *d, uint64_t off, size_t len, vd_disk_done done, void *user);
void vd_disk_write(struct vd_disk *d, uint64_t off, const void *data, size_t len, vd_disk_done done,
                   void *user);
void vd_disk_flush(struct vd_disk *d, bool data_only, vd_disk_done done, void *user);
void vd_disk_zero(struct vd_disk *d, enum vd_zero_mode mode, uint64_t off, uint64_t len,
                  vd_disk_done done, void *user);
void vd_disk_truncate(struct vd_disk *d, uint64_t size, vd_disk_done done, void *user);

/* Attributes of a disk's file changed through this mount (chown, chmod, utimens, xattrs, link,
 * rename): the record must follow at the next clean detach. Any thread, does not block. */
void vd_disk_touched(struct vd_disk *d);

/* As if a write were about to come: owns the disk exclusively (a client locks byte 101, or
 * --own=open). 0, -EBUSY with RET_WHY naming the owner's host and pid, -errno. Blocks up to
 * seconds. */
int vd_disk_own(struct vd_disk *d, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* True while attributes of D may be cached by the kernel: this mount owns it exclusively. */
bool vd_disk_attr_stable(struct vd_disk *d);

/* ---- for the control socket ---- */

struct vd_disk_stats {
    uint64_t hits, misses, hit_bytes, miss_bytes, backing_reads, backing_read_bytes, coalesced,
        readahead_bytes, bypassed, writes, write_bytes, flushes, errors;
};
/* Since the mount began, earlier attachments included: of one attached disk; of the disk (st_dev, st_ino),
 * attached or not (-ENOENT: it never was); of all. */
void vd_disk_get_stats(struct vd_disk *d, struct vd_disk_stats *ret_stats);
int vd_disks_get_stats_of(struct vd_disks *ds, dev_t dev, ino_t ino,
                          struct vd_disk_stats *ret_stats) VD_WARN_UNUSED;
void vd_disks_get_stats(struct vd_disks *ds, struct vd_disk_stats *ret_stats);

struct vd_disk_info {
    struct vd_id uuid;    /* zero: served without metadata */
    struct vd_id disk_id; /* of the live layer; zero without metadata */
    uint64_t generation;  /* of the cache key in use */
    uint64_t size_bytes;
    char path[1024];
    unsigned opens;
    enum vd_owner_state owner_state;
    uint64_t epoch;
    bool caching;          /* reads ask the cache now */
    uint64_t cached_bytes; /* of the live layer */
    bool layered;
    uint32_t nlayers;
    struct vd_id parent; /* UUID; zero: none */
    /* background work on its maps; total 0: none */
    uint64_t merge_done, merge_total; /* extents */
};

/* Calls FN for each attached disk with a reference that is valid during FN. Blocks. */
int vd_disks_each(struct vd_disks *ds, int (*fn)(void *user, struct vd_disk *d), void *user);
/* The attached disk of (st_dev, st_ino): 0 and a reference (vd_disk_put), or -ENOENT. */
int vd_disks_find(struct vd_disks *ds, dev_t dev, ino_t ino,
                  struct vd_disk **ret_disk) VD_WARN_UNUSED;
int vd_disks_find_uuid(struct vd_disks *ds, const struct vd_id *uuid,
                       struct vd_disk **ret_disk) VD_WARN_UNUSED;
void vd_disk_put(struct vd_disk *d);

void vd_disk_get_info(struct vd_disk *d, struct vd_disk_info *ret_info);
/* Cached blocks, bit i: block first_block + i. All clear where the disk does not cache. */
void vd_disk_cached(struct vd_disk *d, uint64_t first_block, uint32_t nblocks, uint64_t *ret_bits);
/* Verifies the cached copy of a block against its checksum: 1 good, 0 bad, -ENODATA not cached. */
int vd_disk_cached_verify(struct vd_disk *d, uint64_t block);
/* Forgets what is cached of the disk. */
void vd_disk_cache_drop(struct vd_disk *d);

/* ---- layers: snapshots, clones ---- */

/*
 * All take the file PATH_FD (O_PATH; borrowed) at PATH below the source, attached or not, and block. Where they fail RET_WHY is a sentence
 * that says what is wrong and what to do (it does not repeat PATH). Common errors: -EBUSY: another mount owns the disk (host and pid), or a client has it open (where it must not), or others depend on it (who); -EUCLEAN: refused;
 * -EROFS; -ENOTSUP: the source takes no extended attributes, or has no hard links; -EMLINK: the file has several names; -EXDEV: it lies on another file system than .vdiskfs; -ENOSPC, -errno. Each is wholly done or
 * not at all, also when cut off.
 */

/* Freezes the disk as it is now under NAME (1 to 255 bytes, no '/', no control characters: -EINVAL; -EEXIST). Clients may go on: writes wait for a moment. */
int vd_disks_snapshot(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                      char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* The disk becomes what it was at snapshot NAME (-ENOENT); what was written since its newest snapshot is given up. No client may have it open. Snapshots stay. */
int vd_disks_revert(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                    char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
int vd_disks_snapshot_rm(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                         char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Makes the disk CHILD_PATH below SOURCE (a path; CHILD_DIR_FD its folder, CHILD_NAME its last part; -EEXIST) that begins as PATH is now, or was at SNAPSHOT (NULL: now; -ENOENT). Mode and owner as the parent's file. */
int vd_disks_clone(struct vd_disks *ds, int path_fd, const char *path, const char *snapshot,
                   int child_dir_fd, const char *child_name, const char *child_path,
                   char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Copies in what lies below; afterwards the disk has no layers and no parent. Clients may go on; then the last step (the disk's file becomes the image itself) is taken when the last one closes it. -EBUSY: it has snapshots. PROGRESS (may be
 * NULL) is called with bytes done and in all; a non-zero return ends it, and the next call goes on where it was. */
int vd_disks_flatten(struct vd_disks *ds, int path_fd, const char *path,
                     int (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                     char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* -EINVAL: smaller than it is, without SHRINK; -EBUSY: to shrink no client may have it open. */
int vd_disks_resize(struct vd_disks *ds, int path_fd, const char *path, uint64_t size_bytes,
                    bool shrink, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* May the last name of PATH_FD's file go? 0; -EBUSY: RET_WHY says which disks depend on it; -EUCLEAN: that cannot be told. Cheap for a disk without layers. */
int vd_disks_may_remove(struct vd_disks *ds, int path_fd, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Removes the disk DIR_FD/NAME (whose file is PATH_FD) and what only it needs. -EBUSY: others depend on it, or a client has it open; -EINVAL: the file is no disk. */
int vd_disks_remove(struct vd_disks *ds, int path_fd, const char *path, int dir_fd,
                    const char *name, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Forgets what is known of the file: its bytes as they are become a new plain disk. -EBUSY: a client has it open, or others depend on its bytes. Works where its metadata is damaged or missing. */
int vd_disks_adopt(struct vd_disks *ds, int path_fd, const char *path,
                   char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Removes what nothing refers to any more, now. Number of things removed, or -errno. */
int vd_disks_sweep(struct vd_disks *ds, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* The disk's file as a client should see it: size, blocks and times of one with layers are its live layer's. ST comes from the file itself; any file may come. Few system calls, does not block on metadata. */
void vd_disks_stat(struct vd_disks *ds, int path_fd, struct stat *st);
/* Times of a file: 1: it is a disk with layers, done; 0: it is not, the caller does it; -errno. */
int vd_disks_utimens(struct vd_disks *ds, int path_fd,
                     const struct timespec times[2]) VD_WARN_UNUSED;

/* lseek(2) SEEK_DATA, SEEK_HOLE of the disk, not of one layer's file: RESULT of DONE is the offset or -ENXIO, -errno. */
void vd_disk_seek(struct vd_disk *d, uint64_t off, int whence, vd_disk_done done, void *user);

/* Layers of an attached disk, newest (the live one) first; a plain disk has one. */
struct vd_disk_layer {
    struct vd_id disk_id;
    bool live;
    char path[128];     /* below the source; "" for the disk's own file */
    char snapshot[256]; /* its name in this disk, or "" */
};
int vd_disk_each_layer(struct vd_disk *d, int (*fn)(void *user, const struct vd_disk_layer *l),
                       void *user) VD_WARN_UNUSED;
/* Extents of [OFF_BYTES, +LEN_BYTES), in order, adjacent equal ones joined: OWNER as vd_resolve.h, DISK_ID zero where no layer holds it, DEPTH -1 then. Blocks. */
struct vd_disk_extent {
    uint64_t start_bytes, length_bytes;
    struct vd_id disk_id;
    int64_t depth;
    bool zero;
};
int vd_disk_each_extent(struct vd_disk *d, uint64_t off_bytes, uint64_t len_bytes,
                        int (*fn)(void *user, const struct vd_disk_extent *e),
                        void *user) VD_WARN_UNUSED;

/* ---- filters ---- */

/*
 * Attaches the filter NAME with CONFIG (KEY=VALUE, one a line, each ended by a newline), for good; clients go on, and wait for a moment. Owns
 * the disk. RET_WHY as of layers. -ENOENT: no such filter; -EINVAL: a wrong configuration; -EEXIST; -EBUSY: another mount owns the
 * disk; -ETIMEDOUT: a request does not end; -errno of the filter, which refused the disk. Blocks.
 */
int vd_disks_filter_attach(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                           const char *config, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Detaches it, and removes its private metadata. -ENOENT: the disk has none of that name. */
int vd_disks_filter_detach(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                           char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* The filters of an attached disk, from the top. STATUS: each is asked for it. Blocks. */
int vd_disk_each_filter(struct vd_disk *d, bool status,
                        int (*fn)(void *user, const struct vd_filter_report *r), void *user);

/* Another mount asks us to give up the disk UUID: a shared holder does, at once (0, also if we hold
 * nothing); an exclusive one refuses: -EBUSY, RET_WHY names host and pid. */
int vd_disks_release_request(struct vd_disks *ds, const struct vd_id *uuid,
                             char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

#endif
