// SPDX-License-Identifier: Apache-2.0
#include "codec.h"

#include <assert.h>
#include <string.h>

#include "vd_crc.h"
#include "vd_endian.h"

static const char slots_magic[8] = "vdslots";
static const char state_magic[8] = "vdstate";
static const char witness_magic[8] = "vdwitns";

#define VERSION 2u
#define SLOTS_CRC_OFF 48u
#define STATE_CRC_OFF (VD__STATE_HEADER_BYTES - 4)
#define PENDING_CRC_OFF 40u
#define WITNESS_CRC_OFF (VD__WITNESS_BYTES - 4)

enum { WITNESS_ATTACHED = 1, WITNESS_WRITTEN = 2 };

static void seal(uint8_t *buf, size_t crc_off)
{
    vd_put_le32(buf + crc_off, vd_crc32c(0, buf, crc_off));
}

static bool sealed(const uint8_t *buf, size_t crc_off)
{
    return vd_get_le32(buf + crc_off) == vd_crc32c(0, buf, crc_off);
}

static bool begins(const uint8_t *buf, const char magic[8])
{
    return !memcmp(buf, magic, 8) && vd_get_le32(buf + 8) == VERSION;
}

void vd__slots_header_encode(const struct vd__slots_header *h,
                             uint8_t ret_buf[VD__SLOTS_HEADER_BYTES])
{
    memset(ret_buf, 0, VD__SLOTS_HEADER_BYTES);
    memcpy(ret_buf, slots_magic, 8);
    vd_put_le32(ret_buf + 8, VERSION);
    vd_put_le32(ret_buf + 12, h->slot_bytes);
    vd_put_le32(ret_buf + 16, h->nslots);
    vd_put_le32(ret_buf + 20, h->record_bytes);
    memcpy(ret_buf + 24, h->incarnation.b, 16);
    seal(ret_buf, SLOTS_CRC_OFF);
}

int vd__slots_header_decode(const uint8_t buf[VD__SLOTS_HEADER_BYTES],
                            struct vd__slots_header *ret_h)
{
    if (!begins(buf, slots_magic) || !sealed(buf, SLOTS_CRC_OFF))
        return -EUCLEAN;
    ret_h->slot_bytes = vd_get_le32(buf + 12);
    ret_h->nslots = vd_get_le32(buf + 16);
    ret_h->record_bytes = vd_get_le32(buf + 20);
    memcpy(ret_h->incarnation.b, buf + 24, 16);
    return 0;
}

void vd__state_header_encode(const struct vd__state_header *h,
                             uint8_t ret_buf[VD__STATE_HEADER_BYTES])
{
    memset(ret_buf, 0, VD__STATE_HEADER_BYTES);
    memcpy(ret_buf, state_magic, 8);
    vd_put_le32(ret_buf + 8, VERSION);
    vd_put_le32(ret_buf + 12, h->nslots);
    memcpy(ret_buf + 16, h->incarnation.b, 16);
    vd_put_le64(ret_buf + 32, h->index_bytes);
    vd_put_le32(ret_buf + 40, h->index_crc);
    memcpy(ret_buf + 44, h->policy, 16);
    vd_put_le64(ret_buf + 64, h->policy_bytes);
    vd_put_le32(ret_buf + 72, h->policy_crc);
    seal(ret_buf, STATE_CRC_OFF);
}

int vd__state_header_decode(const uint8_t buf[VD__STATE_HEADER_BYTES],
                            struct vd__state_header *ret_h)
{
    if (!begins(buf, state_magic) || !sealed(buf, STATE_CRC_OFF))
        return -EUCLEAN;
    ret_h->nslots = vd_get_le32(buf + 12);
    memcpy(ret_h->incarnation.b, buf + 16, 16);
    ret_h->index_bytes = vd_get_le64(buf + 32);
    ret_h->index_crc = vd_get_le32(buf + 40);
    memcpy(ret_h->policy, buf + 44, 16);
    ret_h->policy[15] = '\0';
    ret_h->policy_bytes = vd_get_le64(buf + 64);
    ret_h->policy_crc = vd_get_le32(buf + 72);
    return 0;
}

void vd__pending_encode(const struct vd__pending_range *p, uint8_t ret_buf[VD__PENDING_BYTES])
{
    memset(ret_buf, 0, VD__PENDING_BYTES);
    memcpy(ret_buf, p->key.disk_id.b, 16);
    vd_put_le64(ret_buf + 16, p->key.generation);
    vd_put_le64(ret_buf + 24, p->first_block);
    vd_put_le64(ret_buf + 32, p->nblocks);
    seal(ret_buf, PENDING_CRC_OFF);
}

