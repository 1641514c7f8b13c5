// SPDX-License-Identifier: Apache-2.0
/*
 * The command line of vdiskfs. Every long option is a mount option too, so that mount(8) and fstab
 * can give it after -o; libfuse's option parser treats both alike once each is in its list twice.
 */
#ifndef VD_OPTIONS_H
#define VD_OPTIONS_H

#include "vd_base.h"
#include "vd_disk.h"

struct fuse_args;

struct vd_options {
    char *source;              /* as given */
    char *mountpoint;          /* as given */
    char *cache;               /* --cache; NULL: the default for the source */
    uint64_t cache_size_bytes; /* 0: 10 % of the file system */
    uint32_t cache_slot_bytes; /* 0: 64 KiB, or what an existing cache has */
    enum vd_cache_mode cache_mode;
    char *cache_daemon;
    char *meta;
    char *coordinator; /* NULL: local */
    bool own_at_open;
    char *filter_dir;
    unsigned threads; /* 0: by cores */
    bool direct_io;
    enum { VD_DIRECT_AUTO, VD_DIRECT_YES, VD_DIRECT_NO } backing_direct;
    char *host_name;
    bool read_only;
    bool foreground;
    bool debug;
};

enum vd_options_result { VD_OPTIONS_RUN, VD_OPTIONS_DONE, VD_OPTIONS_WRONG };

/*
 * Takes ARGS apart: ours into RET_OPT, what is meant for FUSE stays in ARGS. DONE: --help or
 * --version was answered. WRONG: said on stderr what is wrong. The strings are freed by
 * vd_options_clear. main thread.
 */
enum vd_options_result vd_options_parse(struct fuse_args *args, struct vd_options *ret_opt);
void vd_options_clear(struct vd_options *opt);

#endif
