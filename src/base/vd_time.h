// SPDX-License-Identifier: Apache-2.0
/* Time, with its unit in every name. */
#ifndef VD_TIME_H
#define VD_TIME_H

#include <stdint.h>
#include <time.h>

static inline uint64_t vd_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
static inline uint64_t vd_now_ms(void)
{
    return vd_now_ns() / 1000000u;
}
static inline int64_t vd_timespec_ns(struct timespec ts)
{
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

#endif
