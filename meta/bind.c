// SPDX-License-Identifier: Apache-2.0
/*
 * Which disk is this file? Two witnesses name a UUID: the attribute, and the record of the path. A
 * UUID is the file's own if the metadata (or, before there is any, the claim) was made for its
 * inode; else the name was copied with the file, or its metadata is gone, and it counts for
 * nothing: content that nobody vouches for must never be read by a name that somebody knows. That
 * makes a plain file a new disk; a file of a disk with layers is refused, for its bytes are not the
 * disk's, and may be a frozen layer of other disks.
 *
 * A new UUID is drawn under STORE/lock, after a second look, so that two mounts that open one new
 * file at once agree. Order: claim, then attribute. Cut in between, the claim names a UUID that no
 * file bears. Lock order: STORE/lock, then a disk's lock; nobody takes them the other way round.
 */
#include <fcntl.h>
#include <sys/xattr.h>

#include "bind.h"
#include "bound.h"
#include "layer.h"
#include "vd_file.h"
#include "vd_time.h"

#define ATTR_VERSION "1"
#define ATTR_MAX 64

enum claim { OWN, OWN_EMPTY, FOREIGN, UNKNOWN };

struct search {
    struct vd_meta_store *s;
    int fd;
    const char *path;
    struct stat st;
    char *why;
    /* what was found */
    bool found, empty; /* UUID is the file's own; it has no metadata yet */
    bool copied;       /* the attribute names a disk of another inode */
    bool copied_view;  /* and that disk has layers */
    bool layered;      /* it bears the mark of a disk with layers */
    struct vd_id uuid;
};

void vd_identity_of(const struct stat *st, struct vd_identity *ret_id)
{
    *ret_id = (struct vd_identity){
        .ino = st->st_ino,
        .size_bytes = (uint64_t)st->st_size,
        .mtime_ns = vd_timespec_ns(st->st_mtim),
        .ctime_ns = vd_timespec_ns(st->st_ctim),
    };
}

bool vd_identity_eq(const struct vd_identity *a, const struct vd_identity *b)
{
    return a->ino == b->ino && a->size_bytes == b->size_bytes && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

/* ---- the attribute ---- */

/* The file or its system takes no attribute of ours; it is bound by path. */
static bool takes_none(int error)
{
    return error == -EOPNOTSUPP || error == -EPERM || error == -EACCES || error == -EROFS ||
           error == -ENOSYS;
}

int vd__attr_get(int fd, struct vd_id *ret_uuid, const char **ret_cause)
{
    char value[ATTR_MAX + 1];
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, ATTR_MAX);
    if (n < 0 && errno != ERANGE)
        return takes_none(-errno) ? -ENODATA : -errno;
    const char *cause = "is not of this program's making";
    if (n > 0) {
        value[n] = '\0';
        size_t digits = strspn(value, "0123456789");
        if (strlen(value) == (size_t)n && digits && value[digits] == ':') {
            value[digits] = '\0';
            if (strcmp(value, ATTR_VERSION) != 0)
                cause = "is of another version; this program knows " ATTR_VERSION;
            else if (strlen(value + 2) == VD_ID_HEX - 1 && vd_id_parse(value + 2, ret_uuid) == 0)
                return 0;
            else
                cause = "is damaged";
        }
    }
    if (ret_cause)
        *ret_cause = cause;
    return -EUCLEAN;
}

static int attr_get(const struct search *f, struct vd_id *ret_uuid)
{
    const char *cause;
    int r = vd__attr_get(f->fd, ret_uuid, &cause);
    if (r == -EUCLEAN)
        snprintf(f->why, VD_META_WHY,
                 "%.300s: its attribute " VD_META_XATTR " %s; restore it, or remove it "
                 "(setfattr -x) and the file becomes a new disk",
                 f->path, cause);
    return r;
}

int vd_meta_attr_set(int fd, const struct vd_id *uuid)
{
    char value[ATTR_MAX] = ATTR_VERSION ":";
    vd_id_hex(uuid, value + 2);
    return fsetxattr(fd, VD_META_XATTR, value, strlen(value), 0) < 0 ? -errno : 0;
}

