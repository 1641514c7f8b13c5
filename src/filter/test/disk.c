// SPDX-License-Identifier: Apache-2.0
#include "disk.h"

#include <semaphore.h>
#include <string.h>
#include <time.h>

static ssize_t mem_read(void *disk, uint64_t off, void *buf, size_t len)
{
    struct test_disk *d = disk;
    if (off >= DISK_BYTES)
        return 0;
    len = vd_min(len, (size_t)(DISK_BYTES - off));
    pthread_mutex_lock(&d->mu);
    memcpy(buf, d->bytes + off, len);
    pthread_mutex_unlock(&d->mu);
    d->reads++;
    return (ssize_t)len;
}

static ssize_t mem_write(void *disk, uint64_t off, const void *data, size_t len)
{
    struct test_disk *d = disk;
    if (off > DISK_BYTES || len > DISK_BYTES - off)
        return -ENOSPC;
    pthread_mutex_lock(&d->mu);
    memcpy(d->bytes + off, data, len);
    pthread_mutex_unlock(&d->mu);
    d->writes++;
    return (ssize_t)len;
}

static int mem_change(void *disk, enum vd_filter_op op, unsigned flags, uint64_t off, uint64_t len)
{
    struct test_disk *d = disk;
    if (op != VD_FILTER_FLUSH) {
        pthread_mutex_lock(&d->mu);
        memset(d->bytes + off, 0, len);
        pthread_mutex_unlock(&d->mu);
    }
    d->others++;
    return 0;
}

/* ---- asynchronous, on the caller's thread or on another ---- */

struct later {
    struct vd_job job;
    struct test_disk *d;
    enum vd_filter_op op;
    uint64_t off;
    size_t len;
    void *buf;
    vd_filter_done done;
    void *user;
};

static void serve(struct later *l)
{
    ssize_t n;
    if (l->op == VD_FILTER_READ)
        n = mem_read(l->d, l->off, l->buf, l->len);
    else if (l->op == VD_FILTER_WRITE)
        n = mem_write(l->d, l->off, l->buf, l->len);
    else
        n = mem_change(l->d, l->op, 0, l->off, l->len);
    l->done(l->user, n, l->op == VD_FILTER_READ && n > 0 ? l->buf : NULL);
    free(l->buf);
    free(l);
}

static void serve_job(struct vd_job *job)
{
    serve(vd_container_of(job, struct later, job));
}

static void begin(struct test_disk *d, enum vd_filter_op op, uint64_t off, const void *data,
                  size_t len, vd_filter_done done, void *user)
{
    struct later *l = malloc(sizeof(*l));
    *l = (struct later){.d = d, .op = op, .off = off, .len = len, .done = done, .user = user};
    l->buf = op == VD_FILTER_READ || op == VD_FILTER_WRITE ? malloc(len) : NULL;
    if (data)
        memcpy(l->buf, data, len);
    if (!atomic_load(&d->on_threads)) {
        serve(l);
        return;
    }
    l->job.run = serve_job;
    l->job.slow = true;
    vd_lane_queue(d->lane, &l->job);
}

static void below_read(void *disk, uint64_t off, size_t len, bool changed, vd_filter_done done,
                       void *user)
{
    begin(disk, VD_FILTER_READ, off, NULL, len, done, user);
}
static void below_write(void *disk, uint64_t off, const void *data, size_t len, vd_filter_done done,
                        void *user)
{
    begin(disk, VD_FILTER_WRITE, off, data, len, done, user);
}
static void below_change(void *disk, enum vd_filter_op op, unsigned flags, uint64_t off,
                         uint64_t len, vd_filter_done done, void *user)
{
    begin(disk, op, off, NULL, len, done, user);
}
static int64_t below_next_data(void *disk, uint64_t off)
{
    struct test_disk *d = disk;
    while (off < DISK_BYTES && !d->bytes[off])
        off++;
    return off < DISK_BYTES ? (int64_t)off : -ENXIO;
}
static uint64_t below_size(void *disk)
{
    return DISK_BYTES;
}
static uint64_t below_epoch(void *disk)
{
    return 7;
}
static int64_t below_get(void *disk, const char *filter, const char *key, void *buf, size_t len)
{
    struct test_disk *d = disk;
    if (d->data_len < 0)
        return -ENOENT;
    memcpy(buf, d->data, vd_min(len, (size_t)d->data_len));
    return d->data_len;
}
static int below_put(void *disk, const char *filter, const char *key, const void *buf, size_t len)
{
    struct test_disk *d = disk;
    memcpy(d->data, buf, len);
    d->data_len = (int64_t)len;
    return 0;
}
static int below_del(void *disk, const char *filter, const char *key)
{
    struct test_disk *d = disk;
    d->data_len = -1;
    return 0;
}
static void below_queue(void *disk, struct vd_job *job)
{
    struct test_disk *d = disk;
    vd_lane_queue(d->lane, job);
}

/* A lock is a thread's, a ticket is not: the tickets are counted. Who waits sleeps: valgrind runs one thread at a time, and one that only
 * yields may get its turn again and again. */
static atomic_uint inside;
static atomic_bool shut;

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static int below_enter(void *disk, unsigned *ret_ticket)
{
    for (;;) {
        atomic_fetch_add(&inside, 1);
        if (!atomic_load(&shut))
            break;
        atomic_fetch_sub(&inside, 1);
        nap();
    }
    *ret_ticket = 1;
    return 0;
}
static int below_leave(void *disk, unsigned ticket, bool has_read)
{
    if (ticket)
        atomic_fetch_sub(&inside, 1);
    return 0;
}

