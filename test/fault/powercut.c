// SPDX-License-Identifier: Apache-2.0
/*
 * Power cuts, as many as wanted, of one run.
 *
 *   powercut record MOUNTPOINT HISTORY
 *       serves an empty file system and notes in HISTORY, in one order, every change and every sync
 *       that is made there
 *         --poke=FILE   (more than once) somebody maps FILE, relative: see powercut_serve.c
 *         --delay=US    a sync takes up to so long
 *   powercut serve MOUNTPOINT HISTORY --at=N --mode=MODE --seed=N
 *       serves what a power cut before event N would have left. MODE is kept, dropped, random or
 *       strict; what each means, and what is durable, stands in powercut_cut.c
 *         --graft=NAME:N   NAME, in the root, as a cut before event N left it: of two cuts one file
 *                          system
 *         --record=FILE    and notes in FILE what is done from there on, so that the power can be
 *                          cut again
 *   powercut list HISTORY [--at=N]
 *       the events as text; of the N-th and some around it
 *   powercut pick HISTORY --count=N --seed=N
 *       places to cut, after the last `settle`: anywhere, beside what syncs and names, and between
 *       two notes in a file OPS_NAME
 *   powercut log LOG OUT [--began=N --ended=N]
 *       a log of hammer's in which what was not flushed counts as in flight, since after a power
 *       cut it may be torn. With numbers of its records: the log of a copy of the file whose making
 *       began and ended there, so that what was done before is in it, flushed or not
 *
 * The first two return once they serve, and end when the mount is gone or on SIGTERM; the history
 * is whole when they have ended. A source, caches and metadata that lie in one such file system are
 * cut off at one moment, and so is hammer's log, below TOLD_NAME: a flush counts as acknowledged if
 * hammer had noted it. Time stamps and inode numbers are those of the recording, so vdiskfs knows
 * its disks again, and caches stay warm where a power cut would let them.
 *
 * Why a file system and not a library that is loaded before others: it misses nothing (libc's own
 * writes, direct system calls, children, several programs at once), there is one order of events
 * without asking anybody, and inode numbers and stamps of what is replayed can be what they were.
 *
 * The idea of choosing among what was not synced is that of ALICE (Pillai et al., OSDI 2014), of
 * dm-log-writes and of CrashMonkey (Mohan et al., OSDI 2018).
 */
#include <getopt.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../bench/hammer.h"
#include "powercut.h"

struct options {
    struct cut cut;
    struct cut graft;
    char graft_name[64];
    const char *record;
    uint64_t count, began, ended;
    struct served served;
    const char *argv[3];
    int argc;
};

static int usage(void)
{
    fprintf(stderr, "usage: powercut record [--poke=FILE]... [--delay=US] MOUNTPOINT HISTORY\n"
                    "       powercut serve --at=N --mode=MODE --seed=N [--graft=NAME:N] "
                    "[--record=FILE] MOUNTPOINT HISTORY\n"
                    "       powercut list [--at=N] HISTORY\n"
                    "       powercut pick --count=N --seed=N HISTORY\n"
                    "       powercut log [--began=N --ended=N] LOG OUT\n"
                    "MODE: kept, dropped, random or strict\n");
    return 2;
}

static int complain(const char *path, int r)
{
    fprintf(stderr, "powercut: %s: %s\n", path, strerror(-r));
    return 1;
}

/* ---- record and serve ---- */

/* Serves in a child, and returns when it answers. */
static int serve_behind(struct served *s, const char *mountpoint)
{
    int ready[2];
    char byte;
    if (pipe(ready) < 0)
        return complain("pipe", -errno);
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork", -errno);
    if (pid == 0) {
        close(ready[0]);
        setsid();
        /* who reads what the parent printed waits for the end of it */
        if (!freopen("/dev/null", "w", stdout))
            _exit(1);
        int r = fs_serve(s, mountpoint, ready[1]);
        if (s->h && history_free(s->h) < 0)
            r = complain("the history", -EIO);
        _exit(r);
    }
    close(ready[1]);
    ssize_t n = read(ready[0], &byte, 1);
    close(ready[0]);
    if (n == 1) {
        printf("%ld\n", (long)pid);
        return 0;
    }
    waitpid(pid, NULL, 0);
    return 1;
}

static int record(struct options *o)
{
    int r = history_new(o->argv[1], &o->served.h);
    if (r < 0)
        return complain(o->argv[1], r);
    o->served.w = world_new();
    return serve_behind(&o->served, o->argv[0]);
}

static int graft(const struct options *o, const struct history *h)
{
    struct world *from = NULL;
    struct cut c = o->graft;
    c.mode = o->cut.mode;
    c.seed = o->cut.seed;
    int r = cut_world(h, &c, &from);
    if (r == 0)
        world_graft(o->served.w, from, o->graft_name);
    world_free(from);
    return r;
}

