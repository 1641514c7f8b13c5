// SPDX-License-Identifier: Apache-2.0
/*
 * Attachments, and chains of them. A chain is made anew for each change: what stays is moved over, what is new is
 * attached before the chain is in place, what is left out is detached after.
 *
 *   prepare   new attachments: attach
 *   publish   no request is under way: the pointer is exchanged
 *   settle    requests go on: start of the new, detach of the old
 *
 * A filter that cannot be had is in its chain all the same, as `missing`: so that it is shown, can be detached, and, where it is
 * required, its disk refuses.
 */
#include <assert.h>
#include <sched.h>
#include <string.h>

#include "filter.h"
#include "vd_log.h"


/* ---- the mount's ---- */

uint64_t vd_filters_inflight(struct vd_filters *fs)
{
    return vd_counter_sum(&fs->inflight, 1, 0);
}

static void attachment_free(struct vd__attachment *a)
{
    while (!vd_list_empty(&a->abandoned)) {
        struct vd__io *io = vd_list_entry(a->abandoned.next, struct vd__io, link);
        vd_list_del(&io->link);
        while (io->memory) {
            struct vd__memory *m = io->memory;
            io->memory = m->next;
            free(m->data);
            free(m);
        }
        free(io);
    }
    pthread_mutex_destroy(&a->mu);
    free(a);
}

void vd_filters_close(struct vd_filters *fs)
{
    if (!fs)
        return;
    assert(vd_list_empty(&fs->disks));
    uint64_t n = vd_filters_inflight(fs);
    if (n)
        vd_log_error("%llu requests were never answered by their filters", (unsigned long long)n);
    vd__timer_free(fs->timer);
    while (!vd_list_empty(&fs->left)) {
        struct vd__attachment *a = vd_list_entry(fs->left.next, struct vd__attachment, link);
        vd_list_del(&a->link);
        attachment_free(a);
    }
    while (!vd_list_empty(&fs->libraries)) {
        struct vd__library *lib = vd_list_entry(fs->libraries.next, struct vd__library, link);
        vd_list_del(&lib->link);
        free(lib);
    }
    vd__pool_drain(fs);
    pthread_mutex_destroy(&fs->hold_mu);
    pthread_mutex_destroy(&fs->mu);
    free(fs->held);
    free(fs->dir);
    free(fs);
}

void vd_filters_stopping(struct vd_filters *fs, unsigned grace_ms)
{
    struct vd_list *it;
    atomic_store(&fs->stopping, true);
    vd__timer_force(fs->timer, grace_ms * 1000000ull);
    pthread_mutex_lock(&fs->mu);
    vd_list_for_each (it, &fs->disks) {
        struct vd_filtered *f = vd_list_entry(it, struct vd_filtered, link);
        pthread_mutex_lock(&f->mu);
        atomic_store(&f->draining, true);
        pthread_cond_broadcast(&f->changed);
        pthread_mutex_unlock(&f->mu);
        vd__timer_fire(fs->timer, f);
    }
    pthread_mutex_unlock(&fs->mu);
}

/* ---- a disk's ---- */

