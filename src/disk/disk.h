// SPDX-License-Identifier: Apache-2.0
/*
 * The disk's own state, private to src/disk.
 *
 * Life (d->life, lock: ds->mu):  ATTACHING -> ATTACHED -> DETACHING -> gone
 *   An open that finds ATTACHING or DETACHING waits on ds->changed. Who takes refs from 1 to 0
 *   moves it to DETACHING and queues the detach on the reaper lane.
 *
 * Ownership (d->state, lock: d->mu to change, atomic to read):
 *   NONE       no lock on the file; layer is NULL: reads go past the cache; size is the file's
 *   SHARED     read lock; layer may be set
 *   EXCLUSIVE  write lock, token drawn and durable; layer may be set; writes allowed
 *   Changes upwards are made by one thread at a time (own_mu); downwards also by a release request,
 *   which takes d->mu only, so that it never waits for one of our own requests to another mount.
 *
 * What a request works on is the disk's *view* (view.c): the live layer with its file, its map and its
 * place in the cache, and the frozen maps below. A request takes the view once and keeps it to its end;
 * a snapshot, a revert, a merge publishes another. What an older view alone refers to is let go once its last user has ended.
 *
 * The live layer's place in the cache (live->cache) is read by every request without a lock. It is replaced only under
 * d->mu, and what it was is kept in live->retired as long as the live layer is.
 *
 * Lock order: refs (a file, vd_view.h) -> d->own_mu -> d->fold_mu -> d->mu -> ds->layers_mu. ds->mu, then nothing. d->size_mu -> d->ranges_mu.
 * No lock is held over a wait but own_mu, fold_mu and size_mu, which only those who want the same thing wait for.
 */
#ifndef VD_DISK_PRIVATE_H
#define VD_DISK_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "vd_counter.h"
#include "vd_disk.h"
#include "vd_filter.h"
#include "vd_list.h"
#include "vd_map.h"
#include "vd_resolve.h"
#include "vd_view.h"

enum disk_counter {
    C_HITS,
    C_MISSES,
    C_HIT_BYTES,
    C_MISS_BYTES,
    C_BACKING_READS,
    C_BACKING_READ_BYTES,
    C_COALESCED,
    C_READAHEAD_BYTES,
    C_BYPASSED,
    C_WRITES,
    C_WRITE_BYTES,
    C_FLUSHES,
    C_ERRORS,
    C_COUNT
};
struct disk_counters {
    VD_COUNTER_SET(C_COUNT);
};
#define count(d, i, delta) vd_counter_add(&(d)->counters, C_COUNT, i, delta)

enum disk_life { LIFE_ATTACHING, LIFE_ATTACHED, LIFE_DETACHING };

#define IO_SHARDS VD_COUNTER_SHARDS
#define IO_SMALL_BLOCKS 33u
#define IO_KEEP_SMALL 4
#define IO_KEEP_LARGE 2

#define FROZEN_BUCKETS 1024u
#define IO_RUNS 8u /* a request has room for; of more the memory is asked for */

struct io;

/* Requests' memory, kept for reuse: no allocation on a hit. Each place is taken and filled by an
 * atomic exchange; see io.c. */
struct io_pool {
    struct {
        _Alignas(64) struct io *_Atomic small[IO_KEEP_SMALL];
        struct io *_Atomic large[IO_KEEP_LARGE];
    } shard[IO_SHARDS];
};

/* The counters of a disk's earlier attachments. */
struct past_disk {
    struct vd_list link;
    dev_t dev;
    ino_t ino;
    uint64_t count[C_COUNT];
};

struct vd_disks {
    struct vd_disks_config config;
    struct vd_lane *reaper; /* detaches and removals run here */
    struct vd_lane *opener; /* opens, which may wait for all sorts of things */
    struct vd_lane *keeper; /* bakes, merges, folds and sweeps */
    struct vd_maps *maps;   /* NULL without metadata */
    struct io_pool ios;
    atomic_bool stopping; /* everything is about to be detached */
    atomic_bool sweeping; /* a sweep is queued */

