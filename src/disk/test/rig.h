// SPDX-License-Identifier: Apache-2.0
/* A source, a store, a cache and disks in a private folder, for tests of src/disk without FUSE. */
#ifndef VD_TEST_RIG_H
#define VD_TEST_RIG_H

#include <check.h>

#include "vd_disk.h"

struct rig {
    char dir[64]; /* holds source/ and cache/ */
    int source_fd;
    struct vd_meta_store *store;
    struct vd_cache *cache;
    struct vd_lanes *lanes;
    struct vd_coordinator *coordinator;
    struct vd_filters *filters; /* those of src/filter/test, where filter_dir says so */
    struct vd_disks *disks;
    enum vd_cache_mode mode;
    uint64_t cache_bytes;
    const char *cache_name; /* below dir; "cache" */
    const char *filter_dir; /* NULL: no filters */
};

/* Makes the folder; rig_mount opens everything, rig_umount closes it all, rig_free removes the
 * folder. The try_ ones only return the error: what a test forks never touches libcheck
 * (meta/test/meta_test.h has why). */
void rig_init(struct rig *r);
int rig_try_mount(struct rig *r);
void rig_mount(struct rig *r);
void rig_umount(struct rig *r);
void rig_free(struct rig *r);

/* A file of SIZE zero bytes in the source. */
void rig_make(struct rig *r, const char *name, uint64_t size);
/* Opens it as a disk. */
int rig_try_open(struct rig *r, const char *name, struct vd_disk **ret_d);
struct vd_disk *rig_open(struct rig *r, const char *name);
/* Releases the disk and waits until it is detached. */
void rig_close(struct rig *r, struct vd_disk *d);

/* Requests, waited for. read: the count, bytes in BUF. */
ssize_t rig_read(struct vd_disk *d, uint64_t off, void *buf, size_t len);
ssize_t rig_write(struct vd_disk *d, uint64_t off, const void *buf, size_t len);
ssize_t rig_zero(struct vd_disk *d, enum vd_zero_mode mode, uint64_t off, uint64_t len);
ssize_t rig_truncate(struct vd_disk *d, uint64_t size);
ssize_t rig_flush(struct vd_disk *d);

/* Fails at the first byte that differs; OFF is where the bytes are from, for the message. */
void rig_expect(const uint8_t *got, const uint8_t *want, size_t len, uint64_t off);

struct vd_disk_stats rig_stats(struct vd_disk *d);

/* xorshift; seeds are fixed and printed by who uses them. */
uint64_t rig_random(uint64_t *state);

void add_filters_tests(Suite *s);
void add_history_tests(Suite *s);
void add_layers_tests(Suite *s);
void add_model_tests(Suite *s);
void add_race_tests(Suite *s);
void add_filters_life_tests(Suite *s);
void add_filters_others_tests(Suite *s);
void add_size_tests(Suite *s);
void add_stale_tests(Suite *s);

#endif
