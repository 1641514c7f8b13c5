// SPDX-License-Identifier: Apache-2.0
/* What is left after a stop, a kill, damage, a full device, a resize: as warm as can be, never
 * wrong. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cache_util.h"

#define SLOTS_HEADER 4096
#define RECORD 128 /* of a 64 KiB slot */
#define RECORD_WORDS 48

static unsigned reopened_hits(uint32_t n, uint64_t version)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert(stats_of(c).ready && !stats_of(c).dead);
    unsigned h = hits(l, 0, n, version);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    return h;
}

static void make_filled(uint32_t n)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(fill(l, 0, n, 1), 0);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}

START_TEST(clean_stop)
{
    make_filled(200);
    ck_assert_int_gt(size_of("state"), 0);
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(size_of("state"), -1); /* gone as long as it is open */
    ck_assert_int_eq(size_of("pending"), -1);
    ck_assert_uint_eq(hits(l, 0, 200, 1), 200);
    ck_assert_uint_eq(stats_of(c).used_bytes, 13 * 64 * KIB);
    write_blocks(l, 0, 10, 2, false);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    ck_assert_uint_eq(reopened_hits(10, 1), 0);
    ck_assert_uint_eq(reopened_hits(200, 1), 190);
}
END_TEST

/* Runs FN, which returns 0 or the error, in a child that then kills itself. */
static void in_killed_child(int (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        if (fn() == 0)
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static int fill_and_drop(void)
{
    struct vd_cache *c;
    struct vd_cache_layer *l;
    char why[256];
    int r = try_open(4 * MIB, 64 * KIB, 0, &c, why);
    if (r == 0)
        r = try_layer(c, 1, 1, &l);
    if (r == 0)
        r = fill(l, 0, 200, 1);
    if (r != 0)
        return r;
    struct vd_cache_write w = {.first_block = 20, .nblocks = 30};
    vd_cache_write_begin(l, &w); /* dropped the moment it returns */
    return 0;
}

START_TEST(killed)
{
    in_killed_child(fill_and_drop);
    ck_assert_int_eq(size_of("state"), -1);
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_uint_eq(hits(l, 20, 30, 1), 0);
    ck_assert_uint_eq(hits(l, 0, 200, 1), 170);
    ck_assert_uint_eq(stats_of(c).used_bytes, 12 * 64 * KIB); /* one holds nothing any more */
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

#define MANY (16 * 1024)

static int try_many(unsigned ready_ms, struct vd_cache **ret_c)
{
    struct vd_cache_config config = {.dir = test_dir,
                                     .size_bytes = (uint64_t)MANY * 4096,
                                     .slot_bytes = 4096,
                                     .ready_ms = ready_ms};
    return vd_cache_open(&config, ret_c, NULL, 0);
}

static struct vd_cache *open_many(unsigned ready_ms)
{
    struct vd_cache *c = NULL;
    ck_assert_int_eq(try_many(ready_ms, &c), 0);
    return c;
}

static int fill_many(void)
{
    struct vd_cache *c;
    struct vd_cache_layer *l;
    int r = try_many(10000, &c);
    if (r == 0)
        r = try_layer(c, 1, 1, &l);
    for (unsigned i = 0; r == 0 && i < MANY; i += 256)
        r = fill(l, i, 256, 1);
    return r;
}

static int drop_while_rebuilding(void)
{
    struct vd_cache *c;
    struct vd_cache_layer *l;
    int r = try_many(0, &c);
    if (r == 0)
        r = try_layer(c, 1, 1, &l);
    for (unsigned i = 0; r == 0 && i < 64; i++) {
        struct vd_cache_write w = {.first_block = i * 128, .nblocks = 64};
        vd_cache_write_begin(l, &w);
        vd_cache_write_end(l, &w, NULL, 0, 0);
    }
    return r;
}

static void check_dropped(struct vd_cache_layer *l)
{
    for (unsigned i = 0; i < 64; i++) {
        ck_assert_uint_eq(hits(l, i * 128, 64, 1), 0);
        ck_assert_uint_eq(hits(l, i * 128 + 64, 64, 1), 64);
    }
}

/* Killed in the middle of a rebuild, and again: what was dropped meanwhile stays dropped. */
START_TEST(drops_during_rebuild)
{
    in_killed_child(fill_many);
    in_killed_child(drop_while_rebuilding);
    struct vd_cache *c = open_many(10000);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    check_dropped(l);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    ck_assert_int_eq(size_of("pending"), -1);
}
END_TEST

static int only_open(void)
{
    struct vd_cache *c;
    return try_many(10000, &c);
}

/* Opens what a killed process left, until the rebuild is seen under way: on a busy machine it may
 * be over by the time the open returns. */
static struct vd_cache *open_rebuilding(void)
{
    struct vd_cache *c = open_many(0);
    for (int tries = 0; stats_of(c).ready && tries < 200; tries++) {
        vd_cache_close(c);
        in_killed_child(only_open);
        c = open_many(0);
    }
    return c;
}

START_TEST(drops_during_rebuild_alive)
{
    in_killed_child(fill_many);
    struct vd_cache *c = open_rebuilding();
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    unsigned unready = 0; /* writes that came before the index was ready */
    for (unsigned i = 0; i < 64; i++) {
        unready += !stats_of(c).ready;
        struct vd_cache_write w = {.first_block = i * 128, .nblocks = 64};
        vd_cache_write_begin(l, &w);
        vd_cache_write_end(l, &w, NULL, 0, 0);
        hits(l, i * 128, 64, UINT64_MAX); /* no hit can have that version */
    }
    ck_assert_msg(unready > 0, "the rebuild was over before the first write");
    for (unsigned i = 0; !stats_of(c).ready; i++) {
        ck_assert_uint_lt(i, 10000000);
        sched_yield();
    }
    check_dropped(l);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(close_during_rebuild)
{
    in_killed_child(fill_many);
    struct vd_cache *c = open_many(0);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    bool cut = !stats_of(c).ready;
    write_blocks(l, 0, 64, 2, true);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    ck_assert(cut || size_of("state") > 0);
    c = open_many(10000);
    l = open_layer(c, 1, 1);
    hits(l, 0, 64, 2);
    ck_assert_uint_eq(hits(l, 64, 257, 1), 257);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(flush_during_rebuild)
{
    in_killed_child(fill_many);
    struct vd_cache *c = open_many(0);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(vd_cache_flush(c), 0);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    c = open_many(10000);
    l = open_layer(c, 1, 1);
    ck_assert_uint_eq(hits(l, 0, 257, 1), 0);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(damaged_block)
{
    make_filled(64);
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    flip("data", 4096 * 20 + 100);
    scribble("data", 4096 * 40 + 4095, 2, 0xee);
    ck_assert_uint_eq(hits(l, 0, 64, 1), 61);
    ck_assert_uint_eq(stats_of(c).checksum_errors, 3);
    ck_assert_int_eq(fill(l, 0, 64, 1), 0);
    ck_assert_uint_eq(hits(l, 0, 64, 1), 64);
    ck_assert_uint_eq(stats_of(c).checksum_errors, 3);
    scribble("data", 4096 * 8, 4096, 0);
    ck_assert_int_eq(vd_cache_verify(c, NULL, NULL), 1);
    ck_assert_int_eq(vd_cache_verify(c, NULL, NULL), 0);
    ck_assert_uint_eq(hits(l, 0, 64, 1), 63);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

START_TEST(damaged_header)
{
    static const off_t at[] = {0, 8, 12, 16, 20, 24, 48, 512};
    make_filled(64);
    flip("slots", at[_i]);
    ck_assert_uint_eq(reopened_hits(64, 1), 0);
    ck_assert_int_gt(size_of("damaged/slots"), 0);
    make_filled(64);
    ck_assert_uint_eq(reopened_hits(64, 1), 64);
    flip("slots", 8); /* and a second time */
    ck_assert_uint_eq(reopened_hits(64, 1), 0);
}
END_TEST

/* Blocks of version 1 were overwritten by 2 in the backing; damage to their records, of any kind,
 * must not bring 1 back. The index is there (clean stop) or is rebuilt. */
START_TEST(damaged_records)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_int_eq(fill(l, 0, 256, 1), 0);
    write_blocks(l, 0, 128, 2, false);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    unsigned seed = 20 + (unsigned)_i;
    for (unsigned i = 0; i < 40; i++) {
        off_t at = SLOTS_HEADER + rand_r(&seed) % (16 * RECORD);
        scribble("slots", at, 1 + rand_r(&seed) % 8, (uint8_t)(rand_r(&seed) >> 8));
    }
    if (_i & 1)
        ck_assert_int_eq(unlink(path_of("state")), 0);
    c = open_cache(4 * MIB);
    l = open_layer(c, 1, 1);
    ck_assert_uint_eq(hits(l, 0, 128, 2), 0);
    hits(l, 128, 128, 1);
    ck_assert_int_eq(fill(l, 0, 128, 2), 0);
    ck_assert_uint_eq(hits(l, 0, 128, 2), 128);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    c = open_cache(4 * MIB);
    l = open_layer(c, 1, 1);
    ck_assert_uint_eq(hits(l, 0, 128, 2), 128);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

/* Two slots that claim one key: one of them is old. */
START_TEST(duplicate_records)
{
    make_filled(64);
    uint8_t record[RECORD];
    vd_cleanup_close int fd = open(path_of("slots"), O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(pread(fd, record, RECORD, SLOTS_HEADER), RECORD);
    ck_assert_int_eq(pwrite(fd, record, RECORD, SLOTS_HEADER + 10 * RECORD), RECORD);
    ck_assert_int_eq(unlink(path_of("state")), 0);
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    ck_assert_uint_eq(stats_of(c).used_bytes, 4 * 64 * KIB);
    write_blocks(l, 0, 64, 2, false);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    ck_assert_int_eq(unlink(path_of("state")), 0);
    ck_assert_uint_eq(reopened_hits(64, 1), 0);
}
END_TEST

START_TEST(damaged_index_or_state)
{
    make_filled(200);
    switch (_i) {
    case 0:
        cut("index.mdb", size_of("index.mdb") / 2);
        break;
    case 1:
        cut("index.mdb", 0);
        break;
    case 2:
        for (off_t page = 8192; page < size_of("index.mdb"); page += 4096)
            scribble("index.mdb", page + 4096 - 200, 20, 0xff);
        break;
    case 3:
        cut("state", size_of("state") - 1);
        break;
    case 4:
        flip("state", 100);
        break;
    case 5:
        ck_assert_int_eq(unlink(path_of("index.mdb")), 0);
        break;
    }
    ck_assert_uint_eq(reopened_hits(200, 1), 200);
    ck_assert_uint_eq(reopened_hits(200, 1), 200);
}
END_TEST

START_TEST(truncated_before_open)
{
    make_filled(200);
    cut("data", 10 * 64 * KIB + 5000);
    ck_assert_uint_eq(reopened_hits(200, 1), 161);
    cut("slots", SLOTS_HEADER + 5 * RECORD + 10);
    ck_assert_uint_eq(reopened_hits(200, 1), 80);
    cut("slots", 100);
    ck_assert_uint_eq(reopened_hits(200, 1), 0);
}
END_TEST

START_TEST(foreign_files)
{
    vd_cleanup_fclose FILE *f = fopen(path_of("data"), "we");
    fputs("precious", f);
    fflush(f);
    ck_assert_uint_eq(reopened_hits(10, 1), 0);
    ck_assert_int_eq(size_of("damaged/data"), 8);
    make_filled(10);
    ck_assert_uint_eq(reopened_hits(10, 1), 10);
}
END_TEST

/* Uses the cache in every way; nothing may be wrong whatever became of its files. */
static void use(struct vd_cache *c, struct vd_cache_layer *l)
{
    write_blocks(l, 0, 32, 2, false);
    ck_assert_uint_eq(hits(l, 0, 32, 2), 0);
    hits(l, 32, 225, 1);
    fill(l, 1000, 257, 3);
    hits(l, 1000, 257, 3);
    write_blocks(l, 1000, 257, 4, true);
    hits(l, 1000, 257, 4);
    struct vd_cache_write w = {.first_block = 64, .nblocks = UINT64_MAX - 64};
    vd_cache_write_begin(l, &w);
    ck_assert_uint_eq(hits(l, 64, 193, 0), 0);
    vd_cache_write_end(l, &w, NULL, 0, 0);
    uint64_t map[8];
    vd_cache_map(l, 0, 512, map);
    vd_cache_layer_bytes(l);
    vd_cache_verify(c, NULL, NULL);
    int r = vd_cache_barrier(c);
    ck_assert(r == 0 || vd_cache_is_dead(c));
}

START_TEST(truncated_while_open)
{
    static const struct {
        const char *name;
        off_t len;
    } how[] = {{"data", 0},           {"data", 100000}, {"slots", 0},
               {"slots", 4096 + 100}, {"index.mdb", 0}, {"index.mdb", 8192}};
    struct vd_cache *c = open_cache(32 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    for (unsigned i = 0; i < 512; i++)
        fill(l, i * 16, 16, 1); /* an index of several pages */
    cut(how[_i].name, how[_i].len);
    use(c, l);
    if (_i == 2 || _i == 4)
        ck_assert(vd_cache_is_dead(c));
    if (_i < 2)
        ck_assert(!vd_cache_is_dead(c));
    if (vd_cache_is_dead(c)) {
        ck_assert_int_eq(fill(l, 0, 10, 1), -EAGAIN);
        ck_assert_uint_eq(hits(l, 0, 257, 0), 0);
        write_blocks(l, 0, 10, 5, true);
        ck_assert_int_eq(vd_cache_flush(c), -EIO);
    }
    bool dead = vd_cache_is_dead(c);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    if (dead)
        ck_assert_int_eq(size_of("state"), -1);
    c = open_cache(32 * MIB);
    l = open_layer(c, 1, 1);
    ck_assert_uint_eq(hits(l, 0, 32, 0), 0);
    ck_assert_uint_eq(hits(l, 64, 193, 0), 0);
    if (dead) /* it could no longer drop anything, so it may keep nothing */
        ck_assert_uint_eq(vd_cache_layer_bytes(l), 0);
    ck_assert_int_eq(fill(l, 0, 32, 6), 0);
    ck_assert_uint_eq(hits(l, 0, 32, 6), 32);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

/* With hints in place nobody may ask the index again: the close must notice that it was cut. */
START_TEST(index_cut_unnoticed)
{
    struct vd_cache *c = open_cache(32 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    for (unsigned i = 0; i < 4; i++)
        fill(l, i * 16, 16, 1);
    cut("index.mdb", 4096);
    ck_assert_uint_eq(hits(l, 0, 64, 1), 64);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    ck_assert_int_eq(size_of("state"), -1);
    c = open_cache(32 * MIB);
    l = open_layer(c, 1, 1);
    ck_assert_int_eq(fill(l, 0, 32, 1), 0);
    hits(l, 0, 64, 1);
    vd_cache_layer_close(l);
    vd_cache_close(c);
}
END_TEST

/* A device smaller than the cache: what does not fit is not admitted, all else goes on. The mount
 * is in a namespace of this process and ends with it. */
START_TEST(full_device)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", test_dir, "tmpfs", 0, "size=3m") < 0) {
        fprintf(stderr, "full_device: SKIPPED: cannot mount: %s\n", strerror(errno));
        return;
    }
    struct vd_cache *c = open_cache(64 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < 1500; i++)
            write_blocks(l, i * 16, 16, round, true);
        for (unsigned i = 0; i < 1500; i++)
            hits(l, i * 16, 16, round);
    }
    ck_assert(!vd_cache_is_dead(c));
    ck_assert_uint_gt(stats_of(c).errors, 0);
    ck_assert_uint_gt(vd_cache_layer_bytes(l), MIB);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    struct vd_cache *again = NULL;
    char why[256];
    int r = try_open(64 * MIB, 0, 0, &again, why);
    ck_assert_msg(r == 0 || r == -ENOSPC, "%d: %s", r, why);
    if (r == 0) {
        l = open_layer(again, 1, 1);
        for (unsigned i = 0; i < 1500; i++)
            hits(l, i * 16, 16, 3);
        vd_cache_layer_close(l);
        vd_cache_close(again);
    }
    umount2(test_dir, MNT_DETACH);
}
END_TEST

START_TEST(resize)
{
    struct vd_cache *c = open_cache(4 * MIB);
    struct vd_cache_layer *l = open_layer(c, 1, 1);
    for (unsigned i = 0; i < 4; i++)
        ck_assert_int_eq(fill(l, i * 256, 256, 1), 0);
    vd_cache_layer_close(l);
    vd_cache_close(c);
    static const uint64_t size[] = {1, 4, 2};
    for (unsigned i = 0; i < VD_ARRAY_SIZE(size); i++) {
        c = open_cache(size[i] * MIB);
        l = open_layer(c, 1, 1);
        ck_assert_uint_eq(stats_of(c).capacity_bytes, size[i] * MIB);
        ck_assert_int_eq(size_of("data"), (off_t)(size[i] * MIB));
        ck_assert_uint_eq(hits(l, 0, 256, 1), 256); /* what was cut off stays away */
        ck_assert_uint_eq(vd_cache_layer_bytes(l), MIB);
        vd_cache_layer_close(l);
        vd_cache_close(c);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cache_restart");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, dir_setup, dir_teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, clean_stop);
    tcase_add_test(t, killed);
    tcase_add_test(t, drops_during_rebuild);
    tcase_add_test(t, drops_during_rebuild_alive);
    tcase_add_test(t, close_during_rebuild);
    tcase_add_test(t, flush_during_rebuild);
    tcase_add_test(t, damaged_block);
    tcase_add_loop_test(t, damaged_header, 0, 8);
    tcase_add_loop_test(t, damaged_records, 0, 20);
    tcase_add_test(t, duplicate_records);
    tcase_add_loop_test(t, damaged_index_or_state, 0, 6);
    tcase_add_test(t, truncated_before_open);
    tcase_add_test(t, foreign_files);
    tcase_add_loop_test(t, truncated_while_open, 0, 6);
    tcase_add_test(t, index_cut_unnoticed);
    tcase_add_test(t, full_device);
    tcase_add_test(t, resize);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
