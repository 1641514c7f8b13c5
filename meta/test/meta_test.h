// SPDX-License-Identifier: Apache-2.0
/*
 * What the tests of meta/ share: a private folder with a store in it, sample records, raw file
 * access.
 *
 * A process forked by a test never touches libcheck (no ck_*, no function that contains one; the
 * try_ ones contain none) and always ends by _exit, a signal or exec: it shares the test's file of
 * messages, where each ck_assert writes one, and a killed process's write(2) can end at a page
 * boundary, with half a message.
 */
#ifndef META_TEST_H
#define META_TEST_H

#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "vd_meta.h"

struct place {
    char dir[96]; /* the source, absolute */
    int fd;       /* of it */
    struct vd_meta_store *store;
};

/* A new folder below $TMPDIR or /tmp with a store, removed by place_drop(). */
void place_make(struct place *p);
void place_drop(struct place *p);

/* Mounts a ramfs (it takes no user attributes) on DIR, which is P's folder or in it; false
 * where we may not. */
bool ramfs_mount(struct place *p, const char *dir);
void ramfs_remount_ro(const char *dir);
void ramfs_umount(const char *dir);

struct vd_disk_record sample_disk(const struct vd_id *uuid, uint64_t stamp);
struct vd_layer_record sample_layer(uint32_t index, uint64_t stamp);
struct vd_owner_record sample_owner(uint32_t index, uint64_t stamp);
bool disk_eq(const struct vd_disk_record *a, const struct vd_disk_record *b);
bool layer_eq(const struct vd_layer_record *a, const struct vd_layer_record *b);
bool owner_eq(const struct vd_owner_record *a, const struct vd_owner_record *b);

#define SAMPLE_LAYERS 3u
#define SAMPLE_OWNERS 12u

/* Opens, or fails the test with the sentence. */
struct vd_meta *must_open(struct place *p, const struct vd_id *uuid, enum vd_meta_mode mode);
/* Puts the samples of STAMP, uncommitted. try_: 0 or the first error. */
int try_put_samples(struct vd_meta *m, const struct vd_id *uuid, uint64_t stamp);
void put_samples(struct vd_meta *m, const struct vd_id *uuid, uint64_t stamp);
/* A new disk with the samples of STAMP, closed cleanly. */
struct vd_id make_disk(struct place *p, uint64_t stamp);
/* The stamp that all records agree on; fails the test where they differ or one is not as written.
 */
uint64_t whole_stamp(struct vd_meta *m, const struct vd_id *uuid);

/* Files of the disk's folder. */
struct bytes {
    uint8_t *p;
    size_t len;
};
struct bytes file_load(struct place *p, const struct vd_id *uuid, const char *name);
void file_store(struct place *p, const struct vd_id *uuid, const char *name, const void *buf,
                size_t len);
int file_fd(struct place *p, const struct vd_id *uuid, const char *name, int flags);

/* Runs a session in a child that ends without closing it: meta.sum says open. */
void leave_open(struct place *p, const struct vd_id *uuid, uint64_t stamp);

/* Small and the same everywhere; the seed is printed. */
struct rng {
    uint64_t s;
};
struct rng rng_make(uint64_t seed);
uint64_t rng_next(struct rng *r);

int run_suite(const char *name, const TTest *const *tests, size_t n, int timeout_s);

#endif
