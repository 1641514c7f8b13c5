// SPDX-License-Identifier: Apache-2.0
/*
 * Snapshots and clones while several clients write: what each of them holds must be a moment of the
 * disk's history.
 *
 * Each cell of the disk has one writer, which stamps it with the number of its write. A clock counts
 * events: a write draws one when it is issued and one when it is complete, a snapshot when it is
 * asked for and when it returns. Of a snapshot must hold:
 *
 *   whole     of each writer it has all writes up to some number and none after, each wholly
 *   between   what was complete when it was asked for is in it, what was issued after it returned
 *             is not
 *   ordered   a write that was complete before another was issued is in it where that other is
 *
 * In half of the disk writers share blocks (a cell is a quarter of one), so that first writes of a
 * block meet; the other half has writes and zeroes of many blocks.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rig.h"

#define CELL 1024u
#define CELLS_A 1024u /* shared blocks: cell I is writer I % WRITERS's */
#define CELLS_B 3072u /* stripes of STRIPE cells, one writer's each */
#define CELLS (CELLS_A + CELLS_B)
#define STRIPE 48u
#define WRITERS 4u
#define WRITES 250u
#define MOMENTS 12u
#define BYTES ((uint64_t)CELLS * CELL)

struct event {
    uint32_t cell, ncells;
    bool zero;
    uint64_t issued;
    _Atomic uint64_t complete; /* 0: not yet */
};

struct moment {
    char name[16];
    bool clone, removed;
    uint64_t asked, returned;
};

struct history {
    struct rig rig;
    struct vd_disk *d;
    const char *disk;
    _Atomic uint64_t clock;
    atomic_uint left; /* writers */
    atomic_uint wrong;
    struct event *event[WRITERS]; /* [1..WRITES] */
    atomic_uint nevents[WRITERS];
    _Atomic uint64_t complete[CELLS]; /* the newest write of the cell that is */
    unsigned nmoments;
    struct moment moment[MOMENTS];
    uint64_t seed;
};

struct writer {
    struct history *h;
    unsigned w;
};

static uint64_t tick(struct history *h)
{
    return atomic_fetch_add(&h->clock, 1) + 1;
}

static void wrong(struct history *h, const char *fmt, ...) VD_PRINTF(2, 3);
static void wrong(struct history *h, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (atomic_fetch_add(&h->wrong, 1) < 5)
        vfprintf(stderr, fmt, ap);
    va_end(ap);
}

/* ---- clients ---- */

static void choose(struct event *e, unsigned w, uint64_t *seed)
{
    if (rig_random(seed) % 2) {
        e->cell = (uint32_t)(rig_random(seed) % (CELLS_A / WRITERS)) * WRITERS + w;
        e->ncells = 1;
        return;
    }
    uint32_t stripe = (uint32_t)(rig_random(seed) % (CELLS_B / STRIPE / WRITERS)) * WRITERS + w;
    uint32_t at = (uint32_t)(rig_random(seed) % STRIPE);
    e->cell = CELLS_A + stripe * STRIPE + at;
    e->ncells = 1 + (uint32_t)(rig_random(seed) % (STRIPE - at));
    e->zero = rig_random(seed) % 8 == 0;
}

static void *writer(void *arg)
{
    struct writer *me = arg;
    struct history *h = me->h;
    uint64_t seed = h->seed + me->w * 77;
    uint64_t *buf = aligned_alloc(4096, STRIPE * CELL);
    for (uint64_t n = 1; n <= WRITES; n++) {
        struct event *e = &h->event[me->w][n];
        choose(e, me->w, &seed);
        size_t len = (size_t)e->ncells * CELL;
        uint64_t off = (uint64_t)e->cell * CELL;
        for (size_t i = 0; i < len / 8; i++)
            buf[i] = n << 8 | (me->w + 1);
        e->issued = tick(h);
        atomic_store(&h->nevents[me->w], (unsigned)n);
        ssize_t r =
            e->zero ? rig_zero(h->d, VD_ZERO_PUNCH, off, len) : rig_write(h->d, off, buf, len);
        if (r != (e->zero ? 0 : (ssize_t)len))
            wrong(h, "a write gave %zd\n", r);
        atomic_store(&e->complete, tick(h));
        for (uint32_t i = 0; i < e->ncells; i++)
            atomic_store(&h->complete[e->cell + i], n);
        if (n % 64 == 0 && rig_flush(h->d) != 0)
            wrong(h, "a flush failed\n");
    }
    free(buf);
    atomic_fetch_sub(&h->left, 1);
    return NULL;
}

