// SPDX-License-Identifier: Apache-2.0
/*
 * Backing images, and the threads that wait for them.
 *
 * struct vd_backing is one open data file behind a table of operations, so that a test can put one
 * in its place that fails or hangs. Its calls block. So that a hung backing stops its own disks
 * only, they are made through a *lane*, one a disk: either by a lane thread (vd_lane_queue), or by
 * the calling FUSE worker itself while the budget lasts (vd_lane_enter): at most a few workers a
 * lane and a bounded part of all workers may wait inside a backing at one time; past that, work is
 * queued.
 */
#ifndef VD_BACKING_H
#define VD_BACKING_H

#include <sys/stat.h>
#include <sys/types.h>

#include "vd_base.h"
#include "vd_list.h"

struct vd_backing;

enum vd_zero_mode {
    VD_ZERO_PUNCH,   /* deallocate, size kept */
    VD_ZERO_KEEP,    /* zero, size kept */
    VD_ZERO_EXTEND,  /* zero, size grown where the range ends past it */
    VD_ALLOC_KEEP,   /* allocate, contents kept, size kept */
    VD_ALLOC_EXTEND, /* allocate, contents kept, size grown */
};

struct vd_backing_ops {
    ssize_t (*pread)(struct vd_backing *b, void *buf, size_t len, uint64_t off);
    ssize_t (*pwrite)(struct vd_backing *b, const void *buf, size_t len, uint64_t off);
    int (*sync)(struct vd_backing *b, bool data_only);
    int (*zero)(struct vd_backing *b, enum vd_zero_mode mode, uint64_t off, uint64_t len);
    int (*truncate)(struct vd_backing *b, uint64_t size);
    int (*stat)(struct vd_backing *b, struct stat *ret_st);
    off_t (*seek)(struct vd_backing *b, off_t off, int whence);
    void (*close)(struct vd_backing *b);
};

struct vd_backing {
    const struct vd_backing_ops *ops;
    int fd; /* of the data file: locks and attributes are taken through it; -1 where there is none
             */
    bool writable;
};

/*
 * Opens the regular file behind PATH_FD (O_PATH is enough) for reading, and writing where WRITE and
 * the file allow it (a file that is not writable opens read-only: look at ->writable). With DIRECT,
 * transfers that are aligned to 4 KiB in memory, offset and length bypass the page cache of the
 * source. 0; -errno of open(2); -EINVAL not a regular file. PATH_FD is borrowed.
 */
int vd_backing_file_open(int path_fd, bool write, bool direct,
                         struct vd_backing **ret_backing) VD_WARN_UNUSED;

/* Reads LEN bytes; fewer only at the end of the file. Count or -errno. Any thread; blocks. */
static inline ssize_t vd_backing_pread(struct vd_backing *b, void *buf, size_t len, uint64_t off)
{
    return b->ops->pread(b, buf, len, off);
}
/* Writes: LEN, or -errno (an unknown part may be written). */
static inline ssize_t vd_backing_pwrite(struct vd_backing *b, const void *buf, size_t len,
                                        uint64_t off)
{
    return b->ops->pwrite(b, buf, len, off);
}
static inline int vd_backing_sync(struct vd_backing *b, bool data_only)
{
    return b->ops->sync(b, data_only);
}
static inline int vd_backing_zero(struct vd_backing *b, enum vd_zero_mode mode, uint64_t off,
                                  uint64_t len)
{
    return b->ops->zero(b, mode, off, len);
}
static inline int vd_backing_truncate(struct vd_backing *b, uint64_t size)
{
    return b->ops->truncate(b, size);
}
static inline int vd_backing_stat(struct vd_backing *b, struct stat *ret_st)
{
    return b->ops->stat(b, ret_st);
}
/* lseek(2) with SEEK_DATA or SEEK_HOLE: the offset or -errno. */
static inline off_t vd_backing_seek(struct vd_backing *b, off_t off, int whence)
{
    return b->ops->seek(b, off, whence);
}
static inline void vd_backing_close(struct vd_backing *b)
{
    if (b)
        b->ops->close(b);
}
VD_DEFINE_CLEANUP(struct vd_backing, vd_backing_close)

/* ---- lanes ---- */

struct vd_lanes; /* one a daemon: the threads, the workers' budget */
struct vd_lane;  /* one a disk */

/* A piece of work; memory of the caller until run is called, which may free it. */
struct vd_job {
    struct vd_list link;
    void (*run)(struct vd_job *job);
    bool slow; /* it waits for the device, whatever the backing: never on a worker */
};

/* INLINE_MAX: how many FUSE workers in all may wait inside a backing. 0, -ENOMEM. */
int vd_lanes_new(unsigned inline_max, struct vd_lanes **ret_lanes) VD_WARN_UNUSED;
/* All lanes must be closed; waits for the threads to end. NULL is allowed. */
void vd_lanes_free(struct vd_lanes *s);

/* RUNNING_MAX: threads of this lane at one time. 0, -ENOMEM. */
int vd_lane_open(struct vd_lanes *s, unsigned running_max,
                 struct vd_lane **ret_lane) VD_WARN_UNUSED;
/* Waits until every job has run and every worker has left. Must not be called from a job of the
 * lane. NULL is allowed. */
void vd_lane_close(struct vd_lane *l);

/* Runs JOB on a thread of the lane, in order of arrival among those waiting. Never fails, never
 * blocks: where no thread can be made it waits for one of those that run. Any thread. */
void vd_lane_queue(struct vd_lane *l, struct vd_job *job);

/* May the calling worker wait inside the backing now? If true, vd_lane_leave must follow, with the
 * time that was returned; the worker then first runs some of what was queued meanwhile. Any thread.
 */
bool vd_lane_enter(struct vd_lane *l, uint64_t *ret_began_ns);
void vd_lane_leave(struct vd_lane *l, uint64_t began_ns);

#endif
