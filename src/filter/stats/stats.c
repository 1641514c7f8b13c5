// SPDX-License-Identifier: Apache-2.0
/*
 * stats: how many requests of each kind a guest makes, how large they are and how long they take,
 * from this filter down. Histograms and not averages alone, as it is the tail that a guest feels.
 *
 * Buckets are powers of two: of latency from below 1 us to 2^24 us (16.8 s) and one for the rest, of
 * size from 512 bytes to 1 MiB and one for the rest. A quantile is interpolated in its bucket, so from 1 us on it
 * is at most a factor of two off, and exact at the ends (min, max).
 *
 * Threads: counters only, relaxed atomics, in shards by processor so that two of them seldom write
 * one cache line (the kernel's percpu_counter). No lock, so nothing is held if a request dies here. A
 * sum that is read while requests come may have one in some of its numbers and not yet in others; when
 * it is quiet the sums are exact. The number of requests is not kept: it is the sum of their latency
 * histogram, and so always agrees with it.
 *
 * With file=PATH the numbers of `status` are written there when the disk is closed or released, under
 * another name and then renamed, so that the file is always whole. file_mu keeps two writers apart.
 */
#include <vdiskfs/filter.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SHARDS 8u
#define LATENCIES 26u /* i: below 2^i us; the last: the rest */
#define SIZES 13u     /* i: up to 2^(9 + i) bytes; the last: the rest */
#define JSON_BYTES 65536u

/* A request keeps the time at which it came in self_data. */
_Static_assert(sizeof(void *) >= sizeof(uint64_t), "a pointer must hold a time in nanoseconds");

static const char *const op_names[VD_FILTER_OPS] = {"read", "write", "flush", "discard", "zero"};

enum option { FILE_ };
static const struct vd_filter_option options[] = {
    [FILE_] = {.key = "file",
               .type = VD_FILTER_PATH,
               .help = "the numbers are written there when the disk is closed"},
    {0},
};

struct counters {
    _Atomic uint64_t bytes, errors, sum_ns;
    _Atomic uint64_t min_ns_inverted; /* so that 0 is none yet */
    _Atomic uint64_t max_ns;
    _Atomic uint64_t latency[LATENCIES], size[SIZES];
};

struct shard {
    _Alignas(64) struct counters ops[VD_FILTER_OPS];
};

struct stats {
    struct vd_filter_disk *disk;
    time_t since;
    char *file; /* or NULL */
    pthread_mutex_t file_mu;
    struct shard shards[SHARDS]; /* atomic */
};

/* ---- requests ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* How many bits V has: the place of a value below 2^n is at most n. */
static unsigned bits(uint64_t v)
{
    return v ? 64 - (unsigned)__builtin_clzll(v) : 0;
}

static unsigned latency_bucket(uint64_t ns)
{
    unsigned i = bits(ns / 1000);
    return i < LATENCIES - 1 ? i : LATENCIES - 1;
}

static unsigned size_bucket(uint64_t bytes)
{
    unsigned i = bytes <= 512 ? 0 : bits(bytes - 1) - 9;
    return i < SIZES - 1 ? i : SIZES - 1;
}

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void raise_to(_Atomic uint64_t *counter, uint64_t v)
{
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    while (old < v && !atomic_compare_exchange_weak_explicit(counter, &old, v, memory_order_relaxed,
                                                             memory_order_relaxed))
        ;
}

static int stats_submit(void *self, struct vd_filter_request *rq)
{
    rq->self_data = (void *)(uintptr_t)now_ns();
    return VD_FILTER_PASS;
}

static void stats_done(void *self, struct vd_filter_request *rq)
{
    struct stats *f = self;
    uint64_t ns = now_ns() - (uint64_t)(uintptr_t)rq->self_data;

    if (rq->op >= VD_FILTER_OPS)
        return;
    struct counters *c = &f->shards[(unsigned)sched_getcpu() % SHARDS].ops[rq->op];
    add(&c->latency[latency_bucket(ns)], 1);
    add(&c->sum_ns, ns);
    raise_to(&c->max_ns, ns);
    raise_to(&c->min_ns_inverted, ~ns);
    if (rq->op != VD_FILTER_FLUSH)
        add(&c->size[size_bucket(rq->length)], 1);
    if (rq->result < 0)
        add(&c->errors, 1);
    else if (rq->op == VD_FILTER_READ || rq->op == VD_FILTER_WRITE)
        add(&c->bytes, (uint64_t)rq->result);
    else if (rq->op != VD_FILTER_FLUSH)
        add(&c->bytes, rq->length);
}

/* ---- sums ---- */

