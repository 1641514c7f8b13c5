// SPDX-License-Identifier: Apache-2.0
/* What is looked at after a cut: every byte of every disk and snapshot, what a sweep finds, whether
 * disks are apart, and whether anything is left when all are removed. */
#include "steps.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vd_view.h"

#define PIECE 65536u
#define BUSY_MS 20000

static bool image_same(struct vd_disk *d, const struct image *want, const char *what, char *why,
                       size_t len)
{
    static uint64_t buf[PIECE / 8], sector[SECTOR / 8];
    struct vd_disk_info info;
    vd_disk_get_info(d, &info);
    if (info.size_bytes != want->size) {
        snprintf(why, len, "%s has %llu bytes, not %llu", what, (unsigned long long)info.size_bytes,
                 (unsigned long long)want->size);
        return false;
    }
    for (uint64_t off = 0; off < want->size; off += PIECE) {
        size_t n = (size_t)vd_min((uint64_t)PIECE, want->size - off);
        ssize_t r = disk_read(d, off, buf, PIECE);
        if (r != (ssize_t)n) {
            snprintf(why, len, "%s: read at %llu gives %zd, not %zu", what, (unsigned long long)off,
                     r, n);
            return false;
        }
        for (size_t i = 0; i < n / SECTOR; i++) {
            uint32_t stamp = want->stamp[off / SECTOR + i];
            sector_fill(sector, off / SECTOR + i, stamp);
            if (memcmp(sector, buf + i * SECTOR / 8, SECTOR) != 0) {
                snprintf(why, len, "%s: sector %llu is %llx, not %x", what,
                         (unsigned long long)(off / SECTOR + i),
                         (unsigned long long)(buf[i * SECTOR / 8] >> 32), stamp);
                return false;
            }
        }
    }
    return true;
}

struct names {
    unsigned n;
    char name[SNAPS_MAX + 2][VD_SNAPSHOT_NAME_MAX + 1];
};

static int add_name(void *user, const struct vd_snapshot_record *r)
{
    struct names *n = user;
    if (n->n < VD_ARRAY_SIZE(n->name))
        snprintf(n->name[n->n++], VD_SNAPSHOT_NAME_MAX + 1, "%s", r->name);
    return 0;
}

static bool names_same(struct mount *m, struct vd_disk *d, const struct told_disk *x, char *why,
                       size_t len)
{
    static struct names names;
    char cause[VD_META_WHY] = "";
    struct vd_disk_info info;
    vd_cleanup(vd_meta_close_p) struct vd_meta *session = NULL;
    names.n = 0;
    vd_disk_get_info(d, &info);
    int r = vd_meta_open(m->store, &info.uuid, VD_META_READ, &session, cause);
    if (r == 0)
        r = vd_meta_each_snapshot(session, add_name, &names);
    if (r < 0) {
        snprintf(why, len, "%s: snapshots: %s %.300s", x->name, strerror(-r), cause);
        return false;
    }
    bool same = names.n == x->nsnaps;
    for (unsigned i = 0; i < x->nsnaps; i++) {
        bool has = false;
        for (unsigned k = 0; k < names.n; k++)
            has |= strcmp(x->snap[i].name, names.name[k]) == 0;
        same &= has;
    }
    if (!same)
        snprintf(why, len, "%s has %u snapshots (%s...), not %u", x->name, names.n,
                 names.n ? names.name[0] : "", x->nsnaps);
    return same;
}

static bool snap_same(struct mount *m, const struct told_disk *x, const struct told_snap *s,
                      char *why, size_t len)
{
    char cause[VD_META_WHY] = "", what[48];
    struct vd_disk *d = NULL;
    vd_cleanup_close int fd = openat(m->source_fd, x->name, O_PATH | O_CLOEXEC);
    snprintf(what, sizeof(what), "%s@%s", x->name, s->name);
    int r = vd_disks_clone(m->disks, fd, x->name, s->name, m->source_fd, "look", "look", cause);
    if (r == 0)
        r = disk_open(m, "look", &d);
    if (r < 0) {
        snprintf(why, len, "clone of %s: %s: %.300s", what, strerror(-r), cause);
        return false;
    }
    bool same = image_same(d, &s->image, what, why, len);
    disk_close(m, d);
    vd_cleanup_close int child = openat(m->source_fd, "look", O_PATH | O_CLOEXEC);
    r = vd_disks_remove(m->disks, child, "look", m->source_fd, "look", cause);
    if (r < 0)
        snprintf(why, len, "removal of the clone of %s: %s: %.300s", what, strerror(-r), cause);
    return same && r == 0;
}

