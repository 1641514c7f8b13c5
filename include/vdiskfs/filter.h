/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filter ABI of vdiskfs: all that a filter needs, and all that it may use.
 *
 * A filter stands between a guest and its disk. It is a shared object NAME.so in the filter folder; it is
 * attached to a disk with a configuration (`vdisk filter attach PATH NAME KEY=VALUE...`), which is kept in the
 * disk's metadata, and from then on sees each request of that disk:
 *
 *     guest -> inspection -> replication -> encryption -> quota -> metadata, cache, image
 *
 * Filters stand in the order of their classes; those of one class in the order in which they were attached.
 * A request is *submitted* from the top to the bottom, and *done* from the bottom to the top.
 *
 * What is in a filter. Fill in one struct vd_filter_ops, leave NULL what you do not need, and name it with
 * VD_FILTER_EXPORT(ops). docs/filters.md has a whole filter in 30 lines. Build with the flags that
 * `pkg-config --cflags vdiskfs-filter` prints; they include -fstack-clash-protection, without which a function
 * with a large frame can jump over the guard of its stack.
 *
 * Stacks. The daemon makes an *upcall*, as a kernel would call up into user space: a callback runs on a stack of
 * its own (VD_FILTER_STACK_BYTES, with a guard), on the thread that serves the request. When it calls a service
 * (the functions vd_filter_... below), that runs on yet another stack. Nothing of this is seen by a callback, but:
 *   - it must return; it must not longjmp out, end its thread, or switch stacks;
 *   - it must not keep a pointer to a local variable past its return;
 *   - what it keeps in thread-local variables may be read by another callback on the same thread.
 * Upcalls nest when a service calls filters below; past a depth of 8 the service says -ELOOP.
 *
 * Threads. Callbacks of one attachment run on many threads at one time: what they share is the filter's to lock. A
 * mutex may be held over a service only if no callback that the service may cause (in filters below, or a `done` of
 * your own on another thread) wants it too. Services that wait say -EAGAIN on a thread that may not wait; each says
 * so below, and VD_FILTER_MAY_WAIT in a request tells.
 *   attach, ready, start, detach, open, close, event, status: may wait.
 *   submit: may wait if the request says VD_FILTER_MAY_WAIT; always for a filter with VD_FILTER_WAITS.
 *   done: may not wait.
 *   threads that the filter made itself: may wait. They are the filter's to end before `detach` returns.
 * A callback that may not wait must not block otherwise, either: it runs on a worker that serves other disks.
 *
 * Callbacks of one attachment may overlap each other in any way but these: nothing comes before attach has returned, start comes
 * once, and nothing overlaps or follows detach.
 *
 * Faults. A fault in a filter's own code on its own stack (NULL, a stack that overflows, a division by zero, an
 * illegal instruction) fails that request with EIO and takes the filter out of that disk: *quarantined*. The disk
 * goes on without an optional filter, and refuses I/O without a required one. This is best effort: a filter is
 * trusted code in the daemon's process. A fault in libc, in a service, or on a thread of the filter's kills the daemon;
 * what a quarantined filter held (locks, memory) stays held, and its `detach` is not called.
 *
 * Operations are those of enum vd_filter_op; a new one would be another version of the ABI.
 *
 * Versions. A filter says for which VD_FILTER_ABI it was built; one of another version is refused. Within a version
 * structs only grow at their ends: look at `size` before you use a member that a later header added.
 *
 * Licence of this header: Apache-2.0, so that filters may be under any.
 *
 * Ideas from: nbdkit's filters (next layer, one folder each), VMware's I/O filters (classes, events, attach by
 * policy), Windows' minifilters (pass, complete, pend; completion in reverse order).
 */