int vd_filtered_new(struct vd_filters *fs, const struct vd_filter_below *below, void *disk,
                    const struct vd_filtered_info *info, struct vd_filtered **ret_f)
{
    struct vd_filtered *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    pthread_condattr_t attr;
    f->fs = fs;
    f->below = below;
    f->disk = disk;
    f->info = *info;
    pthread_mutex_init(&f->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_lock(&fs->mu);
    atomic_store(&f->draining, atomic_load(&fs->stopping));
    vd_list_add_tail(&fs->disks, &f->link);
    pthread_mutex_unlock(&fs->mu);
    *ret_f = f;
    return 0;
}

void vd_filtered_free(struct vd_filtered *f)
{
    if (!f)
        return;
    assert(!atomic_load(&f->chain));
    pthread_mutex_lock(&f->fs->mu);
    vd_list_del(&f->link);
    pthread_mutex_unlock(&f->fs->mu);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

struct vd_chain *vd_filtered_chain(struct vd_filtered *f)
{
    return atomic_load_explicit(&f->chain, memory_order_acquire);
}

/* ---- attaching ---- */

struct attach_call {
    struct vd__attachment *a;
    struct vd_filter_disk_info info;
    int result;
};

static void call_attach(void *arg)
{
    struct attach_call *c = arg;
    c->result = c->a->lib->ops->attach(&c->a->disk, &c->info, &c->a->self);
}

static struct vd__attachment *attachment_new(struct vd_filtered *f,
                                             const struct vd_filter_spec *spec)
{
    struct vd__attachment *a = aligned_alloc(64, vd_align_up(sizeof(*a), 64));
    if (!a)
        return NULL;
    memset(a, 0, sizeof(*a));
    a->disk.host = &vd__filter_host;
    a->f = f;
    a->spec = *spec;
    pthread_mutex_init(&a->mu, NULL);
    vd_list_init(&a->abandoned);
    vd_list_init(&a->link);
    return a;
}

/* Asks the filter whether it will have the disk. */
static int ask_attach(struct vd__attachment *a, const struct vd__config *config, bool fresh)
{
    struct vd_filtered *f = a->f;
    struct vd__frame frame = {.may_wait = true};
    struct attach_call c = {
        .a = a,
        .info =
            {
                .size = sizeof(c.info),
                .name = f->info.name,
                .uuid = f->info.uuid,
                .size_bytes = f->below->size(f->disk),
                .dev = f->info.dev,
                .ino = f->info.ino,
                .read_only = f->info.read_only,
                .fresh = fresh,
                .epoch = f->below->epoch(f->disk),
                .values = config->values,
            },
        .result = -EIO,
    };
    int r = vd__upcall(a, &frame, "attach", call_attach, &c);
    if (r < 0)
        return r;
    if (c.result > 0)
        c.result = -EINVAL;
    if (c.result < 0 && !a->why[0])
        snprintf(a->why, sizeof(a->why), "it cannot be attached: %s", strerror(-c.result));
    return c.result;
}

/* From a name to a filter that serves: a->lib is NULL, and a->why says why, if it does not. */
static int attach(struct vd__attachment *a, bool fresh)
{
    struct vd__config *c = calloc(1, sizeof(*c));
    struct vd__library *lib = NULL;
    int r = c ? vd__library_get(a->f->fs, a->spec.name, &lib, a->why) : -ENOMEM;
    if (r == 0)
        r = vd__config_parse(lib->ops->options, a->spec.config, c, a->why);
    if (r == 0) {
        a->lib = lib;
        r = ask_attach(a, c, fresh);
        vd__config_clear(c);
    }
    free(c);
    if (r < 0 && !atomic_load(&a->quarantined)) {
        a->lib = NULL;
        if (!a->why[0])
            snprintf(a->why, sizeof(a->why), "%s", strerror(-r));
    }
    return r;
}

static void call_detach(void *arg)
{
    struct vd__attachment *a = arg;
    a->lib->ops->detach(a->self);
}

/* No request is under way. A quarantined filter may have threads that go on: what they know of stays. */
static void detach(struct vd__attachment *a)
{
    struct vd__frame frame = {.inside = true, .may_wait = true};
    if (vd__usable(a))
        (void)!vd__upcall(a, &frame, "detach", call_detach, a);
    if (!atomic_load(&a->quarantined)) {
        attachment_free(a);
        return;
    }
    atomic_store(&a->dead, true);
    pthread_mutex_lock(&a->f->mu);
    pthread_cond_broadcast(&a->f->changed);
    pthread_mutex_unlock(&a->f->mu);
    while (atomic_load(&a->serving))
        sched_yield();
    pthread_mutex_lock(&a->f->fs->mu);
    vd_list_add_tail(&a->f->fs->left, &a->link);
    pthread_mutex_unlock(&a->f->fs->mu);
}

/* ---- chains ---- */

static bool same_spec(const struct vd_filter_spec *a, const struct vd_filter_spec *b)
{
    return strcmp(a->name, b->name) == 0 && a->order == b->order && a->required == b->required &&
           strcmp(a->config, b->config) == 0;
}

static struct vd__attachment *find_same(struct vd_chain *c, const struct vd_filter_spec *spec)
{
    for (unsigned i = 0; c && i < c->n; i++)
        if (same_spec(&c->a[i]->spec, spec))
            return c->a[i];
    return NULL;
}

int vd__place_cmp(const struct vd__attachment *a, const struct vd__attachment *b)
{
    if (a->spec.filter_class != b->spec.filter_class)
        return a->spec.filter_class < b->spec.filter_class ? -1 : 1;
    return (a->spec.order > b->spec.order) - (a->spec.order < b->spec.order);
}

static int by_place(const void *x, const void *y)
{
    return vd__place_cmp(*(struct vd__attachment *const *)x, *(struct vd__attachment *const *)y);
}

static void look_at(struct vd_chain *c)
{
    c->changes = c->wants_events = false;
    for (unsigned i = 0; i < c->n; i++) {
        const struct vd_filter_ops *ops = c->a[i]->lib ? c->a[i]->lib->ops : NULL;
        c->changes |= ops && ops->done && !(ops->flags & VD_FILTER_ONLY_LOOKS);
        c->wants_events |= ops && ops->event;
    }
}

static bool is_in(const struct vd_chain *c, const struct vd__attachment *a)
{
    for (unsigned i = 0; c && i < c->n; i++)
        if (c->a[i] == a)
            return true;
    return false;
}

/* Detaches what C has and KEEP has not, from the top, and frees C. */
static void chain_free(struct vd_chain *c, const struct vd_chain *keep)
{
    for (unsigned i = 0; c && i < c->n; i++)
        if (!is_in(keep, c->a[i]))
            detach(c->a[i]);
    free(c);
}

static int attach_new(struct vd_filtered *f, struct vd_chain *c, const struct vd_chain *now,
                      const char *fresh, char why[VD_FILTER_WHY])
{
    for (unsigned i = c->n; i-- > 0;) { /* from the bottom, as services go down */
        struct vd__attachment *a = c->a[i];
        if (is_in(now, a))
            continue;
        bool is_fresh = fresh && strcmp(fresh, a->spec.name) == 0;
        int r = attach(a, is_fresh);
        if (r == 0)
            continue;
        if (is_fresh) {
            snprintf(why, VD_FILTER_WHY, "%s", a->why);
            return r;
        }
        if (atomic_load(&a->quarantined)) /* that has been said */
            continue;
        vd_log_error(
            "%s: filter %s is missing: %s; the disk %s", f->info.name, a->spec.name, a->why,
            a->spec.required ? "refuses I/O until it is there, or detached" : "goes on without it");
    }
    return 0;
}

int vd_filtered_prepare(struct vd_filtered *f, const struct vd_filter_spec *specs, size_t n,
                        const char *fresh, struct vd_chain **ret_chain, char why[VD_FILTER_WHY])
{
    struct vd_chain *now = vd_filtered_chain(f), *c = calloc(1, sizeof(*c));
    if (n > VD_FILTERS_MAX) {
        free(c);
        snprintf(why, VD_FILTER_WHY, "a disk can have %u filters", VD_FILTERS_MAX);
        return -E2BIG;
    }
    int r = c ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct vd__attachment *a = find_same(now, &specs[i]);
        if (!a)
            a = attachment_new(f, &specs[i]);
        if (a)
            c->a[c->n++] = a;
        else
            r = -ENOMEM;
    }
    if (r == 0) {
        c->f = f;
        qsort(c->a, c->n, sizeof(c->a[0]), by_place);
        for (unsigned i = 0; i < c->n; i++)
            if (!is_in(now, c->a[i]))
                c->a[i]->making = c;
        r = attach_new(f, c, now, fresh, why);
        look_at(c);
    }
    if (r < 0) {
        chain_free(c, now);
        return r;
    }
    *ret_chain = c;
    return 0;
}

static void call_ready(void *arg)
{
    struct attach_call *c = arg;
    c->result = c->a->lib->ops->ready(c->a->self);
}

static bool has_ready(const struct vd_filter_ops *ops)
{
    return ops->size >= offsetof(struct vd_filter_ops, ready) + sizeof(ops->ready) && ops->ready;
}

int vd_filtered_ready(struct vd_chain *chain, const char *fresh, char why[VD_FILTER_WHY])
{
    for (unsigned i = 0; fresh && i < chain->n; i++) {
        struct vd__attachment *a = chain->a[i];
        struct vd__frame frame = {.inside = true, .may_wait = true};
        struct attach_call c = {.a = a, .result = -EIO};
        if (strcmp(fresh, a->spec.name) != 0 || !vd__usable(a) || !has_ready(a->lib->ops))
            continue;
        pthread_mutex_lock(&a->mu); /* services of any thread write it */
        a->why[0] = '\0';
        pthread_mutex_unlock(&a->mu);
        int r = vd__upcall(a, &frame, "ready", call_ready, &c);
        if (r == 0)
            r = c.result > 0 ? -EINVAL : c.result;
        pthread_mutex_lock(&a->mu);
        if (r < 0)
            snprintf(why, VD_FILTER_WHY, "%s", a->why[0] ? a->why : strerror(-r));
        pthread_mutex_unlock(&a->mu);
        return r;
    }
    return 0;
}

struct vd_chain *vd_filtered_publish(struct vd_filtered *f, struct vd_chain *chain)
{
    for (unsigned i = 0; chain && i < chain->n; i++)
        atomic_store(&chain->a[i]->making, NULL);
    return atomic_exchange(&f->chain, chain);
}

static void call_start(void *arg)
{
    struct vd__attachment *a = arg;
    a->lib->ops->start(a->self);
}

void vd_filtered_settle(struct vd_filtered *f, struct vd_chain *old)
{
    struct vd_chain *now = vd_filtered_chain(f);
    for (unsigned i = now ? now->n : 0; i-- > 0;) {
        struct vd__attachment *a = now->a[i];
        struct vd__frame frame = {.may_wait = true};
        if (a->started)
            continue;
        a->started = true;
        if (vd__usable(a) && a->lib->ops->start)
            (void)!vd__upcall(a, &frame, "start", call_start, a);
    }
    chain_free(old, now);
}

void vd_filtered_discard(struct vd_filtered *f, struct vd_chain *chain)
{
    chain_free(chain, vd_filtered_chain(f));
}

/* ---- events ---- */

struct event_call {
    struct vd__attachment *a;
    const struct vd_filter_event *event;
    bool writable;
    int result;
};

static void call_event(void *arg)
{
    struct event_call *c = arg;
    c->result = c->a->lib->ops->event(c->a->self, c->event);
}

/* What it SAID, or how it failed. */
static void say_why(struct vd__attachment *a, const char *said, int r, char why[VD_FILTER_WHY])
{
    pthread_mutex_lock(&a->mu); /* services of any thread write it */
    if (!said[0])
        said = vd__usable(a) ? strerror(-r) : a->why;
    snprintf(why, VD_FILTER_WHY, "filter %s: %.400s", a->spec.name, said);
    pthread_mutex_unlock(&a->mu);
}

static int tell(struct vd__attachment *a, const struct vd_filter_event *event, bool inside,
                char why[VD_FILTER_WHY])
{
    char said[VD_FILTER_WHY] = "";
    struct vd__frame frame = {.inside = inside, .may_wait = true, .why = said};
    struct event_call c = {.a = a, .event = event};
    if (!vd__usable(a) || !a->lib->ops->event)
        return 0;
    int r = vd__upcall(a, &frame, "event", call_event, &c);
    if (r == 0)
        r = vd_min(c.result, 0);
    if (r < 0)
        say_why(a, said, r, why);
    return r;
}

/* Of chains that cannot be replaced now: by who calls, or by who shut the gate. */
static int tell_all(struct vd_chain *c, const struct vd_filter_event *event, bool inside, bool stop,
                    char why[VD_FILTER_WHY])
{
    for (unsigned i = 0; c && i < c->n; i++) {
        int r = tell(c->a[i], event, inside, why);
        if (r < 0 && stop)
            return r;
        if (r < 0 && event->type == VD_FILTER_EVENT_RELEASE)
            vd_log_warning("%s: at its release: %s", c->f->info.name, why);
    }
    return 0;
}

int vd_filtered_event(struct vd_filtered *f, const struct vd_filter_event *event,
                      char why[VD_FILTER_WHY])
{
    unsigned ticket;
    int r = f->below->enter(f->disk, &ticket);
    if (r < 0)
        return r;
    r = tell_all(vd_filtered_chain(f), event, true, true, why);
    (void)f->below->leave(f->disk, ticket, false);
    return r;
}

int vd_chain_event(struct vd_chain *c, const struct vd_filter_event *event, char why[VD_FILTER_WHY])
{
    return tell_all(c, event, true, true, why);
}

bool vd_chain_wants_events(const struct vd_chain *c)
{
    return c->wants_events;
}

bool vd_chain_refuses(const struct vd_chain *c)
{
    for (unsigned i = 0; i < c->n; i++)
        if (!vd__usable(c->a[i]) && c->a[i]->spec.required)
            return true;
    return false;
}

void vd_filtered_drain(struct vd_filtered *f, bool on)
{
    char why[VD_FILTER_WHY];
    const struct vd_filter_event drain = {.size = sizeof(drain), .type = VD_FILTER_EVENT_DRAIN};
    pthread_mutex_lock(&f->mu);
    atomic_store(&f->draining, on || atomic_load(&f->fs->stopping));
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mu);
    if (!on)
        return;
    vd__timer_fire(f->fs->timer, f);
    tell_all(vd_filtered_chain(f), &drain, true, false, why);
}

