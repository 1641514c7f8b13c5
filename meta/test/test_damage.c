// SPDX-License-Identifier: Apache-2.0
/*
 * Damage of every kind and place: refused by name, never a crash, never a wrong record. A test here
 * is a process of its own, so a crash of the library is a failure of the test.
 */
#include "meta_test.h"

#include "vd_crc.h"
#include "vd_endian.h"

#define PAGE 4096u

enum kind { FLIP, FLIP_BYTE, ZERO_PAGE, RANDOM_PAGE, SWAP_PAGES, TRUNCATE, GROW, NKINDS };

/* One way to damage SOUND; the file's new bytes are in RET, false if they are no others. */
static bool damage(enum kind kind, struct rng *g, const struct bytes *sound, struct bytes *ret)
{
    size_t npages = sound->len / PAGE, at = rng_next(g) % sound->len;
    /* Half of the places where LMDB's own structure lies: meta pages, page heads. */
    if (rng_next(g) % 2)
        at = rng_next(g) % npages * PAGE + rng_next(g) % (rng_next(g) % 2 ? 24 : 192);
    size_t page = at / PAGE * PAGE, other = rng_next(g) % npages * PAGE;
    ret->len = sound->len;
    memcpy(ret->p, sound->p, sound->len);
    switch (kind) {
    case FLIP:
        ret->p[at] ^= (uint8_t)(1u << rng_next(g) % 8);
        break;
    case FLIP_BYTE:
        ret->p[at] = (uint8_t)rng_next(g);
        break;
    case ZERO_PAGE:
        memset(ret->p + page, 0, PAGE);
        break;
    case RANDOM_PAGE:
        for (size_t i = 0; i < PAGE; i += 8)
            vd_put_le64(ret->p + page + i, rng_next(g));
        break;
    case SWAP_PAGES:
        memcpy(ret->p + page, sound->p + other, PAGE);
        memcpy(ret->p + other, sound->p + page, PAGE);
        break;
    case TRUNCATE:
        ret->len = at;
        return true;
    default:
        memset(ret->p + ret->len, (int)rng_next(g), PAGE);
        ret->len += PAGE;
        return true;
    }
    return memcmp(ret->p, sound->p, sound->len) != 0;
}

static struct bytes room_for(const struct bytes *b)
{
    return (struct bytes){.p = malloc(b->len + PAGE), .len = b->len};
}

START_TEST(after_a_clean_close_any_damage_is_refused)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(2026);
    struct vd_id uuid = make_disk(&p, 5);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb"), bad = room_for(&sound);
    for (int i = 0; i < 1000; i++) {
        enum kind kind = (enum kind)(i % NKINDS);
        if (!damage(kind, &g, &sound, &bad))
            continue;
        file_store(&p, &uuid, "meta.mdb", bad.p, bad.len);
        char why[VD_META_WHY] = "";
        struct vd_meta *m;
        int r = vd_meta_open(p.store, &uuid, (enum vd_meta_mode)(i / NKINDS % 3), &m, why);
        ck_assert_msg(r == -EUCLEAN, "round %d kind %d: %d", i, kind, r);
        ck_assert_msg(strstr(why, "meta.mdb: ") && strstr(why, "vdisk adopt"), "%s", why);
    }
    file_store(&p, &uuid, "meta.mdb", sound.p, sound.len);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(m, &uuid), 5);
    vd_meta_close(m);
    free(sound.p);
    free(bad.p);
    place_drop(&p);
}
END_TEST