void vd_meta_disk_name(const struct vd_meta_store *s, const struct vd_id *uuid, const char *path,
                       char *ret_name, size_t len)
{
    struct vd_id found;
    char hex[VD_ID_HEX];
    vd_cleanup_close int fd =
        openat(s->source_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    vd_id_hex(uuid, hex);
    if (fd >= 0 && vd__attr_get(fd, &found, NULL) == 0 && vd_id_eq(&found, uuid))
        snprintf(ret_name, len, "%s", path);
    else
        snprintf(ret_name, len, "disk %s (last seen at %s)", hex, path);
}

/* ---- the search ---- */

/* Is the file the disk's? Of a disk with layers the live layer's inode is another than the file's,
 * unless the one is taking the other's place. 1, 0, -ENOENT, -errno. */
static int is_own(const struct search *f, struct vd_meta *m, bool *ret_view)
{
    struct vd_layer_record layer;
    struct vd_view_record view;
    int r = vd_meta_get_view(m, &view);
    *ret_view = r == 0;
    if (r < 0 && r != -ENOENT)
        return r;
    if (*ret_view && view.file_ino == f->st.st_ino)
        return 1;
    if (*ret_view && !view.moving)
        return 0;
    r = vd_meta_get_layer(m, 0, &layer);
    return r < 0 ? r : layer.identity.ino == f->st.st_ino;
}

/* Whose is UUID? An enum claim, or -errno. */
static int judge(struct search *f, const struct vd_id *uuid)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    bool view = false;
    int r = vd_meta_open(f->s, uuid, VD_META_READ, &m, f->why);
    if (r == 0)
        r = is_own(f, m, &view);
    if (r == -EUCLEAN && m)
        memcpy(f->why, vd_meta_why(m), VD_META_WHY);
    if (r == 0)
        f->copied_view = view;
    if (r >= 0)
        return r ? OWN : FOREIGN;
    if (r != -ENOENT)
        return r;
    return vd__claim_is(f->s, uuid, f->st.st_ino) ? OWN_EMPTY : UNKNOWN;
}

static int consider(struct search *f, const struct vd_id *uuid)
{
    int claim = judge(f, uuid);
    if (claim < 0)
        return claim;
    if (claim == OWN || claim == OWN_EMPTY) {
        f->found = true;
        f->empty = claim == OWN_EMPTY;
        f->uuid = *uuid;
    }
    return claim;
}

#define AS_PLAIN "or run `vdisk adopt PATH --as-plain` to take its bytes as they are"

/* What a file of a disk with layers holds is a part of the disk only; without the metadata that
 * says which, it is nobody's disk. */
static int refuse_layered(const struct search *f, const struct vd_id *uuid)
{
    char hex[VD_ID_HEX] = "?";
    if (uuid)
        vd_id_hex(uuid, hex);
    if (f->copied)
        snprintf(f->why, VD_META_WHY,
                 "%.150s: it is a copy of the file of disk %s, which has layers, and may hold only a "
                 "part of its blocks; remove it, or run `vdisk check --repair` if it was restored "
                 "from a backup, " AS_PLAIN,
                 f->path, hex);
    else if (uuid)
        snprintf(f->why, VD_META_WHY,
                 "%.150s: it is the file of a disk with layers, whose metadata is missing; "
                 "restore " VD_META_FOLDER "/disks/%s from a backup, " AS_PLAIN,
                 f->path, hex);
    else
        snprintf(f->why, VD_META_WHY,
                 "%.150s: it is the file of a disk with layers, and has lost its "
                 "attribute " VD_META_XATTR "; restore it, " AS_PLAIN,
                 f->path);
    return -EUCLEAN;
}

static int get_mark(struct search *f)
{
    struct vd_id live;
    int r = vd_layered_get(f->fd, &live);
    f->layered = r == 0;
    if (r == -EUCLEAN)
        snprintf(f->why, VD_META_WHY,
                 "%.150s: its attribute " VD_META_XATTR_LAYERED " is damaged or not of this "
                 "program's making; restore it, " AS_PLAIN,
                 f->path);
    return r == -ENODATA || takes_none(r) ? 0 : r;
}

/* 0 whether or not something was found, or -errno. */
static int search(struct search *f)
{
    struct vd_id uuid;
    f->found = f->empty = f->copied = f->copied_view = false;
    if (fstat(f->fd, &f->st) < 0)
        return -errno;
    int r = get_mark(f);
    if (r < 0)
        return r;
    r = attr_get(f, &uuid);
    if (r < 0 && r != -ENODATA)
        return r;
    bool named = r == 0;
    if (named) {
        r = consider(f, &uuid);
        if (r < 0)
            return r;
        f->copied = r == FOREIGN;
    }
    if (f->layered ? !f->found || f->empty : f->copied && f->copied_view)
        return refuse_layered(f, named ? &uuid : NULL);
    if (f->found)
        return 0;
    struct vd__bound b;
    r = vd__bound_get(f->s, f->path, &b, f->why);
    if (r == 0 && b.ino == f->st.st_ino && b.size_bytes == (uint64_t)f->st.st_size)
        r = consider(f, &b.uuid);
    return r < 0 && r != -ENOENT ? r : 0;
}

