// SPDX-License-Identifier: Apache-2.0
/* A tale: each thing that is done to a disk, and what the disks must hold after it. */
#include "steps.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct told_disk *tale_disk(struct tale *t, const char *name)
{
    for (unsigned i = 0; i < t->ndisks; i++)
        if (strcmp(t->disk[i].name, name) == 0)
            return &t->disk[i];
    return NULL;
}

static void image_resize(struct image *im, uint64_t size)
{
    uint64_t had = im->size / SECTOR, has = size / SECTOR;
    im->stamp = realloc(im->stamp, (has + 1) * sizeof(*im->stamp));
    if (!im->stamp)
        abort();
    if (has > had)
        memset(im->stamp + had, 0, (has - had) * sizeof(*im->stamp));
    im->size = size;
}

static void image_copy(struct image *to, const struct image *from)
{
    image_resize(to, from->size);
    memcpy(to->stamp, from->stamp, from->size / SECTOR * sizeof(*to->stamp));
}

static void image_free(struct image *im)
{
    free(im->stamp);
    *im = (struct image){0};
}

static void disk_forget(struct told_disk *x)
{
    image_free(&x->now);
    for (unsigned i = 0; i < x->nsnaps; i++)
        image_free(&x->snap[i].image);
    x->nsnaps = 0;
}

void tale_copy(struct tale *to, const struct tale *from)
{
    *to = *from;
    to->mount = NULL;
    for (unsigned i = 0; i < to->ndisks; i++) {
        struct told_disk *x = &to->disk[i];
        const struct told_disk *y = &from->disk[i];
        x->d = NULL;
        x->now = (struct image){0};
        image_copy(&x->now, &y->now);
        for (unsigned k = 0; k < x->nsnaps; k++) {
            x->snap[k].image = (struct image){0};
            image_copy(&x->snap[k].image, &y->snap[k].image);
        }
    }
}

void tale_free(struct tale *t)
{
    for (unsigned i = 0; i < t->ndisks; i++)
        disk_forget(&t->disk[i]);
    t->ndisks = 0;
}

void sector_fill(uint64_t *buf, uint64_t sector, uint32_t stamp)
{
    uint64_t word = stamp ? (uint64_t)stamp << 32 | (sector + 1) : 0;
    for (unsigned i = 0; i < SECTOR / sizeof(*buf); i++)
        buf[i] = word;
}

/* Whether it was done, or there is nobody to do it. */
static bool done(struct tale *t, const char *what, const char *name, ssize_t r, const char *why)
{
    if (r >= 0)
        return true;
    t->failed = (int)r;
    snprintf(t->why, sizeof(t->why), "%s of %s: %s: %.450s", what, name, strerror((int)-r), why);
    return false;
}

static int path_fd(struct tale *t, const char *name)
{
    return openat(t->mount->source_fd, name, O_PATH | O_CLOEXEC | O_NOFOLLOW);
}

void tale_make(struct tale *t, const char *name, uint64_t size)
{
    if (t->failed || (t->mount && !done(t, "make", name, disk_make(t->mount, name, size), "")))
        return;
    struct told_disk *x = &t->disk[t->ndisks++];
    *x = (struct told_disk){0};
    snprintf(x->name, sizeof(x->name), "%s", name);
    image_resize(&x->now, size);
}

void tale_open(struct tale *t, const char *name)
{
    struct told_disk *x = tale_disk(t, name);
    if (t->failed || !t->mount || x->d)
        return;
    int r = 0;
    for (int i = 0; i < 1000 && (r = disk_open(t->mount, name, &x->d)) == -ESTALE; i++)
        ; /* as the kernel does: another file took its place */
    done(t, "open", name, r, "");
}

void tale_close(struct tale *t, const char *name)
{
    struct told_disk *x = tale_disk(t, name);
    if (x && x->d)
        disk_close(t->mount, vd_steal_ptr(x->d));
}

void tale_write(struct tale *t, const char *name, uint64_t off, uint64_t len, uint32_t stamp)
{
    struct told_disk *x = tale_disk(t, name);
    if (t->failed)
        return;
    if (t->mount) {
        bool opened = !x->d;
        tale_open(t, name);
        uint64_t *buf = malloc(len);
        for (uint64_t i = 0; i < len / SECTOR; i++)
            sector_fill(buf + i * SECTOR / 8, off / SECTOR + i, stamp);
        for (uint64_t at = 0; !t->failed && at < len; at += VD_IO_MAX_BYTES) {
            size_t n = (size_t)vd_min(len - at, (uint64_t)VD_IO_MAX_BYTES);
            done(t, "write", name, disk_write(x->d, off + at, buf + at / 8, n), "");
        }
        free(buf);
        if (opened)
            tale_close(t, name);
        if (t->failed)
            return;
    }
    if (off + len > x->now.size)
        image_resize(&x->now, off + len);
    for (uint64_t i = 0; i < len / SECTOR; i++)
        x->now.stamp[off / SECTOR + i] = stamp;
}