#ifndef VDISKFS_FILTER_H
#define VDISKFS_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VD_FILTER_ABI 1u
#define VD_FILTER_STACK_BYTES (256u << 10) /* of a callback; keep large buffers elsewhere */
#define VD_FILTER_NAME_MAX 31u             /* bytes of a filter's name: a-z, 0-9, '-' */
#define VD_FILTER_DATA_MAX 4000u           /* bytes of one value of private metadata */
#define VD_FILTER_KEY_MAX 63u              /* bytes of a key of private metadata */

/* ---- requests ---- */

/* A client's SEEK_HOLE and SEEK_DATA pass filters by, so what is a hole below must read as zeroes above. */
enum vd_filter_op {
    VD_FILTER_READ = 0,
    VD_FILTER_WRITE = 1,
    VD_FILTER_FLUSH = 2,   /* what was written before must be durable; no range */
    VD_FILTER_DISCARD = 3, /* deallocate; reads as zeroes afterwards */
    VD_FILTER_ZERO = 4,    /* zeroes */
    VD_FILTER_OPS = 5      /* how many there are */
};

/* Flags of a request. */
#define VD_FILTER_MAY_WAIT 1u  /* this thread may wait */
#define VD_FILTER_DATA_ONLY 2u /* FLUSH: as fdatasync(2) */
#define VD_FILTER_EXTEND 4u    /* ZERO: grows the disk where the range ends behind it */

/*
 * One request, as one filter sees it: valid from its submit to the return of its done (or of the submit that
 * completes or fails it). Offsets and lengths are bytes and not aligned to anything, though guests align; a request
 * has at most 1 MiB of data, a DISCARD or ZERO any length. A WRITE or ZERO may go behind the end of the disk and so make it longer;
 * a READ there is short.
 */
struct vd_filter_request {
    uint32_t size; /* of this struct */
    uint32_t op;   /* enum vd_filter_op */
    uint32_t flags;
    uint32_t reserved;
    uint64_t offset, length; /* fixed */
    /* WRITE: the bytes to be written. They must not be changed; to write others point this to them (vd_filter_alloc),
     * length of them, before you pass.
     * READ: NULL in submit. In done, if result is positive, the bytes that were read, which may be changed in place by a
     * filter without VD_FILTER_ONLY_LOOKS. To complete a READ, in submit or (in place of an error) in done, point it to
     * `result` bytes of vd_filter_alloc: others' `done` and the answer look at them after you have returned. */
    void *data;
    /* In done: bytes read or written, 0 for the other operations, or -errno; done may replace it by
     * a -errno, and a -errno by success only if it made that true. For VD_FILTER_COMPLETE: set it. */
    int64_t result;
    void *self_data; /* this filter's, for this request: NULL in submit, then what it left there */
    uint64_t id;     /* one number a request, for logs; filters see the same */
};

/* What submit answers: one of these, or -errno, which fails the request: filters above are told by done, those
 * below never see it. */
enum vd_filter_verdict {
    /* goes on below; this filter's done will be called, exactly once */
    VD_FILTER_PASS = 0,
    /* done here, with `result` (and `data`); as a failure, but a success */
    VD_FILTER_COMPLETE = 1,
    /* vd_filter_defer or vd_filter_defer_for was called with success: goes on later */
    VD_FILTER_DEFER = 2,
    /* submit is called again where it may wait, with self_data as it left it; not if it may wait already */
    VD_FILTER_WAIT = 3
};

/* ---- events ---- */