unsigned vd_filtered_force(struct vd_filtered *f, char name[VD_FILTER_NAME_MAX + 1])
{
    const struct vd__attachment *a = NULL;
    unsigned n = vd__defer_fail(f, NULL, &a);
    snprintf(name, VD_FILTER_NAME_MAX + 1, "%s", a ? a->spec.name : "");
    return n;
}

void vd_filtered_end(struct vd_filtered *f, bool exclusive)
{
    char why[VD_FILTER_WHY];
    const struct vd_filter_event release = {.size = sizeof(release),
                                            .type = VD_FILTER_EVENT_RELEASE};
    atomic_store(&f->ended, true);
    if (exclusive)
        tell_all(vd_filtered_chain(f), &release, true, false, why);
    struct vd_chain *old = vd_filtered_publish(f, NULL);
    for (unsigned i = 0; old && i < old->n;
         i++) /* what a `detach` asks for goes by those below it */
        atomic_store(&old->a[i]->making, old);
    vd_filtered_settle(f, old);
}

/* ---- clients ---- */

static void call_open(void *arg)
{
    struct event_call *c = arg;
    c->result = c->a->lib->ops->open(c->a->self, c->writable);
}

static void call_close(void *arg)
{
    struct event_call *c = arg;
    c->a->lib->ops->close(c->a->self, c->writable);
}

