// SPDX-License-Identifier: Apache-2.0
/*
 * Kills a mount at each step (vd_step.h) of each operation on layers, and looks at what is left.
 *
 *   steps [--stride=N] [--only=NAME] [--at=N] [--keep] [--lib=LIB --rule=RULE]
 *
 * For each N a fresh folder, and three processes. The first prepares the scene and stops cleanly.
 * The second does the scene's acts and is killed at the Nth step; its progress is in shared memory.
 * The third looks: every disk and every snapshot must be as before or as after the act that was
 * cut, all alike; a second sweep finds nothing; the remaining acts can be done, from the cut one
 * on; after another mount, with the cache that was there or an empty one, all is as it should be;
 * disks that are written to keep apart; and once all are removed nothing is left. A scene ends when
 * its acts end before the Nth step.
 *
 * With the fault interposer LIB and a RULE of it, in which %u stands for N, the acts are not killed
 * but some call of theirs fails. Then an act may fail; it is tried once more, and if that fails too
 * the acts end there. The same must hold as after a cut.
 */
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "steps.h"
#include "vd_log.h"

#define STEP_S 60
#define N_MAX 3000
#define SHARED_FD 100

static struct options {
    const char *self, *only, *lib, *rule;
    unsigned stride, at;
    bool keep;
} opt = {.stride = 1};

/* Shared by the processes of one step. */
struct shared {
    atomic_uint act; /* being done; acts below it are done */
    unsigned failed; /* acts that failed */
    bool no_mount;
    char lie[700];
};

struct step {
    const struct scene *s;
    unsigned n;
    char dir[64];
    struct shared *sh;
};

/* In place of a change of the environment under threads: its first byte is changed. */
static char kill_at[] = "_DISKFS_TEST_KILL_STEP=00000000";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static bool lie(struct step *p, const char *fmt, ...) VD_PRINTF(2, 3);
static bool lie(struct step *p, const char *fmt, ...)
{
    if (p->sh->lie[0])
        return false;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->sh->lie, sizeof(p->sh->lie), fmt, ap);
    va_end(ap);
    return false;
}

static bool opened(struct step *p, struct mount *m)
{
    int r = mount_open(m, p->dir, 10000);
    return r == 0 || lie(p, "no mount: %s", strerror(-r));
}

/* ---- the three processes ---- */

static void prepare(struct step *p)
{
    struct mount m;
    if (!opened(p, &m))
        return;
    struct tale t = {.mount = &m};
    p->s->before(&t);
    if (t.failed)
        lie(p, "before: %s", t.why);
    mount_close(&m);
}

/* The acts, until one fails twice. */
static void do_acts(struct step *p, struct tale *t)
{
    for (unsigned i = 0;; i++) {
        atomic_store(&p->sh->act, i);
        if (i == p->s->arm)
            kill_at[0] = 'V';
        if (!p->s->act(t, i))
            break;
        if (t->failed && opt.lib) {
            fprintf(stderr, "act %u: %s\n", i, t->why);
            p->sh->failed++;
            t->failed = 0;
            (void)p->s->act(t, i);
        }
        if (t->failed) {
            fprintf(stderr, "act %u, again: %s\n", i, t->why);
            if (!opt.lib)
                lie(p, "act %u: %s", i, t->why);
            break;
        }
    }
}

static void act(struct step *p)
{
    struct mount m;
    struct tale t = {0};
    p->s->before(&t);
    if (!opt.lib) {
        snprintf(kill_at + sizeof(kill_at) - 9, 9, "%08u", p->n);
        putenv(kill_at);
    }
    int r = mount_open(&m, p->dir, 10000);
    if (r < 0) {
        p->sh->no_mount = true;
        if (!opt.lib)
            lie(p, "no mount: %s", strerror(-r));
        return;
    }
    t.mount = &m;
    do_acts(p, &t);
    for (unsigned i = 0; i < t.ndisks; i++)
        tale_close(&t, t.disk[i].name);
    mount_close(&m);
}

static struct shared *map_shared(bool make)
{
    if (make) {
        int fd = memfd_create("steps", 0);
        if (fd < 0 || ftruncate(fd, sizeof(struct shared)) < 0 || dup2(fd, SHARED_FD) < 0)
            die("shared");
        close(fd);
    }
    void *p = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
    if (p == MAP_FAILED)
        die("shared");
    return p;
}

