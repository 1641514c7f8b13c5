// SPDX-License-Identifier: Apache-2.0
/*
 * Fails, or kills at, the Nth call that writes a block map, for every N there is.
 *
 *   maps LIB [--only=TEXT] [--at=N]     with --at the step's folder is kept
 *
 * LIB is the fault interposer. A step is a life of a map (made, changed, flushed, folded, frozen,
 * baked, merged) in a process of its own under LIB with one rule, and a look at what it left,
 * without faults, in this one. The life notes in shared memory what it was told: after it
 * everything that was acknowledged is there, and what was made durable is what is believed after a
 * power cut.
 */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "vd_map.h"

#define BLOCKS 96u
#define OPS 40u
#define DURABLE_MAX 8u

static const char *const rules[] = {
    "any:/maps:%u:errno=EIO",
    "any:/maps:%u+:errno=EIO",
    "writes,fallocate,create,mkdir:/maps:%u+:errno=ENOSPC",
    "writes,fallocate,create,mkdir:/maps:%u:errno=ENOSPC",
    "writes:/maps:%u:tear=20,errno=EIO",
    "writes:/maps:%u:tear=20",
    "any:/maps:%u:kill",
    "writes:/maps:%u:tear=20,kill",
};

struct blocks {
    uint8_t state[BLOCKS];
};

/* What the life was told. */
struct notes {
    bool made, begun, frozen, merged, finished;
    struct blocks now; /* all that succeeded */
    struct blocks
        maybe;      /* with the first change that failed, or was cut off, since one that did not */
    bool has_maybe; /* there is one */
    bool failed;    /* a change, for good */
    /* After the last flush that succeeded, and after each that failed since. */
    struct blocks durable[DURABLE_MAX];
    unsigned ndurable;
    char lie[256];
};

static struct vd_id id_of(uint8_t n)
{
    return (struct vd_id){{0xfa, n}};
}

static void lie(struct notes *n, const char *what)
{
    if (!n->lie[0])
        snprintf(n->lie, sizeof(n->lie), "%s", what);
}

/* ---- the life ---- */

static bool same_live(const struct vd_live_map *lm, const struct blocks *b)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t run;
        if (vd_live_map_get(lm, i, 1, &run) != (enum vd_block_state)b->state[i])
            return false;
    }
    return true;
}

static void change(struct vd_live_map *lm, struct notes *n, unsigned i)
{
    unsigned first = i * 37 % BLOCKS, len = vd_min(1 + i % 5, BLOCKS - first);
    enum vd_block_state state = i % 3 ? VD_BLOCK_OWN : VD_BLOCK_ZERO;
    if (!n->has_maybe) {
        n->maybe = n->now;
        memset(&n->maybe.state[first], (int)state, len);
        n->has_maybe = true;
    }
    struct blocks with = n->now;
    memset(&with.state[first], (int)state, len);
    int r = vd_live_map_set(lm, first, len, state);
    if (n->failed && r != -EIO)
        lie(n, "a change after a failed one");
    n->failed |= r < 0 && r != -ENOSPC;
    if (r == 0) {
        n->now = with;
        n->has_maybe = false;
    }
    if (!same_live(lm, &n->now))
        lie(n, "a change did not do what it said");
}

/* Before what may make everything so far durable, and after it. */
static void durable_maybe(struct notes *n)
{
    if (n->ndurable < DURABLE_MAX)
        n->durable[n->ndurable++] = n->now;
    else
        lie(n, "too many flushes failed");
}

static void durable_done(struct notes *n)
{
    n->durable[0] = n->now;
    n->ndurable = 1;
}

static int sync_nothing(void *user)
{
    return 0;
}

static void freeze(struct vd_maps *maps, struct vd_live_map *lm, struct notes *n)
{
    char why[VD_META_WHY];
    struct vd_id merged = id_of(3);
    struct vd_map *m;
    durable_maybe(n);
    if (vd_live_map_mark(lm, vd_live_map_pending(lm)) < 0)
        return;
    durable_done(n);
    if (vd_live_map_freeze(lm, &m) < 0)
        return lie(n, "freeze failed");
    n->frozen = true;
    for (int i = 0; i < 3 && vd_map_bake(m) < 0; i++)
        ;
    struct vd_map_merge merge = {.maps = &m, .nmaps = 1, .nblocks = BLOCKS};
    n->merged = vd_maps_merge(maps, &merge, &merged, why) == 0;
    vd_map_unref(m);
}

