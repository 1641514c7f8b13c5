// SPDX-License-Identifier: Apache-2.0
/* What the cache answers, one thread: hits, drops, tokens, several keys, witnesses, the lock. */
#include <string.h>
#include <sys/wait.h>

#include "cache_util.h"

START_TEST(hit_miss_partial)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_uint_eq(hits(l, 0, 257, 1), 0);
    ck_assert_int_eq(fill(l, 5, 30, 1), 0); /* three slots, cut at both ends */
    ck_assert_uint_eq(hits(l, 0, 64, 1), 30);
    ck_assert_uint_eq(hits(l, 34, 1, 1), 1);
    ck_assert_uint_eq(hits(l, 35, 1, 1), 0);
    ck_assert_uint_eq(hits(l, 4, 1, 1), 0);
    ck_assert_int_eq(fill(l, 1000, 257, 1), 0);
    ck_assert_uint_eq(hits(l, 1000, 257, 1), 257);
    ck_assert_uint_eq(vd_cache_layer_bytes(l), 287 * 4096);
    uint64_t map[2];
    vd_cache_map(l, 0, 128, map);
    ck_assert_uint_eq(map[0], ((1ull << 30) - 1) << 5);
    ck_assert_uint_eq(map[1], 0);
    ck_assert_uint_eq(stats_of(c).inserts, 287);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(fill_some_of_the_blocks)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    uint8_t buf[40 * 4096];
    stamp(buf, 0, 40, 7);
    uint64_t which[VD_CACHE_WORDS] = {0x00ff00ff0full};
    struct vd_cache_fill f = {.first_block = 0, .nblocks = 40};
    ck_assert_int_eq(vd_cache_fill_begin(l, &f), 0);
    vd_cache_fill_commit(l, &f, buf, which);
    uint64_t map;
    vd_cache_map(l, 0, 40, &map);
    ck_assert_uint_eq(map, 0x00ff00ff0full);
    ck_assert_uint_eq(hits(l, 0, 40, 7), 20);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(keys_do_not_mix)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *a = open_layer(c, 1, 1), *b = open_layer(c, 2, 1),
                          *g = open_layer(c, 1, 2);
    ck_assert_int_eq(fill(a, 0, 16, 1), 0);
    ck_assert_uint_eq(hits(b, 0, 16, 0) + hits(g, 0, 16, 0), 0);
    ck_assert_int_eq(fill(b, 0, 16, 2), 0);
    ck_assert_int_eq(fill(g, 0, 16, 3), 0);
    struct vd_cache_key key = test_key(2, 1);
    ck_assert_int_eq(vd_cache_forget(c, &key), 0);
    ck_assert_uint_eq(hits(a, 0, 16, 1), 16);
    ck_assert_uint_eq(hits(b, 0, 16, 2), 0);
    ck_assert_uint_eq(hits(g, 0, 16, 3), 16);
    ck_assert_uint_eq(stats_of(c).used_bytes, 128 * KIB);
    vd_cache_layer_drop(a);
    ck_assert_uint_eq(hits(a, 0, 16, 1), 0);
    ck_assert_int_eq(vd_cache_flush(c), 0);
    ck_assert_uint_eq(hits(g, 0, 16, 3), 0);
    ck_assert_uint_eq(stats_of(c).used_bytes, 0);
    ck_assert_int_eq(fill(g, 0, 16, 4), 0);
    ck_assert_uint_eq(hits(g, 0, 16, 4), 16);
    vd_cache_layer_close(a);
    vd_cache_layer_close(b);
    vd_cache_layer_close(g);
    vd_cache_close(c);
}
END_TEST

