// SPDX-License-Identifier: Apache-2.0
/*
 * Removing and renaming names. A file that loses its last name takes its disk with it, so a disk
 * that others depend on keeps its name: -EBUSY. Who depends on a disk with layers stands in other
 * disks' metadata, which may have to be waited for: such a name is removed on a thread that may,
 * with the names it was asked for in a struct removal. All others are removed by the worker.
 *
 * A clone that is made between the question and the removal loses nothing: what it needs of the
 * disk is in our private folder by then, and stays while its metadata names it.
 */
#include "fs.h"

#include <limits.h>
#include <linux/fs.h>
#include <sys/syscall.h>

/* One unlink, rmdir or rename. */
struct removal {
    struct vd_job job;
    fuse_req_t req;
    struct vd_node *from; /* the kernel's references: it waits for the answer */
    struct vd_node *to;   /* of a rename, else NULL */
    const char *name, *new_name;
    unsigned flags;  /* AT_REMOVEDIR, or a rename's */
    int fd;          /* O_PATH; of what is renamed, else -1 */
    int lost_fd;     /* O_PATH; of what is removed, or found under the new name; -1: none */
    uint64_t nnames; /* of that, before */
    char names[];    /* of one that is put off: where name and new_name are */
};

#define NOT_REGULAR UINT64_MAX

/* How many names has the regular file behind FD that clients see? */
static uint64_t names_of(struct vd_fs *fs, int fd)
{
    struct stat st;
    if (fd < 0 || fstatat(fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode))
        return NOT_REGULAR;
    vd__client_stat(fs, fd, &st);
    return st.st_nlink;
}

/* What may lose a name keeps others, through which its changed attributes will be seen. */
static bool keeps_names(const struct removal *m)
{
    return m->nnames > 1 && m->nnames != NOT_REGULAR;
}

/* May what is named lose its name? It may where that is not the last one. */
static int may_lose_name(struct vd_fs *fs, const struct removal *m)
{
    char why[VD_META_WHY] = "", path[VD_PATH_MAX];

    if (m->nnames > 1)
        return 0;
    int r = vd_disks_may_remove(fs->cfg.disks, m->lost_fd, why);
    if (r < 0) {
        vd__path_hint(fs, m->lost_fd, path);
        vd_log_warning("%s: keeps its name: %s", path, *why ? why : strerror(-r));
    }
    return r;
}

/* What M names lost a name: was it the last one? A disk with layers has one, and others in our private folder. */
static void lost_name(struct vd_fs *fs, const struct removal *m)
{
    if (m->lost_fd >= 0 && (m->nnames <= 1 || names_of(fs, m->lost_fd) == 0))
        vd_disks_gone(fs->cfg.disks, m->lost_fd);
}

static int remove_now(struct vd_fs *fs, const struct removal *m)
{
    int r = may_lose_name(fs, m);
    if (r < 0)
        return r;
    struct vd_disk *disk = keeps_names(m) ? vd__touch_begin(fs, m->lost_fd) : NULL;
    if (unlinkat(m->from->fd, m->name, (int)m->flags) < 0)
        r = -errno;
    else
        lost_name(fs, m);
    vd__touch_end(disk);
    return r;
}

static int rename_now(struct vd_fs *fs, const struct removal *m)
{
    bool replaces = !(m->flags & (RENAME_EXCHANGE | RENAME_NOREPLACE));
    int r = replaces ? may_lose_name(fs, m) : 0;
    if (r < 0)
        return r;
    struct vd_disk *moved = vd__touch_begin(fs, m->fd);
    bool stays = m->flags & RENAME_EXCHANGE || keeps_names(m);
    struct vd_disk *other = stays ? vd__touch_begin(fs, m->lost_fd) : NULL;
    if (syscall(SYS_renameat2, m->from->fd, m->name, m->to->fd, m->new_name, m->flags) < 0)
        r = -errno;
    else if (replaces)
        lost_name(fs, m);
    vd__touch_end(other);
    vd__touch_end(moved);
    return r;
}

/* Removes or renames, answers, and closes M's descriptors. */
static void run(struct removal *m)
{
    struct vd_fs *fs = vd__fs(m->req);
    int r = m->to ? rename_now(fs, m) : remove_now(fs, m);

    if (m->lost_fd >= 0)
        close(m->lost_fd);
    if (m->fd >= 0)
        close(m->fd);
    vd__reply(m->req, r);
}

static void run_job(struct vd_job *job)
{
    struct removal *m = vd_container_of(job, struct removal, job);
    struct vd_fs *fs = vd__fs(m->req);

    run(m);
    free(m);
    vd__inflight_end(fs);
}

/* Runs M here, or a copy of it where it may wait. */
static void run_or_queue(struct vd_fs *fs, struct removal *m)
{
    size_t len = strlen(m->name) + 1, new_len = m->to ? strlen(m->new_name) + 1 : 0;

    m->nnames = names_of(fs, m->lost_fd);
    struct removal *later = NULL;
    if (m->nnames <= 1 && vd__has_layers(m->lost_fd))
        later = malloc(sizeof(*later) + len + new_len);
    if (!later) {
        run(m);
        return;
    }
    *later = *m;
    later->job = (struct vd_job){.run = run_job};
    later->name = memcpy(later->names, m->name, len);
    if (m->to)
        later->new_name = memcpy(later->names + len, m->new_name, new_len);
    vd__inflight_begin(fs);
    vd_disks_run(fs->cfg.disks, &later->job);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, unsigned flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *dir = vd__node(fs, parent);

    if (!dir || vd__hidden(fs, dir, name)) {
        vd__reply(req, dir ? -ENOENT : -ESTALE);
        return;
    }
    struct removal m = {.req = req, .from = dir, .name = name, .flags = flags, .fd = -1};
    m.lost_fd = vd__open_path(dir, name);
    run_or_queue(fs, &m);
}

void vd__op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, 0);
}

void vd__op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, AT_REMOVEDIR);
}

void vd__op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                   const char *new_name, unsigned flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct removal m = {
        .req = req, .name = name, .new_name = new_name, .flags = flags, .fd = -1, .lost_fd = -1};
    int r = 0;

    m.from = vd__node(fs, parent);
    m.to = vd__node(fs, new_parent);
    if (!m.from || !m.to)
        r = -ESTALE;
    else if (vd__hidden(fs, m.from, name))
        r = -ENOENT;
    else if (vd__hidden(fs, m.to, new_name))
        r = -EPERM;
    else if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        r = -EINVAL;
    else
        r = m.fd = vd__open_path(m.from, name);
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    m.lost_fd = vd__open_path(m.to, new_name); /* none, or it may be replaced */
    run_or_queue(fs, &m);
}
