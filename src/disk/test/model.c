// SPDX-License-Identifier: Apache-2.0
/* Random requests, one after the other, against a plain array: every byte, every size, through
 * evictions and remounts, in each cache mode. */
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#define MODEL_MAX (3u << 20)

struct model {
    struct rig rig;
    struct vd_disk *d;
    uint8_t *bytes; /* MODEL_MAX */
    uint64_t size;
    uint8_t *buf;
    uint64_t seed;
};

static uint64_t below(struct model *m, uint64_t n)
{
    return rig_random(&m->seed) % n;
}

static size_t some_len(struct model *m)
{
    static const size_t max[] = {512, 4096, 20000, 65536, 300000, 1u << 20};
    size_t len = below(m, max[below(m, VD_ARRAY_SIZE(max))]) + 1;
    return below(m, 2) ? vd_align_up(len, VD_BLOCK_SIZE) : len;
}

static uint64_t some_off(struct model *m, uint64_t end)
{
    uint64_t off = below(m, end);
    return below(m, 2) ? vd_align_down(off, VD_BLOCK_SIZE) : off;
}

static void check_read(struct model *m, uint64_t off, size_t len)
{
    ssize_t want = off >= m->size ? 0 : (ssize_t)vd_min((uint64_t)len, m->size - off);
    ck_assert_int_eq(rig_read(m->d, off, m->buf, len), want);
    rig_expect(m->buf, m->bytes + off, (size_t)want, off);
}

static void do_write(struct model *m)
{
    size_t len = vd_min(some_len(m), (size_t)VD_IO_MAX_BYTES);
    uint64_t off = some_off(m, MODEL_MAX - len + 1);
    memset(m->buf, (int)below(m, 255) + 1, len);
    for (size_t i = 0; i < len; i += 97)
        m->buf[i] = (uint8_t)below(m, 256);
    ck_assert_int_eq(rig_write(m->d, off, m->buf, len), (ssize_t)len);
    memcpy(m->bytes + off, m->buf, len);
    m->size = vd_max(m->size, off + len);
}

static void do_zero(struct model *m)
{
    uint64_t len = some_len(m), off = some_off(m, MODEL_MAX - len + 1);
    enum vd_zero_mode mode = (enum vd_zero_mode)below(m, 5);
    ck_assert_int_eq(rig_zero(m->d, mode, off, len), 0);
    if (mode == VD_ZERO_EXTEND || mode == VD_ALLOC_EXTEND)
        m->size = vd_max(m->size, off + len);
    if (mode != VD_ALLOC_KEEP && mode != VD_ALLOC_EXTEND)
        memset(m->bytes + off, 0, len);
}

static void do_truncate(struct model *m)
{
    uint64_t size = some_off(m, MODEL_MAX) + 1;
    ck_assert_int_eq(rig_truncate(m->d, size), 0);
    if (size < m->size)
        memset(m->bytes + size, 0, m->size - size);
    m->size = size;
}

static void remount(struct model *m)
{
    rig_close(&m->rig, m->d);
    if (below(m, 2)) {
        rig_umount(&m->rig);
        rig_mount(&m->rig);
    }
    m->d = rig_open(&m->rig, "d");
}

static void step(struct model *m)
{
    uint64_t what = below(m, 100);
    if (what < 55) {
        size_t len = vd_min(some_len(m), (size_t)VD_IO_MAX_BYTES);
        check_read(m, some_off(m, MODEL_MAX), len);
    } else if (what < 85) {
        do_write(m);
    } else if (what < 91) {
        do_zero(m);
    } else if (what < 94) {
        do_truncate(m);
    } else if (what < 96) {
        ck_assert_int_eq(rig_flush(m->d), 0);
    } else if (what < 98) {
        vd_disk_cache_drop(m->d);
    } else if (what < 99) {
        remount(m);
    }
}

static void run_model(enum vd_cache_mode mode, uint64_t seed)
{
    struct model m = {.seed = seed, .size = 1500000};
    printf("seed %llu mode %d\n", (unsigned long long)seed, mode);
    rig_init(&m.rig);
    m.rig.mode = mode;
    m.rig.cache_bytes = 1u << 20; /* a third of the disk: evictions all the time */
    m.bytes = calloc(1, MODEL_MAX);
    m.buf = malloc(VD_IO_MAX_BYTES);
    rig_mount(&m.rig);
    rig_make(&m.rig, "d", m.size);
    m.d = rig_open(&m.rig, "d");
    for (int i = 0; i < 3000; i++)
        step(&m);
    remount(&m);
    for (uint64_t off = 0; off < MODEL_MAX; off += VD_IO_MAX_BYTES)
        check_read(&m, off, VD_IO_MAX_BYTES);
    vd_disk_release(m.d);
    rig_free(&m.rig);
    free(m.bytes);
    free(m.buf);
}

START_TEST(model)
{
    run_model((enum vd_cache_mode)(_i % 3), 0x9e3779b97f4a7c15ull * (uint64_t)(_i + 1));
}
END_TEST

void add_model_tests(Suite *s)
{
    TCase *t = tcase_create("model");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, model, 0, 4);
    suite_add_tcase(s, t);
}
