// SPDX-License-Identifier: Apache-2.0
/*
 * Is there data on a disk that is about to be encrypted? Plain bytes that are there would read as noise. What
 * makes a disk usable stands at its beginning (boot sectors, partition tables, superblocks, headers of
 * volumes) or at its end (copies of partition tables, metadata of RAID); between, samples.
 */
#include "crypt.h"

#include <errno.h>
#include <stdlib.h>

#define ENDS (1u << 20)
#define SAMPLE 4096u
#define SAMPLES 256u

/* 1: zeroes only; 0; -errno. */
static int is_zero(struct vd_filter_disk *disk, uint64_t offset, uint64_t len, void *buf)
{
    int64_t n = vd_filter_read(disk, buf, offset, len);
    return n < 0 ? (int)n : xts_is_hole(buf, (size_t)n);
}

int crypt_disk_is_empty(struct vd_filter_disk *disk, uint64_t size_bytes)
{
    void *buf = malloc(ENDS);
    if (!buf)
        return -ENOMEM;
    uint64_t last = size_bytes > ENDS ? size_bytes - ENDS : 0;
    int r = is_zero(disk, 0, ENDS, buf);
    if (r == 1)
        r = is_zero(disk, last, ENDS, buf);
    uint64_t step = size_bytes / SAMPLES & ~(uint64_t)(SAMPLE - 1);
    for (unsigned i = 1; r == 1 && step && i < SAMPLES; i++)
        r = is_zero(disk, i * step, SAMPLE, buf);
    free(buf);
    return r;
}
