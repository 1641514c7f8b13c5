// SPDX-License-Identifier: Apache-2.0
/*
 * The bounded queue of D. Vyukov (1024cores.net), with turns for its sequence numbers, so that memory
 * of zeroes is an empty queue, and pages that were never used are never there.
 *
 * Place I is that of the positions I, I + n, I + 2n, ... one after the other. For the position of lap L
 * (L * n + I) it has two turns: 2L, empty, for the one thread that claimed the position by moving
 * `head` over it; and 2L + 1, full, for the taker. Only who has the turn touches the record; it is
 * passed on by a store that publishes what was written.
 *
 * Nobody waits: where the place at `head` is still full, the queue is.
 */
#include "ring.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

struct place {
    _Alignas(64) _Atomic uint64_t turn;
    struct record record; /* of whom has the turn */
};

struct ring {
    _Alignas(64) _Atomic uint64_t head; /* the next position to be claimed */
    _Alignas(64) _Atomic uint64_t tail; /* the next to be taken; only the taker stores */
    _Alignas(64) uint64_t n;            /* of places; never changes */
    unsigned shift;                     /* n is 2^shift */
    struct place *places;
};

struct ring *ring_new(uint64_t records)
{
    struct ring *r = aligned_alloc(_Alignof(struct ring), sizeof(*r));

    if (!r)
        return NULL;
    *r = (struct ring){.n = records, .shift = (unsigned)__builtin_ctzll(records)};
    void *places = mmap(NULL, records * sizeof(*r->places), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (places == MAP_FAILED) {
        free(r);
        return NULL;
    }
    r->places = places;
    return r;
}

void ring_free(struct ring *r)
{
    if (r)
        munmap(r->places, r->n * sizeof(*r->places));
    free(r);
}

static struct place *place_of(struct ring *r, uint64_t position)
{
    return &r->places[position & (r->n - 1)];
}

static uint64_t turn_to_put(const struct ring *r, uint64_t position)
{
    return (position >> r->shift) * 2;
}

bool ring_put(struct ring *r, const struct record *record)
{
    uint64_t at = atomic_load_explicit(&r->head, memory_order_relaxed);

    for (;;) {
        struct place *p = place_of(r, at);
        if (atomic_load_explicit(&p->turn, memory_order_acquire) == turn_to_put(r, at)) {
            if (atomic_compare_exchange_weak_explicit(&r->head, &at, at + 1, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                p->record = *record;
                atomic_store(&p->turn, turn_to_put(r, at) + 1);
                return true;
            }
            continue; /* AT is the new head */
        }
        uint64_t old = at;
        at = atomic_load_explicit(&r->head, memory_order_relaxed);
        if (at == old)
            return false;
    }
}

bool ring_take(struct ring *r, struct record *ret_record)
{
    uint64_t at = atomic_load_explicit(&r->tail, memory_order_relaxed);
    struct place *p = place_of(r, at);

    if (atomic_load_explicit(&p->turn, memory_order_acquire) != turn_to_put(r, at) + 1)
        return false;
    *ret_record = p->record;
    atomic_store_explicit(&p->turn, turn_to_put(r, at) + 2, memory_order_release);
    atomic_store_explicit(&r->tail, at + 1, memory_order_relaxed);
    return true;
}

bool ring_is_empty(struct ring *r)
{
    uint64_t at = atomic_load_explicit(&r->tail, memory_order_relaxed);
    return atomic_load(&place_of(r, at)->turn) != turn_to_put(r, at) + 1;
}

uint64_t ring_puts(struct ring *r)
{
    return atomic_load(&r->head);
}

uint64_t ring_takes(struct ring *r)
{
    return atomic_load(&r->tail);
}