START_TEST(writes_drop_and_refresh)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(fill(l, 0, 64, 1), 0);
    write_blocks(l, 10, 10, 2, false);
    ck_assert_uint_eq(hits(l, 10, 10, 1), 0);
    ck_assert_uint_eq(hits(l, 0, 10, 1), 10);
    write_blocks(l, 30, 5, 3, true);
    ck_assert_uint_eq(hits(l, 30, 5, 3), 5);
    ck_assert_uint_eq(hits(l, 35, 29, 1), 29);
    /* to the end of the disk, as a truncation does */
    struct vd_cache_write w = {.first_block = 40, .nblocks = UINT64_MAX - 40};
    vd_cache_write_begin(l, &w);
    ck_assert_int_eq(fill(l, 1u << 30, 1, 9), -EAGAIN);
    ck_assert_int_eq(fill(l, 39, 1, 1), 0);
    vd_cache_write_end(l, &w, NULL, 0, 0);
    ck_assert_uint_eq(hits(l, 40, 24, 1), 0);
    ck_assert_uint_eq(hits(l, 35, 5, 1), 5);
    ck_assert_uint_eq(stats_of(c).invalidations, 10 + 5 + 24);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

static void count_ready(struct vd_cache_fill *f)
{
    ++*(int *)f->user;
}

START_TEST(tokens)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1), *same = open_layer(c, 1, 1);
    uint8_t buf[16 * 4096];
    uint64_t which[VD_CACHE_WORDS] = {0xffff};
    int ready = 0;
    struct vd_cache_fill f = {
        .first_block = 0, .nblocks = 16, .ready = count_ready, .user = &ready};
    struct vd_cache_fill g = f;
    g.first_block = 15;
    ck_assert_int_eq(vd_cache_fill_begin(l, &f), 0);
    ck_assert_int_eq(vd_cache_fill_begin(same, &g), 1);
    /* a write overtakes the fill: what it read is old */
    stamp(buf, 0, 16, 1);
    write_blocks(same, 15, 1, 2, false);
    ck_assert_int_eq(ready, 0);
    vd_cache_fill_commit(l, &f, buf, which);
    ck_assert_int_eq(ready, 1);
    ck_assert_uint_eq(hits(l, 0, 16, 1), 0);
    /* two writes at once: neither refreshes, in whichever order they end */
    struct vd_cache_write v = {.first_block = 0, .nblocks = 4},
                          w = {.first_block = 3, .nblocks = 4};
    vd_cache_write_begin(l, &v);
    vd_cache_write_begin(same, &w);
    vd_cache_write_end(l, &v, buf, 0, 4);
    vd_cache_write_end(same, &w, buf + 3 * 4096, 3, 4);
    ck_assert_uint_eq(hits(l, 0, 16, 1), 0);
    /* drops poison too */
    ck_assert_int_eq(vd_cache_fill_begin(l, &f), 0);
    vd_cache_layer_drop(l);
    vd_cache_fill_commit(l, &f, buf, which);
    ck_assert_int_eq(vd_cache_fill_begin(l, &f), 0);
    ck_assert_int_eq(vd_cache_flush(c), 0);
    vd_cache_fill_commit(l, &f, buf, which);
    ck_assert_uint_eq(hits(l, 0, 16, 1), 0);
    ck_assert_int_eq(vd_cache_fill_begin(l, &f), 0);
    vd_cache_fill_abort(l, &f);
    ck_assert_int_eq(fill(l, 0, 16, 3), 0);
    ck_assert_uint_eq(hits(l, 0, 16, 3), 16);
    vd_cache_layer_close(l);
    vd_cache_layer_close(same);
    vd_cache_close(c);
}
END_TEST

