// SPDX-License-Identifier: Apache-2.0
/*
 * While the index is being rebuilt a write cannot look its blocks up, yet what it drops must stay
 * dropped even if this process is killed the next moment. So it leaves the range here: in memory
 * for the rebuild, which applies it before anything is served, and appended to the file `pending`,
 * which the next open reads should this one not get so far. The file goes when its ranges are
 * applied and the table is durable.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "engine.h"
#include "vd_file.h"

#define RANGES_MAX 65536u

static bool is_all(const struct vd__pending_range *r)
{
    return vd_id_is_zero(&r->key.disk_id);
}

static bool same_key(const struct vd_cache_key *a, const struct vd_cache_key *b)
{
    return a->generation == b->generation && vd_id_eq(&a->disk_id, &b->disk_id);
}

/* Makes each range one of its whole key, and each key one range: coarser, and enough room again. */
static void coarsen(struct vd__pending *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n && n < RANGES_MAX / 64; i++) {
        size_t j = 0;
        while (j < n && !same_key(&p->ranges[j].key, &p->ranges[i].key))
            j++;
        if (j == n)
            p->ranges[n++] = (struct vd__pending_range){p->ranges[i].key, 0, UINT64_MAX};
    }
    p->all |= n == RANGES_MAX / 64;
    p->n = n;
}

/* lock: mu */
static void push(struct vd__pending *p, const struct vd__pending_range *range)
{
    if (is_all(range)) {
        p->all = true;
        return;
    }
    if (p->n && same_key(&p->ranges[p->n - 1].key, &range->key) &&
        p->ranges[p->n - 1].first_block + p->ranges[p->n - 1].nblocks == range->first_block) {
        p->ranges[p->n - 1].nblocks += range->nblocks;
        return;
    }
    if (p->n == RANGES_MAX)
        coarsen(p);
    if (p->n == p->capacity) {
        size_t capacity = vd_max((size_t)64, 2 * p->capacity);
        struct vd__pending_range *grown = realloc(p->ranges, capacity * sizeof(*grown));
        if (!grown) {
            p->all = true; /* to drop too much is always right */
            return;
        }
        p->ranges = grown;
        p->capacity = capacity;
    }
    p->ranges[p->n++] = *range;
}

int vd__pending_load(struct vd__engine *e)
{
    struct vd__pending *p = &e->pending;
    struct stat st;
    p->fd = openat(e->dirfd, "pending", O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->fd < 0 || fstat(p->fd, &st) < 0)
        return -errno;
    uint8_t buf[256 * VD__PENDING_BYTES];
    off_t off = 0;
    for (;;) {
        ssize_t n = vd_pread_full(p->fd, buf, sizeof(buf), off);
        if (n < 0)
            return (int)n;
        ssize_t whole = n / VD__PENDING_BYTES;
        for (ssize_t i = 0; i < whole; i++) {
            struct vd__pending_range range = {.nblocks = UINT64_MAX};
            if (vd__pending_decode(buf + i * VD__PENDING_BYTES, &range) < 0)
                p->all = true;
            else
                push(p, &range);
        }
        off += whole * VD__PENDING_BYTES;
        if (n < (ssize_t)sizeof(buf))
            break;
    }
    /* A torn last record is a write that never began. */
    if (st.st_size > off && ftruncate(p->fd, off) < 0)
        return -errno;
    return vd_fsync_dir(e->dirfd, ".");
}

bool vd__pending_add(struct vd__engine *e, const struct vd__pending_range *range)
{
    struct vd__pending *p = &e->pending;
    pthread_mutex_lock(&p->mu);
    if (atomic_load(&e->ready)) {
        pthread_mutex_unlock(&p->mu);
        return false;
    }
    push(p, range);
    uint8_t buf[VD__PENDING_BYTES];
    vd__pending_encode(range, buf);
    ssize_t n;
    do
        n = write(p->fd, buf, sizeof(buf));
    while (n < 0 && errno == EINTR);
    int err = n < 0 ? errno : n < (ssize_t)sizeof(buf) ? ENOSPC : 0;
    pthread_mutex_unlock(&p->mu);
    if (err)
        vd__die(e, "pending: write: %s", strerror(err));
    return true;
}

bool vd__pending_take(struct vd__engine *e, struct vd__pending *ret_taken)
{
    struct vd__pending *p = &e->pending;
    pthread_mutex_lock(&p->mu);
    bool some = p->n || p->all;
    if (some) {
        *ret_taken = (struct vd__pending){.ranges = p->ranges, .n = p->n, .all = p->all, .fd = -1};
        p->ranges = NULL;
        p->n = p->capacity = 0;
        p->all = false;
    } else {
        atomic_store(&e->ready, true);
    }
    pthread_mutex_unlock(&p->mu);
    return some;
}

void vd__pending_end(struct vd__engine *e)
{
    struct vd__pending *p = &e->pending;
    if (vd__dead(e))
        return;
    int r = vd__slots_sync(&e->slots);
    if (r < 0) {
        vd__die(e, "slots: sync: %s", strerror(-r));
        return;
    }
    close(p->fd);
    p->fd = -1;
    if (unlinkat(e->dirfd, "pending", 0) < 0)
        vd__die(e, "pending: unlink: %s", strerror(errno));
}
