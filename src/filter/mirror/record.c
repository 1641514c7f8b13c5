// SPDX-License-Identifier: Apache-2.0
#include "record.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static void put64(uint8_t *at, uint64_t v)
{
    v = htole64(v);
    memcpy(at, &v, sizeof(v));
}

static void put32(uint8_t *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof(v));
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof(v));
    return le64toh(v);
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof(v));
    return le32toh(v);
}

void record_encode(const struct record *rec, uint8_t ret_bytes[RECORD_BYTES])
{
    memset(ret_bytes, 0, RECORD_BYTES);
    memcpy(ret_bytes, "VDM1", 4);
    if (!rec->clean)
        return;
    put32(ret_bytes + 4, 1);
    put64(ret_bytes + 8, rec->epoch);
    put64(ret_bytes + 16, rec->disk_size);
    put64(ret_bytes + 24, rec->target.size);
    put64(ret_bytes + 32, (uint64_t)rec->target.mtime_s);
    put32(ret_bytes + 40, rec->target.mtime_ns);
    put32(ret_bytes + 44, rec->target.block);
}

int record_decode(const uint8_t *bytes, size_t len, struct record *ret_rec)
{
    if (len != RECORD_BYTES || memcmp(bytes, "VDM1", 4) != 0)
        return -EUCLEAN;
    *ret_rec = (struct record){.clean = get32(bytes + 4) == 1};
    if (!ret_rec->clean)
        return 0;
    ret_rec->epoch = get64(bytes + 8);
    ret_rec->disk_size = get64(bytes + 16);
    ret_rec->target = (struct target_stat){.block = get32(bytes + 44) == 1,
                                           .size = get64(bytes + 24),
                                           .mtime_s = (int64_t)get64(bytes + 32),
                                           .mtime_ns = get32(bytes + 40)};
    return 0;
}
