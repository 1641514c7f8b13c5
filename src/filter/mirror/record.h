// SPDX-License-Identifier: Apache-2.0
/*
 * What a mirror keeps in the disk's private metadata, key "state", 64 bytes, little-endian:
 *
 *     0  "VDM1"        8  epoch               24  size of the target   40  nanoseconds of it
 *     4  1 if clean   16  size of the disk    32  mtime of the target  44  1 if a block device
 *
 * *Clean* says: when the disk had this epoch (vd_filter_epoch) and this size, and the target this size and time, their bytes were the
 * same. Without it nothing is known. All but "clean" is 0 if it is not.
 */
#ifndef VDISKFS_MIRROR_RECORD_H
#define VDISKFS_MIRROR_RECORD_H

#include "target.h"

#define RECORD_BYTES 64u
#define RECORD_KEY "state"

struct record {
    bool clean;
    uint64_t epoch, disk_size;
    struct target_stat target;
};

void record_encode(const struct record *rec, uint8_t ret_bytes[RECORD_BYTES]);
/* 0; -EUCLEAN: not a record. */
int record_decode(const uint8_t *bytes, size_t len, struct record *ret_rec);

#endif
