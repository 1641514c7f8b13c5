// SPDX-License-Identifier: Apache-2.0
/* See map_bits.h. Five levels: a leaf spans 2^15 blocks, a node at height h 2^(15 + 9 h), the root,
 * a place for a node of height 4, 2^51, which is more than there are block numbers. */
#include "map_bits.h"

#include <assert.h>
#include <stdatomic.h>

#define LEAF_SHIFT 15u
#define LEAF_WORDS (1u << (LEAF_SHIFT - WORD_SHIFT))
#define WORD_SHIFT 5u /* blocks a word */
#define NODE_SHIFT 9u
#define NODE_PLACES (1u << NODE_SHIFT)
#define ROOT_HEIGHT 4u

/* A place holds one of the constants 0, 1, 2 (an enum vd_block_state) or a pointer. */
#define NCONST 3u

struct node {
    _Atomic uintptr_t place[NODE_PLACES];
};
struct leaf {
    _Atomic uint64_t word[LEAF_WORDS];
};
struct vd__bits {
    atomic_uint refs;
    _Atomic uintptr_t root;
};

static_assert(VD_MAP_BLOCKS_MAX < 1ull << (LEAF_SHIFT + ROOT_HEIGHT * NODE_SHIFT),
              "root spans all");

static uint64_t span_of(unsigned height)
{
    return 1ull << (LEAF_SHIFT + height * NODE_SHIFT);
}

/* Every block of a word in STATE. */
static uint64_t word_of(uintptr_t state)
{
    return 0x5555555555555555ull * state;
}

static _Atomic uintptr_t *child_of(uintptr_t v, unsigned child_height, uint64_t block)
{
    struct node *n = (struct node *)v;
    return &n->place[(block >> (LEAF_SHIFT + child_height * NODE_SHIFT)) % NODE_PLACES];
}

struct vd__bits *vd__bits_new(void)
{
    struct vd__bits *b = calloc(1, sizeof(*b));
    if (b)
        atomic_init(&b->refs, 1);
    return b;
}

