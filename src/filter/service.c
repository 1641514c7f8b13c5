// SPDX-License-Identifier: Apache-2.0
/*
 * What a filter may ask of its host. In a callback a service runs on the second host stack; on a thread of the filter's own it runs where
 * it is called.
 *
 * What stands below a filter is looked up in the disk's chain. Within a request that chain cannot be replaced; work of the filter's own enters the
 * disk's gate for as long as it takes, as a request does.
 */
#include <string.h>
#include <time.h>

#include "filter.h"
#include "vd_log.h"
#include "vd_time.h"

/* The arguments of any service, and its result. */
struct service {
    struct vd__attachment *a;
    struct vd__frame *frame; /* this filter's upcall on this thread, or NULL */
    bool may_wait;
    bool next_data; /* a read of where data are */
    enum vd_filter_op op;
    unsigned flags;
    uint64_t off, len;
    void *buf;
    const char *text;
    struct vd_filter_request *rq;
    uint64_t number;
    int verdict;
    int64_t result;
    void *memory;
};

static void serve(struct vd_filter_disk *disk, struct service *s, void (*fn)(void *arg))
{
    struct vd_upcall *u = NULL;
    s->a = vd_container_of(disk, struct vd__attachment, disk);
    struct vd__frame *here = vd__frame_here();
    s->frame = here && here->a == s->a ? here : NULL;
    s->may_wait = !here || here->may_wait;
    if (here)
        u = vd_upcall_self();
    if (vd_upcall_in_callback(u)) {
        vd_upcall_service(u, fn, s);
        return;
    }
    /* A quarantined filter's threads may outlive its disk. */
    atomic_fetch_add(&s->a->serving, 1);
    if (atomic_load(&s->a->dead))
        s->result = -ESHUTDOWN;
    else
        fn(s);
    atomic_fetch_sub(&s->a->serving, 1);
}

/* ---- below ---- */

/* The first place below A in the chain that it is in or will be in; or, while it is being detached, was in. */
static unsigned below_of(const struct vd__attachment *a, struct vd_chain **ret_c)
{
    struct vd_chain *c = atomic_load(&a->making);
    if (!c)
        c = vd_filtered_chain(a->f);
    *ret_c = c;
    for (unsigned i = 0; c && i < c->n; i++)
        if (c->a[i] == a)
            return i + 1;
    for (unsigned i = 0; c && i < c->n; i++)
        if (vd__place_cmp(c->a[i], a) > 0)
            return i;
    return c ? c->n : 0;
}

static int64_t one_below(struct service *s, struct vd_chain *c, unsigned at, uint64_t done,
                         uint64_t len)
{
    const struct vd_filter_below *b = s->a->f->below;
    void *disk = s->a->f->disk, *buf = s->buf ? (uint8_t *)s->buf + done : NULL;
    if (c && at < c->n)
        return vd__run_now(c, at, s->op, s->flags, s->off + done, buf, len);
    if (s->op == VD_FILTER_READ)
        return b->read_now(disk, s->off + done, buf, len);
    if (s->op == VD_FILTER_WRITE)
        return b->write_now(disk, s->off + done, buf, len);
    return b->change_now(disk, s->op, s->flags, s->off + done, len);
}

static int64_t all_below(struct service *s)
{
    struct vd_chain *c;
    unsigned at = below_of(s->a, &c);
    bool data = s->op == VD_FILTER_READ || s->op == VD_FILTER_WRITE;
    uint64_t done = 0;
    if (s->next_data)
        return s->a->f->below->next_data(s->a->f->disk, s->off);
    if (!data)
        return one_below(s, c, at, 0, s->len);
    while (done < s->len) {
        uint64_t len = vd_min(s->len - done, (uint64_t)VD_IO_MAX_BYTES);
        int64_t n = one_below(s, c, at, done, len);
        if (n < 0)
            return n;
        done += (uint64_t)n;
        if ((uint64_t)n < len)
            return s->op == VD_FILTER_WRITE ? -EIO : (int64_t)done;
    }
    return (int64_t)done;
}

static void io_fn(void *arg)
{
    struct service *s = arg;
    struct vd_filtered *f = s->a->f;
    unsigned ticket;
    if (!s->may_wait) {
        s->result = -EAGAIN;
        return;
    }
    if (s->frame && s->frame->inside) {
        s->result = all_below(s);
        if (s->op == VD_FILTER_READ && s->result >= 0 && !atomic_load(&s->a->making) &&
            f->below->others(f->disk))
            s->result = -EIO; /* the client's request begins anew */
        return;
    }
    if (atomic_load(&f->ended)) {
        s->result = -ESHUTDOWN;
        return;
    }
    s->result = f->below->enter(f->disk, &ticket);
    if (s->result == 0) {
        s->result = all_below(s);
        /* One that is being attached reads by a chain that is not the disk's yet; who makes that looks after it. */
        bool has_read = s->op == VD_FILTER_READ && !atomic_load(&s->a->making);
        int r = f->below->leave(f->disk, ticket, has_read);
        if (s->result >= 0 && r < 0)
            s->result = r;
    }
}

