// SPDX-License-Identifier: Apache-2.0
/*
 * The way of a request through a chain.
 *
 *   down   submit of each filter, from the top. PASS: the next. COMPLETE, or -errno: up from here. DEFER: the request is the filter's until
 *          it is resumed (defer.c). WAIT: again, where one may wait.
 *   below  the disk
 *   up     done of each filter that passed it, from the bottom; then the client's
 *
 * A request that came from outside goes from thread to thread: what waits goes to the disk's threads for it. One that a filter made by a
 * service is served by the filter's thread from its beginning to its end (io->waiter), so that no thread that waits depends on another
 * thread of the same pool being free.
 *
 * A filter that is quarantined while a request that it passed is below is not told; and where it is required the request
 * fails, since what it would have done to the data is not done.
 */
#include <assert.h>
#include <string.h>

#include "filter.h"
#include "vd_log.h"
#include "vd_time.h"

#define SAMPLE_EVERY 64u

/* ---- memory ---- */

struct vd__io *vd__io_get(struct vd_filters *fs)
{
    struct vd__io *io = NULL;
    struct vd__io *_Atomic *place = fs->pool[vd_counter_shard()].place;
    for (int i = 0; i < 4 && !io; i++)
        if (atomic_load_explicit(&place[i], memory_order_relaxed))
            io = atomic_exchange_explicit(&place[i], NULL, memory_order_acquire);
    return io ? io : calloc(1, sizeof(*io));
}