static unsigned owner_of(uint64_t cell)
{
    return (unsigned)(cell < CELLS_A ? cell % WRITERS : (cell - CELLS_A) / STRIPE % WRITERS);
}

/* What is read of the living disk is not older than what was complete before the read. */
static void *reader(void *arg)
{
    struct writer *me = arg;
    struct history *h = me->h;
    uint64_t seed = h->seed + 991 + me->w, least[STRIPE];
    uint64_t *buf = aligned_alloc(4096, STRIPE * CELL);
    while (atomic_load(&h->left)) {
        uint32_t cell = (uint32_t)(rig_random(&seed) % (CELLS - STRIPE));
        uint32_t n = 1 + (uint32_t)(rig_random(&seed) % STRIPE);
        for (uint32_t i = 0; i < n; i++)
            least[i] = atomic_load(&h->complete[cell + i]);
        if (rig_read(h->d, (uint64_t)cell * CELL, buf, (size_t)n * CELL) != (ssize_t)(n * CELL))
            wrong(h, "a read failed\n");
        for (uint32_t i = 0; i < n * (CELL / 8); i++) {
            uint32_t c = i / (CELL / 8);
            if (!buf[i] && (cell + c >= CELLS_A || !least[c]))
                continue; /* zeroed */
            if (buf[i] >> 8 < least[c] || (buf[i] & 0xff) != owner_of(cell + c) + 1)
                wrong(h, "cell %u has %llu, and %llu was complete\n", cell + c,
                      (unsigned long long)(buf[i] >> 8), (unsigned long long)least[c]);
        }
    }
    free(buf);
    return NULL;
}

/* ---- the one who takes snapshots ---- */

static int path_fd(struct history *h, const char *name)
{
    return openat(h->rig.source_fd, name, O_PATH | O_CLOEXEC);
}

static void take(struct history *h, unsigned i)
{
    struct moment *m = &h->moment[i];
    char why[VD_META_WHY] = "";
    vd_cleanup_close int fd = path_fd(h, h->disk);
    m->clone = i % 3 == 2;
    snprintf(m->name, sizeof(m->name), "%s%u", m->clone ? "c" : "s", i);
    m->asked = tick(h);
    int r = m->clone ? vd_disks_clone(h->rig.disks, fd, h->disk, NULL, h->rig.source_fd, m->name,
                                      m->name, why)
                     : vd_disks_snapshot(h->rig.disks, fd, h->disk, m->name, why);
    m->returned = tick(h);
    if (r < 0)
        wrong(h, "%s: %s %s\n", m->name, strerror(-r), why);
    h->nmoments = i + 1;
    if (i % 5 == 4 && !h->moment[i - 4].clone) { /* sweeps and merges meet */
        struct moment *old = &h->moment[i - 4];
        r = vd_disks_snapshot_rm(h->rig.disks, fd, h->disk, old->name, why);
        if (r < 0)
            wrong(h, "removal of %s: %s %s\n", old->name, strerror(-r), why);
        old->removed = r == 0;
    }
}

/* Until so much has happened, or nothing more will. */
static void wait_until(struct history *h, uint64_t clock)
{
    while (atomic_load(&h->left) && atomic_load(&h->clock) < clock)
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static void take_all(struct history *h)
{
    uint64_t step = WRITERS * WRITES * 2 / (MOMENTS + 2);
    for (unsigned i = 0; i < MOMENTS; i++) {
        wait_until(h, (i + 1) * step);
        take(h, i);
    }
}

/* ---- judgement ---- */

/* The disk as it is when the first N[W] writes of each writer were made. */
static void replay(const struct history *h, const uint64_t n[WRITERS], uint64_t *stamp)
{
    memset(stamp, 0, CELLS * sizeof(*stamp));
    for (unsigned w = 0; w < WRITERS; w++)
        for (uint64_t k = 1; k <= n[w]; k++) {
            const struct event *e = &h->event[w][k];
            for (uint32_t i = 0; i < e->ncells; i++)
                stamp[e->cell + i] = e->zero ? 0 : k << 8 | (w + 1);
        }
}

/* Reads the disk, and the last write of each writer in it. */
static void read_cells(struct history *h, const char *name, uint64_t *stamp, uint64_t last[WRITERS])
{
    struct vd_disk *d = rig_open(&h->rig, name);
    uint64_t *buf = malloc(VD_IO_MAX_BYTES);
    memset(last, 0, WRITERS * sizeof(*last));
    for (uint64_t off = 0; off < BYTES; off += VD_IO_MAX_BYTES) {
        size_t len = (size_t)vd_min((uint64_t)VD_IO_MAX_BYTES, BYTES - off);
        ck_assert_int_eq(rig_read(d, off, buf, len), (ssize_t)len);
        for (size_t i = 0; i < len / CELL; i++) {
            uint64_t s = buf[i * (CELL / 8)], w = s & 0xff;
            /* an assertion is a message to the parent: one a cell at most, and none that holds */
            if (memcmp(&buf[i * (CELL / 8)], &buf[i * (CELL / 8) + 1], CELL - 8) != 0 ||
                w > WRITERS)
                ck_abort_msg("%s: cell %llu is torn", name, (unsigned long long)(off / CELL + i));
            stamp[off / CELL + i] = s;
            if (w)
                last[w - 1] = vd_max(last[w - 1], s >> 8);
        }
    }
    free(buf);
    rig_close(&h->rig, d);
}

static uint64_t own_wrong(const uint64_t *a, const uint64_t *b, const struct history *h, unsigned w,
                          uint64_t *ret_cell)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < CELLS; i++) {
        if (owner_of(i) == w && a[i] != b[i] && !n++)
            *ret_cell = i;
    }
    return n;
}

