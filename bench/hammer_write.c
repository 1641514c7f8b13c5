// SPDX-License-Identifier: Apache-2.0
/*
 * `hammer write`: several threads write stamped blocks, read some back, and flush now and then.
 *
 * The file is divided in chunks, and each chunk belongs to one thread, so that the versions of a
 * block have one order. Chunks are 13 blocks long: no cache slot, page or request is, so threads
 * meet inside all of them. Reads cover foreign blocks too (they are what makes fills race writes)
 * but only the reader's own blocks are compared, with exactly the version it wrote last.
 *
 * What stops it: the time, SIGTERM or SIGINT, a SIGKILL, or an error of the file. All are success,
 * for the log then tells what must be there; only a read of the wrong bytes is a failure.
 *
 * Locks: w->log_mu orders appends, so that a record's number is known. Nothing else is shared but
 * atomics, and seen[], each entry of which only the owner of its chunk touches.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "hammer.h"
#include "vd_file.h"
#include "vd_time.h"

#define CHUNK_BLOCKS 13u
#define READ_BLOCKS 32u
/* One step in so many flushes; one in so many reads. The rest write. */
#define FLUSH_ONE_IN 48
#define READ_ONE_IN 4
/* Half of the writes go to this part of the file, so that blocks are written again and again. */
#define HOT_PART 16

struct writer {
    const struct hammer_options *opt;
    int fd;
    uint64_t nblocks, nchunks;
    uint64_t seed;
    uint64_t deadline_ms; /* 0: none */
    uint64_t *seen; /* by block: the version that a read must show; 0: not known. Its owner only */
    _Atomic uint64_t next_version;
    atomic_bool stop;
    atomic_bool wrong;
    atomic_int error; /* the first errno of the file */

    pthread_mutex_t log_mu;
    int log_fd;
    uint64_t nrecords; /* lock: log_mu */
};

struct hand {
    struct writer *w;
    pthread_t thread;
    unsigned index;
    uint64_t rng;
    uint8_t *buf; /* READ_BLOCKS blocks, aligned */
    uint8_t *expect;
};

/* Set by signals; a signal handler can reach nothing else. */
static volatile sig_atomic_t told_to_stop;

static void on_signal(int sig)
{
    told_to_stop = 1;
}

/* Without its log hammer proves nothing, so an error of the log ends it at once. */
static void append(struct writer *w, const struct hammer_record *rec)
{
    uint8_t bytes[HAMMER_RECORD_SIZE];

    hammer_record_encode(rec, bytes);
    pthread_mutex_lock(&w->log_mu);
    if (write(w->log_fd, bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes)) {
        fprintf(stderr, "hammer: %s: cannot append: %m\n", w->opt->log);
        _exit(1);
    }
    w->nrecords++;
    pthread_mutex_unlock(&w->log_mu);
}

static uint64_t log_length(struct writer *w)
{
    pthread_mutex_lock(&w->log_mu);
    uint64_t n = w->nrecords;
    pthread_mutex_unlock(&w->log_mu);
    return n;
}

static void file_failed(struct writer *w, const char *what, int err)
{
    int none = 0;

    if (atomic_compare_exchange_strong(&w->error, &none, err))
        fprintf(stderr, "hammer: %s: %s: %s; stopping\n", w->opt->file, what, strerror(err));
    atomic_store(&w->stop, true);
}

static bool running(struct writer *w)
{
    if (told_to_stop || (w->deadline_ms && vd_now_ms() >= w->deadline_ms))
        atomic_store(&w->stop, true);
    return !atomic_load(&w->stop);
}

static bool owns(const struct hand *h, uint64_t block)
{
    return block / CHUNK_BLOCKS % h->w->opt->threads == h->index;
}

/* A block of a chunk of this hand; there may be none in a small file (-ENOENT). */
static int pick_block(struct hand *h, uint64_t *ret_block)
{
    struct writer *w = h->w;
    uint64_t mine = (w->nchunks + w->opt->threads - 1 - h->index) / w->opt->threads;
    uint64_t hot = vd_max(mine / HOT_PART, UINT64_C(1));

    if (mine == 0)
        return -ENOENT;
    uint64_t n = hammer_random(&h->rng) % (hammer_random(&h->rng) & 1 ? hot : mine);
    uint64_t first = (n * w->opt->threads + h->index) * CHUNK_BLOCKS;
    uint64_t len = vd_min((uint64_t)CHUNK_BLOCKS, w->nblocks - first);
    *ret_block = first + hammer_random(&h->rng) % len;
    return 0;
}