    pthread_mutex_t layers_mu;
    struct vd_list frozen[FROZEN_BUCKETS]; /* lock: layers_mu; by disk ID */
    struct vd_list chains;                 /* lock: layers_mu */

    pthread_mutex_t mu;
    pthread_cond_t changed; /* some disk's life changed */
    struct vd_list disks;   /* lock: mu */
    struct vd_list past;    /* lock: mu; struct past_disk, one for each that was ever attached */
};

struct retired_layer {
    struct vd_list link;
    struct vd_cache_layer *layer;
};

/* A frozen layer as this mount reads it; one a disk ID, shared by all disks (layer.c). */
struct frozen {
    struct vd_list link; /* lock: ds->layers_mu */
    unsigned refs;       /* lock: ds->layers_mu */
    struct vd_disks *ds;
    struct vd_layer_file file;
    pthread_mutex_t mu;                   /* to open what follows */
    struct vd_backing *_Atomic backing;   /* opened when it is first read */
    struct vd_cache_layer *_Atomic cache; /* with cache_known: NULL where it is not cached */
    atomic_bool cache_known;
};

/* A frozen map with the layers that it names; one a map ID, shared (layer.c). */
struct chain {
    struct vd_list link; /* lock: ds->layers_mu */
    unsigned refs;       /* lock: ds->layers_mu */
    struct vd_map *map;
    uint32_t nlayers;
    struct frozen *layers[];
};

/* The layer that is written. */
struct live {
    unsigned refs;        /* lock: d->mu */
    struct vd_id disk_id; /* zero: no metadata, never cached */
    struct vd_backing *backing;
    bool own_file;          /* backing is the disk's own */
    bool begun;             /* lock: own_mu; lm takes changes */
    struct vd_live_map *lm; /* NULL: the disk is plain, the layer holds every block */
    struct vd_cache_layer *_Atomic cache;
    struct vd_list retired; /* lock: d->mu */
};

/* What a request works on; fixed but for its users (view.c). */
struct view {
    struct view *older; /* lock: d->mu */
    bool let_go;        /* lock: d->mu; live and chains are given back */
    struct {
        _Alignas(64) atomic_uint users;
    } shard[VD_COUNTER_SHARDS];
    struct live *live;
    unsigned nmaps;
    struct vd_map *maps[VD_VIEW_MAPS]; /* those of the chains */
    struct chain *chains[VD_VIEW_MAPS];
};

/* Blocks of a disk that a first write works on (cow.c). */
struct range {
    struct vd_list link;
    uint64_t first, last;
};

/* Flushes of a disk go in rounds: who comes while one is under way shares the next. */
struct flush_round {
    pthread_mutex_t mu;
    pthread_cond_t done;
    uint64_t begun, ended; /* lock: mu; numbers of rounds */
    int result[2];         /* lock: mu; of the last two that ended, by number mod 2 */
    bool full[2];          /* lock: mu; somebody wants more than the data */
};

/* A gate that work passes (pause.c). */
struct pause {
    struct {
        _Alignas(64) atomic_uint n;
    } shard[VD_COUNTER_SHARDS]; /* work under way */
    atomic_bool shut;
    pthread_mutex_t mu;
    pthread_cond_t changed; /* with mu */
    struct vd_list parked;  /* lock: mu; struct vd_job */
};

/* Work on a disk's maps that goes on behind its clients' backs. */
struct keep {
    struct vd_job job;
    bool queued; /* lock: d->mu */
    atomic_bool stop;
    atomic_ullong done, total; /* extents of the merge under way */
    uint64_t failed_ms;        /* lock: d->mu; when it last failed */
};

/* Tells whether metadata changed since it was read. */
struct file_stamp {
    uint64_t ino, size_bytes;
    int64_t mtime_ns, ctime_ns;
};
struct meta_stamp {
    struct file_stamp records, log;
};