enum vd_filter_event_type {
    /* a snapshot is about to be taken, or a clone made. -errno refuses it */
    VD_FILTER_EVENT_SNAPSHOT = 0,
    /* the disk is about to grow: by truncation, allocation or resize. A WRITE or a ZERO with EXTEND that ends behind the disk's end makes
     * it longer without this event: look at their ranges. -errno refuses it */
    VD_FILTER_EVENT_GROW = 1,
    /* the disk is about to be cut. -errno refuses it */
    VD_FILTER_EVENT_SHRINK = 2,
    /* this mount is about to give up exclusive ownership: make durable what must be. -errno is logged */
    VD_FILTER_EVENT_RELEASE = 3,
    /* the disk is being closed, or a filter attached or detached: let go of what you defer, now. What vd_filter_defer_for
     * holds is let go by itself. Do not wait here for a thread of the filter's that may be in a service: services of such threads
     * wait until the disk goes on. The answer is ignored */
    VD_FILTER_EVENT_DRAIN = 4
};
struct vd_filter_event {
    uint32_t size;                 /* of this struct */
    uint32_t type;                 /* enum vd_filter_event_type */
    const char *snapshot;          /* SNAPSHOT: its name, or NULL where a clone is made */
    uint64_t old_bytes, new_bytes; /* GROW, SHRINK: sizes of the disk */
};

/* ---- configuration ---- */

enum vd_filter_type {
    VD_FILTER_TEXT = 0,     /* text */
    VD_FILTER_PATH = 1,     /* an absolute path, in text */
    VD_FILTER_NUMBER = 2,   /* a whole number, in number */
    VD_FILTER_SIZE = 3,     /* bytes; 64K, 1M, 2G: in number */
    VD_FILTER_DURATION = 4, /* 250us, 20ms, 1.5s; without unit seconds: nanoseconds in number */
    VD_FILTER_RATIO = 5,    /* 0 to 1, or 10%: in ratio */
    VD_FILTER_BOOL = 6,     /* yes or no, true or false, 1 or 0: in number */
    VD_FILTER_CHOICE = 7 /* one of the words in `choices`, separated by '|': its place in number */
};

/* An option. A list of them ends with one whose key is NULL. */
struct vd_filter_option {
    const char *key; /* a-z, 0-9, '-'; "required" is every filter's already */
    enum vd_filter_type type;
    const char *default_value; /* NULL: none */
    bool must;                 /* attaching without it is an error */
    uint64_t min, max;         /* of NUMBER, SIZE, DURATION; max 0: no limit */
    const char *choices;
    const char *help; /* a few words */
};

/* The value of an option: checked for type and range. In the order of the options. */
struct vd_filter_value {
    bool given;       /* by the user, or by a default */
    const char *text; /* as written; NULL if not given */
    uint64_t number;
    double ratio;
};

/* ---- a disk, as a filter sees it ---- */

struct vd_filter_host;

/* One filter on one disk: what services take. The host's; valid from attach to the return of detach. */
struct vd_filter_disk {
    const struct vd_filter_host *host;
};

struct vd_filter_disk_info {
    uint32_t size;       /* of this struct */
    const char *name;    /* of the disk, below the source; a hint: it may be renamed */
    const char *uuid;    /* 32 hex digits; "" for one without metadata */
    uint64_t size_bytes; /* now */
    uint64_t dev, ino;   /* of its file */
    bool read_only;      /* this mount never writes it */
    /* attached by a user just now; not: found in the metadata when the disk was opened */
    bool fresh;
    uint64_t epoch;                       /* see vd_filter_epoch */
    const struct vd_filter_value *values; /* the configuration; valid until attach returns */
};

/* ---- the filter ---- */

enum vd_filter_class {
    VD_FILTER_CLASS_INSPECTION = 1, /* nearest the guest */
    VD_FILTER_CLASS_REPLICATION = 2,
    VD_FILTER_CLASS_ENCRYPTION = 3,
    VD_FILTER_CLASS_QUOTA = 4 /* nearest the disk */
};

/* Flags of a filter. */
/* Without it the disk refuses I/O, unless the user says required=no; else it is optional, unless the user says required=yes. */
#define VD_FILTER_REQUIRED 1u
/* submit is called on threads that may wait only. Costs a change of thread a request. */
#define VD_FILTER_WAITS 2u
/* Its done never changes the bytes that were read. */
#define VD_FILTER_ONLY_LOOKS 4u
/* A clone of the disk has it too, with configuration and private metadata: the bytes below mean nothing without it. */
#define VD_FILTER_CLONED 8u

