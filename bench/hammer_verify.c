// SPDX-License-Identifier: Apache-2.0
/*
 * `hammer verify`: is every block as new as its last flush, and was it never anything else?
 *
 * A whole block passes if it is a version that was issued for it, none older than the last flushed
 * one. Zeros pass only where nothing was flushed: a file begins as zeros. A block that is not whole
 * passes only if a write of it was in flight at a kill, and then only if each of its sectors is
 * that of a version which would pass on its own.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "hammer.h"
#include "vd_file.h"

#define SECTOR_SIZE 512u
#define READ_BLOCKS 256u
#define MAX_REPORTS 20

struct verify {
    const struct hammer_options *opt;
    const struct hammer_log *log;
    uint64_t written, torn, bad;
};

static bool covers(const struct hammer_log *log, uint64_t version, uint64_t block)
{
    const struct hammer_issue *is = &log->issues[version];

    return block >= is->block && block - is->block < is->nblocks;
}

static void make_version(const struct hammer_log *log, uint64_t version, uint64_t block,
                         uint8_t *ret_block)
{
    struct hammer_stamp stamp = {
        .block = block, .version = version, .seed = log->seeds[log->issues[version].run]};

    hammer_block_make(&stamp, ret_block);
}

/* Rare, so it looks through all versions: which sectors of DATA come from one that would pass? */
static bool torn_in_flight(const struct hammer_log *log, uint64_t block, const uint8_t *data)
{
    enum { SECTORS = VD_BLOCK_SIZE / SECTOR_SIZE };
    uint8_t version_bytes[VD_BLOCK_SIZE] = {0};
    bool fits[SECTORS] = {0}, in_flight = false;

    for (uint64_t v = log->flushed[block]; v < log->nversions; v++) {
        if (v && !covers(log, v, block))
            continue;
        if (v)
            make_version(log, v, block, version_bytes);
        in_flight |= v && !log->issues[v].done;
        for (unsigned s = 0; s < SECTORS; s++)
            fits[s] |=
                memcmp(data + s * SECTOR_SIZE, version_bytes + s * SECTOR_SIZE, SECTOR_SIZE) == 0;
    }
    for (unsigned s = 0; s < SECTORS; s++)
        if (!fits[s])
            return false;
    return in_flight;
}

static VD_PRINTF(3, 4) void report(struct verify *v, uint64_t block, const char *fmt, ...)
{
    va_list args;

    if (v->bad++ >= MAX_REPORTS)
        return;
    fprintf(stderr, "hammer: %s: block %llu (byte %llu), last flushed version %llu: ", v->opt->file,
            (unsigned long long)block, (unsigned long long)block * VD_BLOCK_SIZE,
            (unsigned long long)v->log->flushed[block]);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

static void verify_block(struct verify *v, uint64_t block, const uint8_t *data)
{
    const struct hammer_log *log = v->log;
    struct hammer_stamp stamp = {0};
    uint8_t expect[VD_BLOCK_SIZE];
    int r = hammer_block_parse(data, &stamp);
    unsigned long long version = stamp.version;

    if (r == -ENODATA) {
        if (log->flushed[block])
            report(v, block, "holds zeros");
        return;
    }
    v->written++;
    if (r < 0) {
        if (torn_in_flight(log, block, data))
            v->torn++;
        else
            report(v, block, "holds bytes that are no whole version and no write in flight");
        return;
    }
    if (stamp.block != block)
        report(v, block, "holds block %llu version %llu", (unsigned long long)stamp.block, version);
    else if (version == 0 || version >= log->nversions || !covers(log, version, block))
        report(v, block, "holds version %llu, which was never issued for it", version);
    else if (version < log->flushed[block])
        report(v, block, "holds version %llu", version);
    else {
        make_version(log, version, block, expect);
        if (memcmp(expect, data, VD_BLOCK_SIZE) != 0)
            report(v, block, "holds version %llu of another run", version);
    }
}

static int verify_file(struct verify *v, int fd)
{
    vd_cleanup_free uint8_t *buf = aligned_alloc(VD_BLOCK_SIZE, READ_BLOCKS * VD_BLOCK_SIZE);

    if (!buf)
        return -ENOMEM;
    for (uint64_t first = 0; first < v->log->nblocks; first += READ_BLOCKS) {
        uint64_t n = vd_min((uint64_t)READ_BLOCKS, v->log->nblocks - first);
        size_t len = n * VD_BLOCK_SIZE;
        ssize_t got = vd_pread_full(fd, buf, len, (off_t)(first * VD_BLOCK_SIZE));
        if (got < 0)
            return (int)got;
        for (uint64_t i = 0; i < n; i++) {
            if ((uint64_t)got >= (i + 1) * VD_BLOCK_SIZE)
                verify_block(v, first + i, buf + i * VD_BLOCK_SIZE);
            else
                report(v, first + i, "lies past the end of the file");
        }
    }
    return 0;
}

int hammer_verify(const struct hammer_options *opt)
{
    vd_cleanup(hammer_log_free_p) struct hammer_log *log = NULL;
    vd_cleanup_close int fd = -1;
    uint64_t flushed = 0;
    int r = hammer_log_load(opt->log, opt->count_done, &log);

    if (r < 0 || log->nruns == 0) {
        if (r != -EBADMSG)
            fprintf(stderr, "hammer: %s: %s\n", opt->log, r < 0 ? strerror(-r) : "is no log");
        return 1;
    }
    fd = open(opt->file, O_RDONLY | O_CLOEXEC | (opt->direct ? O_DIRECT : 0));
    if (fd < 0) {
        fprintf(stderr, "hammer: %s: %m\n", opt->file);
        return 1;
    }
    struct verify v = {.opt = opt, .log = log};
    r = verify_file(&v, fd);
    if (r < 0) {
        fprintf(stderr, "hammer: %s: %s\n", opt->file, strerror(-r));
        return 1;
    }
    for (uint64_t b = 0; b < log->nblocks; b++)
        flushed += log->flushed[b] != 0;
    printf("%llu blocks, %llu written, %llu flushed, %llu torn in flight, %llu wrong\n",
           (unsigned long long)log->nblocks, (unsigned long long)v.written,
           (unsigned long long)flushed, (unsigned long long)v.torn, (unsigned long long)v.bad);
    return v.bad != 0;
}
