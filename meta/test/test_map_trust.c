// SPDX-License-Identifier: Apache-2.0
/*
 * Which records count: all after a kill, those with a mark after a power cut. A log is read from
 * its file while its writer is still there, which is what a cut at that instant leaves; and after
 * kills at any moment and at each step.
 */
#include "map_test.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* What another program would find now. */
static void check_files(struct mplace *p, const struct vd_id *id, enum vd_map_trust trust,
                        const struct model *m)
{
    struct vd_maps *maps;
    struct vd_live_map *lm = NULL;
    char why[VD_META_WHY] = "";
    ck_assert_int_eq(vd_maps_open(p->p.store, 1 << 20, &maps), 0);
    int r = vd_live_map_open(maps, id, trust, &lm, why);
    ck_assert_msg(r == 0, "open: %s: %s", strerror(-r), why);
    check_live(lm, m);
    vd_live_map_close(lm);
    vd_maps_close(maps);
}

struct during {
    struct vd_live_map *lm;
    struct model *m;
    struct rng *r;
    int changes;
};

/* Changes while a fold syncs the data: they go to the new log. */
static int change_meanwhile(void *user)
{
    struct during *d = user;
    int r = 0;
    for (int i = 0; r == 0 && i < d->changes; i++)
        r = try_change(d->lm, d->m, d->r);
    return r;
}

START_TEST(marked_and_not)
{
    struct rng r = rng_make(21);
    struct mplace p;
    struct cells c;
    mplace_make(&p);
    cells_make(&c, &r, false);
    struct model m = {.c = &c, .size_bytes = 1}, marked = m;
    struct vd_id id = map_id(1), layer = map_id(2);
    must_make_live(&p, &id, &layer, 1);
    for (int life = 0; life < 12; life++) {
        struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_MARKED);
        check_live(lm, &marked);
        m = marked; /* what was not marked is forgotten */
        ck_assert_int_eq(vd_live_map_begin(lm), 0);
        check_files(&p, &id, VD_MAP_TRUST_ALL, &m);
        for (int i = 0; i < 60; i++) {
            ck_assert_int_eq(try_change(lm, &m, &r), 0);
            struct during d = {lm, &m, &r, (int)(rng_next(&r) % 3)};
            uint64_t pending;
            switch (rng_next(&r) % 12) {
            case 0:
                ck_assert_int_eq(try_flush(lm), 0);
                marked = m;
                break;
            case 1: /* changes between the two halves of a flush are not its */
                pending = vd_live_map_pending(lm);
                marked = m;
                ck_assert_int_eq(change_meanwhile(&d), 0);
                ck_assert_int_eq(vd_live_map_mark(lm, pending), 0);
                break;
            case 2:
                if (rng_next(&r) % 3)
                    break;
                marked = m;
                ck_assert_int_eq(vd_live_map_fold(lm, change_meanwhile, &d), 0);
                break;
            case 3:
                check_files(&p, &id, VD_MAP_TRUST_MARKED, &marked);
                check_files(&p, &id, VD_MAP_TRUST_ALL, &m);
            }
        }
        check_files(&p, &id, VD_MAP_TRUST_MARKED, &marked);
        vd_live_map_close(lm);
        check_files(&p, &id, VD_MAP_TRUST_MARKED, &marked);
        check_files(&p, &id, VD_MAP_TRUST_ALL, &m);
    }
    mplace_drop(&p);
}
END_TEST

static int fail_sync(void *user)
{
    return -EIO;
}

/* Flushes while a fold is stuck before its END: they must end the old log themselves. */
static int flush_meanwhile(void *user)
{
    struct during *d = user;
    int r = change_meanwhile(user);
    return r < 0 ? r : try_flush(d->lm);
}

/* A flush that began before the fold: what it covers ends in the middle of the old log. */
struct older {
    struct vd_live_map *lm;
    uint64_t pending;
};

static int mark_older(void *user)
{
    struct older *o = user;
    int r = vd_live_map_mark(o->lm, o->pending);
    return r < 0 ? -EBADE : -EIO;
}

