// SPDX-License-Identifier: Apache-2.0
/*
 * Admission, of a fill or of a write that was alone: slot by slot, under its stripe, the bytes go
 * to `data` while their words are 0, and then, under the layer's mutex and if the gate is still
 * open, the words are set. What is valid already is left as it is: it is the same bytes, for
 * whoever changes them clears it first.
 */
#include <string.h>

#include "engine.h"
#include "vd_file.h"

static bool gate_open(const struct vd__admission *a)
{
    pthread_mutex_lock(&a->layer->mu);
    bool open = *a->gate == a->open;
    pthread_mutex_unlock(&a->layer->mu);
    return open;
}

static bool wanted(const struct vd__admission *a, uint32_t i)
{
    return !a->which || vd__bit(a->which, i);
}

/* No room is not admitted; anything else and the files can no longer be trusted. */
static void failed(struct vd__engine *e, int err)
{
    vd__count(e, ERRORS, 1);
    if (!vd__no_room(err))
        vd__die(e, "data: write: %s", strerror(-err));
}

/* Writes the segment's wanted blocks that are not valid; RET_WORD holds what to set for each block
 * then, 0 for those to leave. False when nothing is to be set. */
static bool write_data(const struct vd__admission *a, const struct vd__segment *seg, uint32_t slot,
                       struct vd__slot *r, uint32_t *ret_word)
{
    struct vd__engine *e = a->layer->engine;
    const uint8_t *buf = a->buf + (size_t)seg->at * VD_BLOCK_SIZE;
    uint64_t block = a->first_block + seg->at;
    bool any = false;
    for (uint32_t i = 0; i < seg->n; i++) {
        bool take = wanted(a, seg->at + i) && !vd__slot_word(r, seg->block + i);
        ret_word[i] =
            take ? vd__block_word(a->layer->seed, block + i, buf + (size_t)i * VD_BLOCK_SIZE) : 0;
        any |= take;
    }
    if (!any)
        return false;
    uint32_t writes = vd__slot_writes(r) + 1;
    atomic_store_explicit(&r->writes, htole32(writes), memory_order_release);
    for (uint32_t i = 0, end; i < seg->n; i = end) {
        for (end = i; end < seg->n && ret_word[end]; end++)
            ;
        if (end == i) {
            end++;
            continue;
        }
        int err = vd_pwrite_full(e->data_fd, buf + (size_t)i * VD_BLOCK_SIZE,
                                 (size_t)(end - i) * VD_BLOCK_SIZE,
                                 vd__data_off(e, slot, seg->block + i));
        if (err < 0) {
            failed(e, err);
            memset(ret_word + i, 0, (seg->n - i) * sizeof(*ret_word));
            break;
        }
    }
    return true;
}

static void set_words(const struct vd__admission *a, const struct vd__segment *seg,
                      struct vd__slot *r, const uint32_t *word)
{
    uint32_t n = 0;
    pthread_mutex_lock(&a->layer->mu);
    for (uint32_t i = 0; *a->gate == a->open && i < seg->n; i++) {
        if (!word[i])
            continue;
        vd__slot_set_word(r, seg->block + i, word[i]);
        n++;
    }
    pthread_mutex_unlock(&a->layer->mu);
    if (n)
        vd__count(a->layer->engine, INSERTS, n);
}

static bool any_wanted(const struct vd__admission *a, const struct vd__segment *seg)
{
    for (uint32_t i = 0; i < seg->n; i++)
        if (wanted(a, seg->at + i))
            return true;
    return false;
}

void vd__admit(const struct vd__admission *a)
{
    struct vd__engine *e = a->layer->engine;
    uint32_t word[VD__SLOT_MAX_BLOCKS];
    struct vd__segment seg;
    for (uint32_t at = 0; at < a->nblocks; at += seg.n) {
        seg = vd__segment(e, a->first_block, a->nblocks, at);
        if (!any_wanted(a, &seg))
            continue;
        if (!vd__usable(e) || !gate_open(a))
            return;
        uint32_t slot;
        if (vd__slot_take(a->layer, seg.slotno, &slot) < 0)
            continue;
        struct vd__slot *r = vd__slot(&e->slots, slot);
        if (write_data(a, &seg, slot, r, word))
            set_words(a, &seg, r, word);
        pthread_mutex_unlock(vd__stripe(e, slot));
    }
}