static void step_write(struct hand *h, uint64_t block)
{
    struct writer *w = h->w;
    uint64_t end = vd_min((block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS, w->nblocks);
    uint64_t n = hammer_random(&h->rng) & 1 ? 1 : 1 + hammer_random(&h->rng) % (end - block);
    uint64_t version = atomic_fetch_add(&w->next_version, 1);

    for (uint64_t i = 0; i < n; i++) {
        struct hammer_stamp stamp = {.block = block + i, .version = version, .seed = w->seed};
        hammer_block_make(&stamp, h->buf + i * VD_BLOCK_SIZE);
    }
    append(w, &(struct hammer_record){
                  .type = HAMMER_ISSUE,
                  .issue = {.version = version, .block = block, .nblocks = n},
              });
    int r = vd_pwrite_full(w->fd, h->buf, n * VD_BLOCK_SIZE, (off_t)(block * VD_BLOCK_SIZE));
    if (r < 0) {
        file_failed(w, "write", -r);
        return;
    }
    append(w, &(struct hammer_record){.type = HAMMER_DONE, .done = {.version = version}});
    for (uint64_t i = 0; i < n; i++)
        w->seen[block + i] = version;
}

static void step_read(struct hand *h, uint64_t block)
{
    struct writer *w = h->w;
    uint64_t back = hammer_random(&h->rng) % READ_BLOCKS;
    uint64_t first = block > back ? block - back : 0;
    uint64_t n = vd_min((uint64_t)READ_BLOCKS, w->nblocks - first);
    ssize_t got = vd_pread_full(w->fd, h->buf, n * VD_BLOCK_SIZE, (off_t)(first * VD_BLOCK_SIZE));

    if (got < 0) {
        file_failed(w, "read", (int)-got);
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        struct hammer_stamp stamp = {
            .block = first + i, .version = w->seen[first + i], .seed = w->seed};
        if (!owns(h, stamp.block) || stamp.version == 0)
            continue;
        hammer_block_make(&stamp, h->expect);
        bool whole = (uint64_t)got >= (i + 1) * VD_BLOCK_SIZE;
        if (whole && memcmp(h->expect, h->buf + i * VD_BLOCK_SIZE, VD_BLOCK_SIZE) == 0)
            continue;
        struct hammer_stamp found = {0};
        int r = whole ? hammer_block_parse(h->buf + i * VD_BLOCK_SIZE, &found) : -EIO;
        fprintf(stderr,
                "hammer: %s: block %llu was read back wrong: wrote version %llu, read %s "
                "(block %llu version %llu)\n",
                w->opt->file, (unsigned long long)stamp.block, (unsigned long long)stamp.version,
                r == 0          ? "a whole block"
                : r == -ENODATA ? "zeros"
                : r == -EIO     ? "past the end"
                                : "garbage",
                (unsigned long long)found.block, (unsigned long long)found.version);
        atomic_store(&w->wrong, true);
        atomic_store(&w->stop, true);
    }
}

/* Only what was done before the fdatasync began is promised, so the length is taken first. */
static void flush(struct writer *w)
{
    uint64_t upto = log_length(w);

    if (fdatasync(w->fd) < 0)
        file_failed(w, "fdatasync", errno);
    else
        append(w, &(struct hammer_record){.type = HAMMER_FLUSH, .flush = {.upto = upto}});
}

static void *hand_run(void *arg)
{
    struct hand *h = arg;
    uint64_t block;

    while (running(h->w) && pick_block(h, &block) == 0) {
        uint64_t dice = hammer_random(&h->rng);
        if (dice % FLUSH_ONE_IN == 0)
            flush(h->w);
        else if (dice / FLUSH_ONE_IN % READ_ONE_IN == 0)
            step_read(h, block);
        else
            step_write(h, block);
    }
    return NULL;
}

static int run_hands(struct writer *w)
{
    vd_cleanup_free struct hand *hands = calloc(w->opt->threads, sizeof(*hands));
    unsigned started = 0;
    int r = hands ? 0 : -ENOMEM;

    for (unsigned i = 0; r == 0 && i < w->opt->threads; i++) {
        struct hand *h = &hands[i];
        *h = (struct hand){.w = w, .index = i, .rng = w->seed + i * 0x9e37u};
        h->buf = aligned_alloc(VD_BLOCK_SIZE, READ_BLOCKS * VD_BLOCK_SIZE);
        h->expect = aligned_alloc(VD_BLOCK_SIZE, VD_BLOCK_SIZE);
        r = h->buf && h->expect ? -pthread_create(&h->thread, NULL, hand_run, h) : -ENOMEM;
        if (r == 0) {
            started++;
        } else {
            free(h->buf);
            free(h->expect);
            atomic_store(&w->stop, true);
        }
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(hands[i].thread, NULL);
        free(hands[i].buf);
        free(hands[i].expect);
    }
    if (r == 0 && !atomic_load(&w->error))
        flush(w);
    return r;
}

/* Cuts off a torn last record, so that the numbers of those to come are what they count. */
static int open_log(struct writer *w, const struct hammer_log *log)
{
    w->log_fd = open(w->opt->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (w->log_fd < 0 || ftruncate(w->log_fd, (off_t)(log->nrecords * HAMMER_RECORD_SIZE)) < 0) {
        fprintf(stderr, "hammer: %s: %m\n", w->opt->log);
        return -errno;
    }
    w->nrecords = log->nrecords;
    return 0;
}

static int open_file(struct writer *w, const struct hammer_log *log)
{
    const struct hammer_options *opt = w->opt;
    struct stat st;

    w->fd = open(
        opt->file,
        O_RDWR | O_CLOEXEC | (opt->direct ? O_DIRECT : 0) | (opt->size_bytes ? O_CREAT : 0), 0644);
    if (w->fd < 0 || fstat(w->fd, &st) < 0 ||
        (opt->size_bytes > (uint64_t)st.st_size &&
         (ftruncate(w->fd, (off_t)opt->size_bytes) < 0 || fstat(w->fd, &st) < 0))) {
        fprintf(stderr, "hammer: %s: %m\n", opt->file);
        return -errno;
    }
    w->nblocks = (uint64_t)st.st_size / VD_BLOCK_SIZE;
    w->nchunks = (w->nblocks + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
    if (w->nblocks == 0 || (log->nblocks && log->nblocks != w->nblocks)) {
        fprintf(stderr, "hammer: %s: has %llu blocks, the log says %llu\n", opt->file,
                (unsigned long long)w->nblocks, (unsigned long long)log->nblocks);
        return -EINVAL;
    }
    w->seen = calloc(w->nblocks, sizeof(*w->seen));
    return w->seen ? 0 : -ENOMEM;
}

int hammer_write(const struct hammer_options *opt)
{
    vd_cleanup(hammer_log_free_p) struct hammer_log *log = NULL;
    struct sigaction stop = {.sa_handler = on_signal};
    struct writer w = {.opt = opt, .fd = -1, .log_fd = -1, .log_mu = PTHREAD_MUTEX_INITIALIZER};
    int r = hammer_log_load(opt->log, false, &log);

    if (r < 0 && r != -EBADMSG)
        fprintf(stderr, "hammer: %s: %s\n", opt->log, strerror(-r));
    if (r == 0)
        r = open_file(&w, log);
    if (r == 0)
        r = open_log(&w, log);
    if (r == 0) {
        uint64_t first = vd_max(log->nversions, UINT64_C(1));
        sigaction(SIGTERM, &stop, NULL);
        sigaction(SIGINT, &stop, NULL);
        w.seed = opt->seed ^ first; /* so that a later run does not repeat an earlier one */
        w.next_version = first;
        w.deadline_ms = opt->seconds ? vd_now_ms() + opt->seconds * 1000ull : 0;
        append(&w, &(struct hammer_record){
                       .type = HAMMER_START,
                       .start = {.seed = w.seed, .nblocks = w.nblocks, .first_version = first},
                   });
        r = run_hands(&w);
        fprintf(stderr, "hammer: %s: seed %llu, versions %llu to %llu\n", opt->file,
                (unsigned long long)opt->seed, (unsigned long long)first,
                (unsigned long long)w.next_version - 1);
    }
    vd_close_p(&w.fd);
    vd_close_p(&w.log_fd);
    free(w.seen);
    return r < 0 || w.wrong;
}
