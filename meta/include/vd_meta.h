// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata store: one LMDB environment a disk, below the source's private folder.
 *
 *   STORE/disks/<disk UUID>/meta.mdb    the environment (named databases disk, layer, owner, ...)
 *   STORE/disks/<disk UUID>/meta.sum    its checksum after a clean close, or the mark "open"
 *   STORE/disks/<disk UUID>/lock        serialises sessions, between threads and processes
 *   STORE/disks/<disk UUID>/journal     place of the extents journal of disks with layers
 *   STORE/disks/<disk UUID>/claim       the inode a UUID was drawn for, until there is metadata
 *   STORE/bound/<key>                   binds a path to a UUID where the file takes no attribute
 *   STORE/trash/                        what removal has not finished
 *   STORE/lock                          held while a new UUID is drawn
 *
 * All access is by *session*: open takes the lock file's OFD lock (shared to read, exclusive to
 * write), verifies, opens the environment (MDB_NOLOCK: the lock file serialises, on remote file
 * systems too); close writes the checksum and lets go. Sessions are short; nobody keeps one over a
 * wait.
 *
 * LMDB does not check its pages, and a damaged file can crash its reader. So: after a clean close
 * the checksum of the whole file is verified before LMDB sees it; where the mark says that a writer
 * died, a child process copies what verifies into a fresh environment, and dies in our place. A
 * reading session works on a copy in memory, which nobody can change under it; a writing one has
 * the file mapped, guarded against SIGBUS (vd_sigbus.h). What does not verify is refused, by name:
 * -EUCLEAN. A program that writes over the file *while* a writing session has it open may crash us:
 * LMDB has no defence against that.
 */
#ifndef VD_META_H
#define VD_META_H

#include <sys/stat.h>
#include <sys/types.h>

#include "vd_base.h"
#include "vd_id.h"

#define VD_META_XATTR "user.vdiskfs"
#define VD_META_FOLDER ".vdiskfs"
#define VD_META_WHY 512 /* length of the sentences that name a file and a cause */

struct vd_meta_store;
struct vd_meta;

/* What identifies a data file's content from outside. */
struct vd_identity {
    uint64_t ino;
    uint64_t size_bytes;
    int64_t mtime_ns, ctime_ns;
};
void vd_identity_of(const struct stat *st, struct vd_identity *ret_id);
bool vd_identity_eq(const struct vd_identity *a, const struct vd_identity *b);

enum vd_layer_state { VD_LAYER_LIVE = 1, VD_LAYER_FROZEN = 2 };
enum vd_owner_state {
    VD_OWNER_NONE = 0,
    VD_OWNER_SHARED = 1,
    VD_OWNER_EXCLUSIVE = 2,
    VD_OWNER_RELEASING = 3
};

/* Database `disk`, one record. */
struct vd_disk_record {
    struct vd_id uuid;
    struct vd_id live_disk_id; /* of the live layer */
    uint64_t size_bytes;
    uint32_t nlayers;
    bool clean;           /* the last exclusive owner detached cleanly */
    struct vd_id boot_id; /* boot during which clean was last removed */
    char path[1024];      /* of the data file below the source when it was last attached; a hint */
};

/* Database `layer`, keyed by index, 0 the live one. */
struct vd_layer_record {
    struct vd_id disk_id;
    enum vd_layer_state state;
    uint64_t generation; /* counts the times that cached copies had to be given up */
    struct vd_id token;  /* witness: equal in a cache that saw every write */
    struct vd_identity identity;
    uint64_t created_s; /* Unix time */
    char path[1024];    /* below the source; "" for the disk's own data file */
    char snapshot[256]; /* "" where it is none */
};

/* Database `owner`, keyed by id. */
struct vd_owner_record {
    struct vd_id id; /* one a mount */
    enum vd_owner_state state;
    uint64_t epoch;
    struct vd_id boot_id;
    uint32_t pid;
    char host[256];
    char endpoint[256]; /* path of its control socket */
};

/*
 * Opens the store: META_DIR, or the folder .vdiskfs in SOURCE_FD where META_DIR is NULL. With MAKE
 * it is made (0700) where missing. 0; -ENOENT, -EROFS, -EACCES, -ENOTDIR, -ELOOP (it is a symbolic
 * link), any -errno. The store may be used by any thread. SOURCE_FD is borrowed for the call only.
 */
int vd_meta_store_open(int source_fd, const char *meta_dir, bool make,
                       struct vd_meta_store **ret_store) VD_WARN_UNUSED;
void vd_meta_store_close(struct vd_meta_store *s);
VD_DEFINE_CLEANUP(struct vd_meta_store, vd_meta_store_close)

/*
 * Which disk is the data file FD (readable or writable, not O_PATH) at PATH below the source?
 * By its extended attribute; where the file system takes none, or with a store outside the source
 * on a read-only source, by path, inode and size in STORE/bound. A name that a record with another
 * inode already owns (a copy with its attributes) is not followed: for MAKE a fresh UUID is drawn
 * and written over the copied one; so it is where the named metadata is gone. RET_MADE says that no
 * metadata exists yet. Another mount may be told the same of the same UUID and make it first: after
 * vd_meta_open(MAKE) ask vd_meta_get_disk, and put a record only on -ENOENT. An attribute that is
 * not ours, damaged, or of another version is never overwritten: it might name a disk with layers.
 *   0; -ENOENT: no disk yet (only without MAKE); -ESTALE: a copied attribute (only without MAKE);
 *   -EUCLEAN: attribute or metadata damaged, RET_WHY names it; -EROFS, any -errno. Blocks.
 */
