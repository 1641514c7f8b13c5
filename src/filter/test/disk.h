// SPDX-License-Identifier: Apache-2.0
/*
 * A disk of memory below filters, with a gate as src/disk has one, and the hook through which a test plays the filters.
 */
#ifndef TEST_DISK_H
#define TEST_DISK_H

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>

#include "hook.h"
#include "vd_filter.h"

#define DISK_BYTES (1u << 20)

struct test_disk {
    struct vd_filters *fs;
    struct vd_filtered *f;
    struct vd_lanes *lanes;
    struct vd_lane *lane;
    pthread_mutex_t mu;
    uint8_t bytes[DISK_BYTES]; /* lock: mu */
    atomic_uint reads, writes, others;
    atomic_bool on_threads; /* completes requests on other threads */
    char data[4000];
    int64_t data_len;
    struct vd_filter_spec specs[VD_FILTERS_MAX + 1];
    size_t nspecs;
};

void disk_open(struct test_disk *d);
void disk_open_threads(struct test_disk *d, unsigned nthreads); /* of the pool; 8 */
void disk_close(struct test_disk *d);
/* Adds NAME with CONFIG to the specs, without attaching. */
struct vd_filter_spec *disk_add(struct test_disk *d, const char *name, const char *config);
/* The same with the hook FN as configuration. */
void disk_add_hook(struct test_disk *d, const char *name, hook_fn *fn);
/* Makes the chain of the specs, with FRESH (NULL: none), as src/disk does: shuts the gate meanwhile. */
int disk_replace(struct test_disk *d, const char *fresh, char why[VD_FILTER_WHY]);
void disk_apply(struct test_disk *d);

/* Requests, waited for. */
ssize_t disk_do(struct test_disk *d, enum vd_filter_op op, uint64_t off, void *buf, size_t len);
ssize_t disk_read(struct test_disk *d, uint64_t off, void *buf, size_t len);
ssize_t disk_write(struct test_disk *d, uint64_t off, const void *buf, size_t len);
/* Not waited for: DONE is called. */
void disk_submit(struct test_disk *d, enum vd_filter_op op, uint64_t off, const void *data,
                 size_t len, vd_filter_done done, void *user);

void add_chain_tests(Suite *s);
void add_config_tests(Suite *s);
void add_defer_tests(Suite *s);
void add_fault_tests(Suite *s);
void add_load_tests(Suite *s);
void add_edges_tests(Suite *s);

#endif
