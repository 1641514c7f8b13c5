// SPDX-License-Identifier: Apache-2.0
/*
 * Codecs of block maps under libFuzzer. The first byte chooses one. Random bytes do not get past a
 * checksum, so the target puts the right one in; what then decodes must encode to the same bytes. A
 * page is searched whether it verifies or not, as it is while it changes.
 */
#include <assert.h>
#include <string.h>

#include "map_log.h"
#include "map_table.h"
#include "vd_crc.h"
#include "vd_endian.h"

#define SEED_LEN 32u /* numbers beside the bytes that are decoded */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_log_head(const uint8_t *seed, uint8_t *buf)
{
    struct vd__maplog_head h;
    const char *why;
    uint8_t back[VD__MAPLOG_HEAD_LEN];
    vd_put_le32(buf + VD__MAPLOG_HEAD_LEN - 4, vd_crc32c(0, buf, VD__MAPLOG_HEAD_LEN - 4));
    if (vd__maplog_head_decode(buf, &h, &why) < 0)
        return;
    vd__maplog_head_encode(&h, back);
    assert(memcmp(buf, back, sizeof(back)) == 0);
}

static void fuzz_record(const uint8_t *seed, uint8_t *buf)
{
    struct vd__maplog_record r;
    uint64_t slot = vd_get_le64(seed), salt = vd_get_le64(buf + 24);
    uint8_t back[VD__MAPLOG_RECORD_LEN], at[8];
    vd_put_le64(at, slot);
    uint32_t crc = vd_crc32c(vd_crc32c(0, at, 8), buf + 4, VD__MAPLOG_RECORD_LEN - 4);
    vd_put_le32(buf, crc);
    if (vd__maplog_record_decode(buf, slot, salt, &r) < 0)
        return;
    if (r.type == VD__MAPLOG_OWN || r.type == VD__MAPLOG_ZERO)
        assert(r.b > 0 && r.a + r.b > r.a && r.a + r.b <= VD_MAP_BLOCKS_MAX);
    vd__maplog_record_encode(&r, slot, salt, back);
    assert(memcmp(buf, back, sizeof(back)) == 0);
    vd_put_le32(buf, crc + 1);
    assert(vd__maplog_record_decode(buf, slot, salt, &r) == -ENODATA);
}

static void fuzz_table_head(const uint8_t *seed, uint8_t *buf)
{
    struct vd__maptab_head h;
    const char *why;
    uint64_t len = vd_get_le64(seed);
    uint8_t back[VD__MAPTAB_PAGE_LEN];
    if (seed[8] % 2) { /* a length and offsets that fit, so that the rest is looked at */
        h.npages = vd_get_le64(buf + 64) % 1000;
        h.nlayers = vd_get_le32(buf + 88) % 1000;
        vd_put_le64(buf + 64, h.npages);
        vd_put_le32(buf + 88, h.nlayers);
        vd_put_le64(buf + 72, vd__maptab_layers_off(&h));
        vd_put_le64(buf + 80, vd__maptab_index_off(&h));
        len = vd__maptab_file_len(&h);
    }
    vd_put_le32(buf + VD__MAPTAB_PAGE_LEN - 4, vd_crc32c(0, buf, VD__MAPTAB_PAGE_LEN - 4));
    if (vd__maptab_head_decode(buf, len, &h, &why) < 0)
        return;
    assert(vd__maptab_file_len(&h) == len);
    vd__maptab_head_encode(&h, back);
    assert(memcmp(buf, back, sizeof(back)) == 0);
}

static void search(const uint8_t *buf, uint64_t block, bool sound)
{
    _Alignas(8) uint8_t words[VD__MAPTAB_PAGE_LEN];
    memcpy(words, buf, sizeof(words));
    struct vd__extent e = vd__maptab_page_search((const _Atomic uint64_t *)(const void *)words,
                                                 block, VD_MAP_BLOCKS_MAX);
    if (!sound || block >= VD_MAP_BLOCKS_MAX)
        return;
    assert(e.first <= block && block - e.first < e.nblocks);
    struct vd__extent want = {0, 0, VD_MAP_NONE};
    for (unsigned i = 0; i < vd__maptab_page_count(buf); i++) {
        struct vd__extent x = vd__maptab_page_extent(buf, i);
        if (x.first <= block && block - x.first < x.nblocks)
            want = x;
    }
    assert(e.layer == want.layer);
}

static void fuzz_page(const uint8_t *seed, uint8_t *buf)
{
    struct vd__maptab_head h = {.nlayers = 3, .salt = 5, .npages = 10};
    const char *why;
    uint8_t salt[8];
    uint64_t page = vd_get_le64(buf + 8);
    if (seed[8] % 2)
        for (unsigned i = 0; i < vd__maptab_page_count(buf); i++) /* more that are in order */
            if (i < VD__MAPTAB_PAGE_EXTENTS)
                vd_put_le64(buf + 16 + i * 16, i * 1000ull + buf[16 + i * 16]);
    vd_put_le64(salt, h.salt);
    uint32_t crc = vd_crc32c(vd_crc32c(0, h.id.b, sizeof(h.id.b)), salt, sizeof(salt));
    vd_put_le32(buf, vd_crc32c(crc, buf + 4, VD__MAPTAB_PAGE_LEN - 4));
    bool sound = vd__maptab_page_verify(&h, page, buf, &why) == 0;
    search(buf, vd_get_le64(seed), sound);
    search(buf, vd_get_le64(seed) % 300000, sound);
    assert(vd__maptab_page_verify(&h, page + 1, buf, &why) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        void (*fn)(const uint8_t *seed, uint8_t *buf);
        size_t len;
    } targets[] = {{fuzz_log_head, VD__MAPLOG_HEAD_LEN},
                   {fuzz_record, VD__MAPLOG_RECORD_LEN},
                   {fuzz_table_head, VD__MAPTAB_PAGE_LEN},
                   {fuzz_page, VD__MAPTAB_PAGE_LEN}};
    if (size < 1 + SEED_LEN)
        return 0;
    size_t n = data[0] % VD_ARRAY_SIZE(targets), len = targets[n].len;
    /* On the heap at its exact length, so that a byte past the end is caught; zeroes follow. */
    uint8_t *copy = calloc(1, len);
    if (!copy)
        return 0;
    memcpy(copy, data + 1 + SEED_LEN, vd_min(len, size - 1 - SEED_LEN));
    targets[n].fn(data + 1, copy);
    free(copy);
    return 0;
}