static int serve(struct options *o)
{
    struct history *h = NULL;
    int r = history_load(o->argv[1], &h);
    if (r == 0)
        r = cut_world(h, &o->cut, &o->served.w);
    if (r == 0 && o->graft_name[0])
        r = graft(o, h);
    if (r < 0)
        return complain(o->argv[1], r);
    if (o->record && !o->graft_name[0]) {
        r = history_new(o->record, &o->served.h);
        if (r < 0)
            return complain(o->record, r);
        struct event e = {.type = EV_BASE,
                          .flags = o->cut.mode,
                          .off = o->cut.at,
                          .len = o->cut.seed,
                          .name = o->argv[1]};
        history_append(o->served.h, &e);
    }
    return serve_behind(&o->served, o->argv[0]);
}

/* ---- looking at a history ---- */

static void print_event(uint64_t i, const struct event *e)
{
    printf("%llu %s ino %llu", (unsigned long long)i, event_name(e->type),
           (unsigned long long)e->ino);
    if (e->dir)
        printf(" %llu/%s", (unsigned long long)e->dir, e->name);
    else if (e->name_len)
        printf(" %s", e->name);
    if (e->dir2)
        printf(" -> %llu/%s", (unsigned long long)e->dir2, e->name2);
    printf(" off %llu len %llu data %u flags %u\n", (unsigned long long)e->off,
           (unsigned long long)e->len, e->data_len, e->flags);
}

#define AROUND 12u
#define OPS_NAME "ops"

static int list(const struct options *o)
{
    struct history *h = NULL;
    int r = history_load(o->argv[0], &h);
    if (r < 0)
        return complain(o->argv[0], r);
    uint64_t at = o->cut.at, first = at && at > AROUND ? at - AROUND : 0;
    for (uint64_t i = first; i < (at ? vd_min(at + AROUND, h->n) : h->n); i++)
        print_event(i, &h->events[i]);
    history_free(h);
    return 0;
}

static bool is_landmark(const struct event *e)
{
    return e->type != EV_WRITE && e->type != EV_SETTLE && e->type != EV_BASE;
}

/* What stands between two notes of OPS_NAME: the places where they were written, from FIRST on. */
static uint64_t find_notes(const struct history *h, uint64_t first, uint64_t *ret_places)
{
    uint64_t ops = 0, n = 0;
    for (uint64_t i = 0; i < h->n; i++) {
        const struct event *e = &h->events[i];
        if (e->type == EV_CREATE && strcmp(e->name, OPS_NAME) == 0)
            ops = e->ino;
        if (ops && e->type == EV_WRITE && e->ino == ops && i >= first)
            ret_places[n++] = i;
    }
    return n;
}

/* Anywhere; beside a landmark; while something was done that is noted. */
static uint64_t pick_one(const struct history *h, uint64_t first, const uint64_t *notes,
                         uint64_t nnotes, uint64_t kind, uint64_t *seed)
{
    uint64_t from = first, to = h->n;
    if (kind == 2 && nnotes > 1) {
        uint64_t i = cut_random(seed) % (nnotes - 1);
        from = notes[i];
        to = notes[i + 1];
    }
    uint64_t at = from + cut_random(seed) % (to - from + 1);
    if (kind == 1) {
        while (at < h->n && !is_landmark(&h->events[at]))
            at++;
        at = vd_min(at + cut_random(seed) % 2, h->n);
    }
    return at;
}

static int pick(struct options *o)
{
    struct history *h = NULL;
    int r = history_load(o->argv[0], &h);
    if (r < 0)
        return complain(o->argv[0], r);
    uint64_t first = 0;
    for (uint64_t i = 0; i < h->n; i++)
        if (h->events[i].type == EV_SETTLE)
            first = i + 1;
    vd_cleanup_free uint64_t *notes = calloc(h->n + 1, sizeof(*notes));
    if (!notes)
        return complain(o->argv[0], -ENOMEM);
    uint64_t nnotes = find_notes(h, first, notes);
    for (uint64_t i = 0; i < o->count; i++)
        printf("%llu\n",
               (unsigned long long)pick_one(h, first, notes, nnotes, i % 3, &o->cut.seed));
    history_free(h);
    return 0;
}

/* ---- hammer's log ---- */

/* Is record I of type REC to be in the log, whose flushes cover what is before UPTO? */
static bool is_kept(const struct options *o, const struct hammer_record *rec, uint64_t i,
                    uint64_t upto)
{
    if (rec->type == HAMMER_DONE)
        return i < upto;
    if (rec->type == HAMMER_FLUSH && o->ended)
        return i < o->began;
    return !o->ended || i < o->ended;
}

