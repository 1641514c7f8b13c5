// SPDX-License-Identifier: Apache-2.0
/*
 * trace: writes down each request of a disk, to see what a guest does (format=full) or to do it again
 * (format=replay, what bench/replay reads).
 *
 * A guest never waits for the file. Requests are put into a bounded ring (ring.c) and written by a
 * thread of the filter's; where it cannot follow, records are dropped and counted. A full record is
 * put when the request is done, as it says how long it took; one for replay when it comes, as their
 * order is what matters.
 *
 * The writer sleeps while there is nothing: it says so in `asleep`, and who puts a record then and
 * finds it set wakes it. It takes a nap of NAP_MS before it looks, so that many requests are one
 * wake-up and one write(2), and somebody who flushes cuts the nap short.
 *
 * Flushing (when the disk drains or is released): whatever was put before is in the file, or given up,
 * when the event returns; but a file that hangs holds it for FLUSH_S at most. Only detach waits as
 * long as it takes: the thread must have ended.
 *
 * The file is appended to, with whole lines in one write(2) each time, and begins with a header that
 * says what the columns are. A file that begins with anything else is refused: it is not a trace. If a
 * write fails, the lines that are not in the file are dropped, but the rest of a line that is there in
 * part is kept and written before the next, so that the file goes on with a whole line.
 *
 * Threads: atomics, or the writer's only; mu is for flushed_to, and held for an assignment. No request takes it.
 */
#include <vdiskfs/filter.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#define RECORDS 65536u
#define OUT_BYTES 65536u
#define LINE_BYTES 192u /* the longest: seven numbers of 20 digits, and a name */
#define NAP_MS 10u
#define FLUSH_S 1 /* a hand-over to another mount has 2 s */

/* A request keeps the time at which it came in self_data. */
_Static_assert(sizeof(void *) >= sizeof(uint64_t), "a pointer must hold a time in nanoseconds");

static const char *const op_names[VD_FILTER_OPS] = {"read", "write", "flush", "discard", "zero"};
static const char *const headers[] = {"time,id,op,offset,length,result,latency_us\n",
                                      "op,offset,length\n"}; /* in the order of the formats */

enum option { FILE_, FORMAT };
static const struct vd_filter_option options[] = {
    [FILE_] = {.key = "file",
               .type = VD_FILTER_PATH,
               .must = true,
               .help = "what the requests are appended to"},
    [FORMAT] = {.key = "format",
                .type = VD_FILTER_CHOICE,
                .default_value = "full",
                .choices = "full|replay",
                .help = "all of each, or reads and writes for bench/replay"},
    {0},
};

struct trace {
    struct vd_filter_disk *disk;
    bool replay;
    int fd;
    struct ring *ring;
    pthread_t writer;
    sem_t wake;
    _Atomic bool asleep; /* the writer, or soon: wake it */
    _Atomic bool hurry;  /* no nap */
    _Atomic bool stop;
    _Atomic uint64_t written, dropped, errors; /* lines, records, failed writes */

    pthread_mutex_t mu;
    pthread_cond_t flushed;
    uint64_t flushed_to; /* lock: mu; records before this position are in the file or given up */

