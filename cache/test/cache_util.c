// SPDX-License-Identifier: Apache-2.0
#include "cache_util.h"

#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>

#include "vd_endian.h"
#include "vd_file.h"

char test_dir[256];

void dir_setup(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(test_dir, sizeof(test_dir), "%s/vd-cache-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(test_dir));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void dir_teardown(void)
{
    nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *path_of(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", test_dir, name);
    return path;
}

struct vd_cache_key test_key(unsigned disk, uint64_t generation)
{
    struct vd_cache_key k = {.generation = generation};
    memset(k.disk_id.b, 0x40, sizeof(k.disk_id.b));
    k.disk_id.b[3] = (uint8_t)disk;
    return k;
}

int try_open(uint64_t size_bytes, uint32_t slot_bytes, unsigned stopping_ms,
             struct vd_cache **ret_c, char why[256])
{
    struct vd_cache_config config = {.dir = test_dir,
                                     .size_bytes = size_bytes,
                                     .slot_bytes = slot_bytes,
                                     .note = "a test",
                                     .stopping_ms = stopping_ms,
                                     .ready_ms = 30000};
    return vd_cache_open(&config, ret_c, why, 256);
}

struct vd_cache *open_cache(uint64_t size_bytes)
{
    struct vd_cache *c = NULL;
    char why[256] = "";
    int r = try_open(size_bytes, 64 * KIB, 0, &c, why);
    ck_assert_msg(r == 0, "open: %d: %s", r, why);
    return c;
}

int try_layer(struct vd_cache *c, unsigned disk, uint64_t generation, struct vd_cache_layer **ret_l)
{
    struct vd_cache_key key = test_key(disk, generation);
    return vd_cache_layer_open(c, &key, ret_l);
}

struct vd_cache_layer *open_layer(struct vd_cache *c, unsigned disk, uint64_t generation)
{
    struct vd_cache_layer *l = NULL;
    ck_assert_int_eq(try_layer(c, disk, generation, &l), 0);
    return l;
}

void stamp(uint8_t *buf, uint64_t block, uint32_t nblocks, uint64_t version)
{
    for (uint32_t i = 0; i < nblocks; i++)
        for (uint32_t at = 0; at < VD_BLOCK_SIZE; at += 16) {
            vd_put_le64(buf + (size_t)i * VD_BLOCK_SIZE + at, block + i);
            vd_put_le64(buf + (size_t)i * VD_BLOCK_SIZE + at + 8, version);
        }
}

uint64_t version_of(const uint8_t *buf, uint64_t block)
{
    uint64_t version = vd_get_le64(buf + 8);
    for (uint32_t at = 0; at < VD_BLOCK_SIZE; at += 16)
        if (vd_get_le64(buf + at) != block || vd_get_le64(buf + at + 8) != version)
            ck_abort_msg("block %llu has foreign or torn bytes", (unsigned long long)block);
    return version;
}

static void no_ready(struct vd_cache_fill *f)
{
    (void)f;
}

int fill(struct vd_cache_layer *l, uint64_t first, uint32_t n, uint64_t version)
{
    uint8_t *buf = malloc((size_t)n * VD_BLOCK_SIZE);
    uint64_t which[VD_CACHE_WORDS];
    memset(which, 0xff, sizeof(which));
    stamp(buf, first, n, version);
    struct vd_cache_fill f = {.first_block = first, .nblocks = n, .ready = no_ready};
    int r = vd_cache_fill_begin(l, &f);
    if (r == 0)
        vd_cache_fill_commit(l, &f, buf, which);
    free(buf);
    return r;
}

unsigned hits(struct vd_cache_layer *l, uint64_t first, uint32_t n, uint64_t version)
{
    uint8_t *buf = malloc((size_t)n * VD_BLOCK_SIZE);
    struct vd_cache_read r = {.first_block = first, .nblocks = n, .buf = buf};
    ck_assert_int_eq(vd_cache_read(l, &r), 0);
    unsigned nhit = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!(r.hit[i / 64] >> (i % 64) & 1))
            continue;
        nhit++;
        ck_assert_uint_eq(version_of(buf + (size_t)i * VD_BLOCK_SIZE, first + i), version);
    }
    ck_assert_uint_eq(nhit, r.nhit);
    free(buf);
    return nhit;
}

void write_blocks(struct vd_cache_layer *l, uint64_t first, uint32_t n, uint64_t version,
                  bool refresh)
{
    uint8_t *buf = malloc((size_t)n * VD_BLOCK_SIZE);
    stamp(buf, first, n, version);
    struct vd_cache_write w = {.first_block = first, .nblocks = n};
    vd_cache_write_begin(l, &w);
    vd_cache_write_end(l, &w, refresh ? buf : NULL, first, n);
    free(buf);
}

struct vd_cache_stats stats_of(struct vd_cache *c)
{
    struct vd_cache_stats s;
    vd_cache_get_stats(c, &s);
    return s;
}

void scribble(const char *name, off_t off, size_t len, uint8_t byte)
{
    vd_cleanup_close int fd = open(path_of(name), O_RDWR | O_CLOEXEC);
    vd_cleanup_free uint8_t *buf = malloc(len);
    memset(buf, byte, len);
    ck_assert_int_eq(vd_pwrite_full(fd, buf, len, off), 0);
}

void flip(const char *name, off_t off)
{
    vd_cleanup_close int fd = open(path_of(name), O_RDWR | O_CLOEXEC);
    uint8_t byte;
    ck_assert_int_eq(vd_pread_full(fd, &byte, 1, off), 1);
    byte ^= 0x5a;
    ck_assert_int_eq(vd_pwrite_full(fd, &byte, 1, off), 0);
}

void cut(const char *name, off_t len)
{
    ck_assert_int_eq(truncate(path_of(name), len), 0);
}

off_t size_of(const char *name)
{
    struct stat st;
    return stat(path_of(name), &st) == 0 ? st.st_size : -1;
}
