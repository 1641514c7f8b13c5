// SPDX-License-Identifier: Apache-2.0
/*
 * A FUSE server that only answers: the floor under every cached read.
 *
 * It shows one file, disk.img, which reads as zeros and forgets what is written. Nothing is looked
 * up, copied or checked, so what it costs is the kernel's FUSE, libfuse and the two context
 * switches of a request; vdiskfs is measured as a ratio to it. That is fair only while both run
 * libfuse in the same way, so the session, and the flags that the file is opened with, are those of
 * vdiskfs itself (src/fs/session.c).
 */
#include "vd_session.h"

#include <getopt.h>
#include <sys/stat.h>
#include <string.h>

#include "vd_base.h"
#include "vd_size.h"

#define FILE_NAME "disk.img"
#define FILE_INO 2
#define ATTR_TIMEOUT_S 3600.0

static const uint8_t zeros[VD_IO_MAX_BYTES];

/* Set before the session begins, read-only after: any thread. */
struct nullfs {
    uint64_t size_bytes;
};

static int fill_attr(const struct nullfs *fs, fuse_ino_t ino, struct stat *ret_st)
{
    if (ino != FUSE_ROOT_ID && ino != FILE_INO)
        return -ENOENT;
    bool root = ino == FUSE_ROOT_ID;
    *ret_st = (struct stat){
        .st_ino = ino,
        .st_mode = root ? S_IFDIR | 0755 : S_IFREG | 0644,
        .st_nlink = root ? 2 : 1,
        .st_uid = getuid(),
        .st_gid = getgid(),
        .st_size = root ? 0 : (off_t)fs->size_bytes,
        .st_blocks = root ? 0 : (blkcnt_t)(fs->size_bytes / 512),
        .st_blksize = VD_BLOCK_SIZE,
    };
    return 0;
}

static void op_init(void *user, struct fuse_conn_info *conn)
{
    vd_session_want(conn);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    const struct nullfs *fs = fuse_req_userdata(req);
    struct fuse_entry_param e = {
        .ino = FILE_INO, .attr_timeout = ATTR_TIMEOUT_S, .entry_timeout = ATTR_TIMEOUT_S};

    if (parent != FUSE_ROOT_ID || strcmp(name, FILE_NAME) != 0 ||
        fill_attr(fs, FILE_INO, &e.attr) < 0)
        fuse_reply_err(req, ENOENT);
    else
        fuse_reply_entry(req, &e);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    int r = fill_attr(fuse_req_userdata(req), ino, &st);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_attr(req, &st, ATTR_TIMEOUT_S);
}

/* Times, modes and sizes may be set, and stay as they were. */
static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    op_getattr(req, ino, fi);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    static const char *const names[] = {".", "..", FILE_NAME};
    static const fuse_ino_t inos[] = {FUSE_ROOT_ID, FUSE_ROOT_ID, FILE_INO};
    char buf[512];
    size_t used = 0;

    if (ino != FUSE_ROOT_ID) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    for (size_t i = (size_t)off; i < VD_ARRAY_SIZE(names); i++) {
        struct stat st = {.st_ino = inos[i], .st_mode = i == 2 ? S_IFREG : S_IFDIR};
        size_t room = vd_min(size, sizeof(buf)) - used;
        size_t need = fuse_add_direntry(req, buf + used, room, names[i], &st, (off_t)i + 1);
        if (need > room)
            break;
        used += need;
    }
    fuse_reply_buf(req, buf, used);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    const struct vd_session_open open = {.fh = 1, .direct_io = true, .parallel_writes = true};

    if (ino != FILE_INO)
        fuse_reply_err(req, EISDIR);
    else if (vd_session_reply_open(req, NULL, &open) < 0)
        return; /* the opener was interrupted; there is nothing to undo */
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    const struct nullfs *fs = fuse_req_userdata(req);
    uint64_t left = (uint64_t)off < fs->size_bytes ? fs->size_bytes - (uint64_t)off : 0;

    size_t len = vd_min((uint64_t)size, left);

    fuse_reply_buf(req, (const char *)zeros, vd_min(len, sizeof(zeros)));
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    fuse_reply_write(req, size);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops nullfs_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .readdir = op_readdir,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .fsync = op_fsync,
};

static int serve(struct nullfs *fs, const char *mountpoint, unsigned threads)
{
    char *argv[] = {"nullfs", "-ofsname=nullfs,subtype=nullfs,default_permissions"};
    struct fuse_args args = FUSE_ARGS_INIT(VD_ARRAY_SIZE(argv), argv);
    struct vd_session_config config = {.mountpoint = mountpoint,
                                       .ops = &nullfs_ops,
                                       .user = fs,
                                       .args = &args,
                                       .threads = threads};
    struct vd_session *session = NULL;
    int r = vd_session_new(&config, &session);

    if (r == 0)
        r = vd_session_mount(session);
    if (r == 0)
        r = vd_session_loop(session);
    if (r < 0)
        fprintf(stderr, "nullfs: %s: %s\n", mountpoint, strerror(-r));
    vd_session_free(session);
    fuse_opt_free_args(&args);
    return r < 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"threads", required_argument, NULL, 't'}, {0}};
    struct nullfs fs = {0};
    unsigned threads = 0;
    bool usage = false;

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        usage |= c != 't';
        if (c == 't')
            threads = (unsigned)strtoul(optarg, NULL, 10);
    }
    if (usage || argc - optind != 2 || vd_size_parse(argv[optind + 1], &fs.size_bytes) < 0) {
        fprintf(stderr, "usage: nullfs [--threads=N] MOUNTPOINT SIZE\n");
        return 2;
    }
    return serve(&fs, argv[optind], threads);
}