struct vd_filter_ops {
    uint32_t abi;            /* VD_FILTER_ABI */
    uint32_t size;           /* sizeof(struct vd_filter_ops) */
    const char *name;        /* that of the file, without .so */
    const char *description; /* a few words */
    enum vd_filter_class filter_class;
    uint32_t flags;
    const struct vd_filter_option *options; /* NULL: none */

    /* Before the first request: on a disk that is being opened, or on one in use. Leaves in RET_SELF what every other
     * callback is given. Requests may pass by until start. 0; -errno, after vd_filter_why has said
     * what is wrong: a user's attach fails; on a disk that is being opened the filter is `missing`. */
    int (*attach)(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                  void **ret_self);
    /* From now on each request passes here, and none is under way that did not. May be NULL. */
    void (*start)(void *self);
    /* No request is under way, and none will come. Ends threads, frees SELF. */
    void (*detach)(void *self);

    /* A client opens the disk, or closes it. -errno refuses the open. A close may be of an open from before the attach. May be
     * NULL. */
    int (*open)(void *self, bool writable);
    void (*close)(void *self, bool writable);

    /* A verdict, or -errno. May be NULL: passes. */
    int (*submit)(void *self, struct vd_filter_request *rq);
    /* A request that was passed has come back. May be NULL. */
    void (*done)(void *self, struct vd_filter_request *rq);
    /* 0 or -errno. Types that you do not know: 0. May be NULL. */
    int (*event)(void *self, const struct vd_filter_event *event);
    /* Writes one JSON object about its state (LEN is 65536; always ends it with NUL). 0 or -errno. For
     * `vdisk filter ls`. May be NULL. */
    int (*status)(void *self, char *ret_json, size_t len);

    /* Between attach and start, where a user attaches it to a disk (`fresh`): no request is under way, and clients' requests wait until
     * it has returned. So the disk is now as the first request through this filter will find it. Services work; but those of
     * threads of the filter's own wait until the disk goes on, so do not wait for such a thread here. -errno, after vd_filter_why, refuses
     * as attach does; detach is called then. May be NULL. */
    int (*ready)(void *self);
};

/* Makes OPS (the name of a struct vd_filter_ops) what the host finds in the shared object. */
#define VD_FILTER_EXPORT(ops)                                                                      \
    __attribute__((visibility("default"))) extern const uint32_t vd_filter_abi;                    \
    __attribute__((                                                                                \
        visibility("default"))) extern const struct vd_filter_ops *const vd_filter_entry;          \
    const uint32_t vd_filter_abi = VD_FILTER_ABI;                                                  \
    const struct vd_filter_ops *const vd_filter_entry = &(ops)

/* ---- services ---- */

enum vd_filter_level {
    VD_FILTER_LOG_ERROR = 0,
    VD_FILTER_LOG_WARNING = 1,
    VD_FILTER_LOG_NOTE = 2,
    VD_FILTER_LOG_DEBUG = 3
};

/* The host's side. Call the functions below instead. */
struct vd_filter_host {
    uint32_t size; /* of this struct */
    int64_t (*read)(struct vd_filter_disk *disk, void *buf, uint64_t offset, uint64_t length);
    int64_t (*write)(struct vd_filter_disk *disk, const void *buf, uint64_t offset,
                     uint64_t length);
    int (*zero)(struct vd_filter_disk *disk, uint64_t offset, uint64_t length, bool discard);
    int (*flush)(struct vd_filter_disk *disk);
    uint64_t (*disk_size)(struct vd_filter_disk *disk);
    uint64_t (*epoch)(struct vd_filter_disk *disk);
    int64_t (*get_data)(struct vd_filter_disk *disk, const char *key, void *buf, size_t len);
    int (*put_data)(struct vd_filter_disk *disk, const char *key, const void *buf, size_t len);
    int (*del_data)(struct vd_filter_disk *disk, const char *key);
    int (*wait)(struct vd_filter_disk *disk, uint64_t ns);
    void (*log)(struct vd_filter_disk *disk, enum vd_filter_level level, const char *text);
    void (*why)(struct vd_filter_disk *disk, const char *text);
    void *(*alloc)(struct vd_filter_disk *disk, struct vd_filter_request *rq, size_t len);
    int (*defer)(struct vd_filter_disk *disk, struct vd_filter_request *rq, uint64_t *ret_token);
    int (*defer_for)(struct vd_filter_disk *disk, struct vd_filter_request *rq, uint64_t ns);
    int (*resume)(struct vd_filter_disk *disk, uint64_t token, int verdict, int64_t result);
    int64_t (*next_data)(struct vd_filter_disk *disk, uint64_t offset);
};

