// SPDX-License-Identifier: Apache-2.0
/*
 * Two mirrors must not write one target, nor a guest that has it for its disk. QEMU locks bytes of an image as
 * it uses it (open file description locks; block/file-posix.c, include/block/block-common.h): a read lock of byte 100 + p
 * says "I use permission p", one of byte 200 + p "nobody else may". Permission 1 is to write. So a read
 * lock of byte 201 keeps QEMU from opening the target for writing, while those who only read it, as qemu-img compare does, may;
 * a read lock of byte 101 that another holds tells of a QEMU that writes. Mirrors keep each other out by a write lock of
 * a byte that QEMU does not use.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define QEMU_WRITES 101
#define QEMU_NOBODY_WRITES 201
#define MIRROR 301

static int lock(int fd, short type, off_t byte)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_SETLK, &l) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : 0;
}

static bool others_have(int fd, off_t byte)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

int target_lock(int fd, const char *path, char why[TARGET_WHY])
{
    if (lock(fd, F_WRLCK, MIRROR) < 0) {
        snprintf(why, TARGET_WHY, "%.200s: another mirror has it", path);
        return -EBUSY;
    }
    /* First ours, then theirs: of two who do so at one time at least one sees the other. */
    if (lock(fd, F_RDLCK, QEMU_NOBODY_WRITES) < 0 || others_have(fd, QEMU_WRITES)) {
        snprintf(why, TARGET_WHY, "%.200s: a guest has it for its disk", path);
        return -EBUSY;
    }
    return 0;
}
