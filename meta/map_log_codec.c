// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes of a log, little-endian.
 *
 *   head    u64 magic | u32 version | u32 0 | map ID | layer's disk ID | u64 number |
 *           u64 size_bytes | u64 salt | u64 room | zeroes | u32 CRC32C of all before. One
 *           sector, because its room is written again
 *   record  u32 CRC32C of the slot (u64) and what follows | u32 type | u64 a | u64 b | u64 salt
 */
#include <assert.h>

#include "map_log.h"
#include "vd_crc.h"
#include "vd_endian.h"

#define MAGIC 0x676f6c70616d6476ull /* "vdmaplog" */
#define VERSION 1u

static_assert(VD__MAPLOG_RECORDS_OFF % VD__MAPLOG_RECORD_LEN == 0, "records are aligned");
static_assert(512 % VD__MAPLOG_RECORD_LEN == 0, "no record is torn by a sector");
static_assert(VD__MAPLOG_RECORD_LEN == 4 + 4 + 8 + 8 + 8, "a record's fields");

void vd__maplog_head_encode(const struct vd__maplog_head *h, uint8_t ret_buf[VD__MAPLOG_HEAD_LEN])
{
    memset(ret_buf, 0, VD__MAPLOG_HEAD_LEN);
    vd_put_le64(ret_buf, MAGIC);
    vd_put_le32(ret_buf + 8, VERSION);
    memcpy(ret_buf + 16, h->id.b, 16);
    memcpy(ret_buf + 32, h->layer.b, 16);
    vd_put_le64(ret_buf + 48, h->number);
    vd_put_le64(ret_buf + 56, h->size_bytes);
    vd_put_le64(ret_buf + 64, h->salt);
    vd_put_le64(ret_buf + 72, h->room);
    vd_put_le32(ret_buf + VD__MAPLOG_HEAD_LEN - 4, vd_crc32c(0, ret_buf, VD__MAPLOG_HEAD_LEN - 4));
}

int vd__maplog_head_decode(const uint8_t buf[VD__MAPLOG_HEAD_LEN], struct vd__maplog_head *ret_h,
                           const char **ret_why)
{
    uint32_t crc = vd_get_le32(buf + VD__MAPLOG_HEAD_LEN - 4);
    *ret_why = "not a map's log";
    if (vd_get_le64(buf) != MAGIC)
        return -EUCLEAN;
    *ret_why = "checksum mismatch in its head";
    if (crc != vd_crc32c(0, buf, VD__MAPLOG_HEAD_LEN - 4))
        return -EUCLEAN;
    *ret_why = "of a version that this program does not know";
    if (vd_get_le32(buf + 8) != VERSION)
        return -EUCLEAN;
    struct vd__maplog_head h = {
        .number = vd_get_le64(buf + 48),
        .size_bytes = vd_get_le64(buf + 56),
        .salt = vd_get_le64(buf + 64),
        .room = vd_get_le64(buf + 72),
    };
    memcpy(h.id.b, buf + 16, 16);
    memcpy(h.layer.b, buf + 32, 16);
    uint8_t same[VD__MAPLOG_HEAD_LEN]; /* with what is zero in this version */
    vd__maplog_head_encode(&h, same);
    *ret_why = "its head says more than this version has";
    if (memcmp(buf, same, sizeof(same)) != 0)
        return -EUCLEAN;
    *ret_h = h;
    return 0;
}

static uint32_t record_crc(const uint8_t *buf, uint64_t slot)
{
    uint8_t at[8];
    vd_put_le64(at, slot);
    return vd_crc32c(vd_crc32c(0, at, sizeof(at)), buf + 4, VD__MAPLOG_RECORD_LEN - 4);
}

void vd__maplog_record_encode(const struct vd__maplog_record *r, uint64_t slot, uint64_t salt,
                              uint8_t ret_buf[VD__MAPLOG_RECORD_LEN])
{
    vd_put_le32(ret_buf + 4, r->type);
    vd_put_le64(ret_buf + 8, r->a);
    vd_put_le64(ret_buf + 16, r->b);
    vd_put_le64(ret_buf + 24, salt);
    vd_put_le32(ret_buf, record_crc(ret_buf, slot));
}

static bool makes_sense(const struct vd__maplog_record *r, uint64_t slot)
{
    switch (r->type) {
    case VD__MAPLOG_OWN:
    case VD__MAPLOG_ZERO:
        return r->b > 0 && r->b <= VD_MAP_BLOCKS_MAX && r->a <= VD_MAP_BLOCKS_MAX - r->b;
    case VD__MAPLOG_SIZE:
        return r->a <= INT64_MAX && r->b == 0;
    case VD__MAPLOG_MARK:
        return r->a <= slot && r->b <= slot;
    case VD__MAPLOG_END:
        return r->a == slot && r->b <= slot;
    }
    return false;
}

int vd__maplog_record_decode(const uint8_t buf[VD__MAPLOG_RECORD_LEN], uint64_t slot, uint64_t salt,
                             struct vd__maplog_record *ret_r)
{
    if (vd_get_le64(buf + 24) != salt || vd_get_le32(buf) != record_crc(buf, slot))
        return -ENODATA;
    struct vd__maplog_record r = {
        .type = vd_get_le32(buf + 4),
        .a = vd_get_le64(buf + 8),
        .b = vd_get_le64(buf + 16),
    };
    if (!makes_sense(&r, slot))
        return -EUCLEAN;
    *ret_r = r;
    return 0;
}
