// SPDX-License-Identifier: Apache-2.0
/* What the cache's tests share: a private directory, a cache in it, blocks with known bytes. */
#ifndef CACHE_UTIL_H
#define CACHE_UTIL_H

#include <check.h>

#include "vd_cache.h"

#define KIB 1024u
#define MIB (1024u * KIB)

extern char test_dir[256]; /* made by setup, removed by teardown */

void dir_setup(void);
void dir_teardown(void);

/* TEST_DIR/NAME. */
const char *path_of(const char *name);

struct vd_cache_key test_key(unsigned disk, uint64_t generation);

/* Opens the cache in TEST_DIR with 64 KiB slots; fails the test if that fails. The try_ ones only
 * return the error: what a test forks never touches libcheck (meta/test/meta_test.h has why). */
struct vd_cache *open_cache(uint64_t size_bytes);
int try_open(uint64_t size_bytes, uint32_t slot_bytes, unsigned stopping_ms,
             struct vd_cache **ret_c, char why[256]);
struct vd_cache_layer *open_layer(struct vd_cache *c, unsigned disk, uint64_t generation);
int try_layer(struct vd_cache *c, unsigned disk, uint64_t generation,
              struct vd_cache_layer **ret_l);

/* Bytes that say which block they are and of which version. */
void stamp(uint8_t *buf, uint64_t block, uint32_t nblocks, uint64_t version);
/* The version in one block's bytes; fails the test where they are not whole. */
uint64_t version_of(const uint8_t *buf, uint64_t block);

/* Fills blocks with that version. What fill_begin returned. */
int fill(struct vd_cache_layer *l, uint64_t first, uint32_t n, uint64_t version);
/* How many of the blocks are hits; each must have that version. */
unsigned hits(struct vd_cache_layer *l, uint64_t first, uint32_t n, uint64_t version);
/* A whole write; admitted where REFRESH. */
void write_blocks(struct vd_cache_layer *l, uint64_t first, uint32_t n, uint64_t version,
                  bool refresh);

struct vd_cache_stats stats_of(struct vd_cache *c);

/* Overwrites LEN bytes of a file of the cache with BYTE, changes one whatever it was, or cuts it.
 */
void scribble(const char *name, off_t off, size_t len, uint8_t byte);
void flip(const char *name, off_t off);
void cut(const char *name, off_t len);
off_t size_of(const char *name);

#endif
