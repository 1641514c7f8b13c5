// SPDX-License-Identifier: Apache-2.0
/* A command of the control socket under way, its arguments, and the functions that serve commands:
 * what the files control*.c share. docs/control.md says what each takes and answers. */
#ifndef VD_REQUEST_H
#define VD_REQUEST_H

#include <jansson.h>

#include "beneath.h"
#include "daemon.h"

struct vd_request {
    struct vd_daemon *d;
    json_t *args; /* an object */
    char *why;    /* a sentence about what is wrong */
    size_t why_len;
};

/* Sets the sentence; returns ERROR. */
int vd__request_fail(const struct vd_request *q, int error, const char *fmt, ...) VD_PRINTF(3, 4);

/* Arguments. 0; -EINVAL with a sentence where it is missing or of another kind. */
int vd__request_number(const struct vd_request *q, const char *name, uint64_t *ret_value);
int vd__request_id(const struct vd_request *q, const char *name, struct vd_id *ret_id);
/* RET_TEXT is valid while the request is. */
int vd__request_text(const struct vd_request *q, const char *name, const char **ret_text);
/* False where it is missing. */
int vd__request_flag(const struct vd_request *q, const char *name, bool *ret_flag);
int vd__request_inode(const struct vd_request *q, dev_t *ret_dev, ino_t *ret_ino);
/* The attached disk with that "dev" and "ino": 0 and a reference, -ENOENT, -EINVAL. */
int vd__request_disk(const struct vd_request *q, struct vd_disk **ret_disk);

VD_DEFINE_CLEANUP(struct vd_disk, vd_disk_put)

/* Parts of answers: new references. */
json_t *vd__answer_id(const struct vd_id *id); /* null where it is zero */
json_t *vd__answer_stats(const struct vd_disk_stats *s);
json_t *vd__answer_filter(const struct vd_filter_report *f);

/* Commands: 0 and a new reference in RET_OK (left alone: {}), or -errno and a sentence. */
typedef int vd_command(const struct vd_request *q, json_t **ret_ok);

/* control_disk.c */
vd_command vd__do_info, vd__do_disks, vd__do_layers, vd__do_extents;
/* control_cache.c */
vd_command vd__do_cached_map, vd__do_block_verify, vd__do_cache_stats, vd__do_cache_flush,
    vd__do_cache_drop, vd__do_cache_verify;
/* control_layers.c */
vd_command vd__do_snapshot, vd__do_revert, vd__do_snapshot_rm, vd__do_clone, vd__do_flatten,
    vd__do_resize, vd__do_rm, vd__do_adopt, vd__do_sweep, vd__do_job, vd__do_job_cancel;
/* control_filters.c */
vd_command vd__do_filter_attach, vd__do_filter_detach, vd__do_filters;

/* The disk that a request names, by "path" and by "dev" and "ino", its path followed below the source. */
struct vd__target {
    struct vd_beneath at;
    dev_t dev;
    ino_t ino;
};
#define VD__TARGET_INIT                                                                            \
    {                                                                                              \
        .at = VD_BENEATH_INIT                                                                      \
    }
/* 0, or -errno with a sentence. */
int vd__request_target(const struct vd_request *q, struct vd__target *ret_t);
/* Ends a command on T: R and WHY are the disk layer's; the FUSE side is told. */
int vd__request_finish(const struct vd_request *q, struct vd__target *t, int r, const char *why);

#endif
