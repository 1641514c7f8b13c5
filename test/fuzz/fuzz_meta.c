// SPDX-License-Identifier: Apache-2.0
/*
 * Codecs of meta/ under libFuzzer. The first byte chooses one. Random bytes do not get past a
 * checksum, so for records the target puts the right one in; what then decodes must encode to the
 * same bytes.
 */
#include <assert.h>

#include "bound.h"
#include "codec.h"
#include "layer.h"
#include "sum.h"
#include "vd_crc.h"
#include "vd_endian.h"

#define MAX 8192

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(const char *db, const struct vd__key *k, uint8_t *value, size_t len)
{
    if (len < VD__REC_OVERHEAD)
        return;
    vd_put_le32(value + 4, (uint32_t)(len - VD__REC_OVERHEAD));
    uint32_t crc = vd_crc32c(0, db, strlen(db) + 1);
    crc = vd_crc32c(crc, k->b, k->len);
    vd_put_le32(value + len - 4, vd_crc32c(crc, value, len - 4));
}

static void same(const uint8_t *a, size_t a_len, const uint8_t *b, ssize_t b_len)
{
    assert(b_len == (ssize_t)a_len && memcmp(a, b, a_len) == 0);
}

static void fuzz_disk(uint8_t *value, size_t len)
{
    struct vd__key k = vd__key_index(0);
    struct vd_disk_record r;
    char why[VD__REC_WHY];
    uint8_t back[VD__REC_MAX];
    seal(VD__DB_DISK, &k, value, len);
    if (vd__decode_disk(value, len, &r, why) == 0)
        same(value, len, back, vd__encode_disk(&r, back));
}

static void fuzz_layer(uint8_t *value, size_t len)
{
    struct vd__key k = vd__key_index(7);
    struct vd_layer_record r;
    char why[VD__REC_WHY];
    uint8_t back[VD__REC_MAX];
    seal(VD__DB_LAYER, &k, value, len);
    if (vd__decode_layer(7, value, len, &r, why) == 0)
        same(value, len, back, vd__encode_layer(7, &r, back));
}

static void fuzz_owner(uint8_t *value, size_t len)
{
    struct vd_id id = {0};
    if (len >= VD__REC_HEAD + sizeof(id.b))
        memcpy(id.b, value + VD__REC_HEAD, sizeof(id.b));
    struct vd__key k = vd__key_id(&id);
    struct vd_owner_record r;
    char why[VD__REC_WHY];
    uint8_t back[VD__REC_MAX];
    seal(VD__DB_OWNER, &k, value, len);
    if (vd__decode_owner(&k, value, len, &r, why) == 0)
        same(value, len, back, vd__encode_owner(&r, back));
}

static void fuzz_view(uint8_t *value, size_t len)
{
    struct vd__key k = vd__key_index(0);
    struct vd_view_record r;
    char why[VD__REC_WHY];
    uint8_t back[VD__REC_MAX];
    seal(VD__DB_VIEW, &k, value, len);
    if (vd__decode_view(value, len, &r, why) == 0)
        same(value, len, back, vd__encode_view(&r, back));
}

static void fuzz_snapshot(uint8_t *value, size_t len)
{
    static const size_t at = VD__REC_HEAD + VD__SNAPSHOT_LEN - (VD_SNAPSHOT_NAME_MAX + 1);
    struct vd_snapshot_record r;
    struct vd__key k = {.len = 1, .b = {'x'}};
    char name[VD_SNAPSHOT_NAME_MAX + 1] = "", why[VD__REC_WHY];
    uint8_t back[VD__REC_MAX];
    if (len > at)
        memcpy(name, value + at, vd_min(len - at, sizeof(name) - 1));
    if (vd__key_name(name, &k) < 0)
        k.len = 1;
    seal(VD__DB_SNAPSHOT, &k, value, len);
    if (vd__decode_snapshot(&k, value, len, &r, why) == 0)
        same(value, len, back, vd__encode_snapshot(&r, back));
}

static void filter_record(uint8_t *value, size_t len)
{
    static const size_t at =
        VD__REC_HEAD + VD__FILTER_LEN - VD_META_FILTER_CONFIG - VD_META_FILTER_NAME;
    struct vd_filter_record r;
    struct vd__key k = {.len = 1, .b = {'x'}};
    char name[VD_META_FILTER_NAME] = "", why[VD__REC_WHY];
    uint8_t back[VD__REC_MAX];
    if (len > at)
        memcpy(name, value + at, vd_min(len - at, sizeof(name) - 1));
    if (vd__key_filter(name, &k) < 0)
        k.len = 1;
    seal(VD__DB_FILTER, &k, value, len);
    if (vd__decode_filter(&k, value, len, &r, why) == 0)
        same(value, len, back, vd__encode_filter(&r, back));
}