static int life(const char *dir, struct notes *n)
{
    struct vd_id id = id_of(1), layer = id_of(2);
    struct vd_meta_store *s;
    struct vd_maps *maps;
    struct vd_live_map *lm;
    char why[VD_META_WHY];
    if (vd_meta_store_open(AT_FDCWD, dir, true, &s) < 0 || vd_maps_open(s, 1 << 20, &maps) < 0)
        return 1;
    durable_done(n);
    for (int i = 0; i < 3 && !n->made; i++)
        n->made = vd_live_map_make(maps, &id, &layer, 4096) == 0;
    if (!n->made || vd_live_map_open(maps, &id, VD_MAP_TRUST_ALL, &lm, why) < 0)
        return n->made;
    for (int i = 0; i < 3 && !n->begun; i++)
        n->begun = vd_live_map_begin(lm) == 0;
    for (unsigned i = 0; n->begun && i < OPS; i++) {
        change(lm, n, i);
        if (i % 6 == 5) {
            durable_maybe(n);
            if (i % 18 == 17 ? vd_live_map_fold(lm, sync_nothing, NULL) == 0
                             : vd_live_map_mark(lm, vd_live_map_pending(lm)) == 0)
                durable_done(n);
        }
    }
    if (n->begun)
        freeze(maps, lm, n);
    vd_live_map_close(lm);
    vd_maps_close(maps);
    vd_meta_store_close(s);
    n->finished = true;
    return 0;
}

/* ---- the look ---- */

static int complain(void *user, const char *what)
{
    lie(user, what);
    return 0;
}

static void look_frozen(struct vd_maps *maps, uint8_t which, struct notes *n)
{
    struct vd_id id = id_of(which);
    struct vd_map *m;
    char why[VD_META_WHY] = "";
    int r = vd_map_get(maps, &id, &m, why);
    if (r < 0)
        return lie(n, why[0] ? why : strerror(-r));
    for (unsigned i = 0; i < BLOCKS; i++) {
        static const uint32_t want[] = {VD_MAP_NONE, 0, VD_MAP_ZERO};
        uint32_t layer;
        uint64_t run;
        if (vd_map_find(m, i, 1, true, &layer, &run) < 0 || layer != want[n->now.state[i]])
            lie(n, "a frozen map differs");
    }
    vd_map_unref(m);
}

static struct vd_live_map *open_live(struct vd_maps *maps, enum vd_map_trust trust, struct notes *n)
{
    struct vd_id id = id_of(1);
    struct vd_live_map *lm = NULL;
    char why[VD_META_WHY] = "";
    int r = vd_live_map_open(maps, &id, trust, &lm, why);
    if (r < 0 && (n->made || r != -ENOENT))
        lie(n, why[0] ? why : strerror(-r));
    return lm;
}

static void look_live(struct vd_maps *maps, struct notes *n)
{
    struct vd_live_map *lm = open_live(maps, VD_MAP_TRUST_MARKED, n);
    bool found = !lm;
    for (unsigned i = 0; lm && i < n->ndurable; i++)
        found |= same_live(lm, &n->durable[i]);
    if (!found)
        lie(n, "what was flushed is not what is believed");
    vd_live_map_close(lm);
    lm = open_live(maps, VD_MAP_TRUST_ALL, n);
    if (!lm)
        return;
    if (n->has_maybe && same_live(lm, &n->maybe))
        n->now = n->maybe;
    if (!same_live(lm, &n->now))
        lie(n, "what was acknowledged is not there");
    n->has_maybe = n->failed = false;
    if (vd_live_map_begin(lm) < 0)
        lie(n, "it cannot be gone on with");
    else
        change(lm, n, 1000);
    vd_live_map_close(lm);
    lm = open_live(maps, VD_MAP_TRUST_ALL, n);
    if (lm && !same_live(lm, &n->now))
        lie(n, "a change after it is gone");
    vd_live_map_close(lm);
}

static int verify_one(void *user, const struct vd_id *id)
{
    void **u = user;
    if (vd_maps_verify(u[0], id, complain, u[1]) < 0)
        lie(u[1], "verify failed");
    return 0;
}

