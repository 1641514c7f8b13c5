// SPDX-License-Identifier: Apache-2.0
/*
 * Parts of `hammer`, the program that proves what survives a kill: see hammer.c for the whole idea.
 */
#ifndef HAMMER_H
#define HAMMER_H

#include "vd_base.h"

/*
 * The content of one block is a function of (seed, block, version) alone: a stamp, filler from a
 * generator, and a CRC32C. So verify can make any version again and compare it sector by sector.
 */
struct hammer_stamp {
    uint64_t block, version, seed;
};

void hammer_block_make(const struct hammer_stamp *stamp, uint8_t *ret_block);

/* 0 and the stamp where BLOCK is whole, -ENODATA where it is all zero, -EBADMSG for anything else.
 */
int hammer_block_parse(const uint8_t *block, struct hammer_stamp *ret_stamp) VD_WARN_UNUSED;

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014): the next number of the stream whose state is
 * *STATE. */
uint64_t hammer_random(uint64_t *state);

/*
 * The log: records of fixed size, only ever appended, each by one write(2), so that a SIGKILL can
 * cut off only the last. It belongs on a file system that the experiment does not kill.
 *
 *   START  a run begins: its seed, the blocks of the file, its first version
 *   ISSUE  before a write: this version is about to be put on these blocks
 *   DONE   after it: that write returned
 *   FLUSH  after an fdatasync returned: what was DONE before record UPTO is durable, because that
 *          was the length of the log when the fdatasync began. What was done meanwhile is not
 *          counted.
 */
enum hammer_type { HAMMER_START = 1, HAMMER_ISSUE, HAMMER_DONE, HAMMER_FLUSH };

struct hammer_record {
    enum hammer_type type;
    union {
        struct {
            uint64_t seed, nblocks, first_version;
        } start;
        struct {
            uint64_t version, block, nblocks;
        } issue;
        struct {
            uint64_t version;
        } done;
        struct {
            uint64_t upto;
        } flush;
    };
};

#define HAMMER_RECORD_SIZE 32
void hammer_record_encode(const struct hammer_record *rec, uint8_t *ret_bytes);
int hammer_record_decode(const uint8_t *bytes, struct hammer_record *ret_rec) VD_WARN_UNUSED;

/* What a whole log says. */
struct hammer_issue {
    uint64_t block;
    uint32_t nblocks;
    uint32_t run;
    bool done;
};

struct hammer_log {
    uint64_t *seeds; /* of each run */
    uint32_t nruns;
    uint64_t nblocks;   /* of the file */
    uint64_t nrecords;  /* whole ones; a torn last record is not counted */
    uint64_t nversions; /* issues[1 .. nversions - 1]; version 0 is "never written" */
    struct hammer_issue *issues;
    uint64_t *flushed; /* by block: the newest version known to be durable, or 0 */
};

/* Reads the log at PATH; with COUNT_DONE, what is DONE counts as flushed. A log that is not there
 * is an empty one. 0, or -EBADMSG with a message printed, or -errno. */
int hammer_log_load(const char *path, bool count_done, struct hammer_log **ret_log) VD_WARN_UNUSED;
void hammer_log_free(struct hammer_log *log);
VD_DEFINE_CLEANUP(struct hammer_log, hammer_log_free)

struct hammer_options {
    const char *file, *log;
    uint64_t seed;
    uint64_t size_bytes; /* make FILE of this size where it is shorter; 0: as it is */
    unsigned seconds;    /* 0: until told */
    unsigned threads;
    bool direct;
    bool count_done;
};

/* Both return the exit code of the program. */
int hammer_write(const struct hammer_options *opt);
int hammer_verify(const struct hammer_options *opt);

#endif
