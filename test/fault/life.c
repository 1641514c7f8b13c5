// SPDX-License-Identifier: Apache-2.0
/*
 * The life that is led under faults, and the look that is taken after it. The life makes every kind
 * of request, detaches, attaches, evicts, removes a disk, and mounts twice, so that every place
 * that writes metadata or cache is passed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sweep.h"

#define PIECE (192u << 10)

struct client {
    struct model *m;
    struct mount mount;
    struct vd_disk *d;
    bool steady;
    const char *where;
    uint8_t buf[PIECE];
};

/* A request was answered. False when the life is to end. */
static bool answered(struct client *c, const char *what, ssize_t result, ssize_t wanted)
{
    c->m->requests++;
    if (result == wanted)
        return true;
    c->m->failed++;
    if (result >= 0)
        return model_lie(c->m, "%s: %s: %zd, not %zd", c->where, what, result, wanted);
    if (result == -EUCLEAN)
        return model_lie(c->m, "%s: %s: the disk is refused", c->where, what);
    return c->steady ? model_lie(c->m, "%s: %s: %s", c->where, what, strerror((int)-result)) : true;
}

static bool do_read(struct client *c, uint64_t off, size_t len)
{
    struct model *m = c->m;
    uint64_t size = m->size[0];
    ssize_t wanted = off >= size ? 0 : (ssize_t)vd_min((uint64_t)len, size - off);
    ssize_t n = disk_read(c->d, off, c->buf, len);
    if (n >= 0 && m->size[1] != size && n != wanted) {
        /* a truncation in doubt: now it is known */
        m->size[0] = m->size[1];
        return model_saw(m, c->where, off, c->buf, (size_t)n);
    }
    if (!answered(c, "read", n, wanted))
        return false;
    return n < 0 || model_saw(m, c->where, off, c->buf, (size_t)n);
}

static bool do_read_all(struct client *c, const char *where)
{
    c->where = where;
    for (uint64_t off = 0; off < c->m->size[0]; off += PIECE)
        if (!do_read(c, off, PIECE))
            return false;
    return true;
}

static bool do_write(struct client *c, uint64_t off, size_t len)
{
    struct model *m = c->m;
    uint8_t pattern = ++m->seed;
    for (size_t i = 0; i < len; i++)
        c->buf[i] = model_byte(pattern, off + i);
    model_begin(m, off, len, pattern);
    ssize_t n = disk_write(c->d, off, c->buf, len);
    model_end(m, off, len, n == (ssize_t)len);
    return answered(c, "write", n, (ssize_t)len);
}

static bool do_zero(struct client *c, uint64_t off, size_t len)
{
    model_begin(c->m, off, len, 0);
    ssize_t r = disk_zero(c->d, off, len);
    model_end(c->m, off, len, r == 0);
    return answered(c, "zero", r, 0);
}

/* The bytes between the two sizes are zero, or not there. */
static bool do_truncate(struct client *c, uint64_t size)
{
    struct model *m = c->m;
    uint64_t low = vd_min(size, m->size[0]), high = vd_max(size, m->size[0]);
    model_begin(m, low, high - low, 0);
    m->size[1] = size;
    ssize_t r = disk_truncate(c->d, size);
    if (r == 0)
        m->size[0] = size;
    model_end(m, low, high - low, r == 0);
    return answered(c, "truncate", r, 0);
}

static bool do_open(struct client *c, const char *where)
{
    c->where = where;
    int r = disk_open(&c->mount, "d", &c->d);
    return answered(c, "open", r, 0) && r == 0;
}

static void do_close(struct client *c)
{
    disk_close(&c->mount, vd_steal_ptr(c->d));
}