/* With the writer's mark: what opens must be whole, and the last commit. */
START_TEST(after_a_death_damage_is_refused_or_harmless)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(2027);
    struct vd_id uuid = make_disk(&p, 5);
    for (uint64_t stamp = 6; stamp < 12; stamp++)
        leave_open(&p, &uuid, stamp);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb"), bad = room_for(&sound);
    struct bytes sum = file_load(&p, &uuid, "meta.sum");
    int refused = 0, opened = 0;
    for (int i = 0; i < 1000; i++) {
        if (!damage((enum kind)(i % NKINDS), &g, &sound, &bad))
            continue;
        file_store(&p, &uuid, "meta.mdb", bad.p, bad.len);
        file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
        char why[VD_META_WHY] = "";
        struct vd_meta *m;
        bool write = i / NKINDS % 2;
        int r = vd_meta_open(p.store, &uuid, write ? VD_META_WRITE : VD_META_READ, &m, why);
        if (r < 0) {
            ck_assert_msg(r == -EUCLEAN, "round %d: %d", i, r);
            ck_assert_msg(strstr(why, "meta.mdb: "), "%s", why);
            refused++;
            continue;
        }
        ck_assert_uint_eq(whole_stamp(m, &uuid), 11);
        if (write) {
            put_samples(m, &uuid, 12);
            ck_assert_int_eq(vd_meta_commit(m), 0);
        }
        vd_meta_close(m);
        m = must_open(&p, &uuid, VD_META_READ);
        ck_assert_uint_eq(whole_stamp(m, &uuid), write ? 12 : 11);
        vd_meta_close(m);
        opened++;
    }
    printf("%d refused, %d opened whole\n", refused, opened);
    ck_assert_int_gt(refused, 100);
    ck_assert_int_gt(opened, 100);
    free(sound.p);
    free(bad.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

/* The newer of LMDB's two meta pages made to look the older: the state before the last commit is
 * sound, and is not the last. */
START_TEST(after_a_death_an_older_state_is_refused)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 5);
    leave_open(&p, &uuid, 6);
    leave_open(&p, &uuid, 7);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb");
    struct bytes sum = file_load(&p, &uuid, "meta.sum");
    int refused = 0;
    for (size_t page = 0; page < 2; page++) {
        uint8_t *txnid = sound.p + page * PAGE + 144;
        uint64_t was = vd_get_le64(txnid);
        vd_put_le64(txnid, 0);
        file_store(&p, &uuid, "meta.mdb", sound.p, sound.len);
        file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
        vd_put_le64(txnid, was);
        char why[VD_META_WHY] = "";
        struct vd_meta *m;
        int r = vd_meta_open(p.store, &uuid, VD_META_READ, &m, why);
        if (r == 0) {
            ck_assert_uint_eq(whole_stamp(m, &uuid), 7);
            vd_meta_close(m);
        } else {
            ck_assert_int_eq(r, -EUCLEAN);
            refused++;
        }
    }
    ck_assert_int_eq(refused, 1);
    free(sound.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

/* The mark itself damaged: the environment is looked at, and is sound. */
START_TEST(damaged_sum_costs_nothing)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 5);
    struct bytes sum = file_load(&p, &uuid, "meta.sum");
    for (size_t i = 0; i <= sum.len; i++) {
        if (i < sum.len) {
            sum.p[i] ^= 0x11;
            file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
            sum.p[i] ^= 0x11;
        } else {
            file_store(&p, &uuid, "meta.sum", sum.p, 7);
        }
        struct vd_meta *m = must_open(&p, &uuid, i % 2 ? VD_META_WRITE : VD_META_READ);
        ck_assert_uint_eq(whole_stamp(m, &uuid), 5);
        vd_meta_close(m);
    }
    free(sum.p);
    place_drop(&p);
}
END_TEST