/* ---- a new disk ---- */

static int bind_path(const struct search *f, const struct vd_id *uuid)
{
    struct vd__bound b = {
        .ino = f->st.st_ino, .size_bytes = (uint64_t)f->st.st_size, .uuid = *uuid};
    return vd__bound_put(f->s, f->path, &b);
}

static int lock_store(const struct search *f, int *ret_fd)
{
    vd_cleanup_close int fd = openat(f->s->fd, VD__LOCK_NAME,
                                     O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0)
        return -errno;
    int r = vd_lock_wait(fd, VD_LOCK_EXCLUSIVE, 0, 1, VD__LOCK_TIMEOUT_MS);
    if (r == -ETIMEDOUT)
        snprintf(f->why, VD_META_WHY, "%.400s/lock: held by another process for %u s", f->s->path,
                 VD__LOCK_TIMEOUT_MS / 1000);
    if (r == 0)
        *ret_fd = vd_steal_fd(&fd);
    return r;
}

/* A frozen layer that was robbed of its attributes must not become a disk that is written. Its name
 * in layers/ is a second one; other files with two names are few, so this may look at every layer.
 */
static int check_frozen(const struct search *f)
{
    struct vd_id id;
    if (f->st.st_nlink < 2)
        return 0;
    int n = vd__layer_names(f->s, &f->st, &id);
    if (n <= 0)
        return n;
    char hex[VD_ID_HEX];
    vd_id_hex(&id, hex);
    snprintf(f->why, VD_META_WHY,
             "%.150s: it is the frozen layer " VD__LAYERS_REL "/%s, and has lost its attributes or "
             "metadata; restore them from a backup, or take its bytes in a copy of the file",
             f->path, hex);
    return -EUCLEAN;
}

static int make(struct search *f)
{
    vd_cleanup_close int lock_fd = -1, disks_fd = -1;
    int r = lock_store(f, &lock_fd);
    if (r == 0)
        r = search(f);
    if (r == 0 && (!f->found || f->empty))
        r = check_frozen(f);
    if (r < 0 || f->found)
        return r;
    struct vd_id uuid;
    r = vd__store_make_dir(f->s, "disks", &disks_fd);
    if (r == 0)
        r = vd_id_new(&uuid);
    if (r == 0)
        r = vd__claim_put(f->s, &uuid, f->st.st_ino);
    if (r == 0)
        r = vd_meta_attr_set(f->fd, &uuid);
    if (takes_none(r))
        r = bind_path(f, &uuid);
    if (r < 0)
        return r;
    f->uuid = uuid;
    f->found = f->empty = true;
    return 0;
}

int vd_meta_bind(struct vd_meta_store *s, int fd, const char *path, bool make_it,
                 struct vd_id *ret_uuid, bool *ret_made, char ret_why[VD_META_WHY])
{
    struct search f = {.s = s, .fd = fd, .path = path, .why = ret_why};
    ret_why[0] = '\0';
    int r = search(&f);
    if (r == 0 && make_it && (!f.found || (f.empty && f.st.st_nlink > 1)))
        r = make(&f);
    if (r < 0)
        return r;
    if (!f.found || (f.empty && !make_it))
        return f.copied ? -ESTALE : -ENOENT;
    *ret_uuid = f.uuid;
    *ret_made = f.empty;
    return 0;
}

int vd_meta_rebind(struct vd_meta_store *s, int fd, const char *path, const struct vd_id *uuid)
{
    char why[VD_META_WHY];
    struct search f = {.s = s, .fd = fd, .path = path, .why = why};
    struct vd_id attr;
    if (fstat(fd, &f.st) < 0)
        return -errno;
    if (attr_get(&f, &attr) == 0 && vd_id_eq(&attr, uuid))
        return 0;
    return bind_path(&f, uuid);
}

int vd_meta_rebind_view(struct vd_meta_store *s, const struct vd_id *uuid, int fd,
                        char ret_why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    int r = vd_meta_open(s, uuid, VD_META_WRITE, &m, ret_why);
    if (r < 0)
        return r;
    r = vd_meta_get_view(m, &view);
    if (r == -EUCLEAN)
        snprintf(ret_why, VD_META_WHY, "%s", vd_meta_why(m));
    if (r < 0)
        return r;
    view.file_ino = st.st_ino;
    r = vd_meta_put_view(m, &view);
    return r < 0 ? r : vd_meta_commit(m);
}
