// SPDX-License-Identifier: Apache-2.0
/*
 * What keeps a map or layer from being removed while a reference to it is on its way: STORE/refs,
 * byte 0 of an OFD lock, with the gate of store.c before it, so that those who keep making
 * references do not starve one who removes. Lock order: STORE/refs, STORE/lock, a disk's lock.
 */
#include <fcntl.h>

#include "refs.h"
#include "vd_file.h"
#include "vd_view.h"

#define TIMEOUT_MS 30000u

int vd__refs_open(const struct vd_meta_store *s, int *ret_fd)
{
    int fd =
        openat(s->fd, VD__REFS_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

int vd_refs_lock(struct vd_meta_store *s, bool exclusive, int *ret_fd)
{
    vd_cleanup_close int fd = -1;
    int r = vd__refs_open(s, &fd);
    if (r == 0)
        r = vd__lock_gated(fd, exclusive ? VD_LOCK_EXCLUSIVE : VD_LOCK_SHARED, TIMEOUT_MS);
    if (r == 0)
        *ret_fd = vd_steal_fd(&fd);
    return r;
}

/* ---- children ---- */

struct children {
    struct vd_meta_store *s;
    const struct vd_id *parent;
    int (*fn)(void *user, const struct vd_id *uuid, const char *path);
    void *user;
    char *why;
};

/* Its path in RET_R; -ENOENT: it is no child, or is gone. */
static int child_record(const struct children *c, const struct vd_id *uuid,
                        struct vd_disk_record *ret_r)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    int r = vd_meta_open(c->s, uuid, VD_META_READ, &m, c->why);
    if (r < 0)
        return r;
    r = vd_meta_get_view(m, &view);
    if (r == 0)
        r = vd_id_eq(&view.parent, c->parent) ? vd_meta_get_disk(m, ret_r) : -ENOENT;
    if (r == -EUCLEAN)
        snprintf(c->why, VD_META_WHY, "%s", vd_meta_why(m));
    return r;
}

static int one_disk(void *user, const struct vd_id *uuid)
{
    const struct children *c = user;
    struct vd_disk_record d;
    int r = child_record(c, uuid, &d);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r : c->fn(c->user, uuid, d.path);
}

int vd_meta_each_child(struct vd_meta_store *s, const struct vd_id *parent,
                       int (*fn)(void *user, const struct vd_id *uuid, const char *path),
                       void *user, char ret_why[VD_META_WHY])
{
    struct children c = {.s = s, .parent = parent, .fn = fn, .user = user, .why = ret_why};
    ret_why[0] = '\0';
    if (vd_id_is_zero(parent))
        return -EINVAL;
    return vd_meta_each_disk(s, one_disk, &c);
}