static void tell_close(struct vd__attachment *a, bool writable)
{
    struct vd__frame frame = {.inside = true, .may_wait = true};
    struct event_call c = {.a = a, .writable = writable};
    if (vd__usable(a) && a->lib->ops->close)
        (void)!vd__upcall(a, &frame, "close", call_close, &c);
}

static int tell_open(struct vd__attachment *a, bool writable, char why[VD_FILTER_WHY])
{
    char said[VD_FILTER_WHY] = "";
    struct vd__frame frame = {.inside = true, .may_wait = true, .why = said};
    struct event_call c = {.a = a, .writable = writable};
    if (!vd__usable(a)) {
        if (!a->spec.required)
            return 0;
        pthread_mutex_lock(&a->mu);
        snprintf(why, VD_FILTER_WHY, "its required filter %s is %s: %.300s", a->spec.name,
                 a->lib ? "quarantined" : "missing", a->why);
        pthread_mutex_unlock(&a->mu);
        return -EIO;
    }
    if (!a->lib->ops->open)
        return 0;
    int r = vd__upcall(a, &frame, "open", call_open, &c);
    if (r == 0)
        r = vd_min(c.result, 0);
    if (r < 0)
        say_why(a, said, r, why);
    return r;
}

int vd_filtered_open(struct vd_filtered *f, bool writable, char why[VD_FILTER_WHY])
{
    unsigned ticket;
    int r = f->below->enter(f->disk, &ticket);
    if (r < 0)
        return r;
    struct vd_chain *c = vd_filtered_chain(f);
    unsigned i = 0;
    for (; c && i < c->n && r == 0; i++)
        r = tell_open(c->a[i], writable, why);
    for (i = r < 0 ? i - 1 : 0; i-- > 0;) /* those above it were told */
        tell_close(c->a[i], writable);
    (void)f->below->leave(f->disk, ticket, false);
    return r;
}

void vd_filtered_close(struct vd_filtered *f, bool writable)
{
    unsigned ticket;
    if (f->below->enter(f->disk, &ticket) < 0)
        return;
    struct vd_chain *c = vd_filtered_chain(f);
    for (unsigned i = c ? c->n : 0; i-- > 0;)
        tell_close(c->a[i], writable);
    (void)f->below->leave(f->disk, ticket, false);
}
