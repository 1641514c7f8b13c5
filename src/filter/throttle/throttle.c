// SPDX-License-Identifier: Apache-2.0
/*
 * throttle: limits of requests and bytes a second, for a guest that must not use up a backing that
 * others share. It stands nearest the disk, so what a filter above answers itself costs nothing.
 *
 * There are six limits, each a bucket (bucket.c). A request takes from each that it counts for, in
 * one short critical section, and goes when the last of them lets it: at once, or after
 * vd_filter_defer_for. Times only grow, so requests of one kind go in the order in which they came.
 *
 * What counts. Requests: reads and writes, by iops-size perhaps several; a discard or zero is one
 * write, whatever its length: it moves no data, and one that covers a disk, counted by length, would
 * stop the guest for days. Bytes: of reads and writes. Flushes are not counted: a guest waits for
 * them, and they cost what the counted writes before them have left.
 *
 * A request takes from a limit when it comes, not when it goes: where it then waits for another
 * limit, it can go together with later ones, so a -total limit can be passed for a moment, by as
 * many requests as were waiting. To take when it goes would let waiting reads stop the writes.
 *
 * When the disk drains the host lets go what waits, and refuses new deferring: those requests pass.
 * They have been taken from the buckets all the same.
 *
 * Threads: mu for the buckets, held for arithmetic only. The counters are atomic.
 */
#include <vdiskfs/filter.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bucket.h"

#define LEAST_REQUESTS 1u /* of a burst that the user did not name */
#define LEAST_BYTES 4096u

/* The limits; also the first options. */
enum limit { IOPS_TOTAL, IOPS_READ, IOPS_WRITE, BPS_TOTAL, BPS_READ, BPS_WRITE, LIMITS };
enum option { IOPS_BURST = LIMITS, BPS_BURST, IOPS_SIZE };

#define LIMIT(name, of, what)                                                                      \
    {                                                                                              \
        .key = name, .type = of, .min = 1, .max = INT64_MAX, .help = what                          \
    }
static const struct vd_filter_option options[] = {
    [IOPS_TOTAL] = LIMIT("iops-total", VD_FILTER_NUMBER, "requests a second"),
    [IOPS_READ] = LIMIT("iops-read", VD_FILTER_NUMBER, "reads a second"),
    [IOPS_WRITE] = LIMIT("iops-write", VD_FILTER_NUMBER, "writes, discards and zeroes a second"),
    [BPS_TOTAL] = LIMIT("bps-total", VD_FILTER_SIZE, "bytes a second"),
    [BPS_READ] = LIMIT("bps-read", VD_FILTER_SIZE, "bytes read a second"),
    [BPS_WRITE] = LIMIT("bps-write", VD_FILTER_SIZE, "bytes written a second"),
    [IOPS_BURST] = LIMIT("iops-burst", VD_FILTER_NUMBER,
                         "requests at once after idling; default 1/10 s of the limit"),
    [BPS_BURST] = LIMIT("bps-burst", VD_FILTER_SIZE,
                        "bytes at once after idling; default 1/10 s of the limit"),
    [IOPS_SIZE] = LIMIT("iops-size", VD_FILTER_SIZE, "larger requests count as several"),
    {0},
};

struct throttle {
    struct vd_filter_disk *disk;
    uint64_t iops_size; /* 0: every request is one */
    pthread_mutex_t mu;
    struct bucket buckets[LIMITS]; /* lock: mu; `rate` never changes */
    _Atomic uint64_t delayed, delay_us;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool is_iops(enum limit limit)
{
    return limit <= IOPS_WRITE;
}

static int throttle_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                           void **ret_self)
{
    const struct vd_filter_value *v = info->values;
    bool any = false;

    for (int i = 0; i < LIMITS; i++)
        any = any || v[i].given;
    if (!any) {
        vd_filter_why(disk, "no limit is given: name one at least of iops-total, iops-read, "
                            "iops-write, bps-total, bps-read, bps-write");
        return -EINVAL;
    }
    struct throttle *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->disk = disk;
    f->iops_size = v[IOPS_SIZE].given ? v[IOPS_SIZE].number : 0;
    for (enum limit i = 0; i < LIMITS; i++) {
        const struct vd_filter_value *burst = &v[is_iops(i) ? IOPS_BURST : BPS_BURST];
        uint64_t rate = v[i].given ? v[i].number : 0;
        uint64_t least = is_iops(i) ? LEAST_REQUESTS : LEAST_BYTES;
        bucket_init(&f->buckets[i], rate,
                    burst->given ? burst->number : bucket_default_burst(rate, least));
    }
    pthread_mutex_init(&f->mu, NULL);
    *ret_self = f;
    return 0;
}