static int log_out(const struct options *o, FILE *in, FILE *out)
{
    uint8_t bytes[HAMMER_RECORD_SIZE];
    struct hammer_record rec;
    uint64_t upto = o->began;
    for (uint64_t i = 0; !o->ended && fread(bytes, sizeof(bytes), 1, in) == 1; i++)
        if (hammer_record_decode(bytes, &rec) == 0 && rec.type == HAMMER_FLUSH)
            upto = vd_max(upto, rec.flush.upto);
    rewind(in);
    for (uint64_t i = 0; fread(bytes, sizeof(bytes), 1, in) == 1; i++) {
        if (hammer_record_decode(bytes, &rec) < 0)
            return -EBADMSG;
        if (is_kept(o, &rec, i, upto))
            fwrite(bytes, sizeof(bytes), 1, out);
    }
    if (o->ended) {
        /* nothing before BEGAN was left out, so it counts the same records there */
        rec = (struct hammer_record){.type = HAMMER_FLUSH, .flush = {.upto = o->began}};
        hammer_record_encode(&rec, bytes);
        fwrite(bytes, sizeof(bytes), 1, out);
    }
    return ferror(in) || ferror(out) ? -EIO : 0;
}

static int filter_log(const struct options *o)
{
    vd_cleanup_fclose FILE *in = fopen(o->argv[0], "re");
    if (!in)
        return complain(o->argv[0], -errno);
    FILE *out = fopen(o->argv[1], "we");
    if (!out)
        return complain(o->argv[1], -errno);
    int r = log_out(o, in, out);
    if (fclose(out) && r == 0)
        r = -errno;
    return r < 0 ? complain(o->argv[1], r) : 0;
}

/* ---- options ---- */

static int parse_number(const char *text, uint64_t *ret_value)
{
    char *end;
    errno = 0;
    *ret_value = strtoull(text, &end, 10);
    return errno || end == text || *end || *text == '-' ? -EINVAL : 0;
}

static int parse_graft(const char *text, struct options *o)
{
    const char *colon = strchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(o->graft_name))
        return -EINVAL;
    memcpy(o->graft_name, text, (size_t)(colon - text));
    return parse_number(colon + 1, &o->graft.at);
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option long_options[] = {{"at", 1, NULL, 'a'},
                                                 {"mode", 1, NULL, 'm'},
                                                 {"seed", 1, NULL, 's'},
                                                 {"graft", 1, NULL, 'g'},
                                                 {"count", 1, NULL, 'c'},
                                                 {"poke", 1, NULL, 'p'},
                                                 {"delay", 1, NULL, 'd'},
                                                 {"began", 1, NULL, 'b'},
                                                 {"ended", 1, NULL, 'e'},
                                                 {"record", 1, NULL, 'r'},
                                                 {0}};
    uint64_t n = 0;
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        int r = c == 'm'                           ? cut_mode_parse(optarg, &o->cut.mode)
                : c == 'g'                         ? parse_graft(optarg, o)
                : c == 'p' || c == 'r' || c == '?' ? 0
                                                   : parse_number(optarg, &n);
        if (r < 0 || c == '?')
            return -EINVAL;
        if (c == 'p' && o->served.npoke < VD_ARRAY_SIZE(o->served.poke))
            o->served.poke[o->served.npoke++] = optarg;
        else if (c == 'r')
            o->record = optarg;
        else if (c == 'd')
            o->served.sync_delay_us = (unsigned)n;
        else if (c != 'm' && c != 'g' && c != 'p')
            *(c == 'a'   ? &o->cut.at
              : c == 's' ? &o->cut.seed
              : c == 'c' ? &o->count
              : c == 'b' ? &o->began
                         : &o->ended) = n;
    }
    for (int i = optind; i < argc && o->argc < 3; i++)
        o->argv[o->argc++] = argv[i];
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {.served = {.mu = PTHREAD_MUTEX_INITIALIZER}};
    const char *what = argc > 1 ? argv[1] : "";
    if (argc < 2 || parse(argc - 1, argv + 1, &o) < 0)
        return usage();
    if (strcmp(what, "record") == 0 && o.argc == 2)
        return record(&o);
    if (strcmp(what, "serve") == 0 && o.argc == 2)
        return serve(&o);
    if (strcmp(what, "list") == 0 && o.argc == 1)
        return list(&o);
    if (strcmp(what, "pick") == 0 && o.argc == 1)
        return pick(&o);
    if (strcmp(what, "log") == 0 && o.argc == 2)
        return filter_log(&o);
    return usage();
}