struct vd_disk {
    struct vd_disks *ds;
    struct vd_list link; /* lock: ds->mu */
    enum disk_life life; /* lock: ds->mu */
    unsigned refs;       /* lock: ds->mu */
    unsigned opens;      /* lock: ds->mu */
    dev_t dev;
    ino_t ino;
    struct past_disk *past; /* fixed; its counters change under ds->mu */
    struct vd_job detach_job;

    struct vd_backing *
        backing; /* the disk's own file: names, locks; its blocks too while it is the live layer's */
    struct vd_lane *lane;
    struct vd_id uuid; /* zero: no metadata, never cached; fixed after attach */

    pthread_mutex_t own_mu;
    pthread_mutex_t mu;
    pthread_cond_t settled; /* with mu: housekeeping, or a change of the filters, has ended */
    _Atomic enum vd_owner_state state;
    struct view *_Atomic view;       /* lock: own_mu and mu to change */
    struct view *old_views;          /* lock: mu; newest first, freed at the detach */
    enum vd_lock locked;             /* lock: mu; what we hold on the file; ahead of state */
    struct vd_cache_witness witness; /* lock: own_mu; what the cache holds of the live layer */
    _Atomic uint64_t generation;     /* the witness's, for who must not wait for own_mu */
    struct vd_identity
        identity;   /* lock: mu; of the live layer's file, as far as we know why it changed */
    uint64_t epoch; /* lock: mu */
    _Atomic uint64_t content; /* stands for what the live layer holds: vd_filter_epoch */
    struct meta_stamp stamp; /* lock: mu; of the metadata that the view is made of */
    struct vd_id parent;     /* lock: mu; UUID of the disk it was cloned from */
    bool moving;             /* lock: own_mu; see home.c */
    atomic_bool gone;        /* its last name was removed through this mount */
    atomic_bool unrecorded;  /* its owner record could not be written: asked again when it is opened */
    char path[1024];         /* below the source when it was attached; fixed */
    uint64_t
        share_tried_ms; /* lock: mu; when a lock was last asked for, while another mount has it */
    uint64_t refused_logged_ms; /* lock: mu; when a refused write was last logged */

    struct pause requests; /* all that clients ask, from the first filter to the answer */
    struct pause changes;  /* below the filters */

    /* filters.c */
    struct vd_filtered *filtered; /* fixed after attach; NULL: the mount has no filters */
    struct vd_lane *upcalls;      /* requests whose filters wait; with FILTERED */
    _Atomic uint32_t filters_sum; /* of the records that the chain was made of */
    _Atomic uint32_t filters_seen; /* of the records, when they were last looked at */
    atomic_bool filters_stale;    /* the records are others by now: no request goes on before they are looked at */
    bool filters_busy;            /* lock: mu; the chain is being replaced */
    bool refreshing;              /* lock: mu; refresh_job is under way */
    bool refresh_holds;           /* lock: mu; and has a reference of its own */
    struct vd_list await_filters; /* lock: mu; struct vd_job: requests that hold no thread until then */
    struct vd_job refresh_job;
    atomic_bool filters_ended;    /* nothing of theirs goes on */

    pthread_mutex_t ranges_mu;
    pthread_cond_t ranges_changed;
    struct vd_list ranges; /* lock: ranges_mu */

    struct flush_round rounds; /* flush.c */
    struct keep keep;          /* keep.c */
    pthread_mutex_t fold_mu;   /* the live map's log is being folded, or the map frozen */

    _Atomic uint64_t size_bytes;
    pthread_mutex_t size_mu; /* leaf; held over truncation and stat of the backing */
    atomic_uint truncations; /* written under size_mu; odd: size_bytes is about to shrink */
    atomic_bool sync_failed; /* an fsync failed: what is cached may not be what the backing holds */

    struct disk_counters counters;
};

