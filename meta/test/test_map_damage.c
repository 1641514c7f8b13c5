// SPDX-License-Identifier: Apache-2.0
/* Damage of a map's files: an error that names the file, or the same answer; never another one. */
#include "map_test.h"

struct file {
    uint8_t *p;
    size_t len;
};

static struct file load(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_msg(fd >= 0 && fstat(fd, &st) == 0, "%s", path);
    struct file f = {malloc((size_t)st.st_size), (size_t)st.st_size};
    ck_assert_int_eq(pread(fd, f.p, f.len, 0), (ssize_t)f.len);
    close(fd);
    return f;
}

static void store(const char *path, const uint8_t *buf, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_eq(write(fd, buf, len), (ssize_t)len);
    close(fd);
}

static void poke(const char *path, size_t at, uint8_t byte)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

struct victim {
    struct mplace p;
    struct cells c;
    struct model m;
    struct vd_id id, layer;
    uint32_t want[CELLS];
};

static void victim_make(struct victim *v, struct rng *r)
{
    mplace_make(&v->p);
    cells_make(&v->c, r, true);
    v->m = (struct model){.c = &v->c};
    v->id = map_id(1);
    v->layer = map_id(2);
    must_make_live(&v->p, &v->id, &v->layer, 0);
}

static int sentence(void *user, const char *what)
{
    const struct victim *v = user;
    char path[256];
    map_path(&v->p, &v->id, ".", path);
    ck_assert_msg(strstr(what, path), "%s", what);
    return 0;
}

/* The live map with one of its files damaged. True: it was noticed. */
static bool live_is_safe(struct victim *v, enum vd_map_trust trust, const char *how, size_t at)
{
    struct vd_live_map *lm;
    char why[VD_META_WHY] = "";
    int r = vd_live_map_open(v->p.maps, &v->id, trust, &lm, why);
    if (r < 0) {
        ck_assert_msg(r == -EUCLEAN && strstr(why, v->p.p.dir), "%s at %zu: %d %s", how, at, r,
                      why);
        return true;
    }
    const char *what = differs(lm, &v->m);
    ck_assert_msg(!what, "%s at %zu: %s", how, at, what);
    vd_live_map_close(lm);
    return false;
}

static unsigned both_are_safe(struct victim *v, const char *how, size_t at)
{
    bool noticed = live_is_safe(v, VD_MAP_TRUST_ALL, how, at);
    noticed |= live_is_safe(v, VD_MAP_TRUST_MARKED, how, at);
    if (noticed) {
        int n = vd_maps_verify(v->p.maps, &v->id, sentence, v);
        ck_assert_msg(n >= 0, "%s at %zu: verify: %d", how, at, n);
    }
    return noticed;
}

static void damage_file(struct victim *v, const char *path, unsigned want_noticed)
{
    struct file f = load(path);
    unsigned noticed = 0;
    size_t end = f.len; /* of what is not the empty rest of a log; of that a sample */
    while (end > 0 && f.p[end - 1] == 0)
        end--;
    for (size_t i = 0; i < f.len; i += i < end + 64 ? 1 : 11) {
        poke(path, i, f.p[i] ^ (uint8_t)(1u << i % 8));
        noticed += both_are_safe(v, "flipped", i);
        poke(path, i, f.p[i]);
    }
    printf("%zu bytes, %u flips noticed\n", f.len, noticed);
    ck_assert_uint_ge(noticed, want_noticed);
    for (size_t len = f.len; len > 0;) {
        len -= len > end + 64 && len < f.len - 64 ? 11 : 1;
        ck_assert_int_eq(truncate(path, (off_t)len), 0);
        ck_assert_msg(both_are_safe(v, "cut", len), "cut to %zu", len);
    }
    store(path, f.p, f.len);
    ck_assert(!both_are_safe(v, "whole", 0));
    free(f.p);
}

