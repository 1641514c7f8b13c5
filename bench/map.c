// SPDX-License-Identifier: Apache-2.0
/*
 * What block maps cost, alone: map FOLDER [EXTENTS]. Prints one line a measurement; FOLDER is used
 * and left empty. A map of EXTENTS (10 million) is made by a merge, opened and looked up in.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "vd_map.h"
#include "vd_time.h"

#define LOOKUPS 4000000u

static struct vd_id id_of(uint64_t n)
{
    struct vd_id id = {{0xbe}};
    memcpy(id.b + 8, &n, sizeof(n));
    return id;
}

static void must(int r, const char *what)
{
    if (r >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(-r));
    exit(1);
}

static uint64_t step(uint64_t *s)
{
    *s = *s * 6364136223846793005ull + 1442695040888963407ull;
    return *s >> 33;
}

static long rss_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Wall clock, and the processor's time, which others on the machine do not add to. */
struct since {
    uint64_t wall_ns, cpu_ns;
};

static struct since now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (struct since){vd_now_ns(), (uint64_t)vd_timespec_ns(ts)};
}

static void say(const char *what, struct since t, uint64_t n, const char *unit)
{
    struct since end = now();
    printf("%-26s %10.1f ns, %10.1f ns of CPU a %s; %7.2f s, %ld MiB resident\n", what,
           (double)(end.wall_ns - t.wall_ns) / (double)n,
           (double)(end.cpu_ns - t.cpu_ns) / (double)n, unit,
           (double)(end.wall_ns - t.wall_ns) / 1e9, rss_kib() / 1024);
}

static int sync_nothing(void *user)
{
    return 0;
}

/* Every fourth block of its own. */
static struct vd_live_map *live(struct vd_maps *maps, uint64_t n)
{
    struct vd_id id = id_of(1), layer = id_of(101);
    struct vd_live_map *lm;
    char why[VD_META_WHY];
    uint64_t seed = 1, run, sum = 0;
    struct since t;
    must(vd_live_map_make(maps, &id, &layer, n * 4 * VD_BLOCK_SIZE), "make");
    must(vd_live_map_open(maps, &id, VD_MAP_TRUST_ALL, &lm, why), "open");
    must(vd_live_map_begin(lm), "begin");
    t = now();
    for (uint64_t i = 0; i < n; i++)
        must(vd_live_map_set(lm, 4 * i + 1, 1, VD_BLOCK_OWN), "set");
    say("live: set", t, n, "change");
    t = now();
    for (uint64_t i = 0; i < LOOKUPS; i++)
        sum += vd_live_map_get(lm, step(&seed) % (n * 4), 4, &run) + run;
    say("live: get, anywhere", t, LOOKUPS, "lookup");
    t = now();
    for (uint64_t i = 0; i < LOOKUPS; i++)
        sum += vd_live_map_get(lm, step(&seed) % 100000, 4, &run) + run;
    say("live: get, in 400 MiB", t, LOOKUPS, "lookup");
    t = now();
    must(vd_live_map_fold(lm, sync_nothing, NULL), "fold");
    say("live: fold", t, n, "extent");
    vd_live_map_close(lm);
    t = now();
    must(vd_live_map_open(maps, &id, VD_MAP_TRUST_ALL, &lm, why), "open");
    must(vd_live_map_begin(lm), "begin");
    say("live: open a table", t, n, "extent");
    return sum ? lm : NULL;
}

static void frozen(struct vd_maps *maps, const struct vd_id *id, uint64_t nblocks)
{
    struct vd_map *m;
    char why[VD_META_WHY];
    uint64_t seed = 2, run, sum = 0;
    struct since t = now();
    uint32_t layer;
    must(vd_map_get(maps, id, &m, why), "get");
    say("frozen: open", t, 1, "map");
    printf("%llu extents, %u layers\n", (unsigned long long)vd_map_nextents(m), vd_map_nlayers(m));
    static const struct {
        const char *name;
        uint64_t blocks;
    } areas[] = {{"frozen: find, in 4 MiB", 1024},
                 {"frozen: find, in 400 MiB", 100000},
                 {"frozen: find, in 3 GiB", 800000},
                 {"frozen: find, anywhere", UINT64_MAX}};
    for (unsigned i = 0; i < VD_ARRAY_SIZE(areas); i++) {
        uint64_t area = vd_min(areas[i].blocks, nblocks);
        for (uint64_t k = 0; k < area && k < 800000; k += 100)
            must(vd_map_find(m, k, 4, true, &layer, &run), "find");
        t = now();
        for (uint64_t k = 0; k < LOOKUPS; k++) {
            must(vd_map_find(m, step(&seed) % area, 4, true, &layer, &run), "find");
            sum += layer + run;
        }
        say(areas[i].name, t, LOOKUPS, "lookup");
    }
    vd_map_unref(m);
    if (sum == 0)
        printf("\n"); /* it is used */
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : 10000000;
    struct since t;
    if (argc < 2 || n < 1000) {
        fprintf(stderr, "usage: map FOLDER [EXTENTS]\n");
        return 2;
    }
    struct vd_meta_store *s;
    struct vd_maps *maps;
    char why[VD_META_WHY];
    must(vd_meta_store_open(AT_FDCWD, argv[1], true, &s), argv[1]);
    must(vd_maps_open(s, 0, &maps), "maps");
    struct vd_live_map *lm = live(maps, n / 2);
    struct vd_id below = id_of(2), merged = id_of(3), top = id_of(1), layer = id_of(102);
    struct vd_map *m[2];
    t = now();
    must(vd_live_map_freeze(lm, &m[0]), "freeze");
    say("live: freeze", t, 1, "map");
    t = now();
    vd_live_map_close(lm);
    must(vd_map_bake(m[0]), "bake");
    say("frozen: bake", t, n / 2, "extent");
    vd_map_unref(m[0]);
    must(vd_map_get(maps, &top, &m[0], why), "get");
    must(vd_map_make_whole(maps, &below, &layer, n * 2), "whole");
    must(vd_map_get(maps, &below, &m[1], why), "get");
    struct vd_map_merge merge = {.maps = m, .nmaps = 2, .nblocks = n * 2};
    t = now();
    must(vd_maps_merge(maps, &merge, &merged, why), "merge");
    say("frozen: merge", t, n, "extent");
    frozen(maps, &merged, n * 2);
    vd_map_unref(m[0]);
    vd_map_unref(m[1]);
    must(vd_maps_remove(maps, &top), "remove");
    must(vd_maps_remove(maps, &below), "remove");
    must(vd_maps_remove(maps, &merged), "remove");
    vd_maps_close(maps);
    vd_meta_store_close(s);
    return 0;
}