/* Blocks [AT, AT + N) of a request, which one layer holds. */
struct run {
    uint32_t at, n;
    enum run_kind { RUN_LIVE, RUN_FROZEN, RUN_ZERO } kind;
    struct frozen *frozen;
};

/* One request under way. A read that is a hit uses it on one thread only; one that is not, and a
 * write that was put off, carry it to the lane's threads. */
struct io {
    struct vd_job job;
    struct vd_disk *d;
    struct view *view; /* with SHARD; NULL: none taken */
    unsigned shard;
    uint64_t off;
    size_t len;
    vd_disk_done done;
    void *user;
    uint8_t *data; /* IO_SMALL_BLOCKS or VD_IO_MAX_BLOCKS blocks, aligned to a block */
    bool large;
    /* of a read */
    struct run few[IO_RUNS], *runs,
        *many;                    /* runs is few or many, which is freed with the request */
    uint32_t nruns, at;           /* the run being worked on */
    struct vd_cache_layer *cache; /* of that run; NULL: read past */
    struct vd_cache_read look;
    struct vd_cache_fill fill;
    uint64_t hit_bytes;
    size_t asked; /* len before it was cut at the disk's end */
    bool waited;  /* has waited for another's fill of this run once */
    bool in_lane; /* may wait for the backing */
    bool missed, joined;
    bool sync;    /* to be done on this thread: it waits for nobody's fill */
    bool changed; /* its bytes may be changed once they are answered: they are admitted before */
    unsigned ticket; /* of the gate of requests; NO_TICKET: somebody else's */
    /* of the requests that are put off */
    enum io_kind { IO_READ, IO_WRITE, IO_FLUSH, IO_ZERO, IO_TRUNCATE, IO_SEEK } kind;
    int arg;
};
#define NO_TICKET UINT32_MAX
#define UPCALL_THREADS 32u /* of a disk: requests whose filters wait */

/* io.c */
struct io *vd__disk_io_get(struct vd_disks *ds, uint32_t nblocks);
void vd__disk_io_put(struct vd_disks *ds, struct io *io);
void vd__disk_io_drain(struct vd_disks *ds);

/* view.c. get: any thread, no lock; what it returned is valid until put with the same shard. */
struct view *vd__view_get(struct vd_disk *d, unsigned *ret_shard);
void vd__view_put(struct view *v, unsigned shard);
/* A view of LIVE and the chains, whose references it takes over. NULL without memory (nothing is taken then). */
struct view *vd__view_new(struct vd_disk *d, struct live *live, struct chain *const *chains,
                          unsigned nchains);
/* Puts V in place of the disk's view and lets go of older ones that nobody uses. */
void vd__view_publish(struct vd_disk *d, struct view *v);
void vd__view_reap(struct vd_disk *d);
/* At the detach: all of them. */
void vd__view_drop_all(struct vd_disk *d);
void vd__view_free_unpublished(struct vd_disk *d, struct view *v);
/* BACKING is taken unless OWN_FILE. NULL without memory (nothing is taken). */
struct live *vd__live_new(const struct vd_id *disk_id, struct vd_backing *backing, bool own_file,
                          struct vd_live_map *lm);
struct live *vd__live_ref(struct vd_disk *d, struct live *l);
void vd__live_unref(struct vd_disk *d, struct live *l);
/* The live layer now; for who holds own_mu, or at attach and detach. */
static inline struct live *vd__live(struct vd_disk *d)
{
    return atomic_load(&d->view)->live;
}

/* layer.c */
int vd__frozen_get(struct vd_disks *ds, const struct vd_id *disk_id, struct frozen **ret_f,
                   char why[VD_META_WHY]);