struct sum {
    uint64_t requests, bytes, errors, sum_ns, min_ns, max_ns;
    uint64_t latency[LATENCIES], size[SIZES];
};

static struct sum sum_of(struct stats *f, int op)
{
    struct sum s = {0};
    uint64_t min_inverted = 0;

    for (unsigned i = 0; i < SHARDS; i++) {
        struct counters *c = &f->shards[i].ops[op];
        s.bytes += atomic_load_explicit(&c->bytes, memory_order_relaxed);
        s.errors += atomic_load_explicit(&c->errors, memory_order_relaxed);
        s.sum_ns += atomic_load_explicit(&c->sum_ns, memory_order_relaxed);
        uint64_t max = atomic_load_explicit(&c->max_ns, memory_order_relaxed);
        uint64_t min = atomic_load_explicit(&c->min_ns_inverted, memory_order_relaxed);
        s.max_ns = max > s.max_ns ? max : s.max_ns;
        min_inverted = min > min_inverted ? min : min_inverted;
        for (unsigned k = 0; k < LATENCIES; k++)
            s.latency[k] += atomic_load_explicit(&c->latency[k], memory_order_relaxed);
        for (unsigned k = 0; k < SIZES; k++)
            s.size[k] += atomic_load_explicit(&c->size[k], memory_order_relaxed);
    }
    for (unsigned k = 0; k < LATENCIES; k++)
        s.requests += s.latency[k];
    s.min_ns = ~min_inverted < s.max_ns ? ~min_inverted : s.max_ns;
    return s;
}

/* The latency that PERCENT of the requests do not pass. There is one request at least. */
static uint64_t quantile_ns(const struct sum *s, unsigned percent)
{
    double rank = (double)s->requests * percent / 100, before = 0;
    unsigned k = 0;

    for (; k < LATENCIES - 1 && before + (double)s->latency[k] < rank; k++)
        before += (double)s->latency[k];
    double low = k ? 1000.0 * (double)(1ull << (k - 1)) : 0;
    double high = k < LATENCIES - 1 ? 1000.0 * (double)(1ull << k) : (double)s->max_ns;
    low = low < (double)s->min_ns ? (double)s->min_ns : low;
    high = high > (double)s->max_ns ? (double)s->max_ns : high;
    if (high <= low || !s->latency[k])
        return (uint64_t)low;
    return (uint64_t)(low + (high - low) * (rank - before) / (double)s->latency[k]);
}

/* ---- JSON ---- */

struct text {
    char *buf;
    size_t len, used; /* used >= len: it did not fit */
};

static void __attribute__((format(printf, 2, 3))) say(struct text *t, const char *format, ...)
{
    va_list args;

    if (t->used >= t->len)
        return;
    va_start(args, format);
    t->used += (size_t)vsnprintf(t->buf + t->used, t->len - t->used, format, args);
    va_end(args);
}

/* Microseconds with three digits behind the point, whatever the locale. */
static void say_us(struct text *t, const char *key, uint64_t ns)
{
    say(t, "\"%s\":%llu.%03llu,", key, (unsigned long long)ns / 1000,
        (unsigned long long)ns % 1000);
}

/* [[upper bound, count], ...] of what is not empty. The bound of the last is null: there is none. */
static void say_histogram(struct text *t, const uint64_t *counts, unsigned n, unsigned shift)
{
    const char *comma = "";

    say(t, "\"histogram\":[");
    for (unsigned k = 0; k < n; k++) {
        if (!counts[k])
            continue;
        if (k < n - 1)
            say(t, "%s[%llu,%llu]", comma, 1ull << (k + shift), (unsigned long long)counts[k]);
        else
            say(t, "%s[null,%llu]", comma, (unsigned long long)counts[k]);
        comma = ",";
    }
    say(t, "]");
}

static void say_op(struct text *t, struct stats *f, int op)
{
    struct sum s = sum_of(f, op);

    say(t, "%s\"%s\":{\"requests\":%llu,\"bytes\":%llu,\"errors\":%llu,\"latency_us\":{",
        op ? "," : "", op_names[op], (unsigned long long)s.requests, (unsigned long long)s.bytes,
        (unsigned long long)s.errors);
    if (s.requests) {
        say_us(t, "min", s.min_ns);
        say_us(t, "mean", s.sum_ns / s.requests);
        say_us(t, "max", s.max_ns);
        say_us(t, "p50", quantile_ns(&s, 50));
        say_us(t, "p99", quantile_ns(&s, 99));
    } else {
        say(t, "\"min\":null,\"mean\":null,\"max\":null,\"p50\":null,\"p99\":null,");
    }
    say_histogram(t, s.latency, LATENCIES, 0);
    say(t, "},\"size\":{");
    say_histogram(t, s.size, SIZES, 9);
    say(t, "}}");
}