/* A file that verifies but is nobody's environment: its checksum was made for it. */
START_TEST(foreign_files_with_a_good_sum)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 5);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb"), sum = file_load(&p, &uuid, "meta.sum");
    static const struct {
        size_t at, len;
        uint8_t byte;
        const char *word;
    } cases[] = {
        {16, 4, 0, "no LMDB environment"}, {4096 + 16, 1, 0, "no LMDB environment"},
        {20, 1, 9, "version of LMDB"},     {40, 2, 0, "page size"},
        {136 + 4, 4, 0xff, "page count"},  {0, 0, 0, "two pages"},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        struct bytes bad = room_for(&sound);
        memcpy(bad.p, sound.p, sound.len);
        memset(bad.p + cases[i].at, cases[i].byte, cases[i].len);
        if (cases[i].len == 0)
            bad.len = 5000;
        vd_put_le64(sum.p + 16, bad.len);
        vd_put_le32(sum.p + 32, vd_crc32c(0, bad.p, bad.len));
        vd_put_le32(sum.p + 36, vd_crc32c(0, sum.p, 36));
        file_store(&p, &uuid, "meta.mdb", bad.p, bad.len);
        file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
        for (int mode = 0; mode < 3; mode++) {
            char why[VD_META_WHY] = "";
            struct vd_meta *m;
            ck_assert_int_eq(vd_meta_open(p.store, &uuid, (enum vd_meta_mode)mode, &m, why),
                             -EUCLEAN);
            ck_assert_msg(strstr(why, cases[i].word), "%s", why);
        }
        free(bad.p);
    }
    free(sound.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

static void use_session(struct vd_meta *m, const struct vd_id *uuid, int *ret_refused)
{
    struct vd_disk_record d = sample_disk(uuid, 9);
    struct vd_layer_record l = sample_layer(1, 9);
    struct vd_owner_record o = sample_owner(2, 9);
    const int r[] = {
        vd_meta_get_layer(m, 2, &l), vd_meta_put_disk(m, &d),  vd_meta_put_layer(m, 1, &l),
        vd_meta_del_owner(m, &o.id), vd_meta_put_owner(m, &o), vd_meta_commit(m),
        vd_meta_put_disk(m, &d),     vd_meta_commit(m),
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(r); i++) {
        ck_assert_msg(r[i] == 0 || r[i] == -EUCLEAN, "call %zu: %d", i, r[i]);
        if (r[i] == -EUCLEAN) {
            ck_assert_ptr_nonnull(strstr(vd_meta_why(m), "meta.mdb: "));
            ++*ret_refused;
        }
    }
}

/* Truncated while a writer has it mapped: at each length, before and between its calls. */
START_TEST(truncated_under_a_writer)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 5);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb"), sum = file_load(&p, &uuid, "meta.sum");
    int refused = 0;
    for (size_t len = 0; len < sound.len; len += PAGE / 2)
        for (int touched = 0; touched < 3; touched++) {
            file_store(&p, &uuid, "meta.mdb", sound.p, sound.len);
            file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
            struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
            if (touched > 0)
                put_samples(m, &uuid, 8);
            if (touched > 1)
                ck_assert_int_eq(vd_meta_commit(m), 0);
            int fd = file_fd(&p, &uuid, "meta.mdb", O_WRONLY);
            ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
            close(fd);
            int now = 0;
            use_session(m, &uuid, &now);
            ck_assert_int_gt(now, 0);
            refused += now;
            vd_meta_close(m);
            /* Nobody may find a checksum that vouches for this. */
            char why[VD_META_WHY];
            int r = vd_meta_open(p.store, &uuid, VD_META_READ, &m, why);
            if (r == 0) {
                whole_stamp(m, &uuid);
                vd_meta_close(m);
            } else {
                ck_assert_int_eq(r, -EUCLEAN);
            }
        }
    printf("%d calls refused\n", refused);
    free(sound.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

/* A reader has a copy of its own: what happens to the file does not reach it. */
START_TEST(truncated_under_a_reader)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 5);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    file_store(&p, &uuid, "meta.mdb", "", 0);
    ck_assert_uint_eq(whole_stamp(m, &uuid), 5);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

#define NOT_OVERWRITTEN 99 /* the child's status: it did not get that far */

static _Noreturn void overwritten_writer(struct place *p, const struct vd_id *uuid,
                                         const struct bytes *bad)
{
    char why[VD_META_WHY];
    struct vd_meta *m;
    if (vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why) < 0)
        _exit(NOT_OVERWRITTEN);
    int fd = file_fd(p, uuid, "meta.mdb", O_WRONLY);
    if (pwrite(fd, bad->p, bad->len, 0) != (ssize_t)bad->len)
        _exit(NOT_OVERWRITTEN);
    struct vd_disk_record d = sample_disk(uuid, 9);
    struct vd_layer_record l;
    (void)!vd_meta_get_layer(m, 0, &l);
    (void)!vd_meta_put_disk(m, &d);
    (void)!vd_meta_commit(m);
    vd_meta_close(m);
    _exit(0);
}

/*
 * Overwritten by a foreign hand while a writer has it mapped. LMDB has no defence against this; its
 * assertions must not take the process along, and what was committed must never pass for sound. So
 * in a child, and a fault in LMDB is counted rather than failed.
 */
START_TEST(overwritten_under_a_writer)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(2028);
    struct vd_id uuid = make_disk(&p, 5);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb"), bad = room_for(&sound);
    struct bytes sum = file_load(&p, &uuid, "meta.sum");
    int aborted = 0, crashed = 0;
    for (int i = 0; i < 300; i++) {
        if (!damage((enum kind)(i % TRUNCATE), &g, &sound, &bad))
            continue;
        file_store(&p, &uuid, "meta.mdb", sound.p, sound.len);
        file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0)
            overwritten_writer(&p, &uuid, &bad);
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != NOT_OVERWRITTEN);
        aborted += WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
        crashed += WIFSIGNALED(status) && WTERMSIG(status) != SIGABRT;
    }
    printf("%d aborted, %d crashed\n", aborted, crashed);
    ck_assert_int_eq(aborted, 0);
    free(sound.p);
    free(bad.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        after_a_clean_close_any_damage_is_refused,
        after_a_death_damage_is_refused_or_harmless,
        after_a_death_an_older_state_is_refused,
        damaged_sum_costs_nothing,
        foreign_files_with_a_good_sum,
        truncated_under_a_writer,
        truncated_under_a_reader,
        overwritten_under_a_writer,
    };
    return run_suite("meta-damage", tests, VD_ARRAY_SIZE(tests), 240);
}
