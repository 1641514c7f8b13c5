// SPDX-License-Identifier: Apache-2.0
/*
 * A filter that does what a test says: each callback calls the function whose address is in its configuration. The test is in the
 * same process, so that is all it takes.
 */
#ifndef HOOK_H
#define HOOK_H

#include <vdiskfs/filter.h>

enum hook_call {
    HOOK_ATTACH,
    HOOK_READY,
    HOOK_START,
    HOOK_DETACH,
    HOOK_OPEN,
    HOOK_CLOSE,
    HOOK_SUBMIT,
    HOOK_DONE,
    HOOK_EVENT,
};

struct hook_args {
    enum hook_call call;
    const char *name; /* of the filter */
    struct vd_filter_disk *disk;
    const struct vd_filter_disk_info *info; /* ATTACH */
    struct vd_filter_request *rq;           /* SUBMIT, DONE */
    const struct vd_filter_event *event;    /* EVENT */
    bool writable;                          /* OPEN, CLOSE */
};
typedef int hook_fn(const struct hook_args *a);

/* Turns every bit: what is below is not what is above. */
static inline int hook_inverting(const struct hook_args *a)
{
    if (a->call == HOOK_SUBMIT && a->rq->op == VD_FILTER_WRITE) {
        const uint8_t *from = (const uint8_t *)a->rq->data;
        uint8_t *to = (uint8_t *)vd_filter_alloc(a->disk, a->rq, a->rq->length);
        for (uint64_t i = 0; i < a->rq->length; i++)
            to[i] = (uint8_t)~from[i];
        a->rq->data = to;
    } else if (a->call == HOOK_DONE && a->rq->op == VD_FILTER_READ) {
        uint8_t *data = (uint8_t *)a->rq->data;
        for (int64_t i = 0; i < a->rq->result; i++)
            data[i] = (uint8_t)~data[i];
    }
    return 0;
}

#endif