struct vd__bits *vd__bits_ref(struct vd__bits *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

static void free_below(uintptr_t v, unsigned height)
{
    if (v < NCONST)
        return;
    struct node *n = (struct node *)v;
    for (unsigned i = 0; height > 0 && i < NODE_PLACES; i++)
        free_below(atomic_load_explicit(&n->place[i], memory_order_relaxed), height - 1);
    free(n);
}

void vd__bits_unref(struct vd__bits *b)
{
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
    free_below(atomic_load_explicit(&b->root, memory_order_relaxed), ROOT_HEIGHT);
    free(b);
}

/* ---- lookups ---- */

/* The state of POS in a leaf; RET_END is the first block after it that differs, or the leaf's end.
 * */
static enum vd_block_state leaf_get(const struct leaf *l, uint64_t pos, uint64_t *ret_end)
{
    uint64_t base = vd_align_down(pos, 1u << LEAF_SHIFT);
    unsigned i = (unsigned)(pos - base) >> WORD_SHIFT, shift = 2 * (pos % (1u << WORD_SHIFT));
    uint64_t w = atomic_load_explicit(&l->word[i], memory_order_acquire);
    enum vd_block_state state = w >> shift & 3;
    uint64_t same = word_of(state), diff = (w ^ same) >> shift;
    if (diff) {
        *ret_end = pos + (unsigned)__builtin_ctzll(diff) / 2;
        return state;
    }
    while (++i < LEAF_WORDS) {
        diff = atomic_load_explicit(&l->word[i], memory_order_acquire) ^ same;
        if (diff)
            break;
    }
    *ret_end =
        base + ((uint64_t)i << WORD_SHIFT) + (diff ? (unsigned)__builtin_ctzll(diff) / 2 : 0);
    return state;
}

/* The same for the whole tree; RET_END may be short of the first block that differs. */
static enum vd_block_state get_some(const struct vd__bits *b, uint64_t pos, uint64_t *ret_end)
{
    unsigned height = ROOT_HEIGHT;
    uintptr_t v = atomic_load_explicit(&b->root, memory_order_acquire);
    while (v >= NCONST && height > 0)
        v = atomic_load_explicit(child_of(v, --height, pos), memory_order_acquire);
    if (v >= NCONST)
        return leaf_get((const struct leaf *)v, pos, ret_end);
    *ret_end = (pos | (span_of(height) - 1)) + 1;
    return (enum vd_block_state)v;
}

enum vd_block_state vd__bits_get(const struct vd__bits *b, uint64_t first, uint64_t nblocks,
                                 uint64_t *ret_run)
{
    uint64_t end = first + nblocks, to;
    assert(nblocks > 0 && end <= VD_MAP_BLOCKS_MAX);
    enum vd_block_state state = get_some(b, first, &to);
    for (uint64_t next = 0; to < end && get_some(b, to, &next) == state; to = next)
        ;
    *ret_run = vd_min(to, end) - first;
    return state;
}

bool vd__bits_next(const struct vd__bits *b, uint64_t *pos, uint64_t *ret_first,
                   uint64_t *ret_nblocks, enum vd_block_state *ret_state)
{
    while (*pos < VD_MAP_BLOCKS_MAX) {
        uint64_t first = *pos, run;
        enum vd_block_state state = vd__bits_get(b, first, VD_MAP_BLOCKS_MAX - first, &run);
        *pos += run;
        if (state == VD_BLOCK_BELOW)
            continue;
        *ret_first = first;
        *ret_nblocks = run;
        *ret_state = state;
        return true;
    }
    return false;
}

/* ---- changes ---- */

/* A node or leaf in which everything is STATE. */
static uintptr_t make_below(unsigned height, uintptr_t state)
{
    void *p = malloc(height ? sizeof(struct node) : sizeof(struct leaf));
    for (unsigned i = 0; p && height && i < NODE_PLACES; i++)
        atomic_init(&((struct node *)p)->place[i], state);
    for (unsigned i = 0; p && !height && i < LEAF_WORDS; i++)
        atomic_init(&((struct leaf *)p)->word[i], word_of(state));
    return (uintptr_t)p;
}

/* Turns the constant V of *PLACE into a node or leaf; what another thread made is as good. What is
 * there then, or 0: no memory. It cannot have become another constant: a block of it is our
 * caller's. */
static uintptr_t split_place(_Atomic uintptr_t *place, unsigned height, uintptr_t v)
{
    uintptr_t below = make_below(height, v);
    if (!below || atomic_compare_exchange_strong_explicit(place, &v, below, memory_order_acq_rel,
                                                          memory_order_acquire))
        return below;
    assert(v >= NCONST);
    free((void *)below);
    return v;
}

/* Makes what a change that begins or ends at EDGE needs: no place may be crossed by it. */
static int split_at(struct vd__bits *b, uint64_t edge, enum vd_block_state state)
{
    _Atomic uintptr_t *place = &b->root;
    for (unsigned height = ROOT_HEIGHT; edge % span_of(height); height--) {
        uintptr_t v = atomic_load_explicit(place, memory_order_acquire);
        if (v == state)
            return 0; /* stays as it is on both sides */
        if (v < NCONST)
            v = split_place(place, height, v);
        if (!v)
            return -ENOMEM;
        if (height == 0)
            return 0;
        place = child_of(v, height - 1, edge);
    }
    return 0;
}

int vd__bits_prepare(struct vd__bits *b, uint64_t first, uint64_t nblocks,
                     enum vd_block_state state)
{
    assert(nblocks > 0 && nblocks <= VD_MAP_BLOCKS_MAX && first <= VD_MAP_BLOCKS_MAX - nblocks);
    int r = split_at(b, first, state);
    return r < 0 ? r : split_at(b, first + nblocks, state);
}

/* Blocks [FROM, TO) of a leaf, counted in it. */
static void leaf_put(struct leaf *l, unsigned from, unsigned to, uintptr_t state)
{
    while (from < to) {
        unsigned i = from >> WORD_SHIFT, at = from % (1u << WORD_SHIFT);
        unsigned n = vd_min((1u << WORD_SHIFT) - at, to - from);
        uint64_t mask = (n == 1u << WORD_SHIFT ? ~0ull : (1ull << 2 * n) - 1) << 2 * at;
        uint64_t w = atomic_load_explicit(&l->word[i], memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(&l->word[i], &w,
                                                      (w & ~mask) | (word_of(state) & mask),
                                                      memory_order_release, memory_order_relaxed))
            ;
        from += n;
    }
}

/* Blocks [FIRST, END) of what *PLACE at HEIGHT spans. */
static void put_below(_Atomic uintptr_t *place, unsigned height, uint64_t first, uint64_t end,
                      uintptr_t state)
{
    uintptr_t v = atomic_load_explicit(place, memory_order_acquire);
    uint64_t span = span_of(height), base = vd_align_down(first, span);
    if (v == state)
        return;
    if (v < NCONST) {
        assert(first == base && end - first == span); /* else it was prepared */
        bool done = atomic_compare_exchange_strong_explicit(place, &v, state, memory_order_release,
                                                            memory_order_acquire);
        assert(done); /* nobody else changes these blocks */
        (void)done;
        return;
    }
    if (height == 0) {
        leaf_put((struct leaf *)v, (unsigned)(first - base), (unsigned)(end - base), state);
        return;
    }
    uint64_t step = span_of(height - 1);
    while (first < end) {
        uint64_t to = vd_min(vd_align_down(first, step) + step, end);
        put_below(child_of(v, height - 1, first), height - 1, first, to, state);
        first = to;
    }
}

void vd__bits_put(struct vd__bits *b, uint64_t first, uint64_t nblocks, enum vd_block_state state)
{
    put_below(&b->root, ROOT_HEIGHT, first, first + nblocks, state);
}