/*
 * Read, write, zero, discard, flush the disk below this filter, as the filters below make it. All wait, so -EAGAIN on a thread that may
 * not. Any length. read: the count (fewer at the end of the disk) or -errno; write: LENGTH or -errno; the others 0 or -errno. A write,
 * zero or discard may also fail because another mount owns the disk (-EBUSY), or because this mount is read-only (-EROFS); and all that a filter
 * asks by -EIO while another mount's change of the filters is being taken over: a client's request begins anew then, a thread of
 * the filter's own tries again.
 * -ELOOP: upcalls are nested too deeply. -ESHUTDOWN: after detach has returned, or (for threads of the filter's own) once the
 * disk is being closed and DRAIN was told.
 */
static inline int64_t vd_filter_read(struct vd_filter_disk *disk, void *buf, uint64_t offset,
                                     uint64_t length)
{
    return disk->host->read(disk, buf, offset, length);
}
static inline int64_t vd_filter_write(struct vd_filter_disk *disk, const void *buf, uint64_t offset,
                                      uint64_t length)
{
    return disk->host->write(disk, buf, offset, length);
}
static inline int vd_filter_zero(struct vd_filter_disk *disk, uint64_t offset, uint64_t length,
                                 bool discard)
{
    return disk->host->zero(disk, offset, length, discard);
}
static inline int vd_filter_flush(struct vd_filter_disk *disk)
{
    return disk->host->flush(disk);
}

/* The first byte at OFFSET or behind it that may be other than zero below: what lies before it is a hole, and reads as zeroes. -ENXIO: there
 * is none before the end of the disk; -errno as of a read. It looks past the filters below, for which holes must be zeroes, too. Waits
 * (-EAGAIN). As lseek(2) with SEEK_DATA. */
static inline int64_t vd_filter_next_data(struct vd_filter_disk *disk, uint64_t offset)
{
    return disk->host->next_data(disk, offset);
}

/* Bytes of the disk now. Does not wait. */
static inline uint64_t vd_filter_disk_size(struct vd_filter_disk *disk)
{
    return disk->host->disk_size(disk);
}

/* Stands for what the disk holds: another number whenever a mount becomes its exclusive owner (before its first write), whenever its
 * live layer is another (snapshot, revert), and at an attach where its file is not as the last clean detach left it: its size, times or
 * inode. So who remembers it in `detach`, or at RELEASE, and finds the same at the next attach, knows that nobody wrote in between,
 * by a mount or beside all. It may also be another where nothing was written (after a crash, a chmod). Only equality means
 * something. Does not wait. */
static inline uint64_t vd_filter_epoch(struct vd_filter_disk *disk)
{
    return disk->host->epoch(disk);
}

/*
 * Private metadata of this filter on this disk: values by key, durable when put_data and del_data return. They stay
 * when the disk is closed, snapshots taken and reverted, and go when the filter is detached by a user. put and del make
 * this mount the disk's exclusive owner, as a write would. All wait (-EAGAIN).
 *   get: the value's length, even where LEN is less (then only LEN bytes are copied); -ENOENT; -EUCLEAN: damaged.
 *   put: 0; -EINVAL: key or value too long; -EBUSY: another mount owns the disk; -EROFS; -ENOSPC; -errno.
 *   del: as put; 0 also where there is none.
 */