/* The same under the interposer; in the end of a fork. */
static void exec_act(struct step *p)
{
    char path[128], rule[256], index[16];
    snprintf(path, sizeof(path), "%s/count", p->dir);
    snprintf(index, sizeof(index), "%u", (unsigned)(p->s - scenes));
    const char *n = strstr(opt.rule, "%u");
    snprintf(rule, sizeof(rule), "%.*s%u%s", (int)(n - opt.rule), opt.rule, p->n, n + 2);
    setenv("LD_PRELOAD", opt.lib, 1);
    setenv("VD_FAULT", rule, 1);
    setenv("VD_FAULT_COUNT", path, 1);
    execl(opt.self, opt.self, "act", p->dir, index, (char *)NULL);
    _exit(127);
}

static unsigned count_of(const struct step *p)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof(path), "%s/count", p->dir);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%u", &n) != 1)
        n = 0;
    return n;
}

/* T after the first DONE acts; false: there are not so many. */
static bool tell(struct step *p, struct tale *t, unsigned done)
{
    *t = (struct tale){0};
    p->s->before(t);
    for (unsigned i = 0; i < done; i++)
        if (!p->s->act(t, i))
            return false;
    return true;
}

static bool is_refused(struct step *p, struct mount *m)
{
    struct vd_disk *d;
    int r = p->s->refused ? disk_open(m, p->s->refused, &d) : 0;
    if (p->s->refused && r == 0)
        disk_close(m, d);
    return r == -EUCLEAN || r == -ESTALE;
}

/* How many acts were done, as the disks say. */
static bool find_state(struct step *p, struct mount *m, unsigned *ret_done)
{
    unsigned done = atomic_load(&p->sh->act);
    char why[2][400] = {"", "there is no such act"};
    const char *but = is_refused(p, m) ? p->s->refused : NULL;
    for (unsigned k = 0; k < 2; k++) {
        struct tale t;
        bool is = tell(p, &t, done + k);
        bool same = is && look_same(m, &t, but, why[k], sizeof(why[k]));
        tale_free(&t);
        if (same) {
            *ret_done = done + k;
            return true;
        }
    }
    return lie(p, "act %u: not as before it (%s), not as after it (%s)", done, why[0], why[1]);
}

static bool go_on(struct step *p, struct mount *m, struct tale *t, unsigned from)
{
    t->mount = m;
    unsigned i = from;
    while (!t->failed && p->s->act(t, i))
        i++;
    for (unsigned k = 0; k < t->ndisks; k++)
        tale_close(t, t->disk[k].name);
    t->mount = NULL;
    return t->failed ? lie(p, "done again, act %u: %s", i - 1, t->why) : true;
}

static void empty_cache(struct step *p)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/cache", p->dir);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void look_after(struct step *p)
{
    struct mount m;
    struct tale t = {0};
    char why[500] = "";
    unsigned done = 0;
    if (p->n % 3 == 0)
        empty_cache(p);
    if (!opened(p, &m))
        return;
    bool good = p->n % 2 || look_swept(&m, why, sizeof(why)) || lie(p, "at once: %s", why);
    good = good && find_state(p, &m, &done);
    good = good && ((look_remount(&m, why, sizeof(why)) && look_swept(&m, why, sizeof(why))) ||
                    lie(p, "%s", why));
    if (good) {
        tell(p, &t, done);
        good = go_on(p, &m, &t, done);
    }
    good = good && (look_same(&m, &t, NULL, why, sizeof(why)) || lie(p, "in the end: %s", why));
    mount_close(&m);
    if (p->n % 4 == 1)
        empty_cache(p);
    if (!good || !opened(p, &m))
        return;
    good = look_same(&m, &t, NULL, why, sizeof(why)) || lie(p, "mounted again: %s", why);
    good = good && (look_apart(&m, &t, why, sizeof(why)) || lie(p, "apart: %s", why));
    good = good && (look_removed(&m, &t, why, sizeof(why)) || lie(p, "removed: %s", why));
    mount_close(&m);
}