START_TEST(flushes_and_failed_folds)
{
    struct rng r = rng_make(22);
    struct mplace p;
    struct cells c;
    mplace_make(&p);
    cells_make(&c, &r, false);
    struct model m = {.c = &c}, marked = m;
    struct vd_id id = map_id(1), layer = map_id(2);
    must_make_live(&p, &id, &layer, 0);
    struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_MARKED);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (int i = 0; i < 30; i++) {
        struct during d = {lm, &m, &r, i % 3};
        ck_assert_int_eq(try_change(lm, &m, &r), 0);
        if (i % 5 == 0) {
            ck_assert_int_eq(try_flush(lm), 0);
            marked = m;
        }
        if (i % 4 == 1) {
            struct older o = {lm, vd_live_map_pending(lm)};
            marked = m;
            ck_assert_int_eq(change_meanwhile(&d), 0);
            ck_assert_int_eq(vd_live_map_fold(lm, mark_older, &o), -EIO);
        } else if (rng_next(&r) % 2) {
            ck_assert_int_eq(vd_live_map_fold(lm, fail_sync, NULL), -EIO);
        } else {
            ck_assert_int_eq(vd_live_map_fold(lm, flush_meanwhile, &d), 0);
            marked = m;
        }
        check_files(&p, &id, VD_MAP_TRUST_MARKED, &marked);
        check_files(&p, &id, VD_MAP_TRUST_ALL, &m);
    }
    vd_live_map_close(lm);
    mplace_drop(&p);
}
END_TEST

START_TEST(written_since_it_was_opened)
{
    struct mplace p;
    mplace_make(&p);
    struct vd_id id = map_id(1), layer = map_id(2);
    must_make_live(&p, &id, &layer, 0);
    struct vd_live_map *early = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
    struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    ck_assert_int_eq(vd_live_map_set(lm, 1, 1, VD_BLOCK_OWN), 0);
    ck_assert_int_eq(vd_live_map_begin(early), -ESTALE);
    ck_assert_int_eq(vd_live_map_fold(lm, sync_nothing, NULL), 0);
    ck_assert_int_eq(vd_live_map_begin(early), -ESTALE);
    vd_live_map_close(lm);
    vd_live_map_close(early);
    mplace_drop(&p);
}
END_TEST

static void zero_slots(const char *path, unsigned from, unsigned to)
{
    static const uint8_t zero[32 * 64];
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_eq(pwrite(fd, zero, 32 * (to - from), 4096 + 32 * from), 32 * (to - from));
    close(fd);
}

static int open_result(struct mplace *p, const struct vd_id *id, enum vd_map_trust trust)
{
    struct vd_live_map *lm;
    char why[VD_META_WHY];
    int r = vd_live_map_open(p->maps, id, trust, &lm, why);
    if (r == 0)
        vd_live_map_close(lm);
    return r;
}

/* A flush whose mark got to the disk before its records did was never acknowledged; one whose
 * records were known to be there, and are gone, is damage. */
START_TEST(a_mark_before_its_records)
{
    struct rng r = rng_make(25);
    struct mplace p;
    struct cells c;
    char path[256];
    mplace_make(&p);
    cells_make(&c, &r, true);
    struct model m = {.c = &c}, first;
    struct vd_id id = map_id(1), layer = map_id(2);
    must_make_live(&p, &id, &layer, 0);
    map_path(&p, &id, ".0.log", path);
    struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (unsigned i = 0; i < 40; i++) { /* slots 0 to 19, a mark, 21 to 40, a mark */
        ck_assert_int_eq(try_change(lm, &m, &r), 0);
        if (i == 19) {
            ck_assert_int_eq(try_flush(lm), 0);
            first = m;
        }
    }
    ck_assert_int_eq(try_flush(lm), 0);
    check_files(&p, &id, VD_MAP_TRUST_MARKED, &m);
    zero_slots(path, 30, 35);
    check_files(&p, &id, VD_MAP_TRUST_MARKED, &first);
    ck_assert_int_eq(open_result(&p, &id, VD_MAP_TRUST_ALL), -EUCLEAN);
    zero_slots(path, 10, 11);
    ck_assert_int_eq(open_result(&p, &id, VD_MAP_TRUST_MARKED), -EUCLEAN);
    vd_live_map_close(lm);
    mplace_drop(&p);
}
END_TEST

START_TEST(a_clean_close_says_what_is_known)
{
    struct mplace p;
    char path[256];
    mplace_make(&p);
    printf("no seed\n");
    struct vd_id id = map_id(1), layer = map_id(2);
    must_make_live(&p, &id, &layer, 0);
    map_path(&p, &id, ".0.log", path);
    struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (unsigned i = 0; i < 10; i++)
        ck_assert_int_eq(vd_live_map_set(lm, i, 1, VD_BLOCK_OWN), 0);
    ck_assert_int_eq(try_flush(lm), 0);
    vd_live_map_close(lm);
    ck_assert_int_eq(open_result(&p, &id, VD_MAP_TRUST_MARKED), 0);
    zero_slots(path, 5, 6);
    ck_assert_int_eq(open_result(&p, &id, VD_MAP_TRUST_MARKED), -EUCLEAN);
    mplace_drop(&p);
}
END_TEST

