// SPDX-License-Identifier: Apache-2.0
/*
 * error: fails requests, to see what a guest does then; also the project's own fault injector. After
 * nbdkit's filter of the same name.
 *
 * Which requests. By chance: a rate for each operation. By count: the Nth of those that `ops` names,
 * and with from-nth all after it. Both may be used together. With a trigger file, only while that
 * file exists; requests that come while it does not are not counted for nth.
 *
 * Chance that can be repeated: the Kth request of a disk is hit if the mix of seed and K is below the
 * rate, so the same seed hits the same requests wherever they come in the same order, and threads
 * share no more than the counter that K is from (splitmix64, as in the filter delay).
 *
 * How. Before: nothing below sees the request. After: it is done below, and its success is reported as
 * the error, as when a disk loses its answer; that mark is in self_data. What failed below by itself
 * keeps its own error and is not counted.
 *
 * The trigger file is looked at by a thread of the filter's, as a file may be on storage that hangs:
 * every 10 ms, and once more by `status`, so that whoever makes or removes the file and then asks for the
 * status knows that it has been seen.
 *
 * Threads: the configuration never changes after attach, the counters and `armed` are atomic. mu is
 * for looking at the file and setting `armed` as one step, and for ending the thread; no request
 * takes it.
 */
#include <vdiskfs/filter.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 10u
#define AFTER ((void *)1) /* in self_data: to be failed in done */

static const char *const op_names[VD_FILTER_OPS] = {"read", "write", "flush", "discard", "zero"};

/* The first options are the rates of the operations, by number. */
enum option { RATE = VD_FILTER_OPS, ERROR, NTH, FROM_NTH, OPS, WHEN, FILE_, SEED };

#define OWN_RATE(name, text)                                                                       \
    {                                                                                              \
        .key = name, .type = VD_FILTER_RATIO, .help = text                                         \
    }
static const struct vd_filter_option options[] = {
    [VD_FILTER_READ] = OWN_RATE("read", "how many of the reads"),
    [VD_FILTER_WRITE] = OWN_RATE("write", "how many of the writes"),
    [VD_FILTER_FLUSH] = OWN_RATE("flush", "how many of the flushes"),
    [VD_FILTER_DISCARD] = OWN_RATE("discard", "how many of the discards"),
    [VD_FILTER_ZERO] = OWN_RATE("zero", "how many of the zeroes"),
    [RATE] = {.key = "rate",
              .type = VD_FILTER_RATIO,
              .default_value = "0",
              .help = "how many of the operations that are not named"},
    [ERROR] = {.key = "error",
               .type = VD_FILTER_CHOICE,
               .default_value = "EIO",
               .choices = "EPERM|EIO|ENOMEM|ESHUTDOWN|EINVAL|ENOSPC|EROFS",
               .help = "what they fail with"},
    [NTH] = {.key = "nth", .type = VD_FILTER_NUMBER, .min = 1, .help = "fails the Nth request"},
    [FROM_NTH] = {.key = "from-nth",
                  .type = VD_FILTER_BOOL,
                  .default_value = "no",
                  .help = "fails all after the Nth, too"},
    [OPS] = {.key = "ops",
             .type = VD_FILTER_TEXT,
             .help = "what nth counts: operations, separated by commas; default all"},
    [WHEN] = {.key = "when",
              .type = VD_FILTER_CHOICE,
              .default_value = "before",
              .choices = "before|after",
              .help = "before it is done, or after"},
    [FILE_] = {.key = "file", .type = VD_FILTER_PATH, .help = "only while this file exists"},
    [SEED] = {.key = "seed", .type = VD_FILTER_NUMBER, .help = "repeats a sequence"},
    {0},
};
static const int errors[] = {EPERM, EIO, ENOMEM, ESHUTDOWN, EINVAL, ENOSPC, EROFS};

struct error {
    int error;
    bool after, from_nth;
    uint64_t nth; /* 0: not by count */
    bool counts[VD_FILTER_OPS];
    double rates[VD_FILTER_OPS];
    uint64_t seed;

    _Atomic uint64_t requests, counted; /* that were seen; that nth has counted */
    _Atomic uint64_t seen[VD_FILTER_OPS], injected[VD_FILTER_OPS];

    char *file; /* NULL: always armed */
    _Atomic bool armed;
    pthread_mutex_t mu;
    pthread_cond_t stop_asked;
    bool stop; /* lock: mu */
    pthread_t watcher;
};

/* ---- the trigger file ---- */

static void look(struct error *f) /* with mu held */
{
    atomic_store(&f->armed, access(f->file, F_OK) == 0);
}

static void *watch(void *arg)
{
    struct error *f = arg;
    struct timespec until;

    pthread_mutex_lock(&f->mu);
    while (!f->stop) {
        look(f);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&f->stop_asked, &f->mu, &until);
    }
    pthread_mutex_unlock(&f->mu);
    return NULL;
}

/* The daemon's signals are not for this thread. */
static int start_watcher(struct error *f)
{
    sigset_t all, before;
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->stop_asked, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&f->mu, NULL);
    look(f); /* before the first request */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&f->watcher, NULL, watch, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

static void stop_watcher(struct error *f)
{
    pthread_mutex_lock(&f->mu);
    f->stop = true;
    pthread_cond_signal(&f->stop_asked);
    pthread_mutex_unlock(&f->mu);
    pthread_join(f->watcher, NULL);
    pthread_cond_destroy(&f->stop_asked);
    pthread_mutex_destroy(&f->mu);
}

/* ---- configuration ---- */