/* ---- the driver ---- */

static int run(struct step *p, const char *what, void (*body)(struct step *))
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        char path[128];
        snprintf(path, sizeof(path), "%s/log", p->dir);
        if (!freopen(path, "a", stderr))
            _exit(127);
        vd_log_init(what, VD_LOG_NOTE);
        alarm(STEP_S);
        body(p);
        _exit(0);
    }
    int status = 0;
    if (waitpid(pid, &status, 0) < 0)
        die("waitpid");
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && body == act;
    if (status != 0 && !killed)
        lie(p, "%s: ended with status %#x", what, (unsigned)status);
    return status;
}

static void show_log(const struct step *p)
{
    char line[600], path[128];
    snprintf(path, sizeof(path), "%s/log", p->dir);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        printf("    %s", line);
}

/* One N. True if its step was reached. */
static bool run_step(const struct scene *s, unsigned n, unsigned *bad)
{
    struct step p = {.s = s, .n = n};
    const char *tmp = getenv("TMPDIR");
    char path[128];
    snprintf(p.dir, sizeof(p.dir), "%.40s/vd-steps-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(p.dir))
        die(p.dir);
    snprintf(path, sizeof(path), "%s/source", p.dir);
    if (mkdir(path, 0700) < 0)
        die(path);
    p.sh = map_shared(true);
    run(&p, "before", prepare);
    int status = p.sh->lie[0] ? 0 : run(&p, "act", opt.lib ? exec_act : act);
    if (!p.sh->lie[0])
        run(&p, "look", look_after);
    if (p.sh->lie[0]) {
        ++*bad;
        printf("FAIL: %s at %u, act %u: %s\n", s->name, n, atomic_load(&p.sh->act), p.sh->lie);
        show_log(&p);
    }
    bool reached = opt.lib ? count_of(&p) >= n : status != 0;
    if (opt.at || (opt.keep && p.sh->lie[0]))
        printf("kept: %s\n", p.dir);
    else
        nftw(p.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    munmap(p.sh, sizeof(*p.sh));
    return reached;
}

static unsigned run_scene(const struct scene *s)
{
    unsigned bad = 0, n = 1 + (unsigned)(s - scenes) % opt.stride, steps = 0;
    if (opt.at) {
        run_step(s, opt.at, &bad);
        return bad;
    }
    for (; bad < 5 && n < N_MAX && run_step(s, n, &bad); n += opt.stride)
        steps++;
    if (!steps && !bad) /* a short scene that the stride stepped over */
        steps += run_step(s, 1, &bad);
    printf("%s: %s: %u %s\n", bad ? "FAIL" : "ok", s->name, steps, opt.lib ? "faults" : "kills");
    fflush(stdout);
    return bad + (steps == 0);
}

int main(int argc, char **argv)
{
    opt.self = argv[0];
    if (argc == 4 && strcmp(argv[1], "act") == 0) {
        struct step p = {.s = &scenes[atoi(argv[3])], .sh = map_shared(false)};
        snprintf(p.dir, sizeof(p.dir), "%s", argv[2]);
        opt.lib = argv[0];
        vd_log_init("act", VD_LOG_NOTE);
        alarm(STEP_S);
        act(&p);
        return 0;
    }
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--stride=", 9) == 0)
            opt.stride = (unsigned)atoi(argv[i] + 9);
        else if (strncmp(argv[i], "--only=", 7) == 0)
            opt.only = argv[i] + 7;
        else if (strncmp(argv[i], "--at=", 5) == 0)
            opt.at = (unsigned)atoi(argv[i] + 5);
        else if (strncmp(argv[i], "--lib=", 6) == 0)
            opt.lib = argv[i] + 6;
        else if (strncmp(argv[i], "--rule=", 7) == 0)
            opt.rule = argv[i] + 7;
        else if (strcmp(argv[i], "--keep") == 0)
            opt.keep = true;
    unsigned bad = 0;
    for (unsigned i = 0; i < nscenes; i++)
        if ((!opt.only || strcmp(scenes[i].name, opt.only) == 0) &&
            !(opt.lib && scenes[i].arm_only))
            bad += run_scene(&scenes[i]);
    return bad ? 1 : 0;
}
