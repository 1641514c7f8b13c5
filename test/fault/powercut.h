// SPDX-License-Identifier: Apache-2.0
/*
 * Parts of `powercut`, the program that keeps a history of a file system and shows what a power cut
 * would have left of it: see powercut.c for the whole idea.
 *
 *   history (powercut_history.c)  every change and every sync, in the order in which they were made
 *   world   (powercut_world.c)    a tree of files in memory, and how an event changes it
 *   cut     (powercut_cut.c)      which events of a history survive; the world they make
 *   fs      (powercut_fs.c)       changes a world as FUSE asks, and appends it to a history
 *   serve   (powercut_serve.c)    mounts it
 */
#ifndef POWERCUT_H
#define POWERCUT_H

#include <pthread.h>
#include <sys/stat.h>

#include "vd_base.h"

#define ROOT_INO 1u
/* The folder below the root of which a cut loses nothing: the notes of those who watch. */
#define TOLD_NAME "told"
/* Set on the root: all that was done so far is durable. How a test says where its story begins. */
#define SETTLE_XATTR "user.powercut.settle"

enum event_type {
    EV_CREATE = 1, /* any type of file; DATA is a symlink's target */
    EV_LINK,
    EV_UNLINK, /* and rmdir */
    EV_RENAME,
    EV_WRITE,
    EV_TRUNCATE,
    EV_ALLOCATE,
    EV_SETXATTR,
    EV_REMOVEXATTR,
    EV_ATTR,
    EV_SYNC,
    EV_SETTLE,
    EV_BASE, /* the history goes on from a cut of another one, whose file is NAME */
    EV_TYPES,
};

enum { ATTR_MODE = 1, ATTR_UID = 2, ATTR_GID = 4, ATTR_MTIME = 8 };

/* One is this struct in the file too, followed by both names and the data; the pointers mean
 * nothing there. Times are those of the recording. What the fields mean to some types:
 *
 *   WRITE      flags nonzero: O_DSYNC
 *   SYNC       flags nonzero: fdatasync; what stands before event `off` is covered
 *   RENAME, ALLOCATE   flags of the call
 *   TRUNCATE   `off` is the size
 *   ATTR       flags say what changes
 *   BASE       enum cut_mode in flags, where it was cut in `off`, the seed in `len`
 */
struct event {
    uint32_t type;
    uint32_t flags;
    uint64_t ino;       /* whom it happens to; of RENAME and UNLINK too */
    uint64_t dir, dir2; /* of the names */
    uint64_t off, len;
    uint64_t mode, uid, gid;
    int64_t time_ns, mtime_ns;
    uint32_t name_len, name2_len, data_len;
    uint32_t pad;
    const char *name, *name2; /* ended by a NUL that their lengths do not count */
    const uint8_t *data;
};

/* ---- history ---- */

/* Events only ever get more, and what they point to stays until the history is freed. Its user
 * locks it. */
struct history {
    struct event *events;
    uint64_t n, room;
    FILE *out; /* NULL: only loaded */
};

/* PATH NULL: kept in memory only. 0 or -errno. */
int history_new(const char *path, struct history **ret_h) VD_WARN_UNUSED;
/* 0, -EBADMSG, -errno. A last event that is cut off is left out. */
int history_load(const char *path, struct history **ret_h) VD_WARN_UNUSED;
/* Copies E with what it points to; the result may be used until the next append. */
const struct event *history_append(struct history *h, const struct event *e);
/* 0 or -errno, of what could not be written. */
int history_free(struct history *h);
const char *event_name(uint32_t type);

/* ---- world ---- */

#define PAGE_BYTES 4096u

struct entry {
    char *name;
    uint64_t ino;
    uint64_t cookie; /* a folder's own count: where a reader goes on */
};

struct xattr {
    char *name;
    uint8_t *value;
    uint32_t len;
};

/* An inode. It is never freed before its world: who has it open may still use it. */
struct node {
    uint64_t ino, size, rdev;
    uint32_t mode, uid, gid, nlink;
    int64_t mtime_ns, ctime_ns;
    uint8_t **pages; /* NULL: zeros */
    uint64_t npages;
    struct entry *entries;
    uint32_t nentries;
    uint64_t last_cookie;
    struct xattr *xattrs;
    uint32_t nxattrs;
    char *target;
    bool told; /* below TOLD_NAME */
};

struct world {
    struct node **nodes; /* by inode number; NULL: never made */
    uint64_t nnodes;     /* also the next number */
};

struct world *world_new(void);
void world_free(struct world *w);
struct node *world_node(const struct world *w, uint64_t ino);
struct node *world_find(const struct world *w, const struct node *dir, const char *name);
/* All of the event; its cause has checked that it can be. */
void world_apply(struct world *w, const struct event *e);
/* The inode of EV_CREATE, without its name. */
void world_make_node(struct world *w, const struct event *e);
/* Names only: CREATE, LINK, UNLINK, RENAME. */
void world_apply_names(struct world *w, const struct event *e);
/* Counts all links anew, from what can be reached. */
void world_count_links(struct world *w);
/* Puts FROM's NAME of the root, with all below it, in the place of W's. Both are worlds of one
 * history. FROM has lost them then. */
void world_graft(struct world *w, struct world *from, const char *name);
bool world_has_bytes(const struct node *n, uint64_t page);

void node_read(const struct node *n, uint64_t off, uint8_t *buf, size_t len);
/* Past the end it makes the file longer. */
void node_write(struct node *n, uint64_t off, const uint8_t *buf, size_t len);
void node_zero(struct node *n, uint64_t off, uint64_t len);
void node_resize(struct node *n, uint64_t size);
/* Of EV_ALLOCATE. */
void node_allocate(struct node *n, const struct event *e);
struct xattr *node_xattr(const struct node *n, const char *name);
/* SETXATTR, REMOVEXATTR and ATTR. */
void node_apply_attr(struct node *n, const struct event *e);

/* ---- cut ---- */

enum cut_mode { CUT_KEPT, CUT_DROPPED, CUT_RANDOM, CUT_STRICT, CUT_MODES };

struct cut {
    uint64_t at; /* the events before this one were made */
    enum cut_mode mode;
    uint64_t seed;
};

const char *cut_mode_name(enum cut_mode mode);
/* 0 or -EINVAL. */
int cut_mode_parse(const char *text, enum cut_mode *ret_mode) VD_WARN_UNUSED;
/* What is there after the cut. Prints what is wrong with a history that it cannot follow. */
int cut_world(const struct history *h, const struct cut *c, struct world **ret_w) VD_WARN_UNUSED;
/* splitmix64: the next number of the stream whose state is *STATE. */
uint64_t cut_random(uint64_t *state);

/* ---- serve ---- */

struct served {
    struct world *w;
    struct history *h;      /* NULL: what is done is done to the world only */
    pthread_mutex_t mu;     /* both */
    unsigned sync_delay_us; /* a sync takes at most so long after it noted what it covers */
    const char *poke[8];    /* files below the mount that are opened and closed again and again */
    unsigned npoke;
};

/* Serves it until it is unmounted or a signal ends it; READY_FD is written to and closed once it is
 * mounted. The exit code of the program. */
int fs_serve(struct served *s, const char *mountpoint, int ready_fd);

#endif
