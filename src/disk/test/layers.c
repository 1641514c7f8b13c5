// SPDX-License-Identifier: Apache-2.0
/*
 * Random requests, snapshots, clones, reverts, flattens and remounts of several disks, against plain
 * arrays: every byte and every size, of every disk and, through clones, of every snapshot.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"
#include "vd_view.h"

#define BYTES_MAX (3u << 20)
#define DISKS 5
#define SNAPSHOTS 4

struct image {
    uint8_t *bytes; /* BYTES_MAX; zero past the size */
    uint64_t size;
};

struct modelled {
    bool there;
    char name[16];
    struct vd_disk *d; /* NULL: closed */
    struct image now;
    bool has_snap[SNAPSHOTS];
    struct image snap[SNAPSHOTS];
};

struct model {
    struct rig rig;
    struct modelled disk[DISKS];
    uint8_t *buf;
    uint64_t seed;
    unsigned made;
};

static uint64_t below(struct model *m, uint64_t n)
{
    return rig_random(&m->seed) % n;
}

static void copy_image(struct image *to, const struct image *from)
{
    if (!to->bytes)
        to->bytes = malloc(BYTES_MAX);
    memcpy(to->bytes, from->bytes, BYTES_MAX);
    to->size = from->size;
}

static int path_fd(struct model *m, const struct modelled *x)
{
    int fd = openat(m->rig.source_fd, x->name, O_PATH | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static void opened(struct model *m, struct modelled *x)
{
    if (!x->d)
        x->d = rig_open(&m->rig, x->name);
}

static void closed(struct model *m, struct modelled *x)
{
    if (x->d)
        rig_close(&m->rig, vd_steal_ptr(x->d));
}

static void check_range(struct model *m, struct modelled *x, uint64_t off, size_t len)
{
    ssize_t want = off >= x->now.size ? 0 : (ssize_t)vd_min((uint64_t)len, x->now.size - off);
    ck_assert_int_eq(rig_read(x->d, off, m->buf, len), want);
    rig_expect(m->buf, x->now.bytes + off, (size_t)want, off);
}

static void check_all(struct model *m, struct modelled *x)
{
    opened(m, x);
    for (uint64_t off = 0; off < BYTES_MAX; off += VD_IO_MAX_BYTES)
        check_range(m, x, off, VD_IO_MAX_BYTES);
}

static uint64_t some_off(struct model *m, uint64_t end)
{
    uint64_t off = below(m, end);
    return below(m, 2) ? vd_align_down(off, VD_BLOCK_SIZE) : off;
}

static size_t some_len(struct model *m)
{
    static const size_t max[] = {512, 4096, 20000, 65536, 300000};
    size_t len = below(m, max[below(m, VD_ARRAY_SIZE(max))]) + 1;
    return below(m, 2) ? vd_align_up(len, VD_BLOCK_SIZE) : len;
}

static void do_write(struct model *m, struct modelled *x)
{
    size_t len = some_len(m);
    uint64_t off = some_off(m, BYTES_MAX - len + 1);
    memset(m->buf, (int)below(m, 255) + 1, len);
    for (size_t i = 0; i < len; i += 97)
        m->buf[i] = (uint8_t)below(m, 256);
    ck_assert_int_eq(rig_write(x->d, off, m->buf, len), (ssize_t)len);
    memcpy(x->now.bytes + off, m->buf, len);
    x->now.size = vd_max(x->now.size, off + len);
}

static void do_zero(struct model *m, struct modelled *x)
{
    uint64_t len = some_len(m), off = some_off(m, BYTES_MAX - len + 1);
    enum vd_zero_mode mode = (enum vd_zero_mode)below(m, 5);
    ck_assert_int_eq(rig_zero(x->d, mode, off, len), 0);
    if (mode == VD_ZERO_EXTEND || mode == VD_ALLOC_EXTEND)
        x->now.size = vd_max(x->now.size, off + len);
    if (mode != VD_ALLOC_KEEP && mode != VD_ALLOC_EXTEND)
        memset(x->now.bytes + off, 0, len);
}

static void do_truncate(struct model *m, struct modelled *x)
{
    uint64_t size = vd_max(some_off(m, BYTES_MAX), 1100000u);
    ck_assert_int_eq(rig_truncate(x->d, size), 0);
    if (size < x->now.size)
        memset(x->now.bytes + size, 0, x->now.size - size);
    x->now.size = size;
}

#define must(call)                                                                                 \
    do {                                                                                           \
        char why[VD_META_WHY] = "";                                                                \
        int fd = path_fd(m, x);                                                                    \
        int r_ = (call);                                                                           \
        close(fd);                                                                                 \
        ck_assert_msg(r_ == 0, #call ": %s: %s", strerror(-r_), why);                              \
    } while (0)

static const char *snap_name(unsigned i)
{
    static const char *const names[SNAPSHOTS] = {"monday", "tuesday 2", "wednesday", "x"};
    return names[i];
}

static void do_snapshot(struct model *m, struct modelled *x, unsigned i)
{
    if (x->has_snap[i]) {
        must(vd_disks_snapshot_rm(m->rig.disks, fd, x->name, snap_name(i), why));
        x->has_snap[i] = false;
        return;
    }
    must(vd_disks_snapshot(m->rig.disks, fd, x->name, snap_name(i), why));
    x->has_snap[i] = true;
    copy_image(&x->snap[i], &x->now);
}

static void do_revert(struct model *m, struct modelled *x, unsigned i)
{
    if (!x->has_snap[i])
        return;
    closed(m, x);
    must(vd_disks_revert(m->rig.disks, fd, x->name, snap_name(i), why));
    copy_image(&x->now, &x->snap[i]);
    opened(m, x);
}

static void do_clone(struct model *m, struct modelled *x, unsigned i)
{
    struct modelled *y = NULL;
    for (unsigned k = 0; k < DISKS; k++)
        if (!m->disk[k].there)
            y = &m->disk[k];
    if (!y)
        return;
    snprintf(y->name, sizeof(y->name), "c%u", m->made++);
    const char *snap = x->has_snap[i] && below(m, 2) ? snap_name(i) : NULL;
    must(vd_disks_clone(m->rig.disks, fd, x->name, snap, m->rig.source_fd, y->name, y->name, why));
    copy_image(&y->now, snap ? &x->snap[i] : &x->now);
    y->there = true;
    memset(y->has_snap, 0, sizeof(y->has_snap));
    opened(m, y);
}

static void do_flatten(struct model *m, struct modelled *x)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        if (x->has_snap[i])
            do_snapshot(m, x, i);
    if (below(m, 2))
        closed(m, x);
    must(vd_disks_flatten(m->rig.disks, fd, x->name, NULL, NULL, why));
    if (!x->d && below(m, 2)) {
        /* Whoever detached it moved its file: the image is there for everybody to read. */
        opened(m, x);
        closed(m, x);
        vd_cleanup_close int fd = openat(m->rig.source_fd, x->name, O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(pread(fd, m->buf, BYTES_MAX, 0), (ssize_t)x->now.size);
        rig_expect(m->buf, x->now.bytes, x->now.size, 0);
    }
    opened(m, x);
}

static void do_remove(struct model *m, struct modelled *x)
{
    char why[VD_META_WHY] = "";
    closed(m, x);
    int fd = path_fd(m, x);
    int r = vd_disks_remove(m->rig.disks, fd, x->name, m->rig.source_fd, x->name, why);
    close(fd);
    ck_assert_msg(r == 0 || r == -EBUSY, "%s %s", strerror(-r), why);
    if (r == 0)
        x->there = false;
    else
        opened(m, x);
}

static void remount(struct model *m)
{
    for (unsigned i = 0; i < DISKS; i++)
        if (m->disk[i].there)
            closed(m, &m->disk[i]);
    rig_umount(&m->rig);
    rig_mount(&m->rig);
    for (unsigned i = 0; i < DISKS; i++)
        if (m->disk[i].there)
            opened(m, &m->disk[i]);
}

static void step(struct model *m)
{
    struct modelled *x = &m->disk[below(m, DISKS)];
    uint64_t what = below(m, 1000);
    unsigned snap = (unsigned)below(m, SNAPSHOTS);
    if (!x->there)
        return;
    if (what < 450)
        check_range(m, x, some_off(m, BYTES_MAX), some_len(m));
    else if (what < 750)
        do_write(m, x);
    else if (what < 810)
        do_zero(m, x);
    else if (what < 840)
        do_truncate(m, x);
    else if (what < 870)
        ck_assert_int_eq(rig_flush(x->d), 0);
    else if (what < 910)
        do_snapshot(m, x, snap);
    else if (what < 930)
        do_revert(m, x, snap);
    else if (what < 950)
        do_clone(m, x, snap);
    else if (what < 960)
        do_flatten(m, x);
    else if (what < 970)
        do_remove(m, x);
    else if (what < 975)
        vd_disk_cache_drop(x->d);
    else if (what < 985)
        check_all(m, x);
    else if (what < 990)
        remount(m);
}

static void check_clean(struct model *m)
{
    char why[VD_META_WHY];
    ck_assert_int_ge(vd_disks_sweep(m->rig.disks, why), 0);
    ck_assert_msg(vd_disks_sweep(m->rig.disks, why) == 0, "a second sweep finds nothing: %s", why);
}

static void run_model(enum vd_cache_mode mode, uint64_t seed)
{
    struct model m = {.seed = seed};
    printf("seed %llu mode %d\n", (unsigned long long)seed, mode);
    rig_init(&m.rig);
    m.rig.mode = mode;
    m.rig.cache_bytes = 4u << 20;
    m.buf = malloc(BYTES_MAX + 1);
    rig_mount(&m.rig);
    m.disk[0] = (struct modelled){.there = true, .name = "golden"};
    for (int i = 0; i < DISKS; i++)
        m.disk[i].now.bytes = calloc(1, BYTES_MAX);
    m.disk[0].now.size = 1500000;
    rig_make(&m.rig, "golden", m.disk[0].now.size);
    opened(&m, &m.disk[0]);
    for (int i = 0; i < 20; i++)
        do_write(&m, &m.disk[0]);
    for (int i = 0; i < 1200; i++)
        step(&m);
    remount(&m);
    for (unsigned i = 0; i < DISKS; i++)
        if (m.disk[i].there)
            check_all(&m, &m.disk[i]);
    for (unsigned i = 0; i < DISKS; i++)
        if (m.disk[i].there)
            closed(&m, &m.disk[i]);
    rig_umount(&m.rig);
    rig_mount(&m.rig);
    check_clean(&m);
    rig_free(&m.rig);
    for (unsigned i = 0; i < DISKS; i++) {
        free(m.disk[i].now.bytes);
        for (unsigned k = 0; k < SNAPSHOTS; k++)
            free(m.disk[i].snap[k].bytes);
    }
    free(m.buf);
}

START_TEST(model)
{
    run_model((enum vd_cache_mode)(_i % 3), 0x9e3779b97f4a7c15ull * (uint64_t)(_i + 1));
}
END_TEST

void add_layers_tests(Suite *s)
{
    TCase *t = tcase_create("layers");
    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, model, 0, 3);
    suite_add_tcase(s, t);
}