static bool first_session(struct client *c)
{
    return do_read_all(c, "first read") && do_write(c, 0, 12288) && do_write(c, 70000, 5000) &&
           do_write(c, 131072, 70000) && do_read_all(c, "read after writes") &&
           answered(c, "flush", disk_flush(c->d), 0) && do_zero(c, 300001, 20000) &&
           do_truncate(c, DISK_BYTES + 50000) && do_read_all(c, "read after zero and growth") &&
           do_write(c, 655360, 4096);
}

static bool second_session(struct client *c)
{
    return do_read_all(c, "read after reattach") && do_write(c, 4096, 8192) &&
           do_truncate(c, DISK_BYTES - 30000) && do_read(c, 0, 65536) && do_read(c, 0, 65536) &&
           answered(c, "flush", disk_flush(c->d), 0) && do_write(c, 524288, 40000);
}

static bool third_session(struct client *c)
{
    if (!do_read_all(c, "read after remount"))
        return false;
    vd_disk_cache_drop(c->d);
    return do_read_all(c, "read after drop");
}

/* A disk that is removed while it is open. */
static bool removed_disk(struct client *c)
{
    c->where = "removed disk";
    if (disk_make(&c->mount, "e", VD_DISK_MIN_BYTES) < 0)
        return true;
    vd_cleanup_close int fd = openat(c->mount.source_fd, "e", O_PATH | O_CLOEXEC);
    struct vd_disk *d;
    int r = disk_open(&c->mount, "e", &d);
    if (!answered(c, "open", r, 0) || r < 0)
        return r == -EUCLEAN || c->steady ? false : true;
    memset(c->buf, 7, 4096);
    bool good = answered(c, "write", disk_write(d, 8192, c->buf, 4096), 4096);
    ssize_t n = disk_read(d, 4096, c->buf, 4096);
    good = good && answered(c, "read", n, 4096);
    if (good && n > 0 && c->buf[0])
        good = model_lie(c->m, "removed disk: not zero");
    unlinkat(c->mount.source_fd, "e", 0);
    vd_disks_gone(c->mount.disks, fd);
    disk_close(&c->mount, d);
    return good;
}

static bool session(struct client *c, const char *where, bool (*requests)(struct client *c))
{
    if (!do_open(c, where))
        return !c->m->lie[0];
    bool good = requests(c);
    do_close(c);
    return good;
}

static int finish(struct client *c, int status)
{
    free(c);
    return status;
}

static struct client *new_client(struct model *m, bool steady)
{
    struct client *c = calloc(1, sizeof(*c));
    if (!c)
        abort();
    c->m = m;
    c->steady = steady;
    return c;
}

/* A block whose checksum is bad was called good before its bytes were there. */
static bool unmount(struct client *c)
{
    struct vd_cache_stats stats;
    vd_cache_get_stats(c->mount.cache, &stats);
    mount_close(&c->mount);
    return stats.checksum_errors == 0 ||
           model_lie(c->m, "cache: %llu bad checksums", (unsigned long long)stats.checksum_errors);
}

int life(struct model *m, const char *dir, bool steady, unsigned ready_ms)
{
    struct client *c = new_client(m, steady);
    if (mount_open(&c->mount, dir, ready_ms) < 0)
        return finish(c, LIFE_NO_MOUNT);
    bool good = session(c, "first open", first_session) &&
                session(c, "second open", second_session) && removed_disk(c);
    if (!unmount(c) || !good)
        return finish(c, LIFE_LIE);
    if (mount_open(&c->mount, dir, ready_ms) < 0)
        return finish(c, LIFE_NO_MOUNT);
    good = session(c, "third open", third_session);
    good = unmount(c) && good;
    return finish(c, good ? LIFE_GOOD : LIFE_LIE);
}

/* ---- the look ---- */

static int note_bad(void *user, const char *what)
{
    struct model *m = user;
    model_lie(m, "cache: %s", what);
    return 0;
}

static bool cache_is_sound(struct model *m, const char *dir, bool must_exist)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/cache", dir);
    int r = vd_cache_scan_verify(path, note_bad, m);
    if (r == -ENOENT && !must_exist)
        return true;
    return r == 0 || model_lie(m, "cache: scan says %d", r);
}