/* As it comes, and as a payload of the right length, which is long for a fuzzer to find. */
static void fuzz_filter(uint8_t *value, size_t len)
{
    uint8_t whole[VD__FILTER_LEN + VD__REC_OVERHEAD] = {VD__REC_FILTER, 0, VD__REC_VERSION, 0};
    memcpy(whole + VD__REC_HEAD, value, vd_min(len, (size_t)VD__FILTER_LEN));
    filter_record(whole, sizeof(whole));
    filter_record(value, len);
}

static void filter_data_record(const struct vd__key *k, uint8_t *value, size_t len)
{
    struct vd__filter_datum d;
    struct vd__key again;
    char why[VD__REC_WHY];
    uint8_t back[VD__FILTER_DATA_REC_MAX];
    seal(VD__DB_FILTER_DATA, k, value, len);
    if (vd__decode_filter_data(k, value, len, &d, why) < 0)
        return;
    assert(vd__key_filter_data(d.filter, d.key, &again) == 0);
    same(k->b, k->len, again.b, (ssize_t)again.len);
    same(value, len, back, vd__encode_filter_data(k, d.bytes, d.len, back));
}

/* The first byte says how much is the key, the rest is the record: as it comes, and with what
 * stands before the filter's bytes put right. */
static void fuzz_filter_data(uint8_t *buf, size_t len)
{
    struct vd__key k;
    if (len < 1)
        return;
    k.len = vd_min((size_t)buf[0], len - 1);
    memcpy(k.b, buf + 1, k.len);
    uint8_t *value = buf + 1 + k.len;
    len -= 1 + k.len;
    filter_data_record(&k, value, len);
    if (len < VD__REC_OVERHEAD + VD__FILTER_DATA_HEAD)
        return;
    vd_put_le16(value, VD__REC_FILTER_DATA);
    vd_put_le16(value + 2, VD__REC_VERSION);
    vd_put_le32(value + VD__REC_HEAD, (uint32_t)(len - VD__REC_OVERHEAD - VD__FILTER_DATA_HEAD));
    filter_data_record(&k, value, len);
}

static void fuzz_layer_file(uint8_t *buf, size_t len)
{
    struct vd_layer_file l;
    uint32_t version;
    uint8_t back[VD__LAYER_FILE_LEN];
    if (len >= 4)
        vd_put_le32(buf + len - 4, vd_crc32c(0, buf, len - 4));
    if (vd__layer_file_decode(buf, len, &l, &version) == 0) {
        vd__layer_file_encode(&l, back);
        same(buf, len, back, VD__LAYER_FILE_LEN);
    }
}

static void fuzz_sum(uint8_t *buf, size_t len)
{
    struct vd__sum s;
    uint32_t version;
    uint8_t back[VD__SUM_LEN];
    if (len >= VD__SUM_LEN)
        vd_put_le32(buf + VD__SUM_LEN - 4, vd_crc32c(0, buf, VD__SUM_LEN - 4));
    if (vd__sum_decode(buf, len, &s, &version) == 0) {
        vd__sum_encode(&s, back);
        same(buf, len, back, VD__SUM_LEN);
    }
}

static void fuzz_bound(uint8_t *buf, size_t len)
{
    struct vd__bound b;
    uint32_t version;
    uint8_t back[VD__BOUND_MAX];
    if (len >= 4)
        vd_put_le32(buf + len - 4, vd_crc32c(0, buf, len - 4));
    if (vd__bound_decode(buf, len, "a/b", &b, &version) == 0)
        same(buf, len, back, vd__bound_encode(&b, "a/b", back));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(uint8_t *, size_t) = {
        fuzz_disk, fuzz_layer,    fuzz_owner,      fuzz_sum,    fuzz_bound,
        fuzz_view, fuzz_snapshot, fuzz_layer_file, fuzz_filter, fuzz_filter_data,
    };
    if (size < 1 || size > MAX)
        return 0;
    /* On the heap at its exact length, so that a byte past the end is caught. */
    uint8_t *copy = malloc(size);
    if (!copy)
        return 0;
    memcpy(copy, data + 1, size - 1);
    targets[data[0] % VD_ARRAY_SIZE(targets)](copy, size - 1);
    free(copy);
    return 0;
}