START_TEST(eviction_is_bounded)
{
    struct vd_cache *c = open_cache(8 * 64 * KIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    for (uint64_t i = 0; i < 100; i++) {
        ck_assert_int_eq(fill(l, i * 16, 16, i), 0);
        ck_assert_uint_eq(hits(l, i * 16, 16, i), 16); /* everything is admitted */
        if (i == 7)
            for (uint64_t j = 0; j < 8; j++)
                ck_assert_uint_eq(hits(l, j * 16, 16, j),
                                  16); /* while there is room nothing goes */
    }
    unsigned n = 0;
    for (uint64_t i = 0; i < 100; i++)
        n += hits(l, i * 16, 16, i);
    ck_assert_uint_eq(n, 8 * 16);
    ck_assert_uint_eq(stats_of(c).evictions, 92);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(witness)
{
    struct vd_cache *c = open_cache(MIB);
    struct vd_cache_key key = test_key(1, 0);
    struct vd_cache_witness w = {.generation = 7,
                                 .attached = true,
                                 .ino = 12,
                                 .size_bytes = 1ull << 40,
                                 .mtime_ns = -5,
                                 .ctime_ns = 1ll << 60},
                            got;
    memset(w.token.b, 3, 16);
    memset(w.boot_id.b, 4, 16);
    ck_assert_int_eq(vd_cache_witness_load(c, &key.disk_id, &got), -ENOENT);
    ck_assert_int_eq(vd_cache_witness_store(c, &key.disk_id, &w), 0);
    w.written = true;
    ck_assert_int_eq(vd_cache_witness_store(c, &key.disk_id, &w), 0);
    vd_cache_close(c);
    c = open_cache(MIB);
    ck_assert_int_eq(vd_cache_witness_load(c, &key.disk_id, &got), 0);
    ck_assert(vd_id_eq(&got.token, &w.token) && vd_id_eq(&got.boot_id, &w.boot_id));
    ck_assert(got.generation == 7 && got.attached && got.written && got.ino == 12 &&
              got.size_bytes == 1ull << 40 && got.mtime_ns == -5 && got.ctime_ns == 1ll << 60);
    vd_cache_close(c);
    ck_assert_int_eq(vd_cache_scan_witness(test_dir, &key.disk_id, &got), 0);
    char hex[VD_ID_HEX], name[64];
    vd_id_hex(&key.disk_id, hex);
    snprintf(name, sizeof(name), "witness/%s", hex);
    for (off_t off = 0; off < size_of(name); off++) {
        vd_cleanup_fclose FILE *f = fopen(path_of(name), "r+e");
        fseek(f, off, SEEK_SET);
        int was = fgetc(f);
        fseek(f, off, SEEK_SET);
        fputc(was ^ 4, f);
        fflush(f);
        ck_assert_int_eq(vd_cache_scan_witness(test_dir, &key.disk_id, &got), -EUCLEAN);
        fseek(f, off, SEEK_SET);
        fputc(was, f);
    }
    ck_assert_int_eq(vd_cache_scan_witness(test_dir, &key.disk_id, &got), 0);
    cut(name, 50);
    ck_assert_int_eq(vd_cache_scan_witness(test_dir, &key.disk_id, &got), -EUCLEAN);
}
END_TEST

static int count_scan(void *user, const struct vd_cache_key *key, uint64_t first_block,
                      const uint64_t *valid, uint32_t nblocks)
{
    (void)key, (void)first_block;
    for (uint32_t i = 0; i < nblocks; i++)
        *(unsigned *)user += valid[i / 64] >> (i % 64) & 1;
    return 0;
}

START_TEST(scan_from_outside)
{
    unsigned n = 0;
    ck_assert_int_eq(vd_cache_scan(test_dir, count_scan, &n), -ENOENT);
    struct vd_cache *c = open_cache(MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(fill(l, 3, 50, 1), 0);
    ck_assert_int_eq(vd_cache_scan(test_dir, count_scan, &n), 0);
    ck_assert_uint_eq(n, 50);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    ck_assert_int_eq(vd_cache_scan_verify(test_dir, NULL, NULL), 0);
    scribble("data", 64 * KIB, 8192, 0xee);
    ck_assert_int_eq(vd_cache_scan_verify(test_dir, NULL, NULL), 2);
    scribble("slots", 0, 8, 0);
    ck_assert_int_eq(vd_cache_scan(test_dir, count_scan, &n), -EUCLEAN);
}
END_TEST

/* A child that holds the cache; it goes on when told through the pipe. */
struct holder {
    pid_t pid;
    int to, from;
};

static bool say(int fd)
{
    return write(fd, "x", 1) == 1;
}

static bool await(int fd)
{
    char c;
    return read(fd, &c, 1) == 1;
}

static _Noreturn void hold(int to_fd, int from_fd)
{
    struct vd_cache *c;
    char why[256];
    if (try_open(MIB, 64 * KIB, 0, &c, why) < 0 || !say(from_fd) || !await(to_fd))
        _exit(1);
    vd_cache_stopping(c);
    if (!say(from_fd) || !await(to_fd))
        _exit(2);
    vd_cache_close(c);
    _exit(0);
}

static struct holder start_holder(void)
{
    int to[2], from[2];
    ck_assert(pipe(to) == 0 && pipe(from) == 0);
    struct holder h = {.pid = fork(), .to = to[1], .from = from[0]};
    if (h.pid == 0)
        hold(to[0], from[1]);
    close(to[0]);
    close(from[1]); /* so that its end is heard too */
    ck_assert(await(h.from));
    return h;
}

START_TEST(two_openers)
{
    struct holder h = start_holder();
    struct vd_cache *c = NULL;
    char why[256], pid[32];
    snprintf(pid, sizeof(pid), "pid %d (a test)", (int)h.pid);
    ck_assert_int_eq(try_open(MIB, 0, 60000, &c, why), -EBUSY); /* running: at once */
    ck_assert_msg(strstr(why, pid) != NULL, "%s", why);
    ck_assert(say(h.to) && await(h.from));
    ck_assert_int_eq(try_open(MIB, 0, 20, &c, why), -EBUSY); /* stopping: for so long */
    ck_assert_msg(strstr(why, "stopping") != NULL, "%s", why);
    ck_assert(say(h.to));
    ck_assert_int_eq(try_open(MIB, 0, 60000, &c, why), 0);
    vd_cache_close(c);
    int status;
    waitpid(h.pid, &status, 0);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(bad_configuration)
{
    struct vd_cache *c = NULL;
    char why[256];
    ck_assert_int_eq(try_open(MIB, 5000, 0, &c, why), -EINVAL);
    ck_assert_int_eq(try_open(MIB, 2 * MIB, 0, &c, why), -EINVAL);
    ck_assert_int_eq(try_open(MIB, 4 * KIB, 0, &c, why), 0);
    vd_cache_close(c);
    ck_assert_int_eq(try_open(MIB, 64 * KIB, 0, &c, why), -EINVAL);
    ck_assert_msg(strstr(why, "4096") != NULL, "%s", why);
    ck_assert_int_eq(try_open(MIB, 0, 0, &c, why), 0);
    ck_assert_uint_eq(stats_of(c).slot_bytes, 4096);
    ck_assert_uint_eq(stats_of(c).slots, 256);
    vd_cache_close(c);
}
END_TEST

START_TEST(slot_sizes)
{
    struct vd_cache *c = NULL;
    char why[256];
    static const uint32_t size[] = {4 * KIB, 16 * KIB, MIB};
    ck_assert_int_eq(try_open(8 * MIB, size[_i], 0, &c, why), 0);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(fill(l, 200, 257, 1), 0);
    ck_assert_uint_eq(hits(l, 199, 257, 1), 256);
    write_blocks(l, 250, 10, 2, true);
    ck_assert_uint_eq(hits(l, 250, 10, 2), 10);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cache_basic");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, dir_setup, dir_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, hit_miss_partial);
    tcase_add_test(t, fill_some_of_the_blocks);
    tcase_add_test(t, keys_do_not_mix);
    tcase_add_test(t, writes_drop_and_refresh);
    tcase_add_test(t, tokens);
    tcase_add_test(t, eviction_is_bounded);
    tcase_add_test(t, witness);
    tcase_add_test(t, scan_from_outside);
    tcase_add_test(t, two_openers);
    tcase_add_test(t, bad_configuration);
    tcase_add_loop_test(t, slot_sizes, 0, 3);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