static bool below_others(void *disk)
{
    return false;
}

static void below_finish(void *disk, const struct vd_filter_submit *s, ssize_t result,
                         const void *data)
{
    (void)below_leave(disk, s->ticket, false);
    s->done(s->user, result, data);
}

static const struct vd_filter_below below = {
    .read = below_read,
    .write = below_write,
    .change = below_change,
    .read_now = mem_read,
    .write_now = mem_write,
    .change_now = mem_change,
    .next_data = below_next_data,
    .size = below_size,
    .epoch = below_epoch,
    .get_data = below_get,
    .put_data = below_put,
    .del_data = below_del,
    .queue = below_queue,
    .enter = below_enter,
    .leave = below_leave,
    .others = below_others,
    .finish = below_finish,
};

void disk_open(struct test_disk *d)
{
    disk_open_threads(d, 8);
}

void disk_open_threads(struct test_disk *d, unsigned nthreads)
{
    const struct vd_filtered_info info = {.name = "disk.img"};
    memset(d, 0, sizeof(*d));
    d->data_len = -1;
    pthread_mutex_init(&d->mu, NULL);
    ck_assert_int_eq(vd_lanes_new(4, &d->lanes), 0);
    ck_assert_int_eq(vd_lane_open(d->lanes, nthreads, &d->lane), 0);
    ck_assert_int_eq(vd_filters_open(TEST_FILTERS, &d->fs), 0);
    ck_assert_int_eq(vd_filtered_new(d->fs, &below, d, &info, &d->f), 0);
}

void disk_close(struct test_disk *d)
{
    vd_filtered_drain(d->f, true);
    while (atomic_load(&inside))
        sched_yield();
    vd_filtered_end(d->f, false);
    vd_filtered_free(d->f);
    ck_assert_uint_eq(vd_filters_inflight(d->fs), 0);
    vd_lane_close(d->lane);
    vd_lanes_free(d->lanes);
    vd_filters_close(d->fs);
    pthread_mutex_destroy(&d->mu);
}

struct vd_filter_spec *disk_add(struct test_disk *d, const char *name, const char *config)
{
    char why[VD_FILTER_WHY];
    struct vd_filter_spec *s = &d->specs[d->nspecs++];
    *s = (struct vd_filter_spec){.filter_class = 1, .order = d->nspecs};
    snprintf(s->name, sizeof(s->name), "%s", name);
    snprintf(s->config, sizeof(s->config), "%s", config);
    (void)!vd_filter_spec_complete(d->fs, s, why);
    return s;
}

void disk_add_hook(struct test_disk *d, const char *name, hook_fn *fn)
{
    char config[64];
    snprintf(config, sizeof(config), "hook=%llu\n", (unsigned long long)(uintptr_t)fn);
    disk_add(d, name, config);
}

int disk_replace(struct test_disk *d, const char *fresh, char why[VD_FILTER_WHY])
{
    struct vd_chain *c = NULL;
    int r = vd_filtered_prepare(d->f, d->specs, d->nspecs, fresh, &c, why);
    if (r < 0)
        return r;
    atomic_store(&shut, true);
    vd_filtered_drain(d->f, true);
    while (atomic_load(&inside))
        nap();
    r = vd_filtered_ready(c, fresh, why);
    struct vd_chain *old = r == 0 ? vd_filtered_publish(d->f, c) : NULL;
    vd_filtered_drain(d->f, false);
    atomic_store(&shut, false);
    if (r == 0)
        vd_filtered_settle(d->f, old);
    else
        vd_filtered_discard(d->f, c);
    return r;
}

void disk_apply(struct test_disk *d)
{
    char why[VD_FILTER_WHY] = "";
    ck_assert_msg(disk_replace(d, NULL, why) == 0, "%s", why);
}

void disk_submit(struct test_disk *d, enum vd_filter_op op, uint64_t off, const void *data,
                 size_t len, vd_filter_done done, void *user)
{
    unsigned ticket;
    (void)below_enter(d, &ticket);
    struct vd_filter_submit s = {.op = op,
                                 .off = off,
                                 .len = len,
                                 .data = data,
                                 .ticket = ticket,
                                 .done = done,
                                 .user = user};
    vd_chain_submit(vd_filtered_chain(d->f), &s);
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

ssize_t disk_do(struct test_disk *d, enum vd_filter_op op, uint64_t off, void *buf, size_t len)
{
    struct wait w = {.buf = buf};
    sem_init(&w.sem, 0, 0);
    disk_submit(d, op, off, op == VD_FILTER_WRITE ? buf : NULL, len, waited, &w);
    while (sem_wait(&w.sem) < 0)
        ;
    sem_destroy(&w.sem);
    return w.result;
}

ssize_t disk_read(struct test_disk *d, uint64_t off, void *buf, size_t len)
{
    return disk_do(d, VD_FILTER_READ, off, buf, len);
}

ssize_t disk_write(struct test_disk *d, uint64_t off, const void *buf, size_t len)
{
    return disk_do(d, VD_FILTER_WRITE, off, (void *)(uintptr_t)buf, len);
}