static int64_t do_read(struct vd_filter_disk *disk, void *buf, uint64_t offset, uint64_t length)
{
    struct service s = {.op = VD_FILTER_READ, .buf = buf, .off = offset, .len = length};
    serve(disk, &s, io_fn);
    return s.result;
}

static int64_t do_write(struct vd_filter_disk *disk, const void *buf, uint64_t offset,
                        uint64_t length)
{
    struct service s = {
        .op = VD_FILTER_WRITE, .buf = (void *)(uintptr_t)buf, .off = offset, .len = length};
    serve(disk, &s, io_fn);
    return s.result;
}

static int do_zero(struct vd_filter_disk *disk, uint64_t offset, uint64_t length, bool discard)
{
    struct service s = {
        .op = discard ? VD_FILTER_DISCARD : VD_FILTER_ZERO, .off = offset, .len = length};
    serve(disk, &s, io_fn);
    return (int)s.result;
}

static int do_flush(struct vd_filter_disk *disk)
{
    struct service s = {.op = VD_FILTER_FLUSH, .flags = VD_FILTER_DATA_ONLY};
    serve(disk, &s, io_fn);
    return (int)s.result;
}

static int64_t do_next_data(struct vd_filter_disk *disk, uint64_t offset)
{
    struct service s = {.op = VD_FILTER_READ, .next_data = true, .off = offset};
    serve(disk, &s, io_fn);
    return s.result;
}

/* ---- the disk ---- */

static void size_fn(void *arg)
{
    struct service *s = arg;
    s->number = s->a->f->below->size(s->a->f->disk);
}

static uint64_t do_disk_size(struct vd_filter_disk *disk)
{
    struct service s = {0};
    serve(disk, &s, size_fn);
    return s.number;
}

static void epoch_fn(void *arg)
{
    struct service *s = arg;
    s->number = s->a->f->below->epoch(s->a->f->disk);
}

static uint64_t do_epoch(struct vd_filter_disk *disk)
{
    struct service s = {0};
    serve(disk, &s, epoch_fn);
    return s.number;
}

/* ---- private metadata ---- */

static bool key_is_good(const char *key)
{
    size_t n = strnlen(key, VD_FILTER_KEY_MAX + 1);
    if (n == 0 || n > VD_FILTER_KEY_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if (key[i] <= ' ' || key[i] > '~' || key[i] == '/')
            return false;
    return true;
}

static void data_fn(void *arg)
{
    struct service *s = arg;
    const struct vd_filter_below *b = s->a->f->below;
    const char *name = s->a->spec.name;
    void *disk = s->a->f->disk;
    if (!s->may_wait)
        s->result = -EAGAIN;
    else if (!key_is_good(s->text) || (s->verdict == 1 && s->len > VD_FILTER_DATA_MAX))
        s->result = -EINVAL;
    else if (s->verdict == 0)
        s->result = b->get_data(disk, name, s->text, s->buf, s->len);
    else if (s->verdict == 1)
        s->result = b->put_data(disk, name, s->text, s->buf, s->len);
    else
        s->result = b->del_data(disk, name, s->text);
}

static int64_t do_get_data(struct vd_filter_disk *disk, const char *key, void *buf, size_t len)
{
    struct service s = {.text = key, .buf = buf, .len = len, .verdict = 0};
    serve(disk, &s, data_fn);
    return s.result;
}

static int do_put_data(struct vd_filter_disk *disk, const char *key, const void *buf, size_t len)
{
    struct service s = {.text = key, .buf = (void *)(uintptr_t)buf, .len = len, .verdict = 1};
    serve(disk, &s, data_fn);
    return (int)s.result;
}

static int do_del_data(struct vd_filter_disk *disk, const char *key)
{
    struct service s = {.text = key, .verdict = 2};
    serve(disk, &s, data_fn);
    return (int)s.result;
}

/* ---- waiting, saying ---- */

static void wait_fn(void *arg)
{
    struct service *s = arg;
    struct vd_filtered *f = s->a->f;
    uint64_t until_ns = vd_now_ns() + vd_min(s->number, UINT64_MAX / 4);
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                             .tv_nsec = (long)(until_ns % 1000000000)};
    if (!s->may_wait) {
        s->result = -EAGAIN;
        return;
    }
    pthread_mutex_lock(&f->mu);
    int r = 0;
    while (!atomic_load(&f->draining) && !atomic_load(&s->a->dead) && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&f->changed, &f->mu, &until);
    s->result = r == ETIMEDOUT ? 0 : -ECANCELED;
    pthread_mutex_unlock(&f->mu);
}

