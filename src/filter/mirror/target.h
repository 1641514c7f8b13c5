// SPDX-License-Identifier: Apache-2.0
/*
 * The target: the file or block device that is the copy. Opened anew after each break, so that there may be several at a time: what
 * is under way on an old one keeps it until it is done. Calls block, any thread; -errno.
 *
 * While it is open it is locked (target_lock.c): no other mirror has it, and no QEMU writes it.
 */
#ifndef VDISKFS_MIRROR_TARGET_H
#define VDISKFS_MIRROR_TARGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARGET_WHY 300u

/* What tells one file from another that took its place. */
struct target_id {
    uint64_t dev, ino;
    uint64_t disk_seq; /* of a block device; 0: not known */
    int64_t birth_s;   /* of a file; 0: not known */
    uint32_t birth_ns;
    int handle_type; /* name_to_handle_at(2) */
    unsigned handle_bytes;
    uint8_t handle[128];
};

struct target {
    int fd;
    bool block;
    atomic_uint refs;
    uint64_t found_bytes; /* its size before it was extended */
    struct target_id id;
};

/* What a mirror may know of a target that it does not have open. */
struct target_stat {
    bool block;
    uint64_t size; /* of a file; 0: of a block device */
    int64_t mtime_s;
    uint32_t mtime_ns;
};

struct target_wanted {
    const char *path;
    uint64_t dev, ino;   /* of the disk's own file: that it must not be */
    uint64_t size_bytes; /* the disk's: it must have at least these, or is extended */
    bool create;         /* may be made, and extended */
    bool exact;          /* a file must have just this size */
    uint64_t
        parent_dev; /* a new file is made only if its folder is on this file system; 0: on any */
};

/* Opens it: one reference. WHY says what is wrong, with the path. */
int target_open(const struct target_wanted *w, struct target **ret_t, char why[TARGET_WHY])
    __attribute__((warn_unused_result));
struct target *target_ref(struct target *t);
/* NULL is allowed. The last one closes it. */
void target_unref(struct target *t);

/* The file system that the folder of PATH is on; 0: not known. */
uint64_t target_parent_dev(const char *path);
/* Surely the same file, with all that was written to it. */
bool target_id_same(const struct target_id *a, const struct target_id *b);
/* Does PATH still lead to it? -ESTALE: to another; -errno. */
int target_check_path(const struct target *t, const char *path);

int target_read(const struct target *t, void *buf, size_t len, uint64_t offset);
int target_write(const struct target *t, const void *buf, size_t len, uint64_t offset);
/* Zeroes; does not change the size of a file. -E2BIG: it can only be written, and is too long for that; an unknown part is zero. */
int target_zero(const struct target *t, uint64_t offset, uint64_t len, bool discard);
int target_sync(const struct target *t);
int target_size(const struct target *t, uint64_t *ret_size);
/* Of a file; a block device must have SIZE at least: -ENOSPC. */
int target_set_size(const struct target *t, uint64_t size);
int target_stat(const struct target *t, struct target_stat *ret_s);
int target_stat_path(const char *path, struct target_stat *ret_s);
bool target_stat_same(const struct target_stat *a, const struct target_stat *b);

/* Locks FD for as long as it is open: 0; -EBUSY with WHY: another mirror, or a QEMU that writes. File systems without locks
 * are left alone. */
int target_lock(int fd, const char *path, char why[TARGET_WHY]);

#endif
