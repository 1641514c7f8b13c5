// SPDX-License-Identifier: Apache-2.0
/*
 * What a dead writer left is not repaired but copied, record by record, into a fresh environment:
 * the structure of the copy is LMDB's own new work, its free list empty, and each record has
 * verified. Nobody but a child process that may die opens the suspect with LMDB.
 */
#ifndef VD__META_REBUILD_H
#define VD__META_REBUILD_H

#include "vd_meta.h"

/* Makes an environment with the empty core databases in the empty file FD (in memory). 0 or -errno.
 */
int vd__fresh(int fd) VD_WARN_UNUSED;

/* Copies the environment IN_FD into the empty file OUT_FD. Refuses it if a record does not verify,
 * keys are out of order, counts differ, or transaction MIN_TXNID is missing. May crash: for a child
 * process only, which rebuild_in_child makes. 0; -EUCLEAN and RET_WHY, -errno. */
int vd__rebuild(int in_fd, int out_fd, uint64_t min_txnid,
                char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* The same in a child. A child that dies or does not end within a minute is -EUCLEAN too; -EINTR:
 * somebody killed it. Blocks. */
int vd__rebuild_in_child(int in_fd, int out_fd, uint64_t min_txnid,
                         char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

#endif
