// SPDX-License-Identifier: Apache-2.0
/*
 * What stands in the cache's files, byte by byte. Pure functions over fixed-width records,
 * little-endian but for the index key, which LMDB sorts as bytes. Decoders take any bytes: 0 or
 * -EUCLEAN.
 */
#ifndef VD__CACHE_CODEC_H
#define VD__CACHE_CODEC_H

#include "vd_cache.h"

/* `slots`: this header, then a record a slot from VD__SLOTS_HEADER_BYTES on (slots.h). */
#define VD__SLOTS_HEADER_BYTES 4096u
#define VD__SLOTS_SPOILED_OFF 512u /* u32 outside the checksum: not 0, start empty */
struct vd__slots_header {
    uint32_t slot_bytes, nslots, record_bytes;
    struct vd_id incarnation; /* drawn when the file was made; binds `state` to it */
};
void vd__slots_header_encode(const struct vd__slots_header *h,
                             uint8_t ret_buf[VD__SLOTS_HEADER_BYTES]);
int vd__slots_header_decode(const uint8_t buf[VD__SLOTS_HEADER_BYTES],
                            struct vd__slots_header *ret_h) VD_WARN_UNUSED;

/* `state`: this header, then the policy's own bytes. */
#define VD__STATE_HEADER_BYTES 88u
struct vd__state_header {
    struct vd_id incarnation;
    uint32_t nslots;
    uint64_t index_bytes;
    uint32_t index_crc;
    char policy[16];
    uint64_t policy_bytes;
    uint32_t policy_crc;
};
void vd__state_header_encode(const struct vd__state_header *h,
                             uint8_t ret_buf[VD__STATE_HEADER_BYTES]);
int vd__state_header_decode(const uint8_t buf[VD__STATE_HEADER_BYTES],
                            struct vd__state_header *ret_h) VD_WARN_UNUSED;

/* `pending`: a log of these. A zero disk ID stands for every key. */
#define VD__PENDING_BYTES 48u
struct vd__pending_range {
    struct vd_cache_key key;
    uint64_t first_block, nblocks;
};
void vd__pending_encode(const struct vd__pending_range *p, uint8_t ret_buf[VD__PENDING_BYTES]);
int vd__pending_decode(const uint8_t buf[VD__PENDING_BYTES],
                       struct vd__pending_range *ret_p) VD_WARN_UNUSED;

/* `witness/<disk ID>`: one of these. */
#define VD__WITNESS_BYTES 112u
void vd__witness_encode(const struct vd_id *disk_id, const struct vd_cache_witness *w,
                        uint8_t ret_buf[VD__WITNESS_BYTES]);
int vd__witness_decode(const struct vd_id *disk_id, const uint8_t *buf, size_t len,
                       struct vd_cache_witness *ret_w) VD_WARN_UNUSED;

/* Keys of `index.mdb`. */
#define VD__INDEX_KEY_BYTES 32u
void vd__index_key_encode(const struct vd_cache_key *key, uint64_t slotno,
                          uint8_t ret_buf[VD__INDEX_KEY_BYTES]);
uint64_t vd__index_key_slotno(const uint8_t buf[VD__INDEX_KEY_BYTES]);

/* The word that stands for a block in its slot's record: a checksum of key, block number and bytes,
 * never 0 (0 is "not valid"). The seed is the part over the key. */
uint32_t vd__block_seed(const struct vd_cache_key *key);
uint32_t vd__block_word(uint32_t seed, uint64_t block, const void *bytes);

/* Spreads a key over 64 bits, for the policy and the table of layers. */
uint64_t vd__key_hash(const struct vd_cache_key *key, uint64_t slotno);

#endif
