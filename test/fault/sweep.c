// SPDX-License-Identifier: Apache-2.0
/*
 * Fails, or kills at, the Nth call that writes metadata or cache, for every N there is.
 *
 *   sweep LIB [--stride=N] [--jobs=N] [--only=TEXT] [--at=N]
 *
 * LIB is the fault interposer. Each step is a life (life.c) in a process of its own under LIB with
 * one rule, in a fresh folder, and a look after it in another process without faults. A sweep ends
 * when fewer than N calls matched its rule. With --stride every so-manieth N is taken, from one
 * that differs from sweep to sweep; --only and --at repeat one step, and keep its folder and log.
 */
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sweep.h"
#include "vd_log.h"

#define STEP_S 60 /* a step takes a tenth of a second */
#define N_MAX 5000
#define MODEL_FD 100
#define META "/source/.vdiskfs"
#define CACHE "/cache"
#define FULL "writes,fallocate,create,mkdir,ftruncate,xattr"

/* What the folder holds when the faults begin: nothing; what a clean stop leaves; what a kill in
 * the middle of a commit, or of an eviction, leaves. */
enum start { FRESH, WARM, CUT_META, CUT_CACHE };

enum kind {
    STEADY = 1,     /* faults of the cache alone: no request may fail */
    PATH_BOUND = 2, /* the source takes no attributes */
    EVERY = 4,      /* few calls: every N, whatever the stride */
};

static const struct sweep {
    const char *name;
    enum start start;
    unsigned kind;
    const char *rule; /* a format for N */
} sweeps[] = {
    {"meta-eio-fresh", FRESH, 0, "any:" META ":%u:errno=EIO"},
    {"meta-eio-warm", WARM, 0, "any:" META ":%u:errno=EIO"},
    {"meta-eio-cut", CUT_META, 0, "any:" META ":%u:errno=EIO"},
    {"meta-dead-fresh", FRESH, 0, "any:" META ":%u+:errno=EIO"},
    {"meta-full-fresh", FRESH, 0, FULL ":" META ":%u+:errno=ENOSPC"},
    {"meta-full-warm", WARM, 0, FULL ":" META ":%u+:errno=ENOSPC"},
    {"meta-torn-fresh", FRESH, 0, "writes:" META ":%u:tear=1000,errno=EIO"},
    {"meta-torn-cut", CUT_META, 0, "writes:" META ":%u:tear=20,errno=ENOSPC"},
    {"meta-short-fresh", FRESH, 0, "writes:" META ":%u:tear=20"},
    {"meta-kill-fresh", FRESH, 0, "any:" META ":%u:kill"},
    {"meta-kill-warm", WARM, 0, "any:" META ":%u:kill"},
    {"meta-kill-cut", CUT_META, 0, "any:" META ":%u:kill"},
    {"meta-tornkill-fresh", FRESH, 0, "writes:" META ":%u:tear=20,kill"},
    {"meta-tornkill-warm", WARM, 0, "writes:" META ":%u:tear=1000,kill"},
    {"path-eio-fresh", FRESH, PATH_BOUND, "any:" META ":%u:errno=EIO"},
    {"path-kill-fresh", FRESH, PATH_BOUND, "any:" META ":%u:kill"},
    {"attr-eio", FRESH, EVERY, "xattr:/source/:%u:errno=EIO"},
    {"attr-kill", FRESH, EVERY, "xattr:/source/:%u:kill"},
    {"data-kill-warm", WARM, EVERY, "any:/source/d:%u:kill"},
    {"cache-eio-fresh", FRESH, STEADY, "any:" CACHE ":%u:errno=EIO"},
    {"cache-eio-warm", WARM, STEADY, "any:" CACHE ":%u:errno=EIO"},
    {"cache-eio-cut", CUT_CACHE, STEADY, "any:" CACHE ":%u:errno=EIO"},
    {"cache-dead-warm", WARM, STEADY, "any:" CACHE ":%u+:errno=EIO"},
    {"cache-full-fresh", FRESH, STEADY, FULL ":" CACHE ":%u+:errno=ENOSPC"},
    {"cache-full-cut", CUT_CACHE, STEADY, FULL ":" CACHE ":%u+:errno=ENOSPC"},
    {"cache-nospace-warm", WARM, STEADY, FULL ":" CACHE ":%u:errno=ENOSPC"},
    {"cache-torn-fresh", FRESH, STEADY, "writes:" CACHE ":%u:tear=1000,errno=EIO"},
    {"cache-torn-warm", WARM, STEADY, "writes:" CACHE ":%u:tear=20,errno=ENOSPC"},
    {"cache-short-cut", CUT_CACHE, STEADY, "writes:" CACHE ":%u:tear=20"},
    {"cache-kill-fresh", FRESH, STEADY, "any:" CACHE ":%u:kill"},
    {"cache-kill-warm", WARM, STEADY, "any:" CACHE ":%u:kill"},
    {"cache-kill-cut", CUT_CACHE, STEADY, "any:" CACHE ":%u:kill"},
    {"cache-tornkill-warm", WARM, STEADY, "writes:" CACHE ":%u:tear=1000,kill"},
};