static bool disk_same(struct mount *m, const struct told_disk *x, char *why, size_t len)
{
    struct vd_disk *d;
    int r = disk_open(m, x->name, &d);
    if (r < 0) {
        snprintf(why, len, "open of %s: %s", x->name, strerror(-r));
        return false;
    }
    bool same = names_same(m, d, x, why, len) && image_same(d, &x->now, x->name, why, len);
    disk_close(m, d);
    for (unsigned i = 0; same && i < x->nsnaps; i++)
        same = snap_same(m, x, &x->snap[i], why, len);
    return same;
}

static bool is_named(const struct tale *t, const char *name)
{
    for (unsigned i = 0; i < t->ndisks; i++)
        if (strcmp(t->disk[i].name, name) == 0)
            return true;
    return false;
}

/* What a user sees of the source. */
static bool folder_same(struct mount *m, const struct tale *t, char *why, size_t len)
{
    DIR *dir = fdopendir(openat(m->source_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bool same = true;
    unsigned n = 0;
    for (struct dirent *e; same && (e = readdir(dir));) {
        if (e->d_name[0] == '.') /* half of an adoption has such a name */
            continue;
        n++;
        same = is_named(t, e->d_name);
        if (!same)
            snprintf(why, len, "there is a file %s", e->d_name);
    }
    closedir(dir);
    if (same && n != t->ndisks)
        snprintf(why, len, "%u files, not %u", n, t->ndisks);
    return same && n == t->ndisks;
}

bool look_same(struct mount *m, const struct tale *t, const char *but, char *why, size_t len)
{
    bool same = folder_same(m, t, why, len);
    for (unsigned i = 0; same && i < t->ndisks; i++)
        if (!but || strcmp(t->disk[i].name, but) != 0)
            same = disk_same(m, &t->disk[i], why, len);
    return same;
}

/* Another sweep may be under way behind our backs. */
static int sweep(struct mount *m, char *why)
{
    for (unsigned ms = 0;; ms++) {
        int r = vd_disks_sweep(m->disks, why);
        if (r != -EBUSY || ms == BUSY_MS)
            return r;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

bool look_remount(struct mount *m, char *why, size_t len)
{
    const char *dir = m->dir;
    mount_close(m);
    int r = mount_open(m, dir, 10000);
    if (r < 0)
        snprintf(why, len, "no mount: %s", strerror(-r));
    return r == 0;
}

bool look_swept(struct mount *m, char *why, size_t len)
{
    char cause[VD_META_WHY] = "";
    int r = sweep(m, cause);
    if (r < 0) {
        snprintf(why, len, "sweep: %s: %.300s", strerror(-r), cause);
        return false;
    }
    r = sweep(m, cause);
    if (r == 0)
        return true;
    snprintf(why, len, "a second sweep: %d %.300s", r, cause);
    return false;
}

bool look_apart(struct mount *m, struct tale *t, char *why, size_t len)
{
    t->mount = m;
    for (unsigned i = 0; i < t->ndisks; i++) {
        const char *name = t->disk[i].name;
        tale_open(t, name);
        tale_write(t, name, (5 + 20 * i) * 4096ull + SECTOR, SECTOR, 0xa0000 + i);
        tale_write(t, name, (7 + 20 * i) * 4096ull, 3 * 4096, 0xb0000 + i);
        tale_write(t, name, 8192, 4096, 0xc0000 + i);
        tale_flush(t, name);
        tale_close(t, name);
    }
    t->mount = NULL;
    if (t->failed) {
        snprintf(why, len, "%.400s", t->why);
        return false;
    }
    return look_same(m, t, NULL, why, len);
}

static unsigned count_files(struct mount *m, const char *path, char *ret_one, size_t len)
{
    unsigned n = 0;
    int fd = openat(m->source_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            n++;
            snprintf(ret_one, len, "%s/%s", path, e->d_name);
        }
    if (dir)
        closedir(dir);
    return n;
}

bool look_removed(struct mount *m, struct tale *t, char *why, size_t len)
{
    t->mount = m;
    /* Children first; that a child is gone is known a moment after its removal. */
    for (unsigned ms = 0; t->ndisks && ms < 3000; ms++) {
        for (unsigned i = t->ndisks; i-- > 0;) {
            t->failed = 0;
            tale_remove(t, t->disk[i].name);
        }
        if (t->ndisks)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    t->mount = NULL;
    if (t->ndisks) {
        snprintf(why, len, "not removed: %.400s", t->why);
        return false;
    }
    /* What is removed behind our backs has ended with the mount. */
    if (!look_remount(m, why, len) || !look_swept(m, why, len))
        return false;
    static const char *const folders[] = {".vdiskfs/layers", ".vdiskfs/maps"};
    char one[300] = "";
    for (unsigned i = 0; i < VD_ARRAY_SIZE(folders); i++)
        if (count_files(m, folders[i], one, sizeof(one))) {
            snprintf(why, len, "all disks are removed, and %s is left", one);
            return false;
        }
    return true;
}
