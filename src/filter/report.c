// SPDX-License-Identifier: Apache-2.0
/* What people are told of a disk's filters. */
#include <string.h>

#include "filter.h"

#define STATUS_BYTES 65536u

struct status_call {
    struct vd__attachment *a;
    char *text;
    int result;
};

static void call_status(void *arg)
{
    struct status_call *c = arg;
    c->result = c->a->lib->ops->status(c->a->self, c->text, STATUS_BYTES);
}

static void ask_status(struct vd__attachment *a, char *text)
{
    struct vd__frame frame = {.inside = true, .may_wait = true};
    struct status_call c = {.a = a, .text = text, .result = -EIO};
    text[0] = '\0';
    if (!vd__usable(a) || !a->lib->ops->status)
        return;
    int r = vd__upcall(a, &frame, "status", call_status, &c);
    if (r < 0 || c.result < 0)
        text[0] = '\0';
    text[STATUS_BYTES - 1] = '\0';
}

static int tell(struct vd__attachment *a, const char *status,
                int (*fn)(void *user, const struct vd_filter_report *r), void *user)
{
    char why[VD_FILTER_WHY];
    pthread_mutex_lock(&a->mu);
    snprintf(why, sizeof(why), "%s", vd__usable(a) ? "" : a->why);
    pthread_mutex_unlock(&a->mu);
    uint64_t samples = vd_counter_sum(&a->counters, N_COUNT, N_SAMPLES);
    struct vd_filter_report r = {
        .spec = &a->spec,
        .state = !a->lib          ? VD_FILTER_MISSING
                 : !vd__usable(a) ? VD_FILTER_QUARANTINED
                                  : VD_FILTER_ACTIVE,
        .why = why,
        .requests = vd_counter_sum(&a->counters, N_COUNT, N_REQUESTS),
        .errors = vd_counter_sum(&a->counters, N_COUNT, N_ERRORS),
        .faults = vd_counter_sum(&a->counters, N_COUNT, N_FAULTS),
        .deferred = vd_counter_sum(&a->counters, N_COUNT, N_DEFERRED),
        .status = status,
    };
    if (samples)
        r.callback_ns = vd_counter_sum(&a->counters, N_COUNT, N_SAMPLED_NS) / samples;
    return fn(user, &r);
}

int vd_filtered_each(struct vd_filtered *f, bool status,
                     int (*fn)(void *user, const struct vd_filter_report *r), void *user)
{
    unsigned ticket;
    if (!vd_filtered_chain(f))
        return 0;
    vd_cleanup_free char *text = calloc(1, STATUS_BYTES);
    if (!text)
        return -ENOMEM;
    int r = f->below->enter(f->disk, &ticket);
    if (r < 0)
        return r;
    struct vd_chain *c = vd_filtered_chain(f);
    for (unsigned i = 0; c && i < c->n && r == 0; i++) {
        if (status)
            ask_status(c->a[i], text);
        r = tell(c->a[i], text, fn, user);
    }
    (void)f->below->leave(f->disk, ticket, false);
    return r;
}