/* A log with changes, marks and a size, closed cleanly. */
START_TEST(a_log)
{
    struct rng r = rng_make(51);
    struct victim v;
    char path[256];
    victim_make(&v, &r);
    struct vd_live_map *lm = must_open_live(&v.p, &v.id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (unsigned i = 0; i < 60; i++) {
        ck_assert_int_eq(try_change(lm, &v.m, &r), 0);
        if (i % 9 == 0 || i == 59)
            ck_assert_int_eq(try_flush(lm), 0);
    }
    vd_live_map_close(lm);
    map_path(&v.p, &v.id, ".0.log", path);
    damage_file(&v, path, 60 * 32);
    mplace_drop(&v.p);
}
END_TEST

/* A table and two logs, as a fold leaves them that was cut before the new table had its name. */
START_TEST(a_cut_fold)
{
    struct rng r = rng_make(52);
    struct victim v;
    char path[3][256];
    victim_make(&v, &r);
    struct vd_live_map *lm = must_open_live(&v.p, &v.id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (unsigned i = 0; i < 120; i++)
        ck_assert_int_eq(try_change(lm, &v.m, &r), 0);
    ck_assert_int_eq(vd_live_map_fold(lm, sync_nothing, NULL), 0);
    for (unsigned i = 0; i < 5; i++)
        ck_assert_int_eq(try_change(lm, &v.m, &r), 0);
    static const char *const suffix[] = {".map", ".1.log", ".2.log"};
    for (unsigned i = 0; i < 3; i++)
        map_path(&v.p, &v.id, suffix[i], path[i]);
    struct file table = load(path[0]);
    char keep[300];
    snprintf(keep, sizeof(keep), "%s.kept", path[1]);
    ck_assert_int_eq(link(path[1], keep), 0);
    ck_assert_int_eq(vd_live_map_fold(lm, sync_nothing, NULL), 0);
    for (unsigned i = 0; i < 5; i++)
        ck_assert_int_eq(try_change(lm, &v.m, &r), 0);
    ck_assert_int_eq(try_flush(lm), 0);
    vd_live_map_close(lm);
    ck_assert_int_eq(rename(keep, path[1]), 0);
    store(path[0], table.p, table.len);
    free(table.p);
    for (unsigned i = 0; i < 3; i++) {
        damage_file(&v, path[i], i ? 5 * 32 : 4096);
        struct file f = load(path[i]);
        ck_assert_int_eq(unlink(path[i]), 0);
        if (i < 2)
            ck_assert(both_are_safe(&v, "removed", i));
        store(path[i], f.p, f.len);
        free(f.p);
    }
    mplace_drop(&v.p);
}
END_TEST

/* A frozen table of several layers. */
static unsigned frozen_is_safe(struct victim *v, const struct vd_id *layers, size_t at)
{
    struct vd_map *m;
    char why[VD_META_WHY] = "";
    unsigned errors = 0;
    mplace_again(&v->p);
    int r = vd_map_get(v->p.maps, &v->id, &m, why);
    if (r < 0) {
        ck_assert_msg(r == -EUCLEAN && strstr(why, v->p.p.dir), "at %zu: %d %s", at, r, why);
        return 1;
    }
    for (unsigned i = 0; i < CELLS; i++) {
        uint32_t layer;
        uint64_t run;
        r = vd_map_find(m, v->c.edge[i], 1, true, &layer, &run);
        if (r < 0) {
            ck_assert_int_eq(r, -EUCLEAN);
            errors++;
            continue;
        }
        bool same = layer == v->want[i] ||
                    (layer < 3 && vd_id_eq(vd_map_layer(m, layer), &layers[v->want[i]]));
        ck_assert_msg(same, "at %zu: cell %u: %u", at, i, layer);
    }
    vd_map_unref(m);
    return errors;
}

START_TEST(a_frozen_table)
{
    struct rng r = rng_make(53);
    struct victim v;
    char path[256], why[VD_META_WHY];
    struct vd_id layers[3];
    struct vd_map *m[3];
    struct model all;
    victim_make(&v, &r);
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr)); /* every lookup of damage is logged */
    for (unsigned k = 0; k < 3; k++) {
        struct vd_id id = map_id(10 + k);
        layers[k] = map_id(20 + k);
        must_make_live(&v.p, &id, &layers[k], 0);
        struct vd_live_map *lm = must_open_live(&v.p, &id, VD_MAP_TRUST_ALL);
        all = (struct model){.c = &v.c};
        ck_assert_int_eq(vd_live_map_begin(lm), 0);
        for (unsigned i = 0; i < 60; i++)
            ck_assert_int_eq(try_change(lm, &all, &r), 0);
        ck_assert_int_eq(try_flush(lm), 0);
        ck_assert_int_eq(vd_live_map_freeze(lm, &m[k]), 0);
        vd_live_map_close(lm);
        for (unsigned i = 0; i < CELLS; i++) {
            if (k == 0)
                v.want[i] = VD_MAP_NONE;
            if (v.want[i] == VD_MAP_NONE && all.state[i])
                v.want[i] = all.state[i] == VD_BLOCK_OWN ? k : VD_MAP_ZERO;
        }
    }
    struct vd_map_merge merge = {m, 3, VD_MAP_BLOCKS_MAX, NULL, NULL, NULL};
    ck_assert_int_eq(vd_maps_remove(v.p.maps, &v.id), 0);
    ck_assert_int_eq(vd_maps_merge(v.p.maps, &merge, &v.id, why), 0);
    for (unsigned k = 0; k < 3; k++)
        vd_map_unref(m[k]);
    map_path(&v.p, &v.id, ".map", path);
    struct file f = load(path);
    ck_assert_uint_eq(frozen_is_safe(&v, layers, 0), 0);
    ck_assert_int_eq(vd_maps_verify(v.p.maps, &v.id, sentence, &v), 0);
    for (size_t i = 0; i < f.len; i++) {
        poke(path, i, f.p[i] ^ (uint8_t)(1u << i % 8));
        ck_assert_msg(frozen_is_safe(&v, layers, i) > 0, "byte %zu", i);
        ck_assert_int_gt(vd_maps_verify(v.p.maps, &v.id, sentence, &v), 0);
        poke(path, i, f.p[i]);
    }
    for (size_t len = f.len; len-- > 0;) {
        ck_assert_int_eq(truncate(path, (off_t)len), 0);
        ck_assert_msg(frozen_is_safe(&v, layers, len) > 0, "cut to %zu", len);
    }
    free(f.p);
    mplace_drop(&v.p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_log, a_cut_fold, a_frozen_table};
    return run_suite("map-damage", tests, VD_ARRAY_SIZE(tests), 300);
}