    /* the writer only */
    char *out;
    size_t out_len;
    uint64_t out_lines; /* that begin in it */
    bool torn;          /* it begins with the rest of a line whose beginning is in the file */
    bool told;          /* that a write failed */
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the writer ---- */

static uint64_t lines_in(const char *p, const char *end)
{
    uint64_t n = 0;
    while ((p = memchr(p, '\n', (size_t)(end - p)))) {
        n++;
        p++;
    }
    return n;
}

/* A write failed at P, of what ends at END: keeps the rest of a line whose beginning is in the file, drops the
 * others. */
static void give_up(struct trace *f, const char *p, const char *end)
{
    int error = errno;
    const char *rest = p;

    f->torn = p > f->out ? p[-1] != '\n' : f->torn;
    if (f->torn)
        rest = (const char *)memchr(p, '\n', (size_t)(end - p)) + 1;
    uint64_t lost = lines_in(rest, end);
    atomic_fetch_add(&f->dropped, lost);
    atomic_fetch_add(&f->written, f->out_lines - lost);
    atomic_fetch_add(&f->errors, 1);
    f->out_len = (size_t)(rest - p);
    memmove(f->out, p, f->out_len);
    if (!f->told) {
        char line[256];
        snprintf(line, sizeof(line),
                 "the trace cannot be written: %s; requests are dropped from it meanwhile (this is "
                 "said once)",
                 strerrordesc_np(error));
        vd_filter_log(f->disk, VD_FILTER_LOG_WARNING, line);
        f->told = true;
    }
}

static void write_out(struct trace *f)
{
    const char *p = f->out, *end = f->out + f->out_len;

    while (p < end) {
        ssize_t n = write(f->fd, p, (size_t)(end - p));
        if (n > 0)
            p += n;
        else if (n < 0 && errno != EINTR)
            break;
    }
    if (p < end) {
        give_up(f, p, end);
    } else {
        atomic_fetch_add(&f->written, f->out_lines);
        f->out_len = 0;
        f->torn = false;
    }
    f->out_lines = 0;
    pthread_mutex_lock(&f->mu);
    f->flushed_to = ring_takes(f->ring);
    pthread_cond_broadcast(&f->flushed);
    pthread_mutex_unlock(&f->mu);
}

static void add_line(struct trace *f, const struct record *r)
{
    char *p = f->out + f->out_len;
    int n;

    if (f->replay)
        n = snprintf(p, LINE_BYTES, "%c,%llu,%llu\n", r->op == VD_FILTER_READ ? 'r' : 'w',
                     (unsigned long long)r->offset, (unsigned long long)r->length);
    else
        n = snprintf(p, LINE_BYTES, "%llu.%06llu,%llu,%s,%llu,%llu,%lld,%llu.%03llu\n",
                     (unsigned long long)(r->time_us / 1000000),
                     (unsigned long long)(r->time_us % 1000000), (unsigned long long)r->id,
                     op_names[r->op], (unsigned long long)r->offset, (unsigned long long)r->length,
                     (long long)r->result, (unsigned long long)(r->latency_ns / 1000),
                     (unsigned long long)(r->latency_ns % 1000));
    f->out_len += (size_t)n;
    f->out_lines++;
}

static void drain(struct trace *f)
{
    struct record r;

    while (ring_take(f->ring, &r)) {
        add_line(f, &r);
        if (f->out_len + LINE_BYTES > OUT_BYTES)
            write_out(f);
    }
    write_out(f);
}

static void await_records(struct trace *f)
{
    struct timespec until;

    atomic_store(&f->asleep, true);
    if (ring_is_empty(f->ring))
        sem_wait(&f->wake);
    atomic_store(&f->asleep, false);
    if (atomic_exchange(&f->hurry, false))
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += NAP_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    sem_clockwait(&f->wake, CLOCK_MONOTONIC, &until);
}

static void *writer(void *arg)
{
    struct trace *f = arg;
    bool stop = false;

    while (!stop) {
        await_records(f);
        stop = atomic_load(&f->stop); /* before it looks: what was put before the stop is written */
        drain(f);
    }
    return NULL;
}

/* Has the writer look now. */
static void call_writer(struct trace *f)
{
    atomic_store(&f->hurry, true);
    sem_post(&f->wake);
}

/* The daemon's signals are not for this thread. */
static int start_writer(struct trace *f)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&f->writer, NULL, writer, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

static void flush(struct trace *f)
{
    uint64_t want = ring_puts(f->ring);
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FLUSH_S;
    call_writer(f);
    pthread_mutex_lock(&f->mu);
    while (f->flushed_to < want && r == 0)
        r = pthread_cond_timedwait(&f->flushed, &f->mu, &until);
    pthread_mutex_unlock(&f->mu);
}

/* ---- requests ---- */

static void put(struct trace *f, const struct record *r)
{
    if (!ring_put(f->ring, r))
        atomic_fetch_add_explicit(&f->dropped, 1, memory_order_relaxed);
    else if (atomic_load(&f->asleep) && atomic_exchange(&f->asleep, false))
        sem_post(&f->wake);
}

static int trace_submit(void *self, struct vd_filter_request *rq)
{
    struct trace *f = self;

    if (!f->replay)
        rq->self_data = (void *)(uintptr_t)clock_ns(CLOCK_MONOTONIC);
    else if (rq->op == VD_FILTER_READ || rq->op == VD_FILTER_WRITE)
        put(f, &(struct record){.offset = rq->offset, .length = rq->length, .op = rq->op});
    return VD_FILTER_PASS;
}

static void trace_done(void *self, struct vd_filter_request *rq)
{
    struct trace *f = self;

    if (f->replay || rq->op >= VD_FILTER_OPS)
        return;
    uint64_t ns = clock_ns(CLOCK_MONOTONIC) - (uint64_t)(uintptr_t)rq->self_data;
    put(f, &(struct record){.id = rq->id,
                            .offset = rq->offset,
                            .length = rq->length,
                            .result = rq->result,
                            .time_us = (clock_ns(CLOCK_REALTIME) - ns) / 1000,
                            .latency_ns = ns,
                            .op = rq->op});
}

static int trace_event(void *self, const struct vd_filter_event *event)
{
    if (event->type == VD_FILTER_EVENT_DRAIN || event->type == VD_FILTER_EVENT_RELEASE)
        flush(self);
    return 0;
}

/* ---- the filter ---- */

/* The trace in FD: a new one gets a header, an old one must have it. NULL, or what is wrong and what to do. */
static const char *check_file(int fd, const char *header, int *ret_error)
{
    char old[64] = "";
    size_t len = strlen(header);
    struct stat st;

    *ret_error = -EINVAL;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return "is not a regular file; name another with file=PATH";
    if (st.st_size > 0) {
        if (pread(fd, old, len, 0) == (ssize_t)len && memcmp(old, header, len) == 0)
            return NULL;
        return "is not empty and not a trace in this format; name another with file=PATH";
    }
    ssize_t n = write(fd, header, len);
    if (n == (ssize_t)len)
        return NULL;
    *ret_error = n < 0 ? -errno : -ENOSPC;
    if (n > 0 && ftruncate(fd, 0) < 0)
        *ret_error = -errno;
    return "could not be written; make room there, or name another with file=PATH";
}

static int open_file(struct trace *f, const char *path)
{
    const char *wrong;
    char why[512];
    int error;

    /* Not a pipe without a reader, that would never open. */
    f->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                 0600);
    if (f->fd < 0) {
        error = -errno;
        snprintf(why, sizeof(why), "%s cannot be opened: %s; name another with file=PATH", path,
                 error == -ELOOP ? "it is a symbolic link" : strerrordesc_np(-error));
        vd_filter_why(f->disk, why);
        return error;
    }
    wrong = check_file(f->fd, headers[f->replay], &error);
    if (!wrong)
        return 0;
    snprintf(why, sizeof(why), "%s %s", path, wrong);
    vd_filter_why(f->disk, why);
    return error;
}