static int do_wait(struct vd_filter_disk *disk, uint64_t ns)
{
    struct service s = {.number = ns};
    serve(disk, &s, wait_fn);
    return (int)s.result;
}

static void log_fn(void *arg)
{
    struct service *s = arg;
    vd_log((enum vd_log_level)s->verdict, "%s: filter %s: %s", s->a->f->info.name, s->a->spec.name,
           s->text);
}

static void do_log(struct vd_filter_disk *disk, enum vd_filter_level level, const char *text)
{
    static const enum vd_log_level levels[] = {VD_LOG_ERROR, VD_LOG_WARNING, VD_LOG_NOTE,
                                               VD_LOG_DEBUG};
    unsigned i = vd_min((unsigned)level, (unsigned)VD_FILTER_LOG_DEBUG);
    struct service s = {.text = text, .verdict = levels[i]};
    serve(disk, &s, log_fn);
}

static void why_fn(void *arg)
{
    struct service *s = arg;
    if (s->frame && s->frame->why) {
        snprintf(s->frame->why, VD_FILTER_WHY, "%s", s->text);
        return;
    }
    pthread_mutex_lock(&s->a->mu);
    snprintf(s->a->why, sizeof(s->a->why), "%s", s->text);
    pthread_mutex_unlock(&s->a->mu);
}

static void do_why(struct vd_filter_disk *disk, const char *text)
{
    struct service s = {.text = text};
    serve(disk, &s, why_fn);
}

/* ---- requests ---- */

static void alloc_fn(void *arg)
{
    struct service *s = arg;
    s->memory = vd__io_alloc(vd_container_of(s->rq, struct vd__io, rq), s->len);
}

static void *do_alloc(struct vd_filter_disk *disk, struct vd_filter_request *rq, size_t len)
{
    struct service s = {.rq = rq, .len = len};
    serve(disk, &s, alloc_fn);
    return s.memory;
}

/* In the submit of the same request only: its frame says so. */
static struct vd__io *held_io(const struct service *s)
{
    struct vd__io *io = vd_container_of(s->rq, struct vd__io, rq);
    return s->frame && s->frame->io == io && !io->token && io->submitted ? io : NULL;
}

static void defer_fn(void *arg)
{
    struct service *s = arg;
    struct vd__io *io = held_io(s);
    s->result = io ? vd__defer(s->a, io, &s->number) : -EINVAL;
}

static int do_defer(struct vd_filter_disk *disk, struct vd_filter_request *rq, uint64_t *ret_token)
{
    struct service s = {.rq = rq};
    serve(disk, &s, defer_fn);
    if (s.result == 0)
        *ret_token = s.number;
    return (int)s.result;
}

static void defer_for_fn(void *arg)
{
    struct service *s = arg;
    struct vd__io *io = held_io(s);
    struct vd_filters *fs = s->a->f->fs;
    uint64_t token;
    s->result = io ? vd__defer(s->a, io, &token) : -EINVAL;
    if (s->result < 0)
        return;
    s->result = vd__timer_add(fs->timer, s->a->f, token, s->number);
    if (s->result < 0)
        vd__defer_undo(io);
    else if (atomic_load(&s->a->f->draining)) /* its timers may have been fired just before */
        (void)vd__resume(fs, s->a, token, VD_FILTER_PASS, 0);
}

static int do_defer_for(struct vd_filter_disk *disk, struct vd_filter_request *rq, uint64_t ns)
{
    struct service s = {.rq = rq, .number = ns};
    serve(disk, &s, defer_for_fn);
    return (int)s.result;
}

static void resume_fn(void *arg)
{
    struct service *s = arg;
    s->result = vd__resume(s->a->f->fs, s->a, s->number, s->verdict, (int64_t)s->off);
}

static int do_resume(struct vd_filter_disk *disk, uint64_t token, int verdict, int64_t result)
{
    struct service s = {.number = token, .verdict = verdict, .off = (uint64_t)result};
    if (verdict == VD_FILTER_DEFER || verdict > VD_FILTER_WAIT)
        return -EINVAL;
    serve(disk, &s, resume_fn);
    return (int)s.result;
}

const struct vd_filter_host vd__filter_host = {
    .size = sizeof(struct vd_filter_host),
    .read = do_read,
    .write = do_write,
    .zero = do_zero,
    .flush = do_flush,
    .disk_size = do_disk_size,
    .epoch = do_epoch,
    .get_data = do_get_data,
    .put_data = do_put_data,
    .del_data = do_del_data,
    .wait = do_wait,
    .log = do_log,
    .why = do_why,
    .alloc = do_alloc,
    .defer = do_defer,
    .defer_for = do_defer_for,
    .resume = do_resume,
    .next_data = do_next_data,
};
