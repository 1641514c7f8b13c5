// SPDX-License-Identifier: Apache-2.0
/*
 * Codecs of cache/, and the policy's saved state, under libFuzzer. The first byte chooses one. What decodes
 * must encode to the same bytes; a policy that loads must go on without leaving its bounds.
 */
#include <assert.h>

#include "codec.h"
#include "vd_cache_policy.h"
#include "vd_crc.h"
#include "vd_endian.h"

#define MAX 8192
#define SLOTS 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The records end with their checksum; the header of `slots` has it where its encoder puts it. */
static void seal(uint8_t *buf, size_t len)
{
    vd_put_le32(buf + len - 4, vd_crc32c(0, buf, len - 4));
}

static void fuzz_slots_header(uint8_t *buf)
{
    struct vd__slots_header h;
    uint8_t back[VD__SLOTS_HEADER_BYTES] = {0};
    if (vd__slots_header_decode(buf, &h) == 0)
        vd__slots_header_encode(&h, back);
}

static void fuzz_state_header(uint8_t *buf)
{
    struct vd__state_header h;
    uint8_t back[VD__STATE_HEADER_BYTES] = {0};
    seal(buf, VD__STATE_HEADER_BYTES);
    if (vd__state_header_decode(buf, &h) == 0)
        vd__state_header_encode(&h, back);
}

static void fuzz_pending(uint8_t *buf)
{
    struct vd__pending_range p;
    uint8_t back[VD__PENDING_BYTES] = {0};
    seal(buf, VD__PENDING_BYTES);
    if (vd__pending_decode(buf, &p) == 0) {
        vd__pending_encode(&p, back);
        assert(memcmp(buf, back, sizeof(back)) == 0);
    }
}

static void fuzz_witness(uint8_t *buf, size_t len)
{
    struct vd_cache_witness w;
    struct vd_id id = {0};
    uint8_t back[VD__WITNESS_BYTES] = {0};
    if (len >= VD__WITNESS_BYTES)
        seal(buf, VD__WITNESS_BYTES);
    if (vd__witness_decode(&id, buf, len, &w) == 0)
        vd__witness_encode(&id, &w, back);
}

static void fuzz_policy(const uint8_t *buf, size_t len)
{
    const struct vd_cache_policy_ops *ops = &vd_cache_policy_s3fifo;
    struct vd_cache_policy *p = NULL;
    if (ops->new (SLOTS, &p) < 0)
        return;
    int r = ops->load(p, buf, len);
    assert(r == 0 || r == -EUCLEAN);
    for (uint32_t i = 0; i < 4 * SLOTS; i++) {
        uint32_t slot = ops->take(p, NULL, NULL);
        assert(slot < SLOTS);
        ops->put(p, slot, i * 0x9e3779b97f4a7c15ull);
        ops->hit(p, (slot * 7) % SLOTS);
    }
    assert(ops->used(p) <= SLOTS);
    ops->free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t buf[MAX] = {0};
    if (size < 1 || size > MAX)
        return 0;
    size_t len = size - 1;
    memcpy(buf, data + 1, len);
    switch (data[0] % 5) {
    case 0:
        fuzz_slots_header(buf);
        break;
    case 1:
        fuzz_state_header(buf);
        break;
    case 2:
        fuzz_pending(buf);
        break;
    case 3:
        fuzz_witness(buf, len);
        break;
    case 4:
        fuzz_policy(buf, len);
        break;
    }
    return 0;
}
