// SPDX-License-Identifier: Apache-2.0
/*
 * Opening, closing, giving up.
 *
 * Opening never fails for damage: files that are not what they should be are set aside and the
 * cache begins empty. It fails for a held lock, for a wrong configuration, and where files cannot
 * be made at all.
 *
 * Giving up (vd__die) is for good in this process: nothing is served or admitted any more, and
 * since writes can then no longer drop anything, the table is spoiled so that the next process
 * starts empty.
 */
#include "engine.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "vd_file.h"
#include "vd_log.h"

#define DATA_MAP_MAX (64ull << 30)

static const struct vd_cache_ops engine_ops;

void vd__die(struct vd__engine *e, const char *fmt, ...)
{
    if (atomic_exchange(&e->dead, true))
        return;
    char why[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    vd_log_error("cache: %s/%s: the cache is not used any more", e->dir, why);
    vd__count(e, ERRORS, 1);
    vd__slots_spoil(&e->slots);
}

bool vd__dead(struct vd__engine *e)
{
    if (atomic_load_explicit(&e->dead, memory_order_acquire))
        return true;
    if (!vd_sigbus_dead(e->slots.bus) && !(e->index.bus && vd_sigbus_dead(e->index.bus)))
        return false;
    vd__die(e, "%s: cannot be read", vd_sigbus_dead(e->slots.bus) ? "slots" : "index.mdb");
    return true;
}

bool vd__usable(struct vd__engine *e)
{
    return atomic_load_explicit(&e->ready, memory_order_acquire) && !vd__dead(e);
}

static bool engine_dead(struct vd_cache *c)
{
    return vd__dead(vd__engine(c));
}

int vd__barrier(struct vd_cache *c)
{
    struct vd__engine *e = vd__engine(c);
    const char *what = "data";
    pthread_mutex_lock(&e->sync_mu);
    int r = vd__dead(e) ? -EIO : 0;
    if (r == 0 && fdatasync(e->data_fd) < 0)
        r = -errno;
    if (r == 0) {
        what = "slots";
        r = vd__slots_sync(&e->slots);
    }
    if (r == 0 && e->pending.fd >= 0) {
        what = "pending";
        r = fdatasync(e->pending.fd) < 0 ? -errno : 0;
    }
    pthread_mutex_unlock(&e->sync_mu);
    if (r < 0)
        vd__die(e, "%s: sync: %s", what, strerror(-r));
    return r;
}

static void engine_stats(struct vd_cache *c, struct vd_cache_stats *ret_stats)
{
    struct vd__engine *e = vd__engine(c);
    *ret_stats = (struct vd_cache_stats){
        .capacity_bytes = (uint64_t)e->slots.nslots * e->slots.slot_bytes,
        .used_bytes = (uint64_t)e->policy->ops->used(e->policy) * e->slots.slot_bytes,
        .slots = e->slots.nslots,
        .slot_bytes = e->slots.slot_bytes,
        .inserts = vd_counter_sum(&e->counters, NCOUNTERS, INSERTS),
        .evictions = vd_counter_sum(&e->counters, NCOUNTERS, EVICTIONS),
        .invalidations = vd_counter_sum(&e->counters, NCOUNTERS, INVALIDATIONS),
        .checksum_errors = vd_counter_sum(&e->counters, NCOUNTERS, CHECKSUM_ERRORS),
        .errors = vd_counter_sum(&e->counters, NCOUNTERS, ERRORS),
        .ready = atomic_load(&e->ready),
        .dead = vd__dead(e),
    };
}

/* Maps the beginning of `data`, best effort: a small hit is then a copy and no system call. Not all of a large
 * cache, since the page tables of what was touched are memory that nobody counts: 2 MiB a GiB. */
static void map_data(struct vd__engine *e)
{
    size_t bytes = vd_min((uint64_t)e->slots.nslots * e->slots.slot_bytes, DATA_MAP_MAX);
    void *p = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, e->data_fd, 0);
    if (p == MAP_FAILED)
        return;
    if (vd_sigbus_add(p, bytes, NULL, &e->data_bus) < 0) {
        munmap(p, bytes);
        return;
    }
    madvise(p, bytes, MADV_RANDOM);
    e->data_map = p;
    e->data_map_bytes = bytes;
}

static void unmap_data(struct vd__engine *e)
{
    vd_sigbus_del(e->data_bus);
    if (e->data_map)
        munmap((void *)(uintptr_t)e->data_map, e->data_map_bytes);
}

