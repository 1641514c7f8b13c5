// SPDX-License-Identifier: Apache-2.0
/* What a hit costs: nanoseconds a 4 KiB read at random, and a 1 MiB read, by one thread and by two,
 * from a cache that the page cache holds. bench_hit DIR [MIB]. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "vd_cache.h"
#include "vd_time.h"

struct job {
    struct vd_cache_layer *l;
    uint64_t nblocks, reads;
    uint32_t each, seed;
    uint64_t hits, ns;
    pthread_t thread;
};

static void *reader(void *arg)
{
    struct job *j = arg;
    uint8_t *buf = aligned_alloc(4096, (size_t)j->each * VD_BLOCK_SIZE);
    memset(buf, 0, (size_t)j->each * VD_BLOCK_SIZE);
    uint64_t began = vd_now_ns(), x = j->seed;
    for (uint64_t i = 0; i < j->reads; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        struct vd_cache_read r;
        r.first_block = (x >> 33) % (j->nblocks / j->each) * j->each;
        r.nblocks = j->each;
        r.buf = buf;
        vd_cache_read(j->l, &r);
        j->hits += r.nhit;
    }
    j->ns = vd_now_ns() - began;
    free(buf);
    return NULL;
}

static void measure(struct vd_cache_layer *l, uint64_t nblocks, unsigned threads, uint32_t each,
                    uint64_t reads)
{
    struct job j[8];
    for (unsigned i = 0; i < threads; i++) {
        j[i] =
            (struct job){.l = l, .nblocks = nblocks, .reads = reads, .each = each, .seed = i + 7};
        pthread_create(&j[i].thread, NULL, reader, &j[i]);
    }
    uint64_t hits = 0, ns = 0;
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(j[i].thread, NULL);
        hits += j[i].hits;
        ns += j[i].ns;
    }
    printf("%4u KiB, %u thread%s: %8.0f ns a read, %.4f of blocks hit\n", each * 4, threads,
           threads > 1 ? "s" : " ", (double)ns / threads / (double)reads,
           (double)hits / ((double)reads * threads * each));
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    uint64_t mib = argc > 2 ? strtoull(argv[2], NULL, 10) : 256;
    struct vd_cache_config config = {.dir = argv[1], .size_bytes = mib << 20, .ready_ms = 60000};
    struct vd_cache *c;
    struct vd_cache_layer *l;
    char why[256];
    if (vd_cache_open(&config, &c, why, sizeof(why)) < 0) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    struct vd_cache_key key = {.disk_id = {{1}}, .generation = 1};
    if (vd_cache_layer_open(c, &key, &l) < 0)
        return 1;
    uint8_t *buf = calloc(1, VD_IO_MAX_BYTES);
    uint64_t which[VD_CACHE_WORDS];
    memset(which, 0xff, sizeof(which));
    uint64_t began = vd_now_ns();
    for (uint64_t b = 0; b < mib * 256; b += 256) {
        struct vd_cache_fill f = {.first_block = b, .nblocks = 256};
        if (vd_cache_fill_begin(l, &f) == 0)
            vd_cache_fill_commit(l, &f, buf, which);
    }
    printf("fill: %.0f ns a 64 KiB slot\n", (double)(vd_now_ns() - began) / ((double)mib * 16));
    for (int round = 0; round < 3; round++) {
        measure(l, mib * 256, 1, 1, 500000);
        measure(l, mib * 256, 2, 1, 500000);
        measure(l, mib * 256, 1, 256, 3000);
        measure(l, mib * 256, 2, 256, 3000);
    }
    vd_cache_layer_close(l);
    vd_cache_close(c);
    free(buf);
    return 0;
}