static struct options {
    const char *self, *lib, *only;
    unsigned stride, jobs, at;
} opt = {.stride = 1, .jobs = 1};

struct totals {
    atomic_uint steps, faulted, unmounted, requests, failed, bad;
};

/* A step's own. */
struct step {
    const struct sweep *s;
    unsigned n;
    char dir[64];
    char rule[256];
    struct model *m;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

/* In memory that is inherited as MODEL_FD, through exec too. */
static struct model *map_model(bool make)
{
    if (make) {
        int fd = memfd_create("model", 0);
        if (fd < 0 || ftruncate(fd, sizeof(struct model)) < 0 || dup2(fd, MODEL_FD) < 0)
            die("model");
        close(fd);
    }
    void *p = mmap(NULL, sizeof(struct model), PROT_READ | PROT_WRITE, MAP_SHARED, MODEL_FD, 0);
    if (p == MAP_FAILED)
        die("model");
    return p;
}

/* Writes the disk as model_init says, all zero, with some bytes in it. */
static void make_source(struct step *t)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/source", t->dir);
    if (mkdir(path, 0700) < 0)
        die(path);
    snprintf(path, sizeof(path), "%s/source/d", t->dir);
    vd_cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (uint64_t i = 0; i < DISK_BYTES; i++)
        t->m->value[0][i] = model_byte(251, i);
    if (fd < 0 || pwrite(fd, t->m->value[0], DISK_BYTES, 0) != DISK_BYTES)
        die(path);
}

/* Runs "sweep life DIR ..." under RULE; its wait status. */
static int run_life(struct step *t, const char *rule, const char *ready_ms)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        char path[128];
        snprintf(path, sizeof(path), "%s/log", t->dir);
        int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log < 0 || dup2(log, 2) < 0)
            _exit(127);
        snprintf(path, sizeof(path), "%s/count", t->dir);
        setenv("LD_PRELOAD", opt.lib, 1);
        setenv("VD_FAULT", rule, 1);
        setenv("VD_FAULT_COUNT", path, 1);
        execl(opt.self, opt.self, "life", t->dir, t->s->kind & STEADY ? "steady" : "", ready_ms,
              (char *)NULL);
        _exit(127);
    }
    int status = 0;
    if (waitpid(pid, &status, 0) < 0)
        die("waitpid");
    return status;
}

/* How often the first rule of the last life matched. */
static unsigned count_of(const struct step *t)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof(path), "%s/count", t->dir);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%u", &n) != 1)
        n = 0;
    return n;
}

static void prepare(struct step *t)
{
    static const char *const before[] = {
        [WARM] = "any::0:errno=EIO",
        [CUT_META] = "writes:/meta.mdb:12:kill",
        [CUT_CACHE] = "writes:/cache/data:31:kill",
    };
    make_source(t);
    if (t->s->start == FRESH)
        return;
    int status = run_life(t, before[t->s->start], "10000");
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (t->s->start == WARM ? status != 0 : !killed)
        model_lie(t->m, "the preparation ended with status %#x", (unsigned)status);
}

static int run_look(struct step *t)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        char path[128];
        snprintf(path, sizeof(path), "%s/log", t->dir);
        int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log < 0 || dup2(log, 2) < 0)
            _exit(127);
        vd_log_init("look", VD_LOG_NOTE);
        alarm(STEP_S);
        _exit(look(t->m, t->dir));
    }
    int status = 0;
    if (waitpid(pid, &status, 0) < 0)
        die("waitpid");
    return status;
}

static void judge(struct step *t, struct totals *sum, int status)
{
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    sum->unmounted += WIFEXITED(status) && WEXITSTATUS(status) == LIFE_NO_MOUNT;
    if (!(killed && strstr(t->rule, "kill")) &&
        !(WIFEXITED(status) &&
          (WEXITSTATUS(status) == LIFE_GOOD || WEXITSTATUS(status) == LIFE_NO_MOUNT)))
        model_lie(t->m, "the life ended with status %#x", (unsigned)status);
    if (!t->m->lie[0]) {
        status = run_look(t);
        if (status != 0)
            model_lie(t->m, "the look ended with status %#x", (unsigned)status);
    }
}

