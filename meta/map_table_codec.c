// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes of a table, little-endian.
 *
 *   head   u64 magic | u32 version | u32 flags | map ID | u64 salt | u64 size_bytes |
 *          u64 first log | u64 extents | u64 pages | u64 offset of the layers |
 *          u64 offset of the index | u32 layers | u32 CRC32C of the layers |
 *          u32 CRC32C of the index | zeroes | u32 CRC32C of all before
 *   page   u32 CRC32C of map ID, salt and what follows | u16 extents | u16 0 | u64 page number |
 *          extents: u64 first | u32 blocks | u32 layer | zeroes to 4096
 *
 * Pages follow the head, the layers (16 bytes each) follow the pages, the index (8 bytes a page)
 * the layers, and nothing follows it.
 */
#include <assert.h>

#include "map_table.h"
#include "vd_crc.h"
#include "vd_endian.h"

#define MAGIC 0x626174706d766476ull /* "vdvmptab" */
#define VERSION 1u
#define PAGE_HEAD 16u
#define EXTENT_LEN 16u
#define LAYER_LEN 16u

static_assert(PAGE_HEAD + VD__MAPTAB_PAGE_EXTENTS * EXTENT_LEN == VD__MAPTAB_PAGE_LEN, "a page");
static_assert(sizeof(struct vd_id) == LAYER_LEN, "the list of layers is read as it is");

uint64_t vd__maptab_layers_off(const struct vd__maptab_head *h)
{
    return (1 + h->npages) * VD__MAPTAB_PAGE_LEN;
}

uint64_t vd__maptab_index_off(const struct vd__maptab_head *h)
{
    return vd__maptab_layers_off(h) + (uint64_t)h->nlayers * LAYER_LEN;
}

uint64_t vd__maptab_file_len(const struct vd__maptab_head *h)
{
    return vd__maptab_index_off(h) + h->npages * 8;
}

void vd__maptab_head_encode(const struct vd__maptab_head *h, uint8_t ret_buf[VD__MAPTAB_PAGE_LEN])
{
    memset(ret_buf, 0, VD__MAPTAB_PAGE_LEN);
    vd_put_le64(ret_buf, MAGIC);
    vd_put_le32(ret_buf + 8, VERSION);
    vd_put_le32(ret_buf + 12, h->flags);
    memcpy(ret_buf + 16, h->id.b, 16);
    vd_put_le64(ret_buf + 32, h->salt);
    vd_put_le64(ret_buf + 40, h->size_bytes);
    vd_put_le64(ret_buf + 48, h->first_log);
    vd_put_le64(ret_buf + 56, h->nextents);
    vd_put_le64(ret_buf + 64, h->npages);
    vd_put_le64(ret_buf + 72, vd__maptab_layers_off(h));
    vd_put_le64(ret_buf + 80, vd__maptab_index_off(h));
    vd_put_le32(ret_buf + 88, h->nlayers);
    vd_put_le32(ret_buf + 92, h->layers_crc);
    vd_put_le32(ret_buf + 96, h->index_crc);
    vd_put_le32(ret_buf + VD__MAPTAB_PAGE_LEN - 4, vd_crc32c(0, ret_buf, VD__MAPTAB_PAGE_LEN - 4));
}

/* Do the numbers fit each other and the file? Nothing can overflow: pages are bounded by its length
 * first. */
static bool fits(const struct vd__maptab_head *h, uint64_t file_len)
{
    return file_len <= INT64_MAX && h->npages < file_len / VD__MAPTAB_PAGE_LEN &&
           h->nlayers <= VD__MAPTAB_LAYERS_MAX && h->nextents >= h->npages &&
           h->nextents <= h->npages * VD__MAPTAB_PAGE_EXTENTS && h->flags <= VD__MAPTAB_FROZEN &&
           h->size_bytes <= INT64_MAX && vd__maptab_file_len(h) == file_len;
}

int vd__maptab_head_decode(const uint8_t buf[VD__MAPTAB_PAGE_LEN], uint64_t file_len,
                           struct vd__maptab_head *ret_h, const char **ret_why)
{
    *ret_why = "not a map's table";
    if (vd_get_le64(buf) != MAGIC)
        return -EUCLEAN;
    *ret_why = "checksum mismatch in its head";
    if (vd_get_le32(buf + VD__MAPTAB_PAGE_LEN - 4) != vd_crc32c(0, buf, VD__MAPTAB_PAGE_LEN - 4))
        return -EUCLEAN;
    *ret_why = "of a version that this program does not know";
    if (vd_get_le32(buf + 8) != VERSION)
        return -EUCLEAN;
    struct vd__maptab_head h = {
        .flags = vd_get_le32(buf + 12),
        .salt = vd_get_le64(buf + 32),
        .size_bytes = vd_get_le64(buf + 40),
        .first_log = vd_get_le64(buf + 48),
        .nextents = vd_get_le64(buf + 56),
        .npages = vd_get_le64(buf + 64),
        .nlayers = vd_get_le32(buf + 88),
        .layers_crc = vd_get_le32(buf + 92),
        .index_crc = vd_get_le32(buf + 96),
    };
    memcpy(h.id.b, buf + 16, 16);
    *ret_why = "not as long as its head says";
    if (!fits(&h, file_len))
        return -EUCLEAN;
    uint8_t same[VD__MAPTAB_PAGE_LEN]; /* with the offsets, and what is zero in this version */
    vd__maptab_head_encode(&h, same);
    *ret_why = "its head says more than this version has";
    if (memcmp(buf, same, sizeof(same)) != 0)
        return -EUCLEAN;
    *ret_h = h;
    return 0;
}

