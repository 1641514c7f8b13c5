// SPDX-License-Identifier: Apache-2.0
/*
 * The generic cell rate algorithm, as virtual scheduling (ITU-T I.371, annex A): not a level that
 * leaks, but a time. paid_ns is when what was let through will have been earned at the rate; a
 * request moves it on by what it costs, and may go burst_ns before it. So:
 *
 *   - one number holds the whole past: nothing needs to run while the disk is idle;
 *   - release times never go back: who came first goes first;
 *   - a timer that is late loses nothing, up to burst_ns: the next request's time does not depend on
 *     when this one really went;
 *   - a request that costs more than the burst waits until the rest has been earned, and is not
 *     let through on credit: T seconds after it was made, a bucket has let at most burst + rate * T
 *     go, and as much in the T seconds after any request.
 *
 * What a division leaves is carried in `rest`, so the rate is exact at any limit, also where a unit
 * costs less than a nanosecond. Products are of 128 bits; times stop at BUCKET_FAR_NS.
 */
#include "bucket.h"

#define NS_PER_S 1000000000u

static uint64_t clip(unsigned __int128 ns)
{
    return ns < BUCKET_FAR_NS ? (uint64_t)ns : BUCKET_FAR_NS;
}

void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst)
{
    *b = (struct bucket){.rate = rate};
    if (rate)
        b->burst_ns = clip((unsigned __int128)burst * NS_PER_S / rate);
}

uint64_t bucket_take(struct bucket *b, uint64_t now_ns, uint64_t units)
{
    if (!b->rate)
        return now_ns;
    if (b->paid_ns < now_ns) { /* idle: the burst is whole again, and no more than whole */
        b->paid_ns = now_ns;
        b->rest = 0;
    }
    unsigned __int128 cost = (unsigned __int128)units * NS_PER_S + b->rest;
    unsigned __int128 paid_ns = b->paid_ns;
    if (cost <= UINT64_MAX) { /* the common case: a division of 64 bits */
        paid_ns += (uint64_t)cost / b->rate;
        b->rest = (uint64_t)cost % b->rate;
    } else {
        paid_ns += cost / b->rate;
        b->rest = (uint64_t)(cost % b->rate);
    }
    b->paid_ns = clip(paid_ns);
    if (b->paid_ns < b->burst_ns || b->paid_ns - b->burst_ns < now_ns)
        return now_ns;
    return b->paid_ns - b->burst_ns;
}

uint64_t bucket_default_burst(uint64_t rate, uint64_t least)
{
    return rate / 10 > least ? rate / 10 : least;
}

uint64_t bucket_requests(uint64_t length, uint64_t unit)
{
    if (!unit || length <= unit)
        return 1;
    return length / unit + (length % unit != 0);
}
