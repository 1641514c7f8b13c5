// SPDX-License-Identifier: Apache-2.0
/* One limit: when may the next request go? Pure arithmetic, in nanoseconds of any clock that does not go back. */
#ifndef THROTTLE_BUCKET_H
#define THROTTLE_BUCKET_H

#include <stdint.h>

/* No clock and no release time goes behind this: 146 years. */
#define BUCKET_FAR_NS ((uint64_t)INT64_MAX / 2)

struct bucket {
    uint64_t rate;     /* units a second; 0: no limit */
    uint64_t burst_ns; /* how long it takes to earn the burst */
    uint64_t paid_ns;  /* the time at which all that was let through has been earned */
    uint64_t rest;     /* the part of a nanosecond in paid_ns, in 1/rate; < rate */
};

/* A bucket that is full. RATE units a second, BURST units at once; any values. In its first T seconds, as in the T
 * seconds after any request, it lets at most BURST + RATE * T units go. */
void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst);

/* Takes UNITS for a request that came at NOW_NS, and tells when it may go: NOW_NS or later, and not before any
 * request that came earlier. The caller keeps the order: NOW_NS that goes back is no earlier request. */
uint64_t bucket_take(struct bucket *b, uint64_t now_ns, uint64_t units);

/* The burst of a limit whose user named none: a tenth of a second's worth, at least LEAST units. */
uint64_t bucket_default_burst(uint64_t rate, uint64_t least);

/* How many requests of UNIT bytes one of LENGTH bytes counts as; 1 where UNIT is 0 or LENGTH not above it. */
uint64_t bucket_requests(uint64_t length, uint64_t unit);

#endif