void tale_zero(struct tale *t, const char *name, uint64_t off, uint64_t len)
{
    struct told_disk *x = tale_disk(t, name);
    tale_open(t, name);
    if (t->failed || (t->mount && !done(t, "zero", name, disk_zero(x->d, off, len), "")))
        return;
    memset(x->now.stamp + off / SECTOR, 0, len / SECTOR * sizeof(*x->now.stamp));
}

void tale_truncate(struct tale *t, const char *name, uint64_t size)
{
    struct told_disk *x = tale_disk(t, name);
    tale_open(t, name);
    if (t->failed || (t->mount && !done(t, "truncate", name, disk_truncate(x->d, size), "")))
        return;
    image_resize(&x->now, size);
}

void tale_flush(struct tale *t, const char *name)
{
    struct told_disk *x = tale_disk(t, name);
    tale_open(t, name);
    if (!t->failed && t->mount)
        done(t, "flush", name, disk_flush(x->d), "");
}

/* CALL has `fd`, `ds` and `why`. */
#define DO(what, call)                                                                             \
    do {                                                                                           \
        if (t->failed)                                                                             \
            return;                                                                                \
        if (t->mount) {                                                                            \
            char why[VD_META_WHY] = "";                                                            \
            struct vd_disks *ds = t->mount->disks;                                                 \
            vd_cleanup_close int fd = path_fd(t, name);                                            \
            if (!done(t, what, name, fd < 0 ? -errno : (call), why))                               \
                return;                                                                            \
        }                                                                                          \
    } while (0)

void tale_snapshot(struct tale *t, const char *name, const char *snap)
{
    DO("snapshot", vd_disks_snapshot(ds, fd, name, snap, why));
    struct told_disk *x = tale_disk(t, name);
    struct told_snap *s = &x->snap[x->nsnaps++];
    *s = (struct told_snap){0};
    snprintf(s->name, sizeof(s->name), "%s", snap);
    image_copy(&s->image, &x->now);
}

static struct told_snap *find_snap(struct told_disk *x, const char *snap)
{
    for (unsigned i = 0; i < x->nsnaps; i++)
        if (strcmp(x->snap[i].name, snap) == 0)
            return &x->snap[i];
    abort();
}

void tale_snapshot_rm(struct tale *t, const char *name, const char *snap)
{
    DO("snapshot-rm", vd_disks_snapshot_rm(ds, fd, name, snap, why));
    struct told_disk *x = tale_disk(t, name);
    struct told_snap *s = find_snap(x, snap);
    image_free(&s->image);
    *s = x->snap[--x->nsnaps];
}

void tale_revert(struct tale *t, const char *name, const char *snap)
{
    DO("revert", vd_disks_revert(ds, fd, name, snap, why));
    struct told_disk *x = tale_disk(t, name);
    image_copy(&x->now, &find_snap(x, snap)->image);
}

void tale_clone(struct tale *t, const char *name, const char *snap, const char *child)
{
    DO("clone", vd_disks_clone(ds, fd, name, snap, t->mount->source_fd, child, child, why));
    struct told_disk *x = tale_disk(t, name), *y = &t->disk[t->ndisks++];
    *y = (struct told_disk){0};
    snprintf(y->name, sizeof(y->name), "%s", child);
    image_copy(&y->now, snap ? &find_snap(x, snap)->image : &x->now);
}

void tale_flatten(struct tale *t, const char *name)
{
    DO("flatten", vd_disks_flatten(ds, fd, name, NULL, NULL, why));
}

void tale_resize(struct tale *t, const char *name, uint64_t size)
{
    DO("resize", vd_disks_resize(ds, fd, name, size, true, why));
    image_resize(&tale_disk(t, name)->now, size);
}

void tale_remove(struct tale *t, const char *name)
{
    DO("remove", vd_disks_remove(ds, fd, name, t->mount->source_fd, name, why));
    struct told_disk *x = tale_disk(t, name);
    disk_forget(x);
    *x = t->disk[--t->ndisks];
}

void tale_adopt(struct tale *t, const char *name, const char *bytes_of)
{
    DO("adopt", vd_disks_adopt(ds, fd, name, why));
    struct told_disk *x = tale_disk(t, name);
    struct image bytes = {0};
    image_copy(&bytes, bytes_of ? &find_snap(x, bytes_of)->image : &x->now);
    disk_forget(x);
    x->now = bytes;
}