/* ---- pages ---- */

static uint32_t page_crc(const struct vd__maptab_head *h, const uint8_t *buf)
{
    uint8_t salt[8];
    vd_put_le64(salt, h->salt);
    uint32_t crc = vd_crc32c(vd_crc32c(0, h->id.b, sizeof(h->id.b)), salt, sizeof(salt));
    return vd_crc32c(crc, buf + 4, VD__MAPTAB_PAGE_LEN - 4);
}

void vd__maptab_page_encode(const struct vd__maptab_head *h, uint64_t page,
                            const struct vd__extent *extents, unsigned n,
                            uint8_t ret_buf[VD__MAPTAB_PAGE_LEN])
{
    assert(n > 0 && n <= VD__MAPTAB_PAGE_EXTENTS);
    memset(ret_buf, 0, VD__MAPTAB_PAGE_LEN);
    vd_put_le16(ret_buf + 4, (uint16_t)n);
    vd_put_le64(ret_buf + 8, page);
    for (unsigned i = 0; i < n; i++) {
        uint8_t *p = ret_buf + PAGE_HEAD + i * EXTENT_LEN;
        vd_put_le64(p, extents[i].first);
        vd_put_le32(p + 8, (uint32_t)extents[i].nblocks);
        vd_put_le32(p + 12, extents[i].layer);
    }
    vd_put_le32(ret_buf, page_crc(h, ret_buf));
}

unsigned vd__maptab_page_count(const uint8_t *buf)
{
    return vd_get_le16(buf + 4);
}

struct vd__extent vd__maptab_page_extent(const uint8_t *buf, unsigned i)
{
    const uint8_t *p = buf + PAGE_HEAD + i * EXTENT_LEN;
    return (struct vd__extent){vd_get_le64(p), vd_get_le32(p + 8), vd_get_le32(p + 12)};
}

int vd__maptab_page_verify(const struct vd__maptab_head *h, uint64_t page, const uint8_t *buf,
                           const char **ret_why)
{
    unsigned n = vd__maptab_page_count(buf);
    uint64_t end = 0;
    *ret_why = "checksum mismatch";
    if (vd_get_le32(buf) != page_crc(h, buf))
        return -EUCLEAN;
    *ret_why = "of another place in the table";
    if (vd_get_le64(buf + 8) != page)
        return -EUCLEAN;
    *ret_why = "its number of extents is impossible";
    if (n == 0 || n > VD__MAPTAB_PAGE_EXTENTS || vd_get_le16(buf + 6))
        return -EUCLEAN;
    *ret_why = "its extents are impossible or not in order";
    for (unsigned i = 0; i < n; i++) {
        struct vd__extent e = vd__maptab_page_extent(buf, i);
        if (e.first < end || e.nblocks == 0 || e.first > VD_MAP_BLOCKS_MAX - e.nblocks ||
            (e.layer >= h->nlayers && e.layer != VD_MAP_ZERO))
            return -EUCLEAN;
        end = e.first + e.nblocks;
    }
    return 0;
}

static uint64_t word(const _Atomic uint64_t *words, unsigned i)
{
    return le64toh(atomic_load_explicit(&words[i], memory_order_acquire));
}

struct vd__extent vd__maptab_page_search(const _Atomic uint64_t *words, uint64_t block,
                                         uint64_t limit)
{
    unsigned n = vd_min((unsigned)(word(words, 0) >> 32 & 0xffff), VD__MAPTAB_PAGE_EXTENTS);
    unsigned lo = 0; /* extents below begin at or before BLOCK */
    for (unsigned len = n; len > 0;) {
        unsigned half = (len + 1) / 2;
        if (word(words, 2 * (lo + half)) <= block)
            lo += half, len -= half;
        else
            len = half - 1;
    }
    if (lo > 0) {
        uint64_t first = word(words, 2 * lo), rest = word(words, 2 * lo + 1);
        if (block - first < (uint32_t)rest)
            return (struct vd__extent){first, (uint32_t)rest, (uint32_t)(rest >> 32)};
    }
    uint64_t next = lo < n ? word(words, 2 * (lo + 1)) : limit;
    return (struct vd__extent){block, next - block, VD_MAP_NONE};
}