static void look_for_leftovers(const char *dir, struct notes *n)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/maps", dir);
    DIR *d = opendir(path);
    unsigned files = 0;
    for (const struct dirent *e; d && (e = readdir(d));) {
        files += e->d_name[0] != '.';
        if (strstr(e->d_name, ".new"))
            lie(n, e->d_name);
    }
    if (files > 4) /* a table, two logs after a fold that failed; or a merged map */
        lie(n, "files are left over");
    if (d)
        closedir(d);
}

static void look(const char *dir, struct notes *n)
{
    struct vd_meta_store *s;
    struct vd_maps *maps;
    if (vd_meta_store_open(AT_FDCWD, dir, true, &s) < 0 || vd_maps_open(s, 1 << 20, &maps) < 0)
        return lie(n, "open");
    void *user[] = {maps, n};
    if (vd_maps_each(maps, false, verify_one, user) < 0)
        lie(n, "each failed");
    if (n->frozen)
        look_frozen(maps, 1, n);
    else
        look_live(maps, n);
    if (n->merged)
        look_frozen(maps, 3, n);
    if (vd_maps_each(maps, true, verify_one, user) < 0)
        lie(n, "the sweep failed");
    look_for_leftovers(dir, n);
    vd_maps_close(maps);
    vd_meta_store_close(s);
}

/* ---- steps ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static struct notes *map_notes(const char *dir)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/notes", dir);
    vd_cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct notes *n = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof(*n)) == 0)
        n = mmap(NULL, sizeof(*n), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (n != MAP_FAILED)
        return n;
    perror(path);
    exit(2);
}

static int run_life(const char *self, const char *lib, const char *dir, const char *rule)
{
    char count[128];
    pid_t pid = fork();
    if (pid == 0) {
        snprintf(count, sizeof(count), "%s/count", dir);
        setenv("LD_PRELOAD", lib, 1);
        setenv("VD_FAULT", rule, 1);
        setenv("VD_FAULT_COUNT", count, 1);
        setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
        execl(self, self, "life", dir, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        perror("life");
    return status;
}

/* How often the rule matched in the last life. */
static unsigned count_of(const char *dir)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof(path), "%s/count", dir);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%u", &n) != 1)
        n = 0;
    return n;
}

/* True: the rule acted. */
static bool one_step(const char *self, const char *lib, const char *format, unsigned at, bool keep,
                     unsigned *bad)
{
    char dir[] = "/tmp/vd-fault-XXXXXX", rule[128];
    if (!mkdtemp(dir)) {
        perror(dir);
        exit(2);
    }
    struct notes *n = map_notes(dir);
    snprintf(rule, sizeof(rule), format, at);
    int status = run_life(self, lib, dir, rule);
    unsigned count = count_of(dir);
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && strstr(format, "kill");
    if (!killed && status != 0)
        lie(n, "the life ended otherwise than it should");
    look(dir, n);
    if (n->lie[0]) {
        printf("FAIL %s: %s\n", rule, n->lie);
        ++*bad;
    }
    munmap(n, sizeof(*n));
    if (keep)
        printf("%s\n", dir);
    else
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return count >= at;
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    unsigned from = 1, to = 10000, steps = 0, bad = 0;
    if (argc == 3 && strcmp(argv[1], "life") == 0)
        return life(argv[2], map_notes(argv[2]));
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], "--only=", 7) == 0)
            only = argv[i] + 7;
        if (strncmp(argv[i], "--at=", 5) == 0)
            from = to = (unsigned)atoi(argv[i] + 5);
    }
    if (argc < 2) {
        fprintf(stderr, "usage: maps LIB [--only=TEXT] [--at=N]\n");
        return 2;
    }
    for (unsigned i = 0; i < VD_ARRAY_SIZE(rules); i++) {
        unsigned before = steps;
        if (only && !strstr(rules[i], only))
            continue;
        for (unsigned at = from; at <= to; at++, steps++)
            if (!one_step("/proc/self/exe", argv[1], rules[i], at, from == to, &bad))
                break;
        printf("%s: %u\n", rules[i], steps - before);
    }
    printf("%u steps, %u bad\n", steps, bad);
    return bad ? 1 : steps > 0 ? 0 : 2;
}