/* Reads TEXT, "write,flush", into COUNTS. */
static int parse_ops(struct vd_filter_disk *disk, const char *text, bool counts[VD_FILTER_OPS])
{
    for (const char *p = text, *end; p; p = *end ? end + 1 : NULL) {
        size_t op = 0;
        end = strchrnul(p, ',');
        while (op < VD_FILTER_OPS && (strlen(op_names[op]) != (size_t)(end - p) ||
                                      memcmp(op_names[op], p, (size_t)(end - p)) != 0))
            op++;
        if (op == VD_FILTER_OPS) {
            char why[256];
            snprintf(why, sizeof(why),
                     "ops: '%.*s' is no operation; there are read, write, flush, discard, zero, "
                     "separated by commas",
                     (int)(end - p > 64 ? 64 : end - p), p);
            vd_filter_why(disk, why);
            return -EINVAL;
        }
        counts[op] = true;
    }
    return 0;
}

static void error_free(struct error *f)
{
    if (f)
        free(f->file);
    free(f);
}

static int configure(struct error *f, struct vd_filter_disk *disk, const struct vd_filter_value *v)
{
    struct timespec t;

    f->error = errors[v[ERROR].number];
    f->after = v[WHEN].number == 1;
    f->nth = v[NTH].given ? v[NTH].number : 0;
    f->from_nth = v[FROM_NTH].number;
    if (!f->nth && (f->from_nth || v[OPS].given)) {
        vd_filter_why(disk, "from-nth and ops say what nth counts: give nth=NUMBER, too");
        return -EINVAL;
    }
    for (int op = 0; op < VD_FILTER_OPS; op++) {
        f->rates[op] = v[op].given ? v[op].ratio : v[RATE].ratio;
        f->counts[op] = !v[OPS].given;
    }
    clock_gettime(CLOCK_REALTIME, &t);
    f->seed =
        v[SEED].given ? v[SEED].number : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    if (v[FILE_].given && !(f->file = strdup(v[FILE_].text)))
        return -ENOMEM;
    return v[OPS].given ? parse_ops(disk, v[OPS].text, f->counts) : 0;
}

static int error_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                        void **ret_self)
{
    struct error *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    int r = configure(f, disk, info->values);
    f->armed = true;
    if (r == 0 && f->file) {
        r = start_watcher(f);
        if (r < 0)
            vd_filter_why(disk, "the thread that looks for the trigger file could not be started");
    }
    if (r < 0) {
        error_free(f);
        return r;
    }
    *ret_self = f;
    return 0;
}

static void error_detach(void *self)
{
    struct error *f = self;

    if (f->file)
        stop_watcher(f);
    error_free(f);
}

/* ---- requests ---- */

/* Of the Kth request: from 0 to below 1. */
static double chance(const struct error *f, uint64_t k)
{
    uint64_t z = f->seed + (k + 1) * 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Whether a request of OP is to fail. Counts it. */
static bool is_hit(struct error *f, uint32_t op)
{
    uint64_t k = atomic_fetch_add_explicit(&f->requests, 1, memory_order_relaxed);

    atomic_fetch_add_explicit(&f->seen[op], 1, memory_order_relaxed);
    if (!atomic_load_explicit(&f->armed, memory_order_relaxed))
        return false;
    bool hit = f->rates[op] > 0 && chance(f, k) < f->rates[op];
    if (f->nth && f->counts[op]) {
        uint64_t n = atomic_fetch_add_explicit(&f->counted, 1, memory_order_relaxed) + 1;
        hit = hit || n == f->nth || (f->from_nth && n > f->nth);
    }
    return hit;
}

static int error_submit(void *self, struct vd_filter_request *rq)
{
    struct error *f = self;

    if (rq->op >= VD_FILTER_OPS || !is_hit(f, rq->op))
        return VD_FILTER_PASS;
    if (f->after) {
        rq->self_data = AFTER;
        return VD_FILTER_PASS;
    }
    atomic_fetch_add_explicit(&f->injected[rq->op], 1, memory_order_relaxed);
    return -f->error;
}

static void error_done(void *self, struct vd_filter_request *rq)
{
    struct error *f = self;

    if (rq->self_data != AFTER || rq->result < 0)
        return;
    rq->result = -f->error;
    atomic_fetch_add_explicit(&f->injected[rq->op], 1, memory_order_relaxed);
}

static int error_status(void *self, char *ret_json, size_t len)
{
    struct error *f = self;
    unsigned long long seen[VD_FILTER_OPS], injected[VD_FILTER_OPS], all_seen = 0, all_injected = 0;
    size_t used;

    if (f->file) {
        pthread_mutex_lock(&f->mu);
        look(f);
        pthread_mutex_unlock(&f->mu);
    }
    for (int op = 0; op < VD_FILTER_OPS; op++) {
        all_seen += seen[op] = atomic_load(&f->seen[op]);
        all_injected += injected[op] = atomic_load(&f->injected[op]);
    }
    used =
        (size_t)snprintf(ret_json, len, "{\"armed\":%s,\"seen\":%llu,\"injected\":%llu,\"ops\":{",
                         atomic_load(&f->armed) ? "true" : "false", all_seen, all_injected);
    for (int op = 0; op < VD_FILTER_OPS && used < len; op++)
        used += (size_t)snprintf(ret_json + used, len - used,
                                 "%s\"%s\":{\"seen\":%llu,\"injected\":%llu}", op ? "," : "",
                                 op_names[op], seen[op], injected[op]);
    if (used < len)
        used += (size_t)snprintf(ret_json + used, len - used, "}}");
    return used < len ? 0 : -ENOSPC;
}

static const struct vd_filter_ops error = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "error",
    .description = "fails requests, by chance, by count or on demand",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .flags = VD_FILTER_ONLY_LOOKS,
    .options = options,
    .attach = error_attach,
    .detach = error_detach,
    .submit = error_submit,
    .done = error_done,
    .status = error_status,
};
VD_FILTER_EXPORT(error);