void vd__frozen_put(struct frozen *f);
/* Its place in the cache, in RET_CACHE (NULL: it is not cached). -EAGAIN: not known yet and MAY_BLOCK is false. */
int vd__frozen_cache(struct frozen *f, bool may_block, struct vd_cache_layer **ret_cache);
int vd__frozen_backing(struct frozen *f, struct vd_backing **ret_b); /* blocks */
/* A layer that was just frozen keeps its place in the cache: KEY, whose blocks are good. */
void vd__frozen_adopt_cache(struct frozen *f, const struct vd_cache_key *key);
/* The chain of map MAP, whose reference is taken. Every layer's file is looked at: -EUCLEAN with WHY. */
int vd__chain_get(struct vd_disks *ds, struct vd_map *map, struct chain **ret_c,
                  char why[VD_META_WHY]);
struct chain *vd__chain_ref(struct vd_disks *ds, struct chain *c);
void vd__chain_put(struct vd_disks *ds, struct chain *c);

/* Stands for the content of a live layer with TOKEN. */
static inline uint64_t content_of(const struct vd_id *token)
{
    uint64_t n;
    memcpy(&n, token->b, sizeof(n));
    return n;
}

/* Stands for the content of the live layer with record LAYER, where this mount is not its exclusive owner: another number where its file
 * is not as it was at the last clean detach, since somebody changed it beside every mount. */
uint64_t vd__disk_content(struct vd_disk *d, const struct vd_layer_record *layer);

/* load.c; with own_mu held, or at the attach. From metadata to a view. */
int vd__disk_load(struct vd_disk *d, struct vd_meta *m, char why[VD_META_WHY]);
/* A live layer that has the record of a frozen one: -EUCLEAN with WHY if others stand on it, else the record goes. */
int vd__refuse_if_frozen(struct vd_disk *d, const struct vd_id *id, char why[VD_META_WHY]);
/* Before the first change: the live map takes records. */
int vd__disk_begin_changes(struct vd_disk *d);
/* While another mount may change the disk: the view follows its metadata. */
int vd__disk_follow(struct vd_disk *d, char why[VD_META_WHY]);
/* The same at the attach of a disk with layers whose owner record cannot be written. -ENODATA: it has no layers. */
int vd__disk_follow_unrecorded(struct vd_disk *d, char why[VD_META_WHY]);

/* runs.c: which layers hold the blocks of a request */
int vd__runs_find(struct io *io, bool may_block);
/* Reads blocks through view V, by the cache where it has them; for those who may block. Fills nothing. BUF is aligned. */
int vd__view_read(struct vd_disk *d, struct view *v, uint64_t first, uint32_t nblocks,
                  uint8_t *buf);

/* pause.c: enter and leave bracket what passes. enter: false: the gate is shut, and JOB (NULL: none) will be queued when it opens. */
void vd__pause_init(struct pause *p);
void vd__pause_destroy(struct pause *p);
bool vd__pause_enter(struct pause *p, struct vd_job *job, unsigned *ret_shard);
void vd__pause_leave(struct pause *p, unsigned shard);
/* As enter, but for who may wait: waits until the gate is open. */
unsigned vd__pause_wait(struct pause *p);
/* One at a time shuts it. drained: is nothing under way any more? It waits TIMEOUT_MS at most. */
void vd__pause_shut(struct pause *p);
bool vd__pause_drained(struct pause *p, unsigned timeout_ms);
void vd__pause_go_on(struct pause *p, struct vd_lane *lane);
/* The gate of changes: shuts it and waits until none is under way. -ETIMEDOUT: open again. One at a time (own_mu). */
int vd__changes_stop(struct vd_disk *d);
void vd__changes_go_on(struct vd_disk *d);

/* gate.c */
/* A client's request. */
struct request {
    enum io_kind kind;
    int arg; /* enum vd_zero_mode, whence, data_only */
    uint64_t off, len;
    const void *data; /* borrowed until the call returns */
    vd_disk_done done;
    void *user;
};
/* Lets TICKET go and answers. The disk may be gone afterwards. */
void vd__disk_answer(struct vd_disk *d, unsigned ticket, vd_disk_done done, void *user,
                     ssize_t result, const void *data);