void vd__io_put(struct vd__io *io)
{
    struct vd_filters *fs = io->f->fs;
    while (io->memory) {
        struct vd__memory *m = io->memory;
        io->memory = m->next;
        free(m->data);
        free(m);
    }
    struct vd__io *_Atomic *place = fs->pool[vd_counter_shard()].place;
    for (int i = 0; i < 4; i++) {
        struct vd__io *none = NULL;
        if (!atomic_load_explicit(&place[i], memory_order_relaxed) &&
            atomic_compare_exchange_strong_explicit(&place[i], &none, io, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    free(io);
}

void vd__pool_drain(struct vd_filters *fs)
{
    for (unsigned s = 0; s < VD_COUNTER_SHARDS; s++)
        for (int i = 0; i < 4; i++)
            free(atomic_exchange(&fs->pool[s].place[i], NULL));
}

void *vd__io_alloc(struct vd__io *io, size_t len)
{
    struct vd__memory *m = malloc(sizeof(*m));
    size_t size = vd_align_up(vd_max(len, (size_t)1), VD_BLOCK_SIZE);
    void *data = m && size >= len ? aligned_alloc(VD_BLOCK_SIZE, size) : NULL;
    if (!data) {
        free(m);
        return NULL;
    }
    *m = (struct vd__memory){.next = io->memory, .data = data};
    io->memory = m;
    return data;
}

int vd__io_own_data(struct vd__io *io)
{
    if (!io->borrowed)
        return 0;
    void *copy = vd__io_alloc(io, io->rq.length);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, io->caller_data, io->rq.length);
    for (unsigned i = 0; i < io->at; i++) /* what their `done` will look at */
        if (io->left_data[i] == io->caller_data)
            io->left_data[i] = copy;
    if (io->rq.data == io->caller_data)
        io->rq.data = copy;
    io->borrowed = false;
    return 0;
}

/* ---- up ---- */

/*
 * The filters that passed it are told, from the bottom, by one upcall as long as they return: to go to the callback stack and back for
 * each would cost more than what most of them do.
 */
struct telling {
    struct vd__io *io;
    struct vd__frame frame;
};

/* The lowest filter that is to be told, in RET_I. Those that cannot be are passed over. */
static bool next_to_tell(struct vd__io *io, unsigned *ret_i)
{
    while (io->passed) {
        unsigned i = 31u - (unsigned)__builtin_clz(io->passed);
        struct vd__attachment *a = io->chain->a[i];
        io->passed &= ~(1u << i);
        if (!vd__usable(a)) {
            if (a->spec.required)
                io->rq.result = -EIO;
        } else if (a->lib->ops->done) {
            *ret_i = i;
            return true;
        }
    }
    return false;
}

/* What a filter says must be so before another believes it. */
static void check_result(struct vd__io *io)
{
    struct vd_filter_request *rq = &io->rq;
    if (rq->result > 0 &&
        ((uint64_t)rq->result > rq->length || (rq->op == VD_FILTER_READ && !rq->data)))
        rq->result = -EIO;
    if (rq->op == VD_FILTER_READ && rq->result <= 0)
        rq->data = NULL;
}

static void call_dones(void *arg)
{
    struct telling *t = arg;
    struct vd__io *io = t->io;
    do {
        struct vd__attachment *a = io->chain->a[io->at];
        int64_t before = io->rq.result;
        vd__upcall_next(&t->frame, a);
        io->rq.self_data = io->self_data[io->at];
        if (io->rq.op == VD_FILTER_WRITE)
            io->rq.data = io->left_data[io->at];
        a->lib->ops->done(a->self, &io->rq);
        check_result(io);
        if (io->rq.result < 0 && before >= 0)
            vd__count(a, N_ERRORS, 1);
    } while (next_to_tell(io, &io->at));
}

static void end(struct vd__io *io)
{
    struct vd_filtered *f = io->f;
    ssize_t result = (ssize_t)io->rq.result;
    if (result > 0 &&
        ((uint64_t)result > io->rq.length || (io->rq.op == VD_FILTER_READ && !io->rq.data)))
        result = -EIO; /* a filter's mistake */
    const void *data = io->rq.op == VD_FILTER_READ && result > 0 ? io->rq.data : NULL;
    if (io->waiter) {
        struct vd__waiter *w = io->waiter;
        if (data && data != w->buf)
            memcpy(w->buf, data, (size_t)result);
        w->result = result;
        w->ended = true;
        return;
    }
    const struct vd_filter_submit s = {
        .op = (enum vd_filter_op)io->rq.op,
        .off = io->rq.offset,
        .len = io->rq.length,
        .ticket = io->ticket,
        .done = io->done,
        .user = io->user,
    };
    struct vd_filters *fs = f->fs;
    /* DATA may be the request's memory: what it needs is copied by DONE, after which the disk may be gone. */
    if (io->abandoned || !io->memory) {
        if (!io->abandoned)
            vd__io_put(io);
        vd_counter_add(&fs->inflight, 1, 0, UINT64_MAX);
        f->below->finish(f->disk, &s, result, data);
        return;
    }
    struct vd__memory *memory = vd_steal_ptr(io->memory);
    vd__io_put(io);
    vd_counter_add(&fs->inflight, 1, 0, UINT64_MAX);
    f->below->finish(f->disk, &s, result, data);
    while (memory) {
        struct vd__memory *m = memory;
        memory = m->next;
        free(m->data);
        free(m);
    }
}

static void go_up(struct vd__io *io)
{
    while (next_to_tell(io, &io->at)) {
        struct telling t = {.io = io, .frame = {.io = io, .inside = true}};
        int r = vd__upcall(io->chain->a[io->at], &t.frame, "done", call_dones, &t);
        if (r < 0)
            io->rq.result = r; /* it faulted; those above it go on */
    }
    end(io);
}

static void fail(struct vd__io *io, int64_t result)
{
    io->rq.result = result;
    if (io->rq.op == VD_FILTER_READ)
        io->rq.data = NULL;
    go_up(io);
}

/* ---- below ---- */

static void below_done(void *user, ssize_t result, const void *data)
{
    struct vd__io *io = user;
    io->rq.result = result;
    if (io->rq.op == VD_FILTER_READ)
        io->rq.data = (void *)(uintptr_t)data;
    go_up(io);
}

static void below_now(struct vd__io *io)
{
    const struct vd_filter_below *b = io->f->below;
    struct vd_filter_request *rq = &io->rq;
    void *disk = io->f->disk;
    switch (rq->op) {
    case VD_FILTER_READ:
        rq->data = io->waiter->buf;
        rq->result = b->read_now(disk, rq->offset, rq->data, rq->length);
        if (rq->result >= 0 && io->chain == vd_filtered_chain(io->f) && b->others(disk))
            rq->result = -EIO; /* before a `done` sees it */
        break;
    case VD_FILTER_WRITE:
        rq->result = b->write_now(disk, rq->offset, rq->data, rq->length);
        break;
    default:
        rq->result =
            b->change_now(disk, (enum vd_filter_op)rq->op, rq->flags, rq->offset, rq->length);
    }
    go_up(io);
}

/* Is somebody told of its end? Then what was passed on must be there until then. */
static bool is_told(const struct vd__io *io)
{
    for (unsigned i = 0; i < io->chain->n; i++)
        if (io->passed & 1u << i && io->chain->a[i]->lib->ops->done)
            return true;
    return false;
}

static void go_below(struct vd__io *io)
{
    const struct vd_filter_below *b = io->f->below;
    const struct vd_filter_request *rq = &io->rq;
    void *disk = io->f->disk;
    if (io->borrowed && is_told(io) && vd__io_own_data(io) < 0) {
        fail(io, -ENOMEM);
        return;
    }
    if (io->waiter)
        below_now(io);
    else if (rq->op == VD_FILTER_READ)
        b->read(disk, rq->offset, rq->length, io->chain->changes, below_done, io);
    else if (rq->op == VD_FILTER_WRITE)
        b->write(disk, rq->offset, rq->data, rq->length, below_done, io);
    else
        b->change(disk, (enum vd_filter_op)rq->op, rq->flags, rq->offset, rq->length, below_done,
                  io);
}

/* ---- down ---- */

static void run_job(struct vd_job *job)
{
    struct vd__io *io = vd_container_of(job, struct vd__io, job);
    io->may_wait = true;
    vd__run(io);
}

/* To a thread that may wait. */
static void put_off(struct vd__io *io)
{
    if (vd__io_own_data(io) < 0) {
        fail(io, -ENOMEM);
        return;
    }
    io->job.run = run_job;
    io->job.slow = true;
    io->f->below->queue(io->f->disk, &io->job);
}

/* May filter I be asked now, and has it anything to say? */
static bool can_ask(const struct vd__io *io, const struct vd__attachment *a)
{
    return vd__usable(a) && a->lib->ops->submit &&
           (io->may_wait || !(a->lib->ops->flags & VD_FILTER_WAITS));
}

static void pass(struct vd__io *io)
{
    io->self_data[io->at] = io->rq.self_data;
    io->left_data[io->at] = io->rq.data;
    io->passed |= 1u << io->at;
    io->at++;
    io->submitted = false;
}

struct asking {
    struct vd__io *io;
    struct vd__frame frame;
    bool one; /* and then no more */
    int verdict;
};

/* Asks the filter at io->at, and those below it as long as they pass: by one upcall, as call_dones. */
static void call_submits(void *arg)
{
    struct asking *k = arg;
    struct vd__io *io = k->io;
    for (;;) {
        struct vd__attachment *a = io->chain->a[io->at];
        vd__upcall_next(&k->frame, a);
        if (!io->submitted) {
            io->submitted = true;
            vd__count(a, N_REQUESTS, 1);
        }
        io->token = 0;
        io->rq.self_data = io->self_data[io->at];
        k->verdict = a->lib->ops->submit(a->self, &io->rq);
        if (k->one || k->verdict != VD_FILTER_PASS || io->token || io->at + 1 == io->chain->n ||
            !can_ask(io, io->chain->a[io->at + 1]))
            return;
        pass(io);
    }
}

/* The verdict of the filter that is at io->at afterwards. */
static int ask(struct vd__io *io)
{
    struct vd__attachment *a = io->chain->a[io->at];
    bool sample = io->rq.id / VD_COUNTER_SHARDS % SAMPLE_EVERY == 0;
    struct asking k = {
        .io = io,
        .frame = {.io = io, .inside = true, .may_wait = io->may_wait},
        .one = sample,
        .verdict = -EIO,
    };
    io->token = 0;
    io->rq.flags = (io->rq.flags & ~VD_FILTER_MAY_WAIT) | (io->may_wait ? VD_FILTER_MAY_WAIT : 0);
    uint64_t began = sample ? vd_now_ns() : 0;
    int r = vd__upcall(a, &k.frame, "submit", call_submits, &k);
    if (r == -ELOOP)
        vd_log_debug("%s: filter %s: upcalls are nested too deeply", a->f->info.name, a->spec.name);
    if (sample && r == 0) {
        vd__count(a, N_SAMPLES, 1);
        vd__count(a, N_SAMPLED_NS, vd_now_ns() - began);
    }
    return r < 0 ? r : k.verdict;
}

static int mistake(struct vd__attachment *a, struct vd__io *io, const char *what)
{
    vd__quarantine(a, what);
    return -EIO;
}

/* What VERDICT means: PASS, COMPLETE, WAIT, -errno; or DEFER: the request is not ours any more. */
static int judge(struct vd__io *io, struct vd__attachment *a, int verdict)
{
    bool resumed = false;
    if (verdict == VD_FILTER_DEFER && io->token) {
        if (vd__defer_left(io))
            return VD_FILTER_DEFER;
        resumed = true; /* before its submit had returned */
        io->token = 0;
        verdict = io->verdict;
        io->rq.result = io->verdict_result;
    } else if (io->token) {
        vd__defer_undo(io);
        if (verdict == VD_FILTER_DEFER)
            verdict = -EIO;
    } else if (verdict == VD_FILTER_DEFER) {
        verdict = mistake(a, io, "its submit answered DEFER without vd_filter_defer");
    }
    if (verdict > VD_FILTER_WAIT || (verdict == VD_FILTER_WAIT && io->may_wait && !resumed) ||
        verdict == VD_FILTER_DEFER)
        verdict = mistake(a, io, "its submit answered what it must not");
    return verdict;
}

/* True: go on with the next filter. False: the request is elsewhere, or at its end. */
static bool obey(struct vd__io *io, struct vd__attachment *a, int verdict)
{
    if (verdict == VD_FILTER_PASS) {
        pass(io);
        return true;
    }
    io->self_data[io->at] = io->rq.self_data;
    if (verdict == VD_FILTER_WAIT && io->may_wait)
        return true; /* resumed so: asked again */
    if (verdict == VD_FILTER_WAIT) {
        put_off(io);
    } else if (verdict == VD_FILTER_COMPLETE) {
        check_result(io);
        go_up(io);
    } else {
        vd__count(a, N_ERRORS, 1);
        fail(io, verdict);
    }
    return false;
}

/* Passes filters that have nothing to say. False: the request is at its end. */
static bool skip(struct vd__io *io, struct vd__attachment *a, bool *ret_skipped)
{
    bool usable = vd__usable(a);
    *ret_skipped = !usable || !a->lib->ops->submit;
    if (!*ret_skipped)
        return true;
    if (!usable && a->spec.required) {
        fail(io, -EIO);
        return false;
    }
    if (usable) {
        vd__count(a, N_REQUESTS, 1);
        io->left_data[io->at] = io->rq.data;
        io->passed |= 1u << io->at;
    }
    io->at++;
    return true;
}

void vd__run(struct vd__io *io)
{
    while (io->at < io->chain->n) {
        struct vd__attachment *a = io->chain->a[io->at];
        bool skipped;
        if (!skip(io, a, &skipped))
            return;
        if (skipped)
            continue;
        if (a->lib->ops->flags & VD_FILTER_WAITS && !io->may_wait) {
            put_off(io);
            return;
        }
        int verdict = ask(io);
        a = io->chain->a[io->at];
        verdict = judge(io, a, verdict);
        if (verdict == VD_FILTER_DEFER || !obey(io, a, verdict))
            return;
    }
    go_below(io);
}

static void resumed_job(struct vd_job *job)
{
    struct vd__io *io = vd_container_of(job, struct vd__io, job);
    struct vd__attachment *a = io->chain->a[io->at];
    int verdict = io->verdict;
    io->may_wait = true;
    if (verdict == VD_FILTER_WAIT) { /* asked again, here */
        io->self_data[io->at] = io->rq.self_data;
        vd__run(io);
        return;
    }
    io->rq.result = io->verdict_result;
    if (verdict > VD_FILTER_COMPLETE)
        verdict = mistake(a, io, "it resumed a request with what it must not");
    if (obey(io, a, verdict))
        vd__run(io);
}

void vd__run_on(struct vd__io *io)
{
    struct vd__waiter *w = io->waiter;
    if (!w) {
        io->job.run = resumed_job;
        io->job.slow = true;
        io->f->below->queue(io->f->disk, &io->job);
        return;
    }
    pthread_mutex_lock(&w->mu);
    w->ready = true;
    pthread_cond_signal(&w->go);
    pthread_mutex_unlock(&w->mu);
}

/* ---- the two ways in ---- */

/* Each shard deals out its own, so that workers do not share a cache line. */
static uint64_t next_id(struct vd_filters *fs)
{
    unsigned s = vd_counter_shard();
    uint64_t n = atomic_fetch_add_explicit(&fs->pool[s].next_id, 1, memory_order_relaxed);
    return n * VD_COUNTER_SHARDS + s + 1;
}

static void prepare(struct vd__io *io, struct vd_chain *c, enum vd_filter_op op, unsigned flags,
                    uint64_t off, uint64_t len, void *data)
{
    io->f = c->f;
    io->chain = c;
    io->at = 0;
    io->passed = 0;
    io->may_wait = io->borrowed = io->submitted = io->abandoned = false;
    io->waiter = NULL;
    io->memory = NULL;
    io->token = 0;
    atomic_store_explicit(&io->hold, HOLD_RUNNING, memory_order_relaxed);
    memset(io->self_data, 0, c->n * sizeof(io->self_data[0]));
    io->rq = (struct vd_filter_request){
        .size = sizeof(io->rq),
        .op = op,
        .flags = flags,
        .offset = off,
        .length = len,
        .data = data,
        .id = next_id(c->f->fs),
    };
}

void vd_chain_submit(struct vd_chain *c, const struct vd_filter_submit *s)
{
    struct vd_filters *fs = c->f->fs;
    struct vd__io *io = vd__io_get(fs);
    if (!io) {
        c->f->below->finish(c->f->disk, s, -ENOMEM, NULL);
        return;
    }
    prepare(io, c, s->op, s->flags, s->off, s->len, (void *)(uintptr_t)s->data);
    io->borrowed = s->op == VD_FILTER_WRITE;
    io->caller_data = (void *)(uintptr_t)s->data;
    io->ticket = s->ticket;
    io->done = s->done;
    io->user = s->user;
    vd_counter_add(&fs->inflight, 1, 0, 1);
    vd__run(io);
}

static void wait_until_ended(struct vd__io *io, struct vd__waiter *w)
{
    while (!w->ended) {
        pthread_mutex_lock(&w->mu);
        while (!w->ready)
            pthread_cond_wait(&w->go, &w->mu);
        w->ready = false;
        pthread_mutex_unlock(&w->mu);
        resumed_job(&io->job);
    }
}

ssize_t vd__run_now(struct vd_chain *c, unsigned at, enum vd_filter_op op, unsigned flags,
                    uint64_t off, void *data, uint64_t len)
{
    struct vd__io *io = vd__io_get(c->f->fs);
    struct vd__waiter w = {.mu = PTHREAD_MUTEX_INITIALIZER, .go = PTHREAD_COND_INITIALIZER};
    if (!io)
        return -ENOMEM;
    prepare(io, c, op, flags, off, len, op == VD_FILTER_WRITE ? data : NULL);
    w.buf = data;
    io->at = at;
    io->waiter = &w;
    io->may_wait = true;
    vd__run(io);
    wait_until_ended(io, &w);
    if (!io->abandoned)
        vd__io_put(io);
    pthread_mutex_destroy(&w.mu);
    pthread_cond_destroy(&w.go);
    return w.result;
}
