// SPDX-License-Identifier: Apache-2.0
/*
 * Drives the cache's own eviction policy with a trace, without any I/O, and prints the miss ratio.
 *
 * The trace is CSV with the header `op,offset,length`; op is r or w, the rest are bytes. Each cache
 * slot that an operation touches is one request, found or missed. A missed one is admitted, for
 * reads and for writes (a write-through cache keeps what was written). Several sizes are replayed
 * one after the other over the trace in memory.
 *
 * The policy knows slot numbers only, so the place of a key is kept here: an open-addressed table
 * with linear probing and deletion by moving back (Knuth, The Art of Computer Programming, 6.4,
 * algorithm R).
 */
#include <getopt.h>
#include <string.h>

#include "vd_base.h"
#include "vd_cache_policy.h"
#include "vd_size.h"

#define SLOT_BYTES_DEFAULT (64u << 10)
#define EMPTY UINT32_MAX

struct request {
    uint64_t first, count; /* cache slots' worth of the address space */
};

struct trace {
    struct request *requests;
    size_t n, room;
};

struct table {
    uint32_t *slots; /* EMPTY or a slot, by hash of its key */
    uint64_t *keys;  /* by slot */
    uint64_t mask;
};

static uint64_t hash_of(uint64_t key)
{
    key += 0x9e3779b97f4a7c15ull;
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9ull;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebull;
    return key ^ (key >> 31);
}

/* Where KEY is, or the empty place where it would be. */
static uint64_t table_find(const struct table *t, uint64_t key)
{
    uint64_t i = hash_of(key) & t->mask;

    while (t->slots[i] != EMPTY && t->keys[t->slots[i]] != key)
        i = (i + 1) & t->mask;
    return i;
}

static void table_remove(struct table *t, uint64_t key)
{
    uint64_t hole = table_find(t, key);

    for (uint64_t i = hole; t->slots[hole] != EMPTY;) {
        i = (i + 1) & t->mask;
        if (t->slots[i] == EMPTY) {
            t->slots[hole] = EMPTY;
            break;
        }
        uint64_t home = hash_of(t->keys[t->slots[i]]) & t->mask;
        if (((i - home) & t->mask) >= ((i - hole) & t->mask)) {
            t->slots[hole] = t->slots[i];
            hole = i;
        }
    }
}

static int table_new(uint32_t nslots, struct table *ret_table)
{
    struct table t = {.mask = 1};

    while (t.mask < 2ull * nslots)
        t.mask *= 2;
    t.mask--;
    t.slots = malloc((t.mask + 1) * sizeof(*t.slots));
    t.keys = malloc(nslots * sizeof(*t.keys));
    if (!t.slots || !t.keys) {
        free(t.slots);
        free(t.keys);
        return -ENOMEM;
    }
    memset(t.slots, 0xff, (t.mask + 1) * sizeof(*t.slots));
    for (uint32_t i = 0; i < nslots; i++)
        t.keys[i] = UINT64_MAX; /* no key: nothing has been put there */
    *ret_table = t;
    return 0;
}

/* One request: true if it was found. */
static bool touch(const struct vd_cache_policy_ops *ops, struct vd_cache_policy *policy,
                  struct table *t, uint64_t key)
{
    uint64_t place = table_find(t, key);

    if (t->slots[place] != EMPTY) {
        ops->hit(policy, t->slots[place]);
        return true;
    }
    uint32_t slot = ops->take(policy, NULL, NULL);
    if (slot == VD_CACHE_NO_SLOT)
        return false;
    if (t->keys[slot] != UINT64_MAX)
        table_remove(t, t->keys[slot]);
    t->keys[slot] = key;
    t->slots[table_find(t, key)] = slot;
    ops->put(policy, slot, hash_of(key));
    return false;
}