/* ---- kills ---- */

#define OPS 400u

/* What the child has begun and done, in memory that outlives it. Numbers of operations. */
struct progress {
    atomic_uint begun, done, marking, marked;
};

/* Operation I of a life, the same whoever does it; LM NULL: only the model. */
static int operation(struct vd_live_map *lm, struct model *m, struct rng *r, unsigned i,
                     struct progress *pr)
{
    if (i % 16 != 15)
        return lm ? try_change(lm, m, r) : 0;
    atomic_store(&pr->marking, i);
    int err = i % 64 == 63 ? vd_live_map_fold(lm, sync_nothing, NULL) : try_flush(lm);
    if (err == 0)
        atomic_store(&pr->marked, i);
    return err;
}

static int child_life(struct mplace *p, const struct vd_id *id, struct model *m, uint64_t seed,
                      struct progress *pr)
{
    struct rng r = {seed};
    struct vd_live_map *lm;
    char why[VD_META_WHY];
    int err = vd_live_map_open(p->maps, id, VD_MAP_TRUST_ALL, &lm, why);
    if (err == 0)
        err = vd_live_map_begin(lm);
    for (unsigned i = 0; err == 0 && i < OPS; i++) {
        atomic_store(&pr->begun, i + 1);
        err = operation(lm, m, &r, i, pr);
        atomic_store(&pr->done, i + 1);
    }
    return err;
}

/* A map that exists in the model only: what the first N operations make of M. */
static void replay(struct mplace *p, struct model *m, uint64_t seed, unsigned n)
{
    static unsigned count;
    struct rng r = {seed};
    struct vd_id id = map_id(1000000 + count++), layer = map_id(2);
    must_make_live(p, &id, &layer, 0);
    struct vd_live_map *lm = must_open_live(p, &id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (unsigned i = 0; i < n; i++)
        if (i % 16 != 15)
            ck_assert_int_eq(try_change(lm, m, &r), 0);
    vd_live_map_close(lm);
    ck_assert_int_eq(vd_maps_remove(p->maps, &id), 0);
}

/* Is LM what M becomes with A or with B operations? M becomes that. */
static void must_be_one_of(struct mplace *p, struct vd_live_map *lm, struct model *m, uint64_t seed,
                           unsigned a, unsigned b)
{
    struct model with_a = *m, with_b = *m;
    replay(p, &with_a, seed, a);
    replay(p, &with_b, seed, b);
    const char *what = differs(lm, &with_a);
    if (what && differs(lm, &with_b))
        ck_abort_msg("after %u or %u operations: %s", a, b, what);
    *m = what ? with_b : with_a;
}

static struct progress *shared_progress(void)
{
    void *p = mmap(NULL, sizeof(struct progress), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    return p;
}

/* Looks at what a life of SEED that was cut off left of M. */
static void look(struct mplace *p, const struct vd_id *id, struct model *m, uint64_t seed,
                 const struct progress *pr)
{
    struct model durable = *m;
    struct vd_live_map *lm = must_open_live(p, id, VD_MAP_TRUST_ALL);
    must_be_one_of(p, lm, m, seed, pr->done, pr->begun);
    vd_live_map_close(lm);
    if (pr->begun == 0)
        return; /* killed before it had made durable what the one before it left */
    lm = must_open_live(p, id, VD_MAP_TRUST_MARKED);
    must_be_one_of(p, lm, &durable, seed, pr->marked, pr->marking);
    vd_live_map_close(lm);
}

START_TEST(kills)
{
    struct rng r = rng_make(23);
    struct mplace p;
    struct cells c;
    mplace_make(&p);
    cells_make(&c, &r, false);
    struct model m = {.c = &c};
    struct vd_id id = map_id(1), layer = map_id(2);
    struct progress *pr = shared_progress();
    must_make_live(&p, &id, &layer, 0);
    for (int round = 0; round < 25; round++) {
        uint64_t seed = rng_next(&r);
        unsigned until = rng_next(&r) % OPS;
        memset(pr, 0, sizeof(*pr));
        pid_t pid = fork();
        if (pid == 0)
            _exit(child_life(&p, &id, &m, seed, pr) ? 1 : 0);
        int status = 0;
        while (atomic_load(&pr->done) < until && waitpid(pid, &status, WNOHANG) == 0)
            sched_yield();
        for (uint64_t spin = rng_next(&r) % 200000; spin > 0; spin--)
            atomic_load(&pr->done); /* to be in the middle of an operation */
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) == 0);
        look(&p, &id, &m, seed, pr);
    }
    mplace_drop(&p);
}
END_TEST

