// SPDX-License-Identifier: Apache-2.0
/*
 * Counters that many threads add to and few read. Each thread adds in a shard of its own cache
 * line, so that a hit touches no line another worker writes; a read sums the shards and is exact
 * once the adders are quiet. The idea is the kernel's percpu_counter.
 */
#ifndef VD_COUNTER_H
#define VD_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

#define VD_COUNTER_SHARDS 8u

/* Which shard this thread uses: 0 to VD_COUNTER_SHARDS - 1, dealt out round robin. */
unsigned vd_counter_shard(void);

/* A set of N counters, laid out so that no two shards share a cache line. Declare it as
 *   struct { VD_COUNTER_SET(N); } c;  and use the macros below. N <= 64. */
#define VD_COUNTER_STRIDE(n) (((n) + 7u) / 8u * 8u)
#define VD_COUNTER_SET(n) _Alignas(64) _Atomic uint64_t v[VD_COUNTER_SHARDS * VD_COUNTER_STRIDE(n)]

#define vd_counter_add(set, n, i, delta)                                                           \
    atomic_fetch_add_explicit(&(set)->v[vd_counter_shard() * VD_COUNTER_STRIDE(n) + (i)], (delta), \
                              memory_order_relaxed)
#define vd_counter_sum(set, n, i)                                                                  \
    ({                                                                                             \
        uint64_t vd_sum_ = 0;                                                                      \
        for (unsigned vd_s_ = 0; vd_s_ < VD_COUNTER_SHARDS; vd_s_++)                               \
            vd_sum_ += atomic_load_explicit(&(set)->v[vd_s_ * VD_COUNTER_STRIDE(n) + (i)],         \
                                            memory_order_relaxed);                                 \
        vd_sum_;                                                                                   \
    })

#endif
