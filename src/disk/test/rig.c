// SPDX-License-Identifier: Apache-2.0
#include "rig.h"

#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>

void rig_init(struct rig *r)
{
    *r = (struct rig){.source_fd = -1,
                      .mode = VD_CACHE_WRITETHROUGH,
                      .cache_bytes = 64u << 20,
                      .cache_name = "cache"};
    snprintf(r->dir, sizeof(r->dir), "/tmp/vd-disk-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    char path[128];
    snprintf(path, sizeof(path), "%s/source", r->dir);
    ck_assert_int_eq(mkdir(path, 0700), 0);
}

static int open_cache(struct rig *r)
{
    char path[128], why[256];
    snprintf(path, sizeof(path), "%s/%s", r->dir, r->cache_name);
    struct vd_cache_config cc = {
        .dir = path, .size_bytes = r->cache_bytes, .note = "test", .ready_ms = 10000};
    int e = vd_cache_open(&cc, &r->cache, why, sizeof(why));
    if (e < 0)
        fprintf(stderr, "cache: %s\n", why);
    return e;
}

static int open_disks(struct rig *r)
{
    struct vd_disks_config dc = {
        .meta = r->store, .cache = r->cache, .cache_mode = r->mode, .lanes = r->lanes};
    snprintf(dc.self.host, sizeof(dc.self.host), "test");
    int e = vd_id_new(&dc.self.id);
    if (e == 0)
        e = vd_boot_id(&dc.self.boot_id);
    if (e == 0)
        e = vd_coordinator_local(&dc.self, &r->coordinator);
    dc.coordinator = r->coordinator;
    if (e == 0 && r->filter_dir)
        e = vd_filters_open(r->filter_dir, &r->filters);
    dc.filters = r->filters;
    return e < 0 ? e : vd_disks_new(&dc, &r->disks);
}

int rig_try_mount(struct rig *r)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/source", r->dir);
    r->source_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->source_fd < 0)
        return -errno;
    int e = vd_meta_store_open(r->source_fd, NULL, true, &r->store);
    if (e == 0 && r->mode != VD_CACHE_OFF)
        e = open_cache(r);
    if (e == 0)
        e = vd_lanes_new(16, &r->lanes);
    return e < 0 ? e : open_disks(r);
}

void rig_mount(struct rig *r)
{
    ck_assert_int_eq(rig_try_mount(r), 0);
}

void rig_umount(struct rig *r)
{
    vd_disks_free(vd_steal_ptr(r->disks));
    vd_filters_close(vd_steal_ptr(r->filters));
    vd_coordinator_close(vd_steal_ptr(r->coordinator));
    vd_lanes_free(vd_steal_ptr(r->lanes));
    vd_cache_close(vd_steal_ptr(r->cache));
    vd_meta_store_close(vd_steal_ptr(r->store));
    close(vd_steal_fd(&r->source_fd));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void rig_free(struct rig *r)
{
    if (r->disks)
        rig_umount(r);
    nftw(r->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void rig_make(struct rig *r, const char *name, uint64_t size)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/source/%s", r->dir, name);
    vd_cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
}

int rig_try_open(struct rig *r, const char *name, struct vd_disk **ret_d)
{
    int e;
    do { /* as the kernel does */
        vd_cleanup_close int fd = openat(r->source_fd, name, O_PATH | O_CLOEXEC);
        e = fd < 0 ? -errno : vd_disk_open(r->disks, fd, name, true, ret_d);
    } while (e == -ESTALE);
    return e;
}

struct vd_disk *rig_open(struct rig *r, const char *name)
{
    struct vd_disk *d = NULL;
    ck_assert_int_eq(rig_try_open(r, name, &d), 0);
    return d;
}

void rig_close(struct rig *r, struct vd_disk *d)
{
    struct vd_disk_info info;
    char why[VD_META_WHY];
    vd_disk_get_info(d, &info);
    vd_disk_release(d);
    /* While it detaches, a request to release it is told to come again. */
    while (vd_disks_release_request(r->disks, &info.uuid, why) == -EAGAIN)
        sched_yield();
}

struct wait {
    sem_t sem;
    ssize_t result;
    void *buf;
};

static void waited(void *user, ssize_t result, const void *data)
{
    struct wait *w = user;
    w->result = result;
    if (data && result > 0)
        memcpy(w->buf, data, (size_t)result);
    sem_post(&w->sem);
}

#define WAIT_FOR(call, buffer)                                                                     \
    struct wait w = {.buf = (buffer)};                                                             \
    sem_init(&w.sem, 0, 0);                                                                        \
    call;                                                                                          \
    while (sem_wait(&w.sem) < 0)                                                                   \
        ;                                                                                          \
    sem_destroy(&w.sem);                                                                           \
    return w.result

ssize_t rig_read(struct vd_disk *d, uint64_t off, void *buf, size_t len)
{
    WAIT_FOR(vd_disk_read(d, off, len, waited, &w), buf);
}
ssize_t rig_write(struct vd_disk *d, uint64_t off, const void *buf, size_t len)
{
    WAIT_FOR(vd_disk_write(d, off, buf, len, waited, &w), NULL);
}
ssize_t rig_zero(struct vd_disk *d, enum vd_zero_mode mode, uint64_t off, uint64_t len)
{
    WAIT_FOR(vd_disk_zero(d, mode, off, len, waited, &w), NULL);
}
ssize_t rig_truncate(struct vd_disk *d, uint64_t size)
{
    WAIT_FOR(vd_disk_truncate(d, size, waited, &w), NULL);
}
ssize_t rig_flush(struct vd_disk *d)
{
    WAIT_FOR(vd_disk_flush(d, true, waited, &w), NULL);
}

struct vd_disk_stats rig_stats(struct vd_disk *d)
{
    struct vd_disk_stats s;
    vd_disk_get_stats(d, &s);
    return s;
}

uint64_t rig_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

void rig_expect(const uint8_t *got, const uint8_t *want, size_t len, uint64_t off)
{
    if (memcmp(got, want, len) == 0)
        return;
    size_t i = 0;
    while (got[i] == want[i])
        i++;
    ck_abort_msg("byte %llu is %u, not %u", (unsigned long long)(off + i), got[i], want[i]);
}