static int stats_status(void *self, char *ret_json, size_t len)
{
    struct stats *f = self;
    struct text t = {.buf = ret_json, .len = len};
    char since[32];
    struct tm tm;

    strftime(since, sizeof(since), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&f->since, &tm));
    say(&t, "{\"since\":\"%s\",\"ops\":{", since);
    for (int op = 0; op < VD_FILTER_OPS; op++)
        say_op(&t, f, op);
    say(&t, "}}");
    return t.used < t.len ? 0 : -ENOSPC;
}

/* ---- the file ---- */

static int write_all(int fd, const char *p, size_t len)
{
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        p += n < 0 ? 0 : n;
        len -= n < 0 ? 0 : (size_t)n;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* Puts TEXT in the place of the file. */
static int replace_file(const char *file, const char *text)
{
    char *temporary;

    if (asprintf(&temporary, "%s.XXXXXX", file) < 0)
        return -ENOMEM;
    int fd = mkostemp(temporary, O_CLOEXEC);
    int r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
    if (fd >= 0) {
        close(fd);
        if (r == 0 && rename(temporary, file) < 0)
            r = -errno;
        if (r < 0)
            unlink(temporary);
    }
    free(temporary);
    return r;
}

static bool counted(struct stats *f)
{
    for (int op = 0; op < VD_FILTER_OPS; op++)
        if (sum_of(f, op).requests)
            return true;
    return false;
}

/* An open that asked for nothing (a snapshot's, a look's) leaves the numbers of the one before. */
static int save(struct stats *f)
{
    if (!counted(f))
        return 0;
    char *json = malloc(JSON_BYTES);
    if (!json)
        return -ENOMEM;
    pthread_mutex_lock(&f->file_mu);
    int r = stats_status(f, json, JSON_BYTES - 1);
    if (r == 0)
        r = replace_file(f->file, strcat(json, "\n"));
    pthread_mutex_unlock(&f->file_mu);
    free(json);
    return r;
}

/* Whether a file can be made beside PATH, an absolute one. A user should hear of it when he names it; later it
 * is no reason to go without the filter. */
static int check_file(struct vd_filter_disk *disk, const char *path)
{
    char why[512];
    char *folder = strndup(path, (size_t)(strrchr(path, '/') - path) + 1);

    if (!folder)
        return -ENOMEM;
    int r = access(folder, W_OK | X_OK) < 0 ? -errno : 0;
    if (r < 0) {
        snprintf(why, sizeof(why),
                 "no file can be made in %s: %s; name another place with file=PATH", folder,
                 strerrordesc_np(-r));
        vd_filter_why(disk, why);
    }
    free(folder);
    return r;
}

/* ---- the filter ---- */

static void stats_free(struct stats *f)
{
    pthread_mutex_destroy(&f->file_mu);
    free(f->file);
    free(f);
}

static int stats_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                        void **ret_self)
{
    const struct vd_filter_value *file = &info->values[FILE_];
    struct stats *f = aligned_alloc(_Alignof(struct stats), sizeof(*f));
    int r = 0;

    if (!f)
        return -ENOMEM;
    memset(f, 0, sizeof(*f));
    f->disk = disk;
    f->since = time(NULL);
    pthread_mutex_init(&f->file_mu, NULL);
    if (file->given && !(f->file = strdup(file->text)))
        r = -ENOMEM;
    if (r == 0 && f->file && info->fresh)
        r = check_file(disk, f->file);
    if (r < 0) {
        stats_free(f);
        return r;
    }
    *ret_self = f;
    return 0;
}

static void stats_detach(void *self)
{
    struct stats *f = self;

    if (f->file) {
        int r = save(f);
        if (r < 0) {
            char line[512];
            snprintf(line, sizeof(line), "the numbers could not be written to %s: %s", f->file,
                     strerrordesc_np(-r));
            vd_filter_log(f->disk, VD_FILTER_LOG_WARNING, line);
        }
    }
    stats_free(f);
}

static int stats_event(void *self, const struct vd_filter_event *event)
{
    struct stats *f = self;

    return event->type == VD_FILTER_EVENT_RELEASE && f->file ? save(f) : 0;
}

static const struct vd_filter_ops stats = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "stats",
    .description = "counts requests, with histograms of latency and size",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .flags = VD_FILTER_ONLY_LOOKS,
    .options = options,
    .attach = stats_attach,
    .detach = stats_detach,
    .submit = stats_submit,
    .done = stats_done,
    .event = stats_event,
    .status = stats_status,
};
VD_FILTER_EXPORT(stats);
