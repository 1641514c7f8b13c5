// SPDX-License-Identifier: Apache-2.0
/*
 * stall SOURCE MOUNT DISK: how long a guest waits while snapshots are taken.
 *
 * One thread does what the most impatient guest does: it writes 4 KiB at random and makes each
 * write durable, with nothing in between. The other lets it run alone for a time, then has a
 * snapshot taken every INTERVAL. Of the times between two neighbouring ends of a write or a flush
 *
 *   alone     are those before the first snapshot: what the device alone makes of it
 *   during    those any part of which lies within a snapshot's command
 *   between   those after: what is still done behind the guest's back
 *
 * and `longest` is the longest of those of each snapshot: what one snapshot costs the guest. The
 * device's own stalls are in all of them, so they mean something beside `alone` only; the guest is
 * alone as long as all snapshots take.
 *
 * The guest's times belong to its thread until it is joined; `stop` and `failed` are all that is
 * shared.
 */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "ask.h"
#include "hammer.h"
#include "vd_time.h"

#define SNAPSHOTS_MAX 10000u
#define ENDS_MAX (1u << 22) /* at most; the guest stops there */

struct options {
    unsigned snapshots, interval_ms;
    const char *prefix; /* of the snapshots' names */
    uint64_t range_bytes;
    const char *source, *mount, *path;
};

struct guest {
    int fd;
    uint64_t nblocks, rng;
    uint64_t *ends; /* ENDS_MAX: when a write or a flush ended, ns */
    size_t nends;
    atomic_bool stop;
    atomic_int failed; /* errno */
};

struct window {
    uint64_t begin, end;
};

/* One write, one flush. */
static int step(struct guest *g, void *block)
{
    off_t off = (off_t)(hammer_random(&g->rng) % g->nblocks << VD_BLOCK_SHIFT);
    memset(block, (int)g->nends, VD_BLOCK_SIZE);
    ssize_t n = pwrite(g->fd, block, VD_BLOCK_SIZE, off);
    if (n != (ssize_t)VD_BLOCK_SIZE)
        return n < 0 ? errno : EIO;
    g->ends[g->nends++] = vd_now_ns();
    if (fdatasync(g->fd) < 0)
        return errno;
    g->ends[g->nends++] = vd_now_ns();
    return 0;
}

static void *guest_run(void *arg)
{
    struct guest *g = arg;
    vd_cleanup_free void *block = aligned_alloc(VD_BLOCK_SIZE, VD_BLOCK_SIZE);
    int err = block ? 0 : ENOMEM;
    while (err == 0 && !atomic_load(&g->stop) && g->nends + 2 <= ENDS_MAX)
        err = step(g, block);
    atomic_store(&g->failed, err);
    return NULL;
}

static void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static int take_snapshots(const struct bench_disk *disk, const struct options *o, struct window *w)
{
    for (unsigned i = 0; i < o->snapshots; i++) {
        char name[128];
        snprintf(name, sizeof(name), "%s-%u", o->prefix, i);
        w[i].begin = vd_now_ns();
        int r = bench_ask(disk, "snapshot", "name", name, NULL);
        w[i].end = vd_now_ns();
        if (r < 0)
            return r;
        sleep_ms(o->interval_ms);
    }
    return 0;
}

enum when { ALONE, DURING, BETWEEN, NWHEN };

/* Of a gap that begins at FROM and ends at TO; *NEXT is the first window that may still meet one. */
static enum when when_was(const struct window *w, unsigned n, unsigned *next, uint64_t from,
                          uint64_t to)
{
    while (*next < n && w[*next].end < from)
        (*next)++;
    if (to < w[0].begin)
        return ALONE;
    return *next < n && w[*next].begin <= to ? DURING : BETWEEN;
}

static json_t *report(const struct guest *g, const struct window *w, unsigned n)
{
    static const char *const names[NWHEN] = {"alone_ms", "during_ms", "between_ms"};
    uint64_t *gaps[NWHEN];
    size_t ngaps[NWHEN] = {0};
    vd_cleanup_free uint64_t *all = calloc(NWHEN * g->nends + 2 * (size_t)n, sizeof(*all));
    json_t *o = all ? json_pack("{s:i}", "snapshots", (int)n) : NULL;
    unsigned next = 0;
    if (!o)
        return NULL;
    for (int k = 0; k < NWHEN; k++)
        gaps[k] = all + (size_t)k * g->nends;
    uint64_t *took = all + NWHEN * g->nends, *longest = took + n;
    for (size_t i = 1; i < g->nends; i++) {
        uint64_t gap = g->ends[i] - g->ends[i - 1];
        enum when k = when_was(w, n, &next, g->ends[i - 1], g->ends[i]);
        gaps[k][ngaps[k]++] = gap;
        if (k == DURING)
            longest[next] = vd_max(longest[next], gap);
    }
    for (unsigned i = 0; i < n; i++)
        took[i] = w[i].end - w[i].begin;
    json_object_set_new(o, "snapshot_ms", bench_spread(took, n));
    json_object_set_new(o, "longest_ms", bench_spread(longest, n));
    for (int k = 0; k < NWHEN; k++)
        json_object_set_new(o, names[k], bench_spread(gaps[k], ngaps[k]));
    return o;
}