/* The bytes in the source are the truth that remains; but they must be ones that were written. */
static bool source_is_right(struct client *c)
{
    struct model *m = c->m;
    char path[256];
    snprintf(path, sizeof(path), "%s/source/d", c->mount.dir);
    vd_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return model_lie(m, "source: %s", strerror(errno));
    if ((uint64_t)st.st_size != m->size[0] && (uint64_t)st.st_size != m->size[1])
        return model_lie(m, "source: %lld bytes, not %llu", (long long)st.st_size,
                         (unsigned long long)m->size[0]);
    m->size[0] = m->size[1] = (uint64_t)st.st_size;
    for (uint64_t off = 0; off < m->size[0]; off += PIECE) {
        ssize_t n = pread(fd, c->buf, PIECE, (off_t)off);
        if (n < 0 || !model_saw(m, "source", off, c->buf, (size_t)n))
            return false;
    }
    return true;
}

static bool has_metadata(struct client *c)
{
    struct vd_disk_info info;
    vd_disk_get_info(c->d, &info);
    if (vd_id_is_zero(&info.uuid))
        return model_lie(c->m, "%s: its metadata is not used", c->where);
    return info.caching || model_lie(c->m, "%s: it is not cached", c->where);
}

static bool look_session(struct client *c)
{
    if (!has_metadata(c) || !do_read_all(c, "look: read") || !do_write(c, 16384, 20000) ||
        !answered(c, "flush", disk_flush(c->d), 0) || !do_read_all(c, "look: read after write"))
        return false;
    return do_read(c, 0, 65536);
}

/* After a clean stop what was read last is still there. */
static bool warm_session(struct client *c)
{
    if (!has_metadata(c) || !do_read(c, 0, 65536))
        return false;
    struct vd_disk_stats stats;
    vd_disk_get_stats(c->d, &stats);
    if (stats.hits == 0)
        return model_lie(c->m, "look: the cache does not stay warm");
    return do_read_all(c, "look: read after remount");
}

/* The record of a clean detach, and nobody left as the owner. */
static int is_owner(void *user, const struct vd_owner_record *r)
{
    return model_lie(user, "look: pid %u is still recorded as an owner", r->pid) ? 0 : 1;
}

static bool record_is_clean(struct client *c, const struct vd_id *uuid)
{
    char why[VD_META_WHY] = "";
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record disk;
    int r = vd_meta_open(c->mount.store, uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, &disk);
    if (r < 0)
        return model_lie(c->m, "look: metadata: %s %s", strerror(-r), why);
    if (!disk.clean || disk.size_bytes != c->m->size[0])
        return model_lie(c->m, "look: the record of a clean detach is wrong");
    return vd_meta_each_owner(m, is_owner, c->m) == 0;
}

static bool look_once(struct client *c, const char *dir, bool (*requests)(struct client *c))
{
    int r = mount_open(&c->mount, dir, 10000);
    if (r < 0)
        return model_lie(c->m, "look: cannot mount: %s", strerror(-r));
    bool good = do_open(c, "look");
    if (good) {
        struct vd_disk_info info;
        vd_disk_get_info(c->d, &info);
        good = requests(c);
        do_close(c);
        good = good && record_is_clean(c, &info.uuid);
    }
    if (good && vd_meta_empty_trash(c->mount.store) < 0)
        good = model_lie(c->m, "look: the trash cannot be emptied");
    good = unmount(c) && good;
    return good && cache_is_sound(c->m, dir, true);
}

int look(struct model *m, const char *dir)
{
    struct client *c = new_client(m, true);
    c->mount.dir = dir;
    bool good = cache_is_sound(m, dir, false) && source_is_right(c) &&
                look_once(c, dir, look_session) && look_once(c, dir, warm_session);
    return finish(c, good ? LIFE_GOOD : LIFE_LIE);
}
