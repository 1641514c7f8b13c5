// SPDX-License-Identifier: Apache-2.0
/*
 * Is there data on a disk that is about to be encrypted? Plain bytes that are there would read as noise. All that is no hole is read,
 * since data may stand anywhere: what is in the middle of a disk may be all that it holds.
 */
#include "crypt.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK (1u << 20)

int crypt_disk_is_empty(struct vd_filter_disk *disk)
{
    void *buf = malloc(CHUNK);
    int64_t at = buf ? vd_filter_next_data(disk, 0) : -ENOMEM;
    while (at >= 0) {
        int64_t n = vd_filter_read(disk, buf, (uint64_t)at, CHUNK);
        if (n < 0)
            at = n == -ENXIO ? -EIO : n; /* that means the end to the loop */
        else if (n == 0)
            at = -ENXIO;
        else if (!xts_is_hole(buf, (size_t)n))
            break;
        else
            at = vd_filter_next_data(disk, (uint64_t)at + (uint64_t)n);
    }
    free(buf);
    return at == -ENXIO ? 1 : at < 0 ? (int)at : 0;
}