static inline int64_t vd_filter_get_data(struct vd_filter_disk *disk, const char *key, void *buf,
                                         size_t len)
{
    return disk->host->get_data(disk, key, buf, len);
}
static inline int vd_filter_put_data(struct vd_filter_disk *disk, const char *key, const void *buf,
                                     size_t len)
{
    return disk->host->put_data(disk, key, buf, len);
}
static inline int vd_filter_del_data(struct vd_filter_disk *disk, const char *key)
{
    return disk->host->del_data(disk, key);
}

/* Sleeps for NS nanoseconds, or until the disk drains (-ECANCELED, at once if it does already). -EAGAIN
 * where the thread may not wait. */
static inline int vd_filter_wait(struct vd_filter_disk *disk, uint64_t ns)
{
    return disk->host->wait(disk, ns);
}

/* One line in the daemon's log, with the disk's and the filter's names before it. Does not wait. */
static inline void vd_filter_log(struct vd_filter_disk *disk, enum vd_filter_level level,
                                 const char *text)
{
    disk->host->log(disk, level, text);
}

/* What is wrong and what to do, as a sentence for the user: in attach, open and event, before a -errno.
 * Copied (511 bytes); the last one counts. Does not wait. */
static inline void vd_filter_why(struct vd_filter_disk *disk, const char *text)
{
    disk->host->why(disk, text);
}

/* LEN bytes aligned to 4096 that last as long as RQ, not zeroed; NULL without memory. In submit and
 * done only, or while RQ is deferred. Does not wait. */
static inline void *vd_filter_alloc(struct vd_filter_disk *disk, struct vd_filter_request *rq,
                                    size_t len)
{
    return disk->host->alloc(disk, rq, len);
}

/*
 * In submit, before VD_FILTER_DEFER is returned: RQ is this filter's from now on, until vd_filter_resume(TOKEN),
 * which may come before submit has returned. Data of a write are copied, so RQ->data may change. 0, -ENOMEM (then do not return DEFER);
 * -ESHUTDOWN: the disk drains, do not defer. Does not wait.
 *
 * Call it, and note TOKEN where DRAIN will find it, under one lock, which your DRAIN takes, too. Else DRAIN may come between the two,
 * find nothing to let go, and not come again.
 */
static inline int vd_filter_defer(struct vd_filter_disk *disk, struct vd_filter_request *rq,
                                  uint64_t *ret_token)
{
    return disk->host->defer(disk, rq, ret_token);
}

/* The same, and the host passes it on after NS nanoseconds (any number; a very large one is for ever), or when the disk
 * drains. Requests that are due at one time are let go in the order in which they were deferred; several threads
 * serve them, so they may pass each other afterwards. */
static inline int vd_filter_defer_for(struct vd_filter_disk *disk, struct vd_filter_request *rq,
                                      uint64_t ns)
{
    return disk->host->defer_for(disk, rq, ns);
}

/*
 * A deferred request goes on: VERDICT is VD_FILTER_PASS, VD_FILTER_COMPLETE (with RESULT; a READ needs its data set
 * before), VD_FILTER_WAIT (submit is called again, where it may wait), or -errno. Any thread, any order, once: 0; -ESTALE:
 * TOKEN is of no deferred request of this filter (it was resumed, or failed when the filter did not let it go); nothing happens then.
 * The request is not touched by the caller afterwards. Does not wait: the rest runs elsewhere.
 */
static inline int vd_filter_resume(struct vd_filter_disk *disk, uint64_t token, int verdict,
                                   int64_t result)
{
    return disk->host->resume(disk, token, verdict, result);
}

#ifdef __cplusplus
}
#endif

#endif
