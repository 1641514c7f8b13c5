// SPDX-License-Identifier: Apache-2.0
/* A bounded queue of trace records: any thread puts, one thread takes, nobody waits. */
#ifndef TRACE_RING_H
#define TRACE_RING_H

#include <stdbool.h>
#include <stdint.h>

struct record {
    uint64_t id, offset, length;
    int64_t result;
    uint64_t time_us;    /* when it came, since the epoch */
    uint64_t latency_ns; /* 0 where it is not done yet */
    uint32_t op;
};

struct ring;

/* Room for RECORDS, a power of two. NULL without memory. */
struct ring *ring_new(uint64_t records);
/* When no other thread uses it any more. */
void ring_free(struct ring *r);

/* Puts a copy of RECORD behind all others. False: there is no room. Any thread. */
bool ring_put(struct ring *r, const struct record *record);

/* Takes the oldest. False: there is none, or its thread is still writing it. The taker only. */
bool ring_take(struct ring *r, struct record *ret_record);

/* Whether ring_take would find nothing. The taker only. It is sequentially consistent with ring_put: where the taker
 * stores "I sleep" and then finds the ring empty, while another thread puts and then loads that, one of
 * the two sees the other. */
bool ring_is_empty(struct ring *r);

/* How many were ever put (claimed, at least), and taken. Any thread. */
uint64_t ring_puts(struct ring *r);
uint64_t ring_takes(struct ring *r);

#endif