#define HIDDEN 32u /* writes behind the last that is seen: zeroes, and what they cover */

/* How many writes of writer W explain what is there: at least FROM[W], at most UPTO[W]. */
static void find_end(struct history *h, const char *name, const uint64_t *stamp, unsigned w,
                     uint64_t from[WRITERS], uint64_t upto[WRITERS])
{
    uint64_t *want = malloc(CELLS * sizeof(*want)), n[WRITERS] = {0}, cell = 0, first = 0;
    uint64_t seen = from[w], limit = vd_min(seen + HIDDEN, (uint64_t)atomic_load(&h->nevents[w]));
    bool found = false;
    for (n[w] = seen; n[w] <= limit; n[w]++) {
        replay(h, n, want);
        bool same = !own_wrong(stamp, want, h, w, &cell);
        if (n[w] == seen)
            first = cell;
        if (same && !found)
            from[w] = n[w];
        if (same)
            upto[w] = n[w];
        found |= same;
    }
    ck_assert_msg(found, "%s: not whole: writer %u up to %llu: cell %llu has %llu", name, w,
                  (unsigned long long)seen, (unsigned long long)first,
                  (unsigned long long)stamp[first] >> 8);
    free(want);
}

static void check_moment(struct history *h, const char *name, const struct moment *m)
{
    uint64_t *stamp = malloc(CELLS * sizeof(*stamp)), from[WRITERS], upto[WRITERS], newest = 0;
    read_cells(h, name, stamp, from);
    for (unsigned w = 0; w < WRITERS; w++) {
        find_end(h, name, stamp, w, from, upto);
        if (from[w])
            newest = vd_max(newest, h->event[w][from[w]].issued);
    }
    ck_assert_msg(newest < m->returned, "%s: has a write issued at %llu, after it returned at %llu",
                  name, (unsigned long long)newest, (unsigned long long)m->returned);
    for (unsigned w = 0; w < WRITERS; w++) {
        uint64_t out = upto[w] + 1;
        if (out > atomic_load(&h->nevents[w]))
            continue;
        uint64_t complete = atomic_load(&h->event[w][out].complete);
        ck_assert_msg(complete > m->asked,
                      "%s: write %llu of writer %u, complete at %llu, is missing; asked at %llu",
                      name, (unsigned long long)out, w, (unsigned long long)complete,
                      (unsigned long long)m->asked);
        ck_assert_msg(complete > newest,
                      "%s: write %llu of writer %u, complete at %llu, is missing; one issued at "
                      "%llu is there",
                      name, (unsigned long long)out, w, (unsigned long long)complete,
                      (unsigned long long)newest);
    }
    free(stamp);
}

static void check_all(struct history *h)
{
    char why[VD_META_WHY];
    for (unsigned i = 0; i < h->nmoments; i++) {
        const struct moment *m = &h->moment[i];
        if (m->removed)
            continue;
        if (m->clone) {
            check_moment(h, m->name, m);
            continue;
        }
        vd_cleanup_close int fd = path_fd(h, h->disk);
        ck_assert_msg(vd_disks_clone(h->rig.disks, fd, h->disk, m->name, h->rig.source_fd, "look",
                                     "look", why) == 0,
                      "%s: %s", m->name, why);
        check_moment(h, "look", m);
        vd_cleanup_close int look = path_fd(h, "look");
        ck_assert_int_eq(vd_disks_remove(h->rig.disks, look, "look", h->rig.source_fd, "look", why),
                         0);
    }
    struct moment end = {.asked = UINT64_MAX - 1, .returned = UINT64_MAX};
    check_moment(h, h->disk, &end);
}