static void show_log(const struct step *t)
{
    char line[600], path[128];
    snprintf(path, sizeof(path), "%s/log", t->dir);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        printf("    %s", line);
}

/* One N. True if its fault was reached. */
static bool run_step(const struct sweep *s, unsigned n, struct totals *sum)
{
    struct step t = {.s = s, .n = n};
    const char *tmp = getenv("TMPDIR");
    snprintf(t.dir, sizeof(t.dir), "%.40s/vd-sweep-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(t.dir))
        die(t.dir);
    t.m = map_model(true);
    model_init(t.m);
    int len = snprintf(t.rule, sizeof(t.rule), s->rule, n);
    if (s->kind & PATH_BOUND)
        snprintf(t.rule + len, sizeof(t.rule) - (size_t)len, ";xattr::1+:errno=EOPNOTSUPP");
    prepare(&t);
    if (!t.m->lie[0])
        judge(&t, sum, run_life(&t, t.rule, s->start == FRESH ? "10000" : "0"));
    bool reached = count_of(&t) >= n;
    sum->steps++;
    sum->faulted += reached;
    sum->requests += t.m->requests;
    sum->failed += t.m->failed;
    if (t.m->lie[0]) {
        sum->bad++;
        printf("FAIL: %s at %u (%s): %s\n", s->name, n, t.rule, t.m->lie);
        show_log(&t);
    }
    munmap(t.m, sizeof(*t.m));
    if (opt.at)
        printf("kept: %s\n", t.dir);
    else
        nftw(t.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return reached;
}

/* Worker WHICH of opt.jobs takes every so-manieth step. */
static void run_share(const struct sweep *s, unsigned which, struct totals *sum)
{
    unsigned stride = s->kind & EVERY ? 1 : opt.stride;
    unsigned first = 1 + (unsigned)(s - sweeps) % stride;
    for (unsigned i = which; sum->bad < 5; i += opt.jobs) {
        unsigned n = first + i * stride;
        if (!run_step(s, n, sum) || n > N_MAX)
            break;
    }
}

static void run_sweep(const struct sweep *s, struct totals *sum)
{
    if (opt.at) {
        run_step(s, opt.at, sum);
        return;
    }
    pid_t pids[64];
    for (unsigned i = 0; i < opt.jobs; i++) {
        fflush(stdout);
        pids[i] = fork();
        if (pids[i] < 0)
            die("fork");
        if (pids[i] == 0) {
            run_share(s, i, sum);
            fflush(stdout);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < opt.jobs; i++) {
        int status;
        if (waitpid(pids[i], &status, 0) < 0 || status != 0)
            sum->bad++;
    }
}

static int run_all(void)
{
    unsigned bad = 0;
    struct totals *sum =
        mmap(NULL, sizeof(*sum), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sum == MAP_FAILED)
        die("mmap");
    for (size_t i = 0; i < VD_ARRAY_SIZE(sweeps); i++) {
        if (opt.only && !strstr(sweeps[i].name, opt.only))
            continue;
        memset(sum, 0, sizeof(*sum));
        run_sweep(&sweeps[i], sum);
        /* A rule that never matches tests nothing. */
        bool idle = sum->faulted == 0;
        printf("%s: %s: %u faults, %u without a mount, %u of %u requests failed\n",
               sum->bad || idle ? "FAIL" : "ok", sweeps[i].name, sum->faulted, sum->unmounted,
               sum->failed, sum->requests);
        fflush(stdout);
        bad += sum->bad + idle;
    }
    return bad ? 1 : 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: sweep LIB [--stride=N] [--jobs=N] [--only=TEXT] [--at=N]\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "life") == 0) {
        vd_log_init("life", VD_LOG_NOTE);
        alarm(STEP_S);
        return life(map_model(false), argv[2], argv[3][0], (unsigned)atoi(argv[4]));
    }
    opt.self = "/proc/self/exe";
    for (int i = 1; i < argc; i++)
        if (sscanf(argv[i], "--stride=%u", &opt.stride) != 1 &&
            sscanf(argv[i], "--jobs=%u", &opt.jobs) != 1 &&
            sscanf(argv[i], "--at=%u", &opt.at) != 1) {
            if (strncmp(argv[i], "--only=", 7) == 0)
                opt.only = argv[i] + 7;
            else if (argv[i][0] != '-' && !opt.lib)
                opt.lib = argv[i];
            else
                return usage();
        }
    if (!opt.lib || !opt.stride || !opt.jobs || opt.jobs > 64)
        return usage();
    return run_all();
}
