// SPDX-License-Identifier: Apache-2.0
/*
 * Makes what clones.sh measures, and times the making. Each prints one line of JSON.
 *
 *   layers snapshots SOURCE MOUNT DISK COUNT WRITES   WRITES random blocks, a snapshot, and so on
 *   layers offsets BYTES COUNT WRITES                 where those writes go, a line a round
 *   layers clones SOURCE DISK PREFIX COUNT            clones PREFIX0, PREFIX1, ... of DISK
 *   layers open PREFIX COUNT                          opens PREFIX0, ... in the mount, all at once,
 *                                                     reads a block of each, prints what it took,
 *                                                     and keeps them open until its input ends
 *   layers extents SOURCE DISK COUNT                  gives a clone's live layer COUNT extents, one
 *                                                     block each, by the metadata library; no mount
 *                                                     may be running
 */
#include "layers.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vd_time.h"

/* A multiplication by an odd number visits every block of a power of two once; of others some are
 * visited twice, which does no harm. */
uint64_t layers_offset(unsigned round, unsigned n, uint64_t nblocks)
{
    uint64_t i = (uint64_t)round * 8191 + n;
    return i * 2654435761u % nblocks << VD_BLOCK_SHIFT;
}

static int write_round(int fd, unsigned round, unsigned writes, uint64_t nblocks)
{
    uint8_t block[VD_BLOCK_SIZE];
    memset(block, (int)(round % 251 + 1), sizeof(block));
    for (unsigned i = 0; i < writes; i++) {
        ssize_t n = pwrite(fd, block, sizeof(block), (off_t)layers_offset(round, i, nblocks));
        if (n != (ssize_t)sizeof(block))
            return n < 0 ? -errno : -EIO;
    }
    return 0;
}

int layers_snapshots(const char *source, const char *mount, const char *path, unsigned count,
                     unsigned writes)
{
    struct bench_disk disk;
    struct stat st;
    char file[2 * PATH_MAX];
    vd_cleanup_free uint64_t *took = calloc(count, sizeof(*took));
    snprintf(file, sizeof(file), "%s/%s", mount, path);
    vd_cleanup_close int fd = open(file, O_RDWR | O_CLOEXEC);
    if (!took || fd < 0 || fstat(fd, &st) < 0) {
        fprintf(stderr, "%s: %m\n", file);
        return 1;
    }
    int r = bench_disk_find(source, path, &disk);
    uint64_t start = vd_now_ns();
    for (unsigned i = 0; i < count && r == 0; i++) {
        char name[32];
        snprintf(name, sizeof(name), "s%u", i);
        r = write_round(fd, i, writes, (uint64_t)st.st_size >> VD_BLOCK_SHIFT);
        if (r < 0)
            fprintf(stderr, "%s: %s\n", file, strerror(-r));
        else
            r = bench_ask(&disk, "snapshot", "name", name, &took[i]);
    }
    double seconds = (double)(vd_now_ns() - start) / 1e9;
    return r < 0 ? 1
                 : bench_print(json_pack("{s:f, s:o}", "seconds", seconds, "snapshot_ms",
                                         bench_spread(took, count)));
}

int layers_clones(const char *source, const char *path, const char *prefix, unsigned count)
{
    struct bench_disk disk;
    vd_cleanup_free uint64_t *took = calloc(count, sizeof(*took));
    unsigned tenth = vd_max(count / 10, 1u);
    int r = took ? bench_disk_find(source, path, &disk) : -ENOMEM;
    for (unsigned i = 0; i < count && r == 0; i++) {
        char child[PATH_MAX];
        snprintf(child, sizeof(child), "%s%u", prefix, i);
        r = bench_ask(&disk, "clone", "child", child, &took[i]);
    }
    if (r < 0)
        return 1;
    json_t *first = bench_spread(took, tenth);
    json_t *last = bench_spread(took + count - tenth, tenth);
    return bench_print(json_pack("{s:o, s:o, s:o}", "first_tenth_ms", first, "last_tenth_ms", last,
                                 "clone_ms", bench_spread(took, count)));
}

static int open_one(const char *prefix, unsigned i, void *block)
{
    char file[PATH_MAX];
    snprintf(file, sizeof(file), "%s%u", prefix, i);
    int fd = open(file, O_RDWR | O_DIRECT | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, block, VD_BLOCK_SIZE, 0);
    if (n != (ssize_t)VD_BLOCK_SIZE) {
        fprintf(stderr, "%s: %s: %s\n", file, fd < 0 ? "open" : "read",
                n < 0 ? strerror(errno) : "it ends early");
        return -1;
    }
    return fd; /* the end of the program closes it */
}

int layers_open(const char *prefix, unsigned count)
{
    vd_cleanup_free uint64_t *took = calloc(count, sizeof(*took));
    vd_cleanup_free void *block = aligned_alloc(VD_BLOCK_SIZE, VD_BLOCK_SIZE);
    if (!took || !block)
        return 1;
    uint64_t start = vd_now_ns();
    for (unsigned i = 0; i < count; i++) {
        uint64_t begin = vd_now_ns();
        if (open_one(prefix, i, block) < 0)
            return 1;
        took[i] = vd_now_ns() - begin;
    }
    double seconds = (double)(vd_now_ns() - start) / 1e9;
    int r = bench_print(
        json_pack("{s:f, s:o}", "seconds", seconds, "open_ms", bench_spread(took, count)));
    while (getchar() != EOF)
        ;
    return r;
}

static int print_offsets(uint64_t bytes, unsigned count, unsigned writes)
{
    for (unsigned i = 0; i < count; i++)
        for (unsigned k = 0; k < writes; k++)
            printf("%llu%c", (unsigned long long)layers_offset(i, k, bytes >> VD_BLOCK_SHIFT),
                   k + 1 < writes ? ' ' : '\n');
    return fflush(stdout) != 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: layers snapshots SOURCE MOUNT DISK COUNT WRITES\n"
                    "       layers offsets BYTES COUNT WRITES\n"
                    "       layers clones SOURCE DISK PREFIX COUNT\n"
                    "       layers open PREFIX COUNT\n"
                    "       layers extents SOURCE DISK COUNT\n");
    return 2;
}

static unsigned number(const char *text)
{
    return (unsigned)strtoul(text, NULL, 10);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "snapshots") == 0 && argc == 7)
        return layers_snapshots(argv[2], argv[3], argv[4], number(argv[5]), number(argv[6]));
    if (strcmp(what, "offsets") == 0 && argc == 5)
        return print_offsets(strtoull(argv[2], NULL, 10), number(argv[3]), number(argv[4]));
    if (strcmp(what, "clones") == 0 && argc == 6)
        return layers_clones(argv[2], argv[3], argv[4], number(argv[5]));
    if (strcmp(what, "open") == 0 && argc == 4)
        return layers_open(argv[2], number(argv[3]));
    if (strcmp(what, "extents") == 0 && argc == 5)
        return layers_extents(argv[2], argv[3], strtoull(argv[4], NULL, 10));
    return usage();
}