/* The chain becomes that of the records, on another thread. */
void vd__filters_refresh_soon(struct vd_disk *d);
/* Lets TICKET go; Q enters anew, on a thread of the lane. */
void vd__disk_again(struct vd_disk *d, const struct request *q, unsigned ticket);
/* Another mount may write it, and attach filters. */
static inline bool vd__disk_is_anothers(struct vd_disk *d)
{
    return atomic_load_explicit(&d->state, memory_order_acquire) == VD_OWNER_NONE &&
           !vd_id_is_zero(&d->uuid);
}

/* below.c */
extern const struct vd_filter_below vd__below;
/* Q through chain C, with TICKET. */
void vd__filters_submit(struct vd_disk *d, struct vd_chain *c, const struct request *q,
                        unsigned ticket);
/* Q on the heap, its data copied; NULL without memory. */
struct io *vd__request_keep(struct vd_disk *d, const struct request *q);

/* filters.c */
int vd__filters_attach(struct vd_disk *d);
/* At the detach, with d->lane open. */
void vd__filters_detach(struct vd_disk *d);
void vd__filters_free(struct vd_disk *d); /* behind that, when the lane is closed */
/* The mount ends: what filters hold is let go, and nothing is held any more. */
void vd__filters_drain(struct vd_disk *d);
/* The records in session M: are they those of the chain? Else the chain is stale. */
int vd__filters_look(struct vd_disk *d, struct vd_meta *m);
/* Are the disk's records others than the chain's by now? Whoever has read with a ticket, which keeps the chain in place, asks
 * before it lets the ticket go: it may have read what others than its filters have written. May block. */
bool vd__filters_are_others(struct vd_disk *d);
/* Where the chain is stale: another is made. Blocks. 0 or -errno. */
int vd__filters_refresh(struct vd_disk *d);
/* An event of which clients are told by nobody else; with no lock held. WHY as of filters. */
int vd__filters_snapshot(struct vd_disk *d, const char *name, char why[VD_META_WHY]);

/* cow.c: changes of a disk with layers, behind the gate of pause.c */
ssize_t vd__cow_write(struct vd_disk *d, struct view *v, uint64_t off, const void *data,
                      size_t len);
int vd__cow_zero(struct vd_disk *d, struct view *v, enum vd_zero_mode mode, uint64_t off,
                 uint64_t len);
int vd__cow_truncate(struct vd_disk *d, struct view *v, uint64_t size);
/* Makes blocks that are not the live layer's its own, as they are. BUF (NBLOCKS blocks) is scratch. */
int vd__cow_copy_up(struct vd_disk *d, struct view *v, uint64_t first, uint32_t nblocks,
                    uint8_t *buf);

/* Blocks that read as zeroes and are not the live layer's become its own, a hole in its file. */
int vd__cow_own_hole(struct vd_disk *d, struct view *v, uint64_t first, uint64_t nblocks);

/* flush.c */
int vd__disk_flush_now(struct vd_disk *d, bool data_only);
void vd__disk_sync_failed(struct vd_disk *d, int error);
int vd__live_sync(struct live *l, bool data_only);

/* keep.c */
void vd__keep_soon(struct vd_disk *d);
void vd__keep_stop(struct vd_disk *d);
int vd__merge_for_room(struct vd_disk *d, char why[VD_META_WHY]);

/* attach.c: with life ATTACHING or DETACHING, so alone on the disk but for release requests. */
int vd__disk_attach(struct vd_disk *d, int path_fd, bool write);
void vd__disk_detach(struct vd_disk *d);
void vd__disk_let_go(struct vd_disk *d);
void vd__disk_free(struct vd_disk *d);
int vd__disk_settled_identity(struct vd_disk *d, struct vd_identity *ret_id);

/* own.c: brings the disk to STATE (shared or exclusive) or higher. 0, -EBUSY (RET_WHY), -errno.
 * Blocks. */
