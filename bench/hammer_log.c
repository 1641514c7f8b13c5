// SPDX-License-Identifier: Apache-2.0
/* The bytes of a stamped block and of a log record, and what a whole log adds up to. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "hammer.h"
#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"

#define BLOCK_MAGIC 0x314d4d41484b4456ull /* "VDKHAMM1" */
#define BLOCK_HEADER 32
#define RECORD_VERSION 1
/* More than any run can issue, so that a damaged number is not taken for a size to allocate. */
#define VERSION_MAX (1ull << 31)
#define BLOCKS_MAX (1ull << 31)

uint64_t hammer_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

void hammer_block_make(const struct hammer_stamp *stamp, uint8_t *ret_block)
{
    uint64_t state = stamp->seed;

    state = hammer_random(&state) ^ stamp->block;
    state = hammer_random(&state) ^ stamp->version;
    vd_put_le64(ret_block, BLOCK_MAGIC);
    vd_put_le64(ret_block + 8, stamp->block);
    vd_put_le64(ret_block + 16, stamp->version);
    vd_put_le64(ret_block + 24, stamp->seed);
    for (size_t i = BLOCK_HEADER; i < VD_BLOCK_SIZE; i += 8)
        vd_put_le64(ret_block + i, hammer_random(&state));
    vd_put_le32(ret_block + VD_BLOCK_SIZE - 4, vd_crc32c(0, ret_block, VD_BLOCK_SIZE - 4));
}

int hammer_block_parse(const uint8_t *block, struct hammer_stamp *ret_stamp)
{
    static const uint8_t zero[VD_BLOCK_SIZE];

    if (memcmp(block, zero, VD_BLOCK_SIZE) == 0)
        return -ENODATA;
    if (vd_get_le64(block) != BLOCK_MAGIC ||
        vd_get_le32(block + VD_BLOCK_SIZE - 4) != vd_crc32c(0, block, VD_BLOCK_SIZE - 4))
        return -EBADMSG;
    *ret_stamp = (struct hammer_stamp){.block = vd_get_le64(block + 8),
                                       .version = vd_get_le64(block + 16),
                                       .seed = vd_get_le64(block + 24)};
    return 0;
}

void hammer_record_encode(const struct hammer_record *rec, uint8_t *ret_bytes)
{
    uint64_t value[3] = {0};

    switch (rec->type) {
    case HAMMER_START:
        value[0] = rec->start.seed;
        value[1] = rec->start.nblocks;
        value[2] = rec->start.first_version;
        break;
    case HAMMER_ISSUE:
        value[0] = rec->issue.version;
        value[1] = rec->issue.block;
        value[2] = rec->issue.nblocks;
        break;
    case HAMMER_DONE:
        value[0] = rec->done.version;
        break;
    case HAMMER_FLUSH:
        value[0] = rec->flush.upto;
        break;
    }
    vd_put_le16(ret_bytes + 4, RECORD_VERSION);
    vd_put_le16(ret_bytes + 6, (uint16_t)rec->type);
    for (size_t i = 0; i < VD_ARRAY_SIZE(value); i++)
        vd_put_le64(ret_bytes + 8 + 8 * i, value[i]);
    vd_put_le32(ret_bytes, vd_crc32c(0, ret_bytes + 4, HAMMER_RECORD_SIZE - 4));
}

int hammer_record_decode(const uint8_t *bytes, struct hammer_record *ret_rec)
{
    struct hammer_record rec = {.type = (enum hammer_type)vd_get_le16(bytes + 6)};
    uint64_t value[3];

    if (vd_get_le32(bytes) != vd_crc32c(0, bytes + 4, HAMMER_RECORD_SIZE - 4) ||
        vd_get_le16(bytes + 4) != RECORD_VERSION)
        return -EBADMSG;
    for (size_t i = 0; i < VD_ARRAY_SIZE(value); i++)
        value[i] = vd_get_le64(bytes + 8 + 8 * i);
    switch (rec.type) {
    case HAMMER_START:
        rec.start.seed = value[0];
        rec.start.nblocks = value[1];
        rec.start.first_version = value[2];
        break;
    case HAMMER_ISSUE:
        rec.issue.version = value[0];
        rec.issue.block = value[1];
        rec.issue.nblocks = value[2];
        break;
    case HAMMER_DONE:
        rec.done.version = value[0];
        break;
    case HAMMER_FLUSH:
        rec.flush.upto = value[0];
        break;
    default:
        return -EBADMSG;
    }
    *ret_rec = rec;
    return 0;
}