/* Also of a half-opened one. */
static void engine_free(struct vd__engine *e)
{
    vd__index_close(&e->index);
    vd__hint_free(&e->hint);
    vd__slots_close(&e->slots);
    if (e->policy)
        e->policy->ops->free(e->policy);
    vd_close_p(&e->pending.fd);
    free(e->pending.ranges);
    unmap_data(e);
    vd_close_p(&e->data_fd);
    vd_close_p(&e->dirfd);
    for (unsigned i = 0; i < VD__STRIPES; i++)
        pthread_mutex_destroy(&e->stripes[i].mu);
    pthread_mutex_destroy(&e->alloc_mu);
    pthread_mutex_destroy(&e->table_mu);
    pthread_mutex_destroy(&e->sync_mu);
    pthread_mutex_destroy(&e->pending.mu);
    pthread_mutex_destroy(&e->ready_mu);
    pthread_cond_destroy(&e->ready_cond);
    vd_close_p(&e->lock_fd); /* last: who waits for it may open the rest */
    free(e->dir);
    free(e->note);
    free(e);
}

static void engine_close(struct vd_cache *c)
{
    struct vd__engine *e = vd__engine(c);
    vd_cache_stopping(c);
    vd__rebuild_stop(e);
    bool clean = vd__usable(e) && vd__barrier(c) == 0 && vd__index_sync(&e->index) == 0;
    vd__index_close(&e->index);
    if (clean) {
        int r = vd__state_save(e);
        if (r < 0)
            vd_log_warning("cache: %s/state: %s: the next start rebuilds the index", e->dir,
                           strerror(-r));
    }
    engine_free(e);
}

void vd_cache_stopping(struct vd_cache *c)
{
    if (c->ops != &engine_ops)
        return;
    struct vd__engine *e = vd__engine(c);
    vd__lock_say(e->lock_fd, true, e->note);
}

static const struct vd_cache_ops engine_ops = {
    .layer_open = vd__layer_open,
    .layer_close = vd__layer_close,
    .read = vd__read,
    .fill_begin = vd__fill_begin,
    .fill_commit = vd__fill_commit,
    .fill_abort = vd__fill_abort,
    .write_begin = vd__write_begin,
    .write_end = vd__write_end,
    .layer_drop = vd__layer_drop,
    .forget = vd__forget,
    .flush = vd__flush,
    .barrier = vd__barrier,
    .map = vd__map,
    .layer_bytes = vd__layer_bytes,
    .witness_load = vd__witness_load,
    .witness_store = vd__witness_store,
    .stats = engine_stats,
    .dead = engine_dead,
    .verify = vd__verify,
    .close = engine_close,
};

static struct vd__engine *engine_new(const struct vd_cache_config *config)
{
    struct vd__engine *e = aligned_alloc(64, vd_align_up(sizeof(*e), 64));
    if (!e)
        return NULL;
    memset(e, 0, sizeof(*e));
    e->cache.ops = &engine_ops;
    e->dirfd = e->lock_fd = e->data_fd = e->slots.fd = e->pending.fd = -1;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->ready_cond, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&e->ready_mu, NULL);
    pthread_mutex_init(&e->alloc_mu, NULL);
    pthread_mutex_init(&e->table_mu, NULL);
    pthread_mutex_init(&e->sync_mu, NULL);
    pthread_mutex_init(&e->pending.mu, NULL);
    for (unsigned i = 0; i < VD__STRIPES; i++)
        pthread_mutex_init(&e->stripes[i].mu, NULL);
    for (unsigned i = 0; i < VD__TABLE_BUCKETS; i++)
        vd_list_init(&e->table[i]);
    e->dir = strdup(config->dir);
    e->note = strdup(config->note ? config->note : "");
    if (!e->dir || !e->note) {
        engine_free(e);
        return NULL;
    }
    return e;
}