static void throttle_detach(void *self)
{
    struct throttle *f = self;

    pthread_mutex_destroy(&f->mu);
    free(f);
}

/* How long RQ has to wait. */
static uint64_t take(struct throttle *f, const struct vd_filter_request *rq)
{
    bool read = rq->op == VD_FILTER_READ;
    bool data = read || rq->op == VD_FILTER_WRITE;
    uint64_t requests = data ? bucket_requests(rq->length, f->iops_size) : 1;
    uint64_t release = 0;

    pthread_mutex_lock(&f->mu);
    uint64_t now = now_ns(); /* with the lock, so that it does not go back */
    for (enum limit i = 0; i < LIMITS; i++) {
        if (i == (read ? IOPS_WRITE : IOPS_READ) || i == (read ? BPS_WRITE : BPS_READ))
            continue;
        if (!is_iops(i) && !data)
            continue;
        uint64_t at = bucket_take(&f->buckets[i], now, is_iops(i) ? requests : rq->length);
        release = at > release ? at : release;
    }
    pthread_mutex_unlock(&f->mu);
    return release - now; /* iops-total is never left out: release >= now */
}

static int throttle_submit(void *self, struct vd_filter_request *rq)
{
    struct throttle *f = self;

    if (rq->op == VD_FILTER_FLUSH || rq->op >= VD_FILTER_OPS)
        return VD_FILTER_PASS;
    uint64_t ns = take(f, rq);
    if (ns == 0 || vd_filter_defer_for(f->disk, rq, ns) < 0)
        return VD_FILTER_PASS; /* the disk drains, or there is no memory: late is worse than fast */
    atomic_fetch_add_explicit(&f->delayed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&f->delay_us, ns / 1000, memory_order_relaxed);
    return VD_FILTER_DEFER;
}

static int throttle_status(void *self, char *ret_json, size_t len)
{
    struct throttle *f = self;
    uint64_t delayed = atomic_load(&f->delayed), us = atomic_load(&f->delay_us);
    size_t used = (size_t)snprintf(ret_json, len, "{\"limits\":{");
    const char *comma = "";

    for (int i = 0; i < LIMITS && used < len; i++) {
        if (!f->buckets[i].rate)
            continue;
        used += (size_t)snprintf(ret_json + used, len - used, "%s\"%s\":%llu", comma,
                                 options[i].key, (unsigned long long)f->buckets[i].rate);
        comma = ",";
    }
    if (used < len)
        used += (size_t)snprintf(ret_json + used, len - used,
                                 "},\"delayed\":%llu,\"delay_us\":{\"total\":%llu,\"mean\":%llu}}",
                                 (unsigned long long)delayed, (unsigned long long)us,
                                 (unsigned long long)(delayed ? us / delayed : 0));
    return used < len ? 0 : -ENOSPC;
}

static const struct vd_filter_ops throttle = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "throttle",
    .description = "limits of requests and bytes a second",
    .filter_class = VD_FILTER_CLASS_QUOTA,
    .flags = VD_FILTER_ONLY_LOOKS,
    .options = options,
    .attach = throttle_attach,
    .detach = throttle_detach,
    .submit = throttle_submit,
    .status = throttle_status,
};
VD_FILTER_EXPORT(throttle);
