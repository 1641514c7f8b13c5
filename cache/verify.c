// SPDX-License-Identifier: Apache-2.0
/* Every checksum of an open cache against `data`: what is bad is dropped. A slot at a time, under
 * its stripe, so that no bytes change under the comparison. */
#include "engine.h"
#include "vd_file.h"

struct bad {
    struct vd_cache_key key;
    uint64_t slotno;
    uint64_t bits[VD__SLOT_MAX_BLOCKS / 64];
    uint32_t n;
};

/* Reads the whole slot; what is not there is bad too. */
static void check_slot(struct vd__engine *e, uint32_t slot, uint8_t *buf, struct bad *ret_bad)
{
    struct vd__slot *r = vd__slot(&e->slots, slot);
    *ret_bad = (struct bad){0};
    vd__slot_key(r, &ret_bad->key, &ret_bad->slotno);
    if (vd_id_is_zero(&ret_bad->key.disk_id))
        return;
    ssize_t got = vd_pread_full(e->data_fd, buf, e->slots.slot_bytes, vd__data_off(e, slot, 0));
    uint32_t seed = vd__block_seed(&ret_bad->key);
    for (uint32_t i = 0; i < e->slots.slot_blocks; i++) {
        uint32_t word = vd__slot_word(r, i);
        if (!word)
            continue;
        const uint8_t *at = buf + (size_t)i * VD_BLOCK_SIZE;
        if (got >= (ssize_t)((i + 1) * VD_BLOCK_SIZE) &&
            vd__block_word(seed, ret_bad->slotno * e->slots.slot_blocks + i, at) == word)
            continue;
        uint32_t was = htole32(word);
        if (!atomic_compare_exchange_strong(&r->word[i], &was, 0))
            continue; /* dropped meanwhile */
        vd__set_bit(ret_bad->bits, i);
        ret_bad->n++;
        vd__count(e, CHECKSUM_ERRORS, 1);
    }
}

static int tell(struct vd__engine *e, uint32_t slot, const struct bad *bad,
                int (*report)(void *user, const char *what), void *user)
{
    char id[VD_ID_HEX], what[200];
    vd_id_hex(&bad->key.disk_id, id);
    int r = 0;
    for (uint32_t i = 0; i < e->slots.slot_blocks && r == 0 && report; i++) {
        if (!vd__bit(bad->bits, i))
            continue;
        snprintf(what, sizeof(what), "slot %u: bad checksum: disk %s generation %llu block %llu",
                 slot, id, (unsigned long long)bad->key.generation,
                 (unsigned long long)(bad->slotno * e->slots.slot_blocks + i));
        r = report(user, what);
    }
    return r;
}

int vd__verify(struct vd_cache *c, int (*report)(void *user, const char *what), void *user)
{
    struct vd__engine *e = vd__engine(c);
    vd_cleanup_free uint8_t *buf = malloc(e->slots.slot_bytes);
    if (!buf)
        return -ENOMEM;
    int nbad = 0;
    for (uint32_t i = 0; i < e->slots.nslots; i++) {
        if (vd__dead(e))
            return -EIO;
        if (!atomic_load(&e->ready))
            return -EAGAIN;
        struct bad bad;
        pthread_mutex_lock(vd__stripe(e, i));
        check_slot(e, i, buf, &bad);
        pthread_mutex_unlock(vd__stripe(e, i));
        nbad += (int)bad.n;
        if (bad.n && tell(e, i, &bad, report, user) != 0)
            break;
    }
    return nbad;
}