int vd__disk_acquire(struct vd_disk *d, enum vd_owner_state state, char ret_why[VD_META_WHY]);
/* Shared, if nobody stands in the way and nobody is at it; asks nobody. 0, -EAGAIN, -errno. */
int vd__disk_share_if_free(struct vd_disk *d, char why[VD_META_WHY]);
/* With own_mu held: the exclusive lock, for a change of the disk's layers that writes no block. BEFORE for vd__disk_unlock_to. */
int vd__disk_lock_alone(struct vd_disk *d, enum vd_lock *ret_before, char why[VD_META_WHY]);
void vd__disk_unlock_to(struct vd_disk *d, enum vd_lock before);

/* Puts CACHE (NULL: none) in the place of the live layer's, which is kept as long as the live layer is. Where
 * the lock on the file is gone CACHE is only kept. The second with d->mu held. */
void vd__disk_layer_replace(struct vd_disk *d, struct vd_cache_layer *cache);
void vd__disk_layer_replace_locked(struct vd_disk *d, struct vd_cache_layer *cache);

/* witness.c; all with own_mu held (or at the detach). */
void vd__disk_witness_check(struct vd_disk *d, const struct vd_id *token, bool *ret_cold);
void vd__disk_witness_begin_writes(struct vd_disk *d, const struct vd_id *token);
void vd__disk_witness_detach(struct vd_disk *d, const struct vd_identity *now, bool durable);
/* Of a new live layer DISK_ID: makes the cache's witness, to be written at once, and opens its place. RET_CACHE NULL where it cannot be cached. */
void vd__witness_new(struct vd_disks *ds, const struct vd_id *disk_id, const struct vd_id *token,
                     const struct vd_identity *id, struct vd_cache_witness *ret_w,
                     struct vd_cache_layer **ret_cache);
/* Of a frozen layer: the key under which the cache holds what is good of it; a new one where nothing is. */
int vd__witness_frozen(struct vd_disks *ds, const struct vd_layer_file *file,
                       struct vd_cache_key *ret_key);
/* A layer was frozen and its copies passed the barrier: they may be trusted from now on. */
void vd__witness_freeze(struct vd_disks *ds, const struct vd_layer_file *file,
                        const struct vd_cache_witness *was);

/* disks.c */
int vd__disk_identity(struct vd_disk *d, struct vd_identity *ret_id); /* of the live layer's file */
/* Drops what the cache holds under KEY, later, on the reaper. */
void vd__disk_forget_later(struct vd_disks *ds, const struct vd_cache_key *key);

/* read.c, write.c: behind the gate. */
void vd__disk_read(struct vd_disk *d, uint64_t off, size_t len, bool changed, unsigned ticket,
                   vd_disk_done done, void *user);
void vd__disk_write(struct vd_disk *d, uint64_t off, const void *data, size_t len, unsigned ticket,
                    vd_disk_done done, void *user);
void vd__disk_change(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len,
                     unsigned ticket, vd_disk_done done, void *user);
/* The same on the calling thread, which may block, within the gate of requests. */
ssize_t vd__disk_read_now(struct vd_disk *d, uint64_t off, void *buf, size_t len);
ssize_t vd__disk_write_now(struct vd_disk *d, uint64_t off, const void *data, size_t len);
int vd__disk_change_now(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len);
/* Owns the disk for a change; a refusal is logged, at most once a second a disk. */
int vd__own_for_change(struct vd_disk *d);
/* Runs RUN(&io->job) here while the lane lets it in, else on its threads. */
void vd__run_or_queue(struct io *io, void (*run)(struct vd_job *job));

/* seek.c */
off_t vd__disk_seek_now(struct vd_disk *d, uint64_t off, int whence);
/* In the bytes [OFF, END), all of which O holds: the offset where WHENCE is first found in its file, END where it is
 * not, -errno. Blocks. */
off_t vd__seek_run(struct view *v, const struct vd_block_owner *o, uint64_t off, uint64_t end,
                   int whence);

#endif