static void start(struct history *h, enum vd_cache_mode mode, uint64_t cache_bytes, uint64_t seed)
{
    printf("seed %llu mode %d\n", (unsigned long long)seed, mode);
    *h = (struct history){.disk = "d", .left = WRITERS, .seed = seed};
    rig_init(&h->rig);
    h->rig.mode = mode;
    h->rig.cache_bytes = cache_bytes;
    rig_mount(&h->rig);
    rig_make(&h->rig, "d", BYTES);
    for (unsigned w = 0; w < WRITERS; w++)
        h->event[w] = calloc(WRITES + 1, sizeof(*h->event[w]));
}

static void stop(struct history *h)
{
    rig_free(&h->rig);
    for (unsigned w = 0; w < WRITERS; w++)
        free(h->event[w]);
    free(h);
}

static void live(struct history *h, void (*meanwhile)(struct history *))
{
    pthread_t t[WRITERS + 2];
    struct writer w[WRITERS + 2];
    for (unsigned i = 0; i < WRITERS + 2; i++) {
        w[i] = (struct writer){h, i};
        ck_assert_int_eq(pthread_create(&t[i], NULL, i < WRITERS ? writer : reader, &w[i]), 0);
    }
    meanwhile(h);
    for (unsigned i = 0; i < WRITERS + 2; i++)
        pthread_join(t[i], NULL);
    ck_assert_uint_eq(atomic_load(&h->wrong), 0);
}

static void run(enum vd_cache_mode mode, uint64_t cache_bytes, uint64_t seed)
{
    struct history *h = malloc(sizeof(*h));
    start(h, mode, cache_bytes, seed);
    h->d = rig_open(&h->rig, "d");
    live(h, take_all);
    check_all(h); /* the disk is still open */
    rig_close(&h->rig, h->d);
    rig_umount(&h->rig);
    h->rig.cache_name = "other"; /* nothing of it in the cache */
    rig_mount(&h->rig);
    check_all(h);
    stop(h);
}

START_TEST(moments)
{
    static const struct {
        enum vd_cache_mode mode;
        uint64_t bytes;
    } with[] = {{VD_CACHE_WRITETHROUGH, 32u << 20},
                {VD_CACHE_WRITETHROUGH, 1u << 20},
                {VD_CACHE_WRITEAROUND, 2u << 20},
                {VD_CACHE_OFF, 0}};
    run(with[_i].mode, with[_i].bytes, 0x9e3779b97f4a7c15ull * (uint64_t)(_i + 1));
}
END_TEST

/* A clone is flattened again and again while it is written; between, it is frozen by a clone. */
static void flatten_it(struct history *h)
{
    char why[VD_META_WHY] = "";
    vd_cleanup_close int fd = path_fd(h, h->disk);
    uint64_t step = WRITERS * WRITES * 2 / (MOMENTS + 2);
    for (unsigned i = 0; i < MOMENTS; i++) {
        wait_until(h, (i + 1) * step);
        int r = 0;
        if (i % 2) {
            struct moment *m = &h->moment[h->nmoments];
            m->clone = true;
            snprintf(m->name, sizeof(m->name), "c%u", i);
            m->asked = tick(h);
            r = vd_disks_clone(h->rig.disks, fd, h->disk, NULL, h->rig.source_fd, m->name, m->name,
                               why);
            m->returned = tick(h);
            h->nmoments++;
        } else {
            r = vd_disks_flatten(h->rig.disks, fd, h->disk, NULL, NULL, why);
        }
        if (r < 0)
            wrong(h, "%s: %s %s\n", i % 2 ? "clone" : "flatten", strerror(-r), why);
    }
}

START_TEST(flattens)
{
    struct history *h = malloc(sizeof(*h));
    char why[VD_META_WHY];
    start(h, VD_CACHE_WRITETHROUGH, 4u << 20, 4242);
    vd_cleanup_close int fd = path_fd(h, "d");
    ck_assert_int_eq(
        vd_disks_clone(h->rig.disks, fd, "d", NULL, h->rig.source_fd, "child", "child", why), 0);
    h->disk = "child";
    h->d = rig_open(&h->rig, "child");
    live(h, flatten_it);
    check_all(h);
    rig_close(&h->rig, h->d);
    check_all(h);
    rig_umount(&h->rig);
    h->rig.cache_name = "other";
    rig_mount(&h->rig);
    check_all(h);
    stop(h);
}
END_TEST

void add_history_tests(Suite *s)
{
    TCase *t = tcase_create("history");
    tcase_set_timeout(t, 400);
    tcase_add_loop_test(t, moments, 0, 1);
    tcase_add_test(t, flattens);
    suite_add_tcase(s, t);
}
