// SPDX-License-Identifier: Apache-2.0
/*
 * meta.sum, one record beside meta.mdb that says what to think of it:
 *
 *   clean  nobody writes; length and CRC32C of the whole meta.mdb follow
 *   open   somebody began to write and, where the lock is free, died; at least transaction TXNID is
 *          there
 *
 * "open" is made durable before the first page of meta.mdb changes. "clean" is written without a
 * sync, after everything in meta.mdb is durable: whichever of the two a power cut leaves is then
 * true. The record lies in one sector and is written by one call; a torn one does not verify and
 * counts as open.
 */
#ifndef VD__META_SUM_H
#define VD__META_SUM_H

#include "vd_meta.h"

#define VD__SUM_NAME "meta.sum"
#define VD__SUM_LEN 40u
#define VD__SUM_VERSION 1u

enum vd__sum_state { VD__SUM_OPEN = 1, VD__SUM_CLEAN = 2 };

struct vd__sum {
    enum vd__sum_state state;
    uint64_t len_bytes; /* clean: of meta.mdb */
    uint64_t txnid;     /* the last that is known to be committed */
    uint32_t crc;       /* clean: of meta.mdb */
};

void vd__sum_encode(const struct vd__sum *s, uint8_t ret_buf[VD__SUM_LEN]);

/* 0; -EUCLEAN: torn or foreign; -EPROTONOSUPPORT: sound, of RET_VERSION, which is not ours. */
int vd__sum_decode(const uint8_t *buf, size_t len, struct vd__sum *ret_s, uint32_t *ret_version);

/* Reads the record through FD. Torn, missing or foreign: state open, txnid 0. 0, -EPROTONOSUPPORT
 * with RET_VERSION, or -errno of the read. */
int vd__sum_read(int fd, struct vd__sum *ret_s, uint32_t *ret_version) VD_WARN_UNUSED;

/* Overwrites the record; with SYNC it is durable on return. 0 or -errno. */
int vd__sum_write(int fd, const struct vd__sum *s, bool sync) VD_WARN_UNUSED;

/* CRC32C and length of all of FD, read once; each piece is also written to COPY_FD at its place,
 * unless that is -1. 0, -EFBIG past MAX_BYTES, -errno. */
int vd__sum_file(int fd, int copy_fd, uint64_t max_bytes, uint32_t *ret_crc,
                 uint64_t *ret_len_bytes) VD_WARN_UNUSED;

#endif