static bool exists(int dirfd, const char *name)
{
    struct stat st;
    return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool is_file(int dirfd, const char *name)
{
    struct stat st;
    return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

/* Opens `slots` and `data`; both are set aside, once, where they are not ours or damaged. */
static int open_slots(struct vd__engine *e, const struct vd_cache_config *config, bool *ret_changed)
{
    for (int tries = 0;; tries++) {
        int r = -EUCLEAN;
        bool foreign =
            exists(e->dirfd, "data") && (!is_file(e->dirfd, "data") || !exists(e->dirfd, "slots"));
        if (!foreign)
            r = vd__slots_open(e->dirfd, config->size_bytes, config->slot_bytes, &e->slots,
                               ret_changed);
        if (r != -EUCLEAN || tries)
            return r;
        vd__slots_close(&e->slots);
        vd_log_warning("cache: %s: %s: set aside in 'damaged'; the cache begins empty", e->dir,
                       foreign ? "data is not of this cache" : "slots is damaged");
        r = vd__dir_set_aside(e->dirfd);
        if (r < 0)
            return r;
    }
}

static int open_data(struct vd__engine *e)
{
    struct stat st;
    off_t bytes = (off_t)((uint64_t)e->slots.nslots * e->slots.slot_bytes);
    const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
    e->data_fd = openat(e->dirfd, "data", flags | O_NOATIME, 0600);
    if (e->data_fd < 0 && errno == EPERM) /* made by another user */
        e->data_fd = openat(e->dirfd, "data", flags, 0600);
    if (e->data_fd < 0 || fstat(e->data_fd, &st) < 0)
        return -errno;
    if (st.st_size != bytes && ftruncate(e->data_fd, bytes) < 0)
        return -errno;
    posix_fadvise(e->data_fd, 0, 0, POSIX_FADV_RANDOM);
    return 0;
}

static int open_index(struct vd__engine *e, bool fresh)
{
    if (fresh && unlinkat(e->dirfd, "index.mdb", 0) < 0 && errno != ENOENT)
        return -errno;
    return vd__index_open(e->dir, e->dirfd, e->slots.nslots, &e->index);
}

/* An empty index and a policy that knows nothing, for the rebuild to fill. */
static int begin_anew(struct vd__engine *e)
{
    vd__index_close(&e->index);
    e->policy->ops->free(e->policy);
    e->policy = NULL;
    int r = vd_cache_policy_s3fifo.new(e->slots.nslots, &e->policy);
    return r < 0 ? r : open_index(e, true);
}

/* RET_WHAT names the file that failed. */
static int open_files(struct vd__engine *e, const struct vd_cache_config *config,
                      const char **ret_what)
{
    bool changed = false, clean = false;
    if (mkdirat(e->dirfd, "witness", 0700) < 0 && errno != EEXIST) {
        *ret_what = "witness";
        return -errno;
    }
    vd__dir_sweep(e->dirfd, ".");
    vd__dir_sweep(e->dirfd, "witness");
    *ret_what = "slots";
    int r = open_slots(e, config, &changed);
    if (r < 0)
        return r;
    *ret_what = "data";
    r = open_data(e);
    if (r < 0)
        return r;
    map_data(e);
    vd__hint_init(&e->hint, e->slots.nslots);
    *ret_what = "state";
    r = vd_cache_policy_s3fifo.new(e->slots.nslots, &e->policy);
    if (r == 0)
        r = vd__state_load(e, !changed && !exists(e->dirfd, "pending"), &clean);
    if (r < 0)
        return r;
    *ret_what = "index.mdb";
    r = open_index(e, !clean);
    if (r == -EUCLEAN && clean) {
        /* Sealed as it is, and yet no index: made by a program that did not notice. */
        vd_log_warning("cache: %s: index.mdb is damaged: it is rebuilt", e->dir);
        clean = false;
        r = begin_anew(e);
    }
    if (r < 0)
        return r;
    if (clean) {
        atomic_store(&e->ready, true);
        return 0;
    }
    *ret_what = "pending";
    r = vd__pending_load(e);
    return r < 0 ? r : vd__rebuild_start(e);
}

static int check_config(const struct vd_cache_config *config, char *ret_why, size_t why_len)
{
    uint32_t slot = config->slot_bytes;
    if (slot && (!vd_is_pow2(slot) || slot < VD__SLOT_MIN_BYTES || slot > VD__SLOT_MAX_BYTES)) {
        snprintf(ret_why, why_len, "slot size %u: must be a power of two from 4096 to 1048576",
                 slot);
        return -EINVAL;
    }
    return 0;
}

int vd_cache_open(const struct vd_cache_config *config, struct vd_cache **ret_cache, char *ret_why,
                  size_t why_len)
{
    int r = check_config(config, ret_why, why_len);
    if (r < 0)
        return r;
    struct vd__engine *e = engine_new(config);
    if (!e)
        return -ENOMEM;
    const char *what = "";
    r = vd__dir_open(config->dir, &e->dirfd);
    if (r < 0) {
        snprintf(ret_why, why_len, "%s: %s", config->dir, strerror(-r));
        goto fail;
    }
    r = vd__lock_take(e->dirfd, config->dir, config->note, config->stopping_ms, &e->lock_fd,
                      ret_why, why_len);
    if (r < 0)
        goto fail;
    r = open_files(e, config, &what);
    if (r == -EINVAL && config->slot_bytes && config->slot_bytes != e->slots.slot_bytes &&
        e->slots.slot_bytes)
        snprintf(ret_why, why_len, "%s/slots: made with slots of %u bytes, not %u", config->dir,
                 e->slots.slot_bytes, config->slot_bytes);
    else if (r < 0)
        snprintf(ret_why, why_len, "%s/%s: %s", config->dir, what, strerror(-r));
    if (r < 0)
        goto fail;
    if (e->rebuilding)
        vd__rebuild_wait(e, config->ready_ms);
    *ret_cache = &e->cache;
    return 0;
fail:
    engine_free(e);
    return r;
}