static int replay(const struct trace *trace, uint32_t nslots, bool first)
{
    const struct vd_cache_policy_ops *ops = &vd_cache_policy_s3fifo;
    struct vd_cache_policy *policy = NULL;
    struct table t = {0};
    uint64_t requests = 0, misses = 0;

    if (table_new(nslots, &t) < 0 || ops->new (nslots, &policy) < 0) {
        fprintf(stderr, "replay: no memory for %u slots\n", nslots);
        return -ENOMEM;
    }
    for (size_t i = 0; i < trace->n; i++) {
        const struct request *r = &trace->requests[i];
        for (uint64_t key = r->first; key < r->first + r->count; key++) {
            requests++;
            misses += !touch(ops, policy, &t, key);
        }
    }
    printf("%s\n  {\"slots\": %u, \"requests\": %llu, \"misses\": %llu, \"miss_ratio\": %.6f}",
           first ? "" : ",", nslots, (unsigned long long)requests, (unsigned long long)misses,
           requests ? (double)misses / (double)requests : 0.0);
    ops->free(policy);
    free(t.slots);
    free(t.keys);
    return 0;
}

static int trace_add(struct trace *trace, uint64_t off_bytes, uint64_t len_bytes,
                     uint64_t slot_bytes)
{
    if (trace->n == trace->room) {
        size_t room = trace->room ? trace->room * 2 : 4096;
        struct request *r = reallocarray(trace->requests, room, sizeof(*r));
        if (!r)
            return -ENOMEM;
        trace->requests = r;
        trace->room = room;
    }
    uint64_t first = off_bytes / slot_bytes;
    trace->requests[trace->n++] = (struct request){
        .first = first, .count = (off_bytes + len_bytes - 1) / slot_bytes - first + 1};
    return 0;
}

static int trace_load(const char *path, uint64_t slot_bytes, struct trace *trace)
{
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    vd_cleanup_free char *line = NULL;
    size_t room = 0;
    uint64_t number = 1;

    if (!f) {
        fprintf(stderr, "replay: %s: %m\n", path);
        return -errno;
    }
    if (getline(&line, &room, f) < 0 || strncmp(line, "op,offset,length", 16) != 0) {
        fprintf(stderr, "replay: %s: does not begin with the line op,offset,length\n", path);
        return -EINVAL;
    }
    while (getline(&line, &room, f) >= 0) {
        unsigned long long off, len;
        char op, end = 0;
        number++;
        int n = sscanf(line, "%c,%llu,%llu%c", &op, &off, &len, &end);
        if (n < 3 || (op != 'r' && op != 'w') || (end && end != '\n' && end != '\r') ||
            len > INT64_MAX || off > INT64_MAX - len) {
            fprintf(stderr, "replay: %s:%llu: is not r|w,OFFSET,LENGTH\n", path,
                    (unsigned long long)number);
            return -EINVAL;
        }
        int r = len ? trace_add(trace, off, len, slot_bytes) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: replay --slots=N[,N...] [--slot=SIZE] TRACE\n");
    return 2;
}

/* Replays each size of the list "N,N,...". */
static int replay_sizes(const struct trace *trace, const char *sizes)
{
    bool first = true;

    printf("[");
    for (const char *p = sizes; *p; first = false) {
        char *end;
        unsigned long n = strtoul(p, &end, 10);
        if (replay(trace, (uint32_t)n, first) < 0)
            return -ENOMEM;
        p = *end ? end + 1 : end;
    }
    printf("\n]\n");
    return 0;
}

static bool sizes_valid(const char *sizes)
{
    for (const char *p = sizes; p;) {
        char *end;
        unsigned long n = strtoul(p, &end, 10);
        if (*p < '0' || *p > '9' || n == 0 || n >= UINT32_MAX / 4 || (*end && *end != ','))
            return false;
        p = *end ? end + 1 : NULL;
    }
    return true;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"slots", required_argument, NULL, 'n'}, {"slot", required_argument, NULL, 's'}, {0}};
    uint64_t slot_bytes = SLOT_BYTES_DEFAULT;
    const char *sizes = NULL;
    struct trace trace = {0};

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'n' && sizes_valid(optarg))
            sizes = optarg;
        else if (c != 's' || vd_size_parse(optarg, &slot_bytes) < 0 || !vd_is_pow2(slot_bytes))
            return usage();
    }
    if (!sizes || argc - optind != 1)
        return usage();
    int r = trace_load(argv[optind], slot_bytes, &trace);
    if (r == 0)
        r = replay_sizes(&trace, sizes);
    free(trace.requests);
    return r < 0;
}