int vd_meta_bind(struct vd_meta_store *s, int fd, const char *path, bool make,
                 struct vd_id *ret_uuid, bool *ret_made, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* Writes the attribute that names the disk UUID on a file that is being made. 0 or -errno. */
int vd_meta_attr_set(int fd, const struct vd_id *uuid) VD_WARN_UNUSED;

/* For a file that was truncated or grew through us while bound by path and size: bind it anew.
 * No-op for files bound by attribute. 0 or -errno. */
int vd_meta_rebind(struct vd_meta_store *s, int fd, const char *path,
                   const struct vd_id *uuid) VD_WARN_UNUSED;

enum vd_meta_mode { VD_META_READ, VD_META_WRITE, VD_META_MAKE };

/*
 * Begins a session on the disk UUID. READ and WRITE want it to exist; MAKE makes it where missing.
 * Waits at most 5 s for other sessions. One write transaction runs from here to vd_meta_commit.
 *   0; -ENOENT: no such disk; -ETIMEDOUT: another process holds it; -EUCLEAN: damaged, truncated,
 *   foreign, or of another version: RET_WHY names file, cause and what to do; -EROFS, -ENOSPC, any
 *   -errno. A session is used and ended on the thread that began it. Blocks.
 */
int vd_meta_open(struct vd_meta_store *s, const struct vd_id *uuid, enum vd_meta_mode mode,
                 struct vd_meta **ret_meta, char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* Makes the session's changes durable, all or none. 0, or -errno (then nothing changed, and the
 * changes are forgotten). May be called again after further changes. -EINVAL in READ. */
int vd_meta_commit(struct vd_meta *m) VD_WARN_UNUSED;

/* Ends the session; what was not committed is forgotten. NULL is allowed. */
void vd_meta_close(struct vd_meta *m);
VD_DEFINE_CLEANUP(struct vd_meta, vd_meta_close)

/* Records. get: 0, -ENOENT, -EUCLEAN (checksum, version or range: the session's why, see below,
 * names it). put: 0, -ENOSPC, -EINVAL (a text too long, a number out of range, a READ session);
 * after -ENOSPC or -EIO the changes since the last commit cannot be committed any more. Copies;
 * nothing returned points into the environment. */
int vd_meta_get_disk(struct vd_meta *m, struct vd_disk_record *ret_r) VD_WARN_UNUSED;
int vd_meta_put_disk(struct vd_meta *m, const struct vd_disk_record *r) VD_WARN_UNUSED;
int vd_meta_get_layer(struct vd_meta *m, uint32_t index,
                      struct vd_layer_record *ret_r) VD_WARN_UNUSED;
int vd_meta_put_layer(struct vd_meta *m, uint32_t index,
                      const struct vd_layer_record *r) VD_WARN_UNUSED;
int vd_meta_put_owner(struct vd_meta *m, const struct vd_owner_record *r) VD_WARN_UNUSED;
int vd_meta_del_owner(struct vd_meta *m, const struct vd_id *id) VD_WARN_UNUSED; /* -ENOENT too */
/* Calls FN for each owner record; a non-zero return ends the walk and is returned. */
int vd_meta_each_owner(struct vd_meta *m, int (*fn)(void *user, const struct vd_owner_record *r),
                       void *user) VD_WARN_UNUSED;
/* Sentence about the session's last -EUCLEAN; "" if there was none. Valid until the next call. */
const char *vd_meta_why(const struct vd_meta *m);

/* Removes a disk's metadata: moved to STORE/trash, then deleted (redone by vd_meta_empty_trash if
 * cut in between). 0, -ENOENT, -errno. */
int vd_meta_remove(struct vd_meta_store *s, const struct vd_id *uuid) VD_WARN_UNUSED;
int vd_meta_empty_trash(struct vd_meta_store *s) VD_WARN_UNUSED;

/* Calls FN with the UUID of each disk in the store, in no order. */
int vd_meta_each_disk(struct vd_meta_store *s, int (*fn)(void *user, const struct vd_id *uuid),
                      void *user) VD_WARN_UNUSED;

/* Where a disk's files are, for messages and dumps: "STORE/disks/<uuid>". Truncates, never fails.
 */
void vd_meta_disk_path(const struct vd_meta_store *s, const struct vd_id *uuid, char *ret_path,
                       size_t len);

/* Attributes of the disk's environment: as long as they are the same nobody has changed its records.
 * 0, -ENOENT, -errno. No lock is taken. */
int vd_meta_stat(struct vd_meta_store *s, const struct vd_id *uuid,
                 struct stat *ret_st) VD_WARN_UNUSED;

/* Walks every record of the session, decoded or not, for `vdisk dump` and `vdisk check`: DB is the
 * database's name, KEY and VALUE raw bytes, ERROR 0 or -EUCLEAN where it does not verify. */
struct vd_meta_raw {
    const char *db;
    const void *key, *value;
    size_t key_len, value_len;
    int error;
};
int vd_meta_walk(struct vd_meta *m, int (*fn)(void *user, const struct vd_meta_raw *r),
                 void *user) VD_WARN_UNUSED;

#endif
