// SPDX-License-Identifier: Apache-2.0
/*
 * delay: makes each request wait before it goes below, by a fixed time or one drawn from a range: a
 * slow or distant backing, to test guests and timeouts with.
 *
 * The waiting is the host's (vd_filter_defer_for): no thread is held, and any number of requests
 * wait side by side, so a delay costs latency and no bandwidth that a queue could not win back.
 * Where the host cannot defer (the disk drains, or no memory), the request passes without delay.
 *
 * Jitter wants random numbers on many threads: each is the mix of a counter's next value (splitmix64:
 * Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), so one atomic
 * add is all that threads share.
 *
 * Threads: the configuration never changes after attach, the counters are atomic.
 */
#include <vdiskfs/filter.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* The first options are the operations, by number. */
enum option { ALL = VD_FILTER_OPS, JITTER };

#define LONGEST_NS (3600ull * 1000000000u) /* far behind any guest's timeout */
#define DURATION(name, of, text)                                                                   \
    {                                                                                              \
        .key = name, .type = VD_FILTER_DURATION, .default_value = of, .max = LONGEST_NS,           \
        .help = text                                                                               \
    }
static const struct vd_filter_option options[] = {
    [VD_FILTER_READ] = DURATION("read", NULL, "of reads"),
    [VD_FILTER_WRITE] = DURATION("write", NULL, "of writes"),
    [VD_FILTER_FLUSH] = DURATION("flush", NULL, "of flushes"),
    [VD_FILTER_DISCARD] = DURATION("discard", NULL, "of discards"),
    [VD_FILTER_ZERO] = DURATION("zero", NULL, "of zeroes"),
    [ALL] = DURATION("all", "0", "of those that are not named"),
    [JITTER] = {.key = "jitter",
                .type = VD_FILTER_RATIO,
                .default_value = "0",
                .help = "each is up to this part shorter or longer"},
    {0},
};

struct delay {
    struct vd_filter_disk *disk;
    uint64_t ns[VD_FILTER_OPS];
    double jitter;
    _Atomic uint64_t draws;
    _Atomic uint64_t delayed, delay_us;
};

static int delay_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                        void **ret_self)
{
    const struct vd_filter_value *v = info->values;
    struct delay *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->disk = disk;
    for (int op = 0; op < VD_FILTER_OPS; op++)
        f->ns[op] = v[op].given ? v[op].number : v[ALL].number;
    f->jitter = v[JITTER].ratio;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    f->draws = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    *ret_self = f;
    return 0;
}

static void delay_detach(void *self)
{
    free(self);
}

/* From 0 to below 1. */
static double draw(struct delay *f)
{
    const uint64_t golden = 0x9e3779b97f4a7c15;
    uint64_t z = atomic_fetch_add_explicit(&f->draws, golden, memory_order_relaxed) + golden;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static int delay_submit(void *self, struct vd_filter_request *rq)
{
    struct delay *f = self;

    if (rq->op >= VD_FILTER_OPS || f->ns[rq->op] == 0)
        return VD_FILTER_PASS;
    uint64_t ns = f->ns[rq->op];
    if (f->jitter > 0)
        ns = (uint64_t)((double)ns * (1 + f->jitter * (2 * draw(f) - 1)));
    if (ns == 0 || vd_filter_defer_for(f->disk, rq, ns) < 0)
        return VD_FILTER_PASS;
    atomic_fetch_add_explicit(&f->delayed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&f->delay_us, ns / 1000, memory_order_relaxed);
    return VD_FILTER_DEFER;
}

static int delay_status(void *self, char *ret_json, size_t len)
{
    struct delay *f = self;
    uint64_t delayed = atomic_load(&f->delayed), us = atomic_load(&f->delay_us);
    int n =
        snprintf(ret_json, len, "{\"delayed\":%llu,\"delay_us\":{\"total\":%llu,\"mean\":%llu}}",
                 (unsigned long long)delayed, (unsigned long long)us,
                 (unsigned long long)(delayed ? us / delayed : 0));
    return (size_t)n < len ? 0 : -ENOSPC;
}

static const struct vd_filter_ops delay = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "delay",
    .description = "makes requests wait",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .flags = VD_FILTER_ONLY_LOOKS,
    .options = options,
    .attach = delay_attach,
    .detach = delay_detach,
    .submit = delay_submit,
    .status = delay_status,
};
VD_FILTER_EXPORT(delay);