int vd__pending_decode(const uint8_t buf[VD__PENDING_BYTES], struct vd__pending_range *ret_p)
{
    if (!sealed(buf, PENDING_CRC_OFF))
        return -EUCLEAN;
    memcpy(ret_p->key.disk_id.b, buf, 16);
    ret_p->key.generation = vd_get_le64(buf + 16);
    ret_p->first_block = vd_get_le64(buf + 24);
    ret_p->nblocks = vd_get_le64(buf + 32);
    return ret_p->nblocks > UINT64_MAX - ret_p->first_block ? -EUCLEAN : 0;
}

void vd__witness_encode(const struct vd_id *disk_id, const struct vd_cache_witness *w,
                        uint8_t ret_buf[VD__WITNESS_BYTES])
{
    memset(ret_buf, 0, VD__WITNESS_BYTES);
    memcpy(ret_buf, witness_magic, 8);
    vd_put_le32(ret_buf + 8, VERSION);
    vd_put_le32(ret_buf + 12,
                (w->attached ? WITNESS_ATTACHED : 0) | (w->written ? WITNESS_WRITTEN : 0));
    memcpy(ret_buf + 16, disk_id->b, 16);
    memcpy(ret_buf + 32, w->token.b, 16);
    memcpy(ret_buf + 48, w->boot_id.b, 16);
    vd_put_le64(ret_buf + 64, w->generation);
    vd_put_le64(ret_buf + 72, w->ino);
    vd_put_le64(ret_buf + 80, w->size_bytes);
    vd_put_le64(ret_buf + 88, (uint64_t)w->mtime_ns);
    vd_put_le64(ret_buf + 96, (uint64_t)w->ctime_ns);
    seal(ret_buf, WITNESS_CRC_OFF);
}

int vd__witness_decode(const struct vd_id *disk_id, const uint8_t *buf, size_t len,
                       struct vd_cache_witness *ret_w)
{
    if (len != VD__WITNESS_BYTES || !begins(buf, witness_magic) || !sealed(buf, WITNESS_CRC_OFF) ||
        memcmp(buf + 16, disk_id->b, 16) != 0)
        return -EUCLEAN;
    uint32_t flags = vd_get_le32(buf + 12);
    *ret_w = (struct vd_cache_witness){
        .attached = flags & WITNESS_ATTACHED,
        .written = flags & WITNESS_WRITTEN,
        .generation = vd_get_le64(buf + 64),
        .ino = vd_get_le64(buf + 72),
        .size_bytes = vd_get_le64(buf + 80),
        .mtime_ns = (int64_t)vd_get_le64(buf + 88),
        .ctime_ns = (int64_t)vd_get_le64(buf + 96),
    };
    memcpy(ret_w->token.b, buf + 32, 16);
    memcpy(ret_w->boot_id.b, buf + 48, 16);
    return 0;
}

void vd__index_key_encode(const struct vd_cache_key *key, uint64_t slotno,
                          uint8_t ret_buf[VD__INDEX_KEY_BYTES])
{
    memcpy(ret_buf, key->disk_id.b, 16);
    vd_put_be64(ret_buf + 16, key->generation);
    vd_put_be64(ret_buf + 24, slotno);
}

uint64_t vd__index_key_slotno(const uint8_t buf[VD__INDEX_KEY_BYTES])
{
    return vd_get_be64(buf + 24);
}

uint32_t vd__block_seed(const struct vd_cache_key *key)
{
    uint8_t buf[24];
    memcpy(buf, key->disk_id.b, 16);
    vd_put_le64(buf + 16, key->generation);
    return vd_crc32c(0, buf, sizeof(buf));
}

uint32_t vd__block_word(uint32_t seed, uint64_t block, const void *bytes)
{
    uint8_t number[8];
    vd_put_le64(number, block);
    /* The CRC of a block that ends in its own CRC32C, as file systems write them, says nothing of the
     * rest of it: a CRC is linear. A product of one half's is not. */
    size_t half = VD_BLOCK_SIZE / 2;
    uint32_t first = vd_crc32c(vd_crc32c(seed, number, sizeof(number)), bytes, half);
    uint32_t second = vd_crc32c(0, (const uint8_t *)bytes + half, half);
    uint32_t word = first * 0x9e3779b1u + second;
    return word ? word : 1;
}

/* The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
 */
static uint64_t mix(uint64_t v)
{
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9u;
    v = (v ^ (v >> 27)) * 0x94d049bb133111ebu;
    return v ^ (v >> 31);
}

uint64_t vd__key_hash(const struct vd_cache_key *key, uint64_t slotno)
{
    uint64_t h = mix(vd_get_le64(key->disk_id.b));
    h = mix(h ^ vd_get_le64(key->disk_id.b + 8));
    h = mix(h ^ key->generation);
    return mix(h ^ slotno);
}
