// SPDX-License-Identifier: Apache-2.0
#include "hook.h"

#include <stdatomic.h>

struct hook {
    struct vd_filter_disk *disk;
    hook_fn *fn;
};

static int call(struct hook *h, struct hook_args a)
{
    a.name = HOOK_NAME;
    a.disk = h->disk;
    return h->fn(&a);
}

/* Not from the heap: what a quarantined filter held is never freed. */
static struct hook all[256];
static atomic_uint nall;

static int attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                  void **ret_self)
{
    struct hook *h = &all[atomic_fetch_add(&nall, 1) % 256];
    *h = (struct hook){disk, (hook_fn *)(uintptr_t)info->values[0].number};
    int r = call(h, (struct hook_args){.call = HOOK_ATTACH, .info = info});
    if (r == 0)
        *ret_self = h;
    return r;
}

static int ready(void *self)
{
    return call(self, (struct hook_args){.call = HOOK_READY});
}
static void start(void *self)
{
    call(self, (struct hook_args){.call = HOOK_START});
}
static void detach(void *self)
{
    call(self, (struct hook_args){.call = HOOK_DETACH});
}
static int open_it(void *self, bool writable)
{
    return call(self, (struct hook_args){.call = HOOK_OPEN, .writable = writable});
}
static void close_it(void *self, bool writable)
{
    call(self, (struct hook_args){.call = HOOK_CLOSE, .writable = writable});
}
static int submit(void *self, struct vd_filter_request *rq)
{
    return call(self, (struct hook_args){.call = HOOK_SUBMIT, .rq = rq});
}
static void done(void *self, struct vd_filter_request *rq)
{
    call(self, (struct hook_args){.call = HOOK_DONE, .rq = rq});
}
static int event(void *self, const struct vd_filter_event *e)
{
    return call(self, (struct hook_args){.call = HOOK_EVENT, .event = e});
}

static const struct vd_filter_option options[] = {
    {.key = "hook", .type = VD_FILTER_NUMBER, .must = true, .help = "address of a function"},
    {0},
};

static const struct vd_filter_ops ops = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(ops),
    .name = HOOK_NAME,
    .description = "calls a test",
    .filter_class = (enum vd_filter_class)HOOK_CLASS,
    .options = options,
    .attach = attach,
    .start = start,
    .detach = detach,
    .open = open_it,
    .close = close_it,
    .submit = submit,
    .done = done,
    .event = event,
    .ready = ready,
};
VD_FILTER_EXPORT(ops);