/* Everything that can happen to a map, in one life. Steps are counted from a given one on. */
static int whole_life(struct mplace *p, const struct vd_id *id, struct model *m, uint64_t seed,
                      struct progress *pr)
{
    struct vd_id merged = map_id(2000000);
    struct vd_map *map;
    struct vd_live_map *lm;
    char why[VD_META_WHY];
    struct rng r = {seed};
    int err = vd_live_map_open(p->maps, id, VD_MAP_TRUST_ALL, &lm, why);
    if (err == 0)
        err = vd_live_map_begin(lm);
    for (unsigned i = 0; err == 0 && i < 128; i++) {
        atomic_store(&pr->begun, i + 1);
        err = operation(lm, m, &r, i, pr);
        atomic_store(&pr->done, i + 1);
    }
    if (err == 0)
        err = vd_live_map_freeze(lm, &map);
    if (err < 0)
        return err;
    vd_live_map_close(lm);
    err = vd_map_bake(map);
    struct vd_map_merge merge = {&map, 1, VD_MAP_BLOCKS_MAX, NULL, NULL, NULL};
    if (err == 0)
        err = vd_maps_merge(p->maps, &merge, &merged, why);
    vd_map_unref(map);
    return err;
}

static int ignore_id(void *user, const struct vd_id *id)
{
    return 0;
}

/* The frozen map, whatever it was made of, says what the model does. */
static void look_frozen(struct mplace *p, const struct vd_id *id, const struct model *m)
{
    struct vd_map *map;
    char why[VD_META_WHY];
    uint32_t want[CELLS];
    struct vd_id layer = map_id(2);
    for (unsigned i = 0; i < CELLS; i++)
        want[i] = m->state[i] == VD_BLOCK_OWN    ? 0
                  : m->state[i] == VD_BLOCK_ZERO ? VD_MAP_ZERO
                                                 : VD_MAP_NONE;
    int r = vd_map_get(p->maps, id, &map, why);
    ck_assert_msg(r == 0, "%s", why);
    check_frozen(map, m->c, want, &layer);
    vd_map_unref(map);
}

START_TEST(kills_at_each_step)
{
    struct rng r = rng_make(24);
    struct mplace p;
    struct cells c;
    mplace_make(&p);
    cells_make(&c, &r, true);
    struct vd_id layer = map_id(2), merged = map_id(2000000);
    struct progress *pr = shared_progress();
    unsigned step = 1;
    for (int status = 1; status != 0; step++) {
        struct model m = {.c = &c};
        struct vd_id id = map_id(3000000 + step);
        memset(pr, 0, sizeof(*pr));
        must_make_live(&p, &id, &layer, 0);
        pid_t pid = fork();
        if (pid == 0) {
            char text[16];
            snprintf(text, sizeof(text), "%u", step);
            setenv("VDISKFS_TEST_KILL_STEP", text, 1);
            _exit(whole_life(&p, &id, &m, 5, pr) ? 1 : 0);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) == 0);
        if (pr->done < 128) {
            look(&p, &id, &m, 5, pr);
            struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
            ck_assert_int_eq(vd_live_map_begin(lm), 0);
            vd_live_map_close(lm);
            look(&p, &id, &m, 0, &(struct progress){0});
        } else {
            replay(&p, &m, 5, 128);
            look_frozen(&p, &id, &m);
        }
        ck_assert_int_eq(vd_maps_each(p.maps, true, ignore_id, NULL), 0);
        ck_assert_int_eq(vd_maps_remove(p.maps, &id), 0);
        ck_assert_int_eq(vd_maps_remove(p.maps, &merged), 0);
    }
    printf("%u steps\n", step - 2);
    ck_assert_uint_gt(step, 40);
    char path[256];
    map_path(&p, &merged, "", path);
    *strrchr(path, '/') = '\0';
    ck_assert_int_eq(rmdir(path), 0); /* nothing is left over */
    mplace_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        marked_and_not,
        flushes_and_failed_folds,
        written_since_it_was_opened,
        a_mark_before_its_records,
        a_clean_close_says_what_is_known,
        kills,
        kills_at_each_step,
    };
    return run_suite("map-trust", tests, VD_ARRAY_SIZE(tests), 120);
}