static void trace_free(struct trace *f)
{
    if (f->fd >= 0)
        close(f->fd);
    ring_free(f->ring);
    free(f->out);
    sem_destroy(&f->wake);
    pthread_cond_destroy(&f->flushed);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

static int trace_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                        void **ret_self)
{
    struct trace *f = calloc(1, sizeof(*f));
    pthread_condattr_t attr;

    if (!f)
        return -ENOMEM;
    f->disk = disk;
    f->replay = info->values[FORMAT].number == 1;
    f->fd = -1;
    sem_init(&f->wake, 0, 0);
    pthread_mutex_init(&f->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->flushed, &attr);
    pthread_condattr_destroy(&attr);
    f->ring = ring_new(RECORDS);
    f->out = malloc(OUT_BYTES);
    int r = f->ring && f->out ? open_file(f, info->values[FILE_].text) : -ENOMEM;
    if (r == 0) {
        r = start_writer(f);
        if (r < 0)
            vd_filter_why(disk, "the thread that writes the trace could not be started");
    }
    if (r < 0) {
        trace_free(f);
        return r;
    }
    *ret_self = f;
    return 0;
}

static void trace_detach(void *self)
{
    struct trace *f = self;

    atomic_store(&f->stop, true);
    call_writer(f);
    pthread_join(f->writer, NULL);
    trace_free(f);
}

static int trace_status(void *self, char *ret_json, size_t len)
{
    struct trace *f = self;

    pthread_mutex_lock(&f->mu);
    uint64_t flushed_to = f->flushed_to; /* before the puts, so that they are not fewer */
    pthread_mutex_unlock(&f->mu);
    uint64_t queued = ring_puts(f->ring) - flushed_to;
    int n = snprintf(
        ret_json, len, "{\"written\":%llu,\"queued\":%llu,\"dropped\":%llu,\"errors\":%llu}",
        (unsigned long long)atomic_load(&f->written), (unsigned long long)queued,
        (unsigned long long)atomic_load(&f->dropped), (unsigned long long)atomic_load(&f->errors));
    return (size_t)n < len ? 0 : -ENOSPC;
}

static const struct vd_filter_ops trace = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "trace",
    .description = "writes each request to a file",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .flags = VD_FILTER_ONLY_LOOKS,
    .options = options,
    .attach = trace_attach,
    .detach = trace_detach,
    .submit = trace_submit,
    .done = trace_done,
    .event = trace_event,
    .status = trace_status,
};
VD_FILTER_EXPORT(trace);