static int usage(void)
{
    fprintf(stderr, "usage: stall [--snapshots=N] [--interval-ms=N] [--prefix=NAME] [--range=BYTES]"
                    " SOURCE MOUNT DISK\n");
    return 2;
}

static bool parse(int argc, char **argv, struct options *o)
{
    enum { OPT_SNAPSHOTS, OPT_INTERVAL, OPT_PREFIX, OPT_RANGE };
    static const struct option options[] = {
        {"snapshots", required_argument, NULL, OPT_SNAPSHOTS},
        {"interval-ms", required_argument, NULL, OPT_INTERVAL},
        {"prefix", required_argument, NULL, OPT_PREFIX},
        {"range", required_argument, NULL, OPT_RANGE},
        {0},
    };
    *o = (struct options){
        .snapshots = 20, .interval_ms = 250, .prefix = "stall", .range_bytes = UINT64_MAX};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == OPT_SNAPSHOTS)
            o->snapshots = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == OPT_INTERVAL)
            o->interval_ms = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == OPT_PREFIX)
            o->prefix = optarg;
        else if (c == OPT_RANGE)
            o->range_bytes = strtoull(optarg, NULL, 10);
        else
            return false;
    }
    if (argc - optind != 3 || o->snapshots == 0 || o->snapshots > SNAPSHOTS_MAX)
        return false;
    o->source = argv[optind];
    o->mount = argv[optind + 1];
    o->path = argv[optind + 2];
    return o->range_bytes >= VD_BLOCK_SIZE;
}

/* Opens the disk and writes to it once: to own it is no stall of a snapshot's. */
static int guest_open(struct guest *g, const struct options *o)
{
    char file[2 * PATH_MAX];
    struct stat st;
    vd_cleanup_free void *block = aligned_alloc(VD_BLOCK_SIZE, VD_BLOCK_SIZE);
    snprintf(file, sizeof(file), "%s/%s", o->mount, o->path);
    g->fd = open(file, O_RDWR | O_DIRECT | O_CLOEXEC);
    int err = g->fd < 0 || fstat(g->fd, &st) < 0 ? errno : 0;
    if (err == 0) {
        g->nblocks = vd_min((uint64_t)st.st_size, o->range_bytes) >> VD_BLOCK_SHIFT;
        err = g->nblocks && block ? step(g, block) : EINVAL;
        g->nends = 0;
    }
    if (err)
        fprintf(stderr, "%s: %s\n", file, strerror(err));
    return -err;
}

/* The guest's life. */
static int watch(struct guest *g, const struct options *o, struct window *w)
{
    struct bench_disk disk;
    pthread_t thread;
    if (bench_disk_find(o->source, o->path, &disk) < 0 || guest_open(g, o) < 0 ||
        pthread_create(&thread, NULL, guest_run, g) != 0)
        return 1;
    sleep_ms(vd_max(o->snapshots * o->interval_ms, 1000u));
    int r = take_snapshots(&disk, o, w);
    atomic_store(&g->stop, true);
    pthread_join(thread, NULL);
    int err = atomic_load(&g->failed);
    if (err)
        fprintf(stderr, "%s: the guest's write or flush failed: %s\n", o->path, strerror(err));
    return r < 0 || err ? 1 : bench_print(report(g, w, o->snapshots));
}

int main(int argc, char **argv)
{
    struct options o;
    struct guest g = {.fd = -1, .rng = 1};
    if (!parse(argc, argv, &o))
        return usage();
    vd_cleanup_free struct window *w = calloc(o.snapshots, sizeof(*w));
    vd_cleanup_free uint64_t *ends = calloc(ENDS_MAX, sizeof(*ends));
    if (!w || !ends)
        return 1;
    g.ends = ends;
    int r = watch(&g, &o, w);
    vd_close_p(&g.fd);
    return r;
}
