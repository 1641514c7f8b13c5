// SPDX-License-Identifier: Apache-2.0
/*
 * Which filters stand before a disk, and what each of them remembers of it. Both databases are made
 * with their first record; before, and in environments that know nothing of filters, they read as
 * empty.
 *
 * A filter's record and its private data are independent of each other, so that a filter may keep
 * data while it is being attached, before its record stands; deletion by name ends both.
 *
 * All of it is a session's (vd_meta.h): same threads, same rules and errors, durable with
 * vd_meta_commit; -EUCLEAN, with the session's why, where a record does not verify, is of another
 * version, or of another key.
 */
#ifndef VD_META_FILTER_H
#define VD_META_FILTER_H

#include "vd_meta.h"

/* Sizes of texts, with their NUL; a filter's name and key as in <vdiskfs/filter.h>. */
#define VD_META_FILTER_NAME 32
#define VD_META_FILTER_CONFIG 2048
#define VD_META_FILTER_KEY 64
#define VD_META_FILTER_DATA 4000 /* bytes of one value */

/* Database `filter`, keyed by name. */
struct vd_filter_record {
    char name[VD_META_FILTER_NAME]; /* a-z, 0-9, '-'; at least one of them */
    uint32_t filter_class;          /* 1 to 4, as enum vd_filter_class; 1 is nearest the guest */
    bool required;                  /* without it the disk refuses I/O */
    bool cloned;                    /* a clone of the disk gets it too */
    uint64_t order; /* among those of one class; never again that of one which was detached */
    char config[VD_META_FILTER_CONFIG]; /* KEY=VALUE lines as the user gave them, each ended by a
                                           newline; "": none */
};

/* put: replaces it; -EINVAL too for a name or class that is none, and a config that has no end or
 * whose last line has none. del: with all of its private data; -ENOENT where there was neither. */
int vd_meta_get_filter(struct vd_meta *m, const char *name,
                       struct vd_filter_record *ret_r) VD_WARN_UNUSED;
int vd_meta_put_filter(struct vd_meta *m, const struct vd_filter_record *r) VD_WARN_UNUSED;
int vd_meta_del_filter(struct vd_meta *m, const char *name) VD_WARN_UNUSED;
/* In the order in which requests meet them: by class, then order, then name. FN is called after all
 * have been read, for none if one of them is refused, with copies; it may use other sessions, not
 * this one. A non-zero return ends the walk and is returned. */
int vd_meta_each_filter(struct vd_meta *m, int (*fn)(void *user, const struct vd_filter_record *r),
                        void *user) VD_WARN_UNUSED;

/*
 * Database `filter-data`: bytes by filter and key, 0 to VD_META_FILTER_DATA of them. A key is 1 to
 * 63 printable ASCII characters but '/'. -EINVAL for a name, key or length out of range.
 *   get: the value's length, even where LEN is less, and only LEN bytes are copied; RET_BUF may be
 *   NULL where LEN is 0. -ENOENT. del: -ENOENT too.
 */
int64_t vd_meta_get_filter_data(struct vd_meta *m, const char *name, const char *key, void *ret_buf,
                                size_t len) VD_WARN_UNUSED;
int vd_meta_put_filter_data(struct vd_meta *m, const char *name, const char *key, const void *buf,
                            size_t len) VD_WARN_UNUSED;
int vd_meta_del_filter_data(struct vd_meta *m, const char *name, const char *key) VD_WARN_UNUSED;
/* Those of the filter NAME, in the order of their keys' bytes, as vd_meta_each_filter. All of them
 * are in memory at one time. VALUE is valid until FN returns. */
int vd_meta_each_filter_data(struct vd_meta *m, const char *name,
                             int (*fn)(void *user, const char *key, const void *value, size_t len),
                             void *user) VD_WARN_UNUSED;

/*
 * What the disk's own file says of required filters, for when the metadata cannot be used, or are lost: a disk that is
 * encrypted must not be read as it lies there. Set before the record of the first required filter is committed, and to
 * NONE after that of the last one is gone, and CHANGING in between: then the records alone tell.
 */
#define VD_META_XATTR_FILTERED "user.vdiskfs.filtered"

enum vd_filter_mark { VD_FILTER_MARK_NONE, VD_FILTER_MARK_CHANGING, VD_FILTER_MARK_REQUIRED };

/* PATH_FD may be one of O_PATH. Not durable before an fsync of the file. 0 or -errno; -EOPNOTSUPP: the file system has
 * no attributes (NONE is set there all the same). */
int vd_filter_mark_set(int path_fd, enum vd_filter_mark mark) VD_WARN_UNUSED;
/* A value that is none of these reads as REQUIRED. 0 or -errno. */
int vd_filter_mark_get(int path_fd, enum vd_filter_mark *ret_mark) VD_WARN_UNUSED;

#endif
