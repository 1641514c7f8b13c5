// SPDX-License-Identifier: Apache-2.0
/* A mount without FUSE, as src/vdiskfs/start.c makes one, but tens of milliseconds in all. */
#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sweep.h"

#define DETACH_POLLS 150000u /* of 0.2 ms: 30 s at least */

#define CACHE_BYTES (640u << 10) /* ten slots: less than the disk, so that there are evictions */

static int open_parts(struct mount *m, unsigned ready_ms)
{
    char path[PATH_MAX], why[512];
    snprintf(path, sizeof(path), "%s/source", m->dir);
    m->source_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (m->source_fd < 0)
        return -errno;
    int r = vd_meta_store_open(m->source_fd, NULL, true, &m->store);
    if (r < 0)
        return r;
    r = vd_meta_empty_trash(m->store); /* what fails is left for the next one */
    snprintf(path, sizeof(path), "%s/cache", m->dir);
    struct vd_cache_config cc = {
        .dir = path, .size_bytes = CACHE_BYTES, .note = "sweep", .ready_ms = ready_ms};
    r = vd_cache_open(&cc, &m->cache, why, sizeof(why));
    if (r == 0)
        r = vd_lanes_new(8, &m->lanes);
    struct vd_disks_config dc = {.meta = m->store, .cache = m->cache, .lanes = m->lanes};
    if (r == 0)
        r = vd_id_new(&dc.self.id);
    if (r == 0)
        r = vd_boot_id(&dc.self.boot_id);
    snprintf(dc.self.host, sizeof(dc.self.host), "sweep");
    if (r == 0)
        r = vd_coordinator_local(&dc.self, &m->coordinator);
    dc.coordinator = m->coordinator;
    return r < 0 ? r : vd_disks_new(&dc, &m->disks);
}

int mount_open(struct mount *m, const char *dir, unsigned ready_ms)
{
    *m = (struct mount){.dir = dir, .source_fd = -1};
    int r = open_parts(m, ready_ms);
    if (r < 0)
        mount_close(m);
    return r;
}

void mount_close(struct mount *m)
{
    if (m->disks)
        vd_disks_free(vd_steal_ptr(m->disks));
    if (m->coordinator)
        vd_coordinator_close(vd_steal_ptr(m->coordinator));
    if (m->lanes)
        vd_lanes_free(vd_steal_ptr(m->lanes));
    vd_cache_close(vd_steal_ptr(m->cache));
    vd_meta_store_close(vd_steal_ptr(m->store));
    if (m->source_fd >= 0)
        close(vd_steal_fd(&m->source_fd));
}

int disk_make(struct mount *m, const char *name, uint64_t size)
{
    vd_cleanup_close int fd =
        openat(m->source_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return fd < 0 || ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

int disk_open(struct mount *m, const char *name, struct vd_disk **ret_disk)
{
    vd_cleanup_close int fd = openat(m->source_fd, name, O_PATH | O_CLOEXEC);
    return fd < 0 ? -errno : vd_disk_open(m->disks, fd, name, true, ret_disk);
}

void disk_close(struct mount *m, struct vd_disk *d)
{
    struct vd_disk_info info;
    char why[VD_META_WHY];
    vd_disk_get_info(d, &info);
    vd_disk_release(d);
    /* While it detaches, a request to release it is told to come again. */
    for (unsigned i = 0; vd_disks_release_request(m->disks, &info.uuid, why) == -EAGAIN; i++) {
        if (i == DETACH_POLLS)
            abort(); /* it never ends: the sweep counts that as a failure */
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

struct answer {
    sem_t sem;
    ssize_t result;
    void *buf;
};

static void answered(void *user, ssize_t result, const void *data)
{
    struct answer *a = user;
    a->result = result;
    if (data && result > 0)
        memcpy(a->buf, data, (size_t)result);
    sem_post(&a->sem);
}

static ssize_t await(struct answer *a)
{
    while (sem_wait(&a->sem) < 0)
        ;
    sem_destroy(&a->sem);
    return a->result;
}

ssize_t disk_read(struct vd_disk *d, uint64_t off, void *buf, size_t len)
{
    struct answer a = {.buf = buf};
    sem_init(&a.sem, 0, 0);
    vd_disk_read(d, off, len, answered, &a);
    return await(&a);
}

ssize_t disk_write(struct vd_disk *d, uint64_t off, const void *buf, size_t len)
{
    struct answer a = {0};
    sem_init(&a.sem, 0, 0);
    vd_disk_write(d, off, buf, len, answered, &a);
    return await(&a);
}

ssize_t disk_zero(struct vd_disk *d, uint64_t off, uint64_t len)
{
    struct answer a = {0};
    sem_init(&a.sem, 0, 0);
    vd_disk_zero(d, VD_ZERO_PUNCH, off, len, answered, &a);
    return await(&a);
}

ssize_t disk_truncate(struct vd_disk *d, uint64_t size)
{
    struct answer a = {0};
    sem_init(&a.sem, 0, 0);
    vd_disk_truncate(d, size, answered, &a);
    return await(&a);
}

ssize_t disk_flush(struct vd_disk *d)
{
    struct answer a = {0};
    sem_init(&a.sem, 0, 0);
    vd_disk_flush(d, true, answered, &a);
    return await(&a);
}