static int add_start(struct hammer_log *log, const struct hammer_record *rec)
{
    uint64_t *seeds = reallocarray(log->seeds, log->nruns + 1, sizeof(*seeds));

    if (!seeds)
        return -ENOMEM;
    log->seeds = seeds;
    if (rec->start.nblocks == 0 || rec->start.nblocks > BLOCKS_MAX ||
        (log->nblocks && log->nblocks != rec->start.nblocks))
        return -EBADMSG;
    if (!log->flushed)
        log->flushed = calloc(rec->start.nblocks, sizeof(*log->flushed));
    if (!log->flushed)
        return -ENOMEM;
    log->nblocks = rec->start.nblocks;
    log->seeds[log->nruns++] = rec->start.seed;
    return 0;
}

/* Threads take their version before they append the record, so versions arrive a little out of
 * order. */
static int add_issue(struct hammer_log *log, const struct hammer_record *rec, uint64_t *room)
{
    uint64_t version = rec->issue.version;

    if (log->nruns == 0 || version == 0 || version > VERSION_MAX || rec->issue.nblocks == 0 ||
        rec->issue.block >= log->nblocks || rec->issue.nblocks > log->nblocks - rec->issue.block)
        return -EBADMSG;
    if (version >= *room) {
        uint64_t want = vd_max(version + 1, *room * 2);
        struct hammer_issue *issues = reallocarray(log->issues, want, sizeof(*issues));
        if (!issues)
            return -ENOMEM;
        memset(issues + *room, 0, (want - *room) * sizeof(*issues));
        log->issues = issues;
        *room = want;
    }
    if (log->issues[version].nblocks)
        return -EBADMSG;
    log->issues[version] = (struct hammer_issue){
        .block = rec->issue.block, .nblocks = (uint32_t)rec->issue.nblocks, .run = log->nruns - 1};
    log->nversions = vd_max(log->nversions, version + 1);
    return 0;
}

static int add_done(struct hammer_log *log, const struct hammer_record *rec)
{
    if (rec->done.version >= log->nversions || !log->issues[rec->done.version].nblocks)
        return -EBADMSG;
    log->issues[rec->done.version].done = true;
    return 0;
}

/* Marks as durable what was done before record UPTO. */
static void count_flushed(struct hammer_log *log, const uint8_t *bytes, uint64_t upto)
{
    for (uint64_t i = 0; i < upto; i++) {
        struct hammer_record rec;
        if (hammer_record_decode(bytes + i * HAMMER_RECORD_SIZE, &rec) < 0 ||
            rec.type != HAMMER_DONE)
            continue;
        const struct hammer_issue *is = &log->issues[rec.done.version];
        for (uint64_t b = is->block; b < is->block + is->nblocks; b++)
            log->flushed[b] = vd_max(log->flushed[b], rec.done.version);
    }
}

static int digest(struct hammer_log *log, const uint8_t *bytes, bool count_done, const char *path)
{
    uint64_t room = 0, upto = 0;

    for (uint64_t i = 0; i < log->nrecords; i++) {
        struct hammer_record rec = {0};
        int r = hammer_record_decode(bytes + i * HAMMER_RECORD_SIZE, &rec);
        if (r == 0 && rec.type == HAMMER_START)
            r = add_start(log, &rec);
        else if (r == 0 && rec.type == HAMMER_ISSUE)
            r = add_issue(log, &rec, &room);
        else if (r == 0 && rec.type == HAMMER_DONE)
            r = add_done(log, &rec);
        else if (r == 0 && rec.flush.upto > i)
            r = -EBADMSG;
        else if (r == 0)
            upto = vd_max(upto, rec.flush.upto);
        if (r == -EBADMSG)
            fprintf(stderr, "hammer: %s: record %llu is damaged or out of place\n", path,
                    (unsigned long long)i);
        if (r < 0)
            return r;
    }
    count_flushed(log, bytes, count_done ? log->nrecords : upto);
    return 0;
}

int hammer_log_load(const char *path, bool count_done, struct hammer_log **ret_log)
{
    vd_cleanup(hammer_log_free_p) struct hammer_log *log = calloc(1, sizeof(*log));
    vd_cleanup_free uint8_t *bytes = NULL;
    vd_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st = {0};

    if (!log)
        return -ENOMEM;
    if (fd < 0 && errno != ENOENT)
        return -errno;
    if (fd >= 0 && fstat(fd, &st) < 0)
        return -errno;
    log->nrecords = (uint64_t)st.st_size / HAMMER_RECORD_SIZE;
    if (log->nrecords) {
        size_t len = log->nrecords * HAMMER_RECORD_SIZE;
        bytes = malloc(len);
        if (!bytes)
            return -ENOMEM;
        ssize_t n = vd_pread_full(fd, bytes, len, 0);
        if (n < 0)
            return (int)n;
        log->nrecords = (size_t)n / HAMMER_RECORD_SIZE;
        int r = digest(log, bytes, count_done, path);
        if (r < 0)
            return r;
    }
    *ret_log = vd_steal_ptr(log);
    return 0;
}

void hammer_log_free(struct hammer_log *log)
{
    if (!log)
        return;
    free(log->seeds);
    free(log->issues);
    free(log->flushed);
    free(log);
}
