// SPDX-License-Identifier: Apache-2.0
/*
 * A session: lock, prove, open, and at the end sum up and let go.
 *
 * READ copies meta.mdb into memory while it computes the checksum, and LMDB reads the copy: what
 * was proven is what is read, whoever truncates or overwrites the file meanwhile, and nothing is
 * written, so that a read-only store serves. WRITE and MAKE work on the file itself, alone, behind
 * the guards of env.h, and keep meta.sum (see sum.h):
 *
 *     sum open, synced -> LMDB writes, syncs its pages, then its meta page -> sum clean
 *
 * Where meta.sum says open and we hold the lock, a writer died. Then a child copies every record
 * that verifies into a fresh environment in memory (rebuild.h). READ reads that; WRITE puts it in
 * the file's place first: meta.new, synced; sum open with no transaction expected; rename; sum
 * clean.
 *
 * A disk exists when meta.mdb does; it appears, by the same rename, with its databases in it.
 */
#include "session.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>

#include "rebuild.h"
#include "sum.h"
#include "vd_file.h"

#define NEW_NAME "meta.new"
#define MAX_SHOWN 256
#define REMEDY "restore it from a backup or run `vdisk adopt PATH --as-plain`"

int vd__session_refuse(struct vd_meta *m, const char *file, const char *fmt, ...)
{
    char cause[VD_META_WHY];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cause, sizeof(cause), fmt, ap);
    va_end(ap);
    size_t len = strlen(m->path); /* of a long path the end says more */
    const char *path = len > MAX_SHOWN ? m->path + len - MAX_SHOWN : m->path;
    snprintf(m->why, sizeof(m->why), "%s%.*s/%s: %.*s; " REMEDY, path == m->path ? "" : "...",
             MAX_SHOWN, path, file, 128, cause);
    return -EUCLEAN;
}

int vd__session_refuse_broken(struct vd_meta *m)
{
    return vd__session_refuse(m, VD__META_NAME, "it was truncated or damaged while open");
}

static int refuse_version(struct vd_meta *m, uint32_t version)
{
    return vd__session_refuse(m, VD__SUM_NAME, "version %u; this program knows %u", version,
                              VD__SUM_VERSION);
}

static void drop_fd(int *fd)
{
    if (*fd >= 0)
        close(vd_steal_fd(fd));
}

static int memory_file(int *ret_fd)
{
    int fd = -1;
#ifdef MFD_NOEXEC_SEAL
    fd = memfd_create("vdiskfs-meta", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
#endif
    if (fd < 0)
        fd = memfd_create("vdiskfs-meta", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static int open_files(struct vd_meta *m)
{
    bool ro = m->mode == VD_META_READ;
    int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    m->mdb_fd = openat(m->dir_fd, VD__META_NAME, (ro ? O_RDONLY : O_RDWR) | flags);
    if (m->mdb_fd < 0)
        return -errno;
    struct stat st;
    if (fstat(m->mdb_fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return vd__session_refuse(m, VD__META_NAME, "it is not a regular file");
    m->len_bytes = (uint64_t)st.st_size;
    if (m->sum_fd < 0)
        m->sum_fd =
            openat(m->dir_fd, VD__SUM_NAME, (ro ? O_RDONLY : O_RDWR | O_CREAT) | flags, 0600);
    return m->sum_fd < 0 && !(ro && errno == ENOENT) ? -errno : 0;
}

static int check_head(struct vd_meta *m, int fd)
{
    const char *cause = NULL;
    int r = vd__env_check_head(fd, m->len_bytes, &cause);
    return r == -EUCLEAN ? vd__session_refuse(m, VD__META_NAME, "%s", cause) : r;
}

/* After a clean close: the whole file against its checksum. COPY_FD is -1 or gets the bytes. */
static int prove_clean(struct vd_meta *m, const struct vd__sum *sum, int copy_fd)
{
    uint32_t crc = 0;
    uint64_t len = 0;
    int r = vd__sum_file(m->mdb_fd, copy_fd, VD__ENV_MAX_BYTES, &crc, &len);
    if (r < 0 && r != -EFBIG)
        return r;
    if (r == 0 && len != sum->len_bytes)
        return vd__session_refuse(m, VD__META_NAME, "it has %llu bytes instead of %llu",
                                  (unsigned long long)len, (unsigned long long)sum->len_bytes);
    if (r < 0 || crc != sum->crc)
        return vd__session_refuse(m, VD__META_NAME, "checksum differs");
    m->len_bytes = len;
    return check_head(m, copy_fd < 0 ? m->mdb_fd : copy_fd);
}

/* Puts the environment in MEM_FD where meta.mdb is or shall be. */
static int install(struct vd_meta *m, int mem_fd)
{
    struct vd__sum open_mark = {.state = VD__SUM_OPEN}, clean = {.state = VD__SUM_CLEAN};
    vd_cleanup_close int fd =
        openat(m->dir_fd, NEW_NAME, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (m->sum_fd < 0)
        m->sum_fd =
            openat(m->dir_fd, VD__SUM_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (m->sum_fd < 0)
        return -errno;
    int r = vd__sum_file(mem_fd, fd, VD__ENV_MAX_BYTES, &clean.crc, &clean.len_bytes);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0)
        r = vd__sum_write(m->sum_fd, &open_mark, true);
    if (r == 0 && renameat(m->dir_fd, NEW_NAME, m->dir_fd, VD__META_NAME) < 0)
        r = -errno;
    if (r == 0)
        r = vd_fsync_dir(m->dir_fd, ".");
    if (r < 0)
        return r;
    r = vd__sum_write(m->sum_fd, &clean, false);
    if (r < 0)
        return r;
    drop_fd(&m->mdb_fd);
    m->mdb_fd = vd_steal_fd(&fd);
    m->len_bytes = clean.len_bytes;
    return 0;
}

/* A writer died: what can be proven goes to the empty file MEM_FD, and into place if we may write.
 */
static int recover(struct vd_meta *m, const struct vd__sum *sum, int mem_fd)
{
    int r = check_head(m, m->mdb_fd);
    if (r < 0)
        return r;
    char cause[VD_META_WHY] = "";
    r = vd__rebuild_in_child(m->mdb_fd, mem_fd, sum->txnid, cause);
    if (r == -EUCLEAN)
        return vd__session_refuse(m, VD__META_NAME, "%s", cause);
    return r < 0 || m->mode == VD_META_READ ? r : install(m, mem_fd);
}

static int make_new(struct vd_meta *m)
{
    vd_cleanup_close int mem_fd = -1;
    int r = memory_file(&mem_fd);
    if (r == 0)
        r = vd__fresh(mem_fd);
    return r < 0 ? r : install(m, mem_fd);
}

static int open_env(struct vd_meta *m, int fd, unsigned flags)
{
    int r = vd__env_open(&m->env, fd, flags);
    if (r == -EUCLEAN)
        return vd__session_refuse(m, VD__META_NAME, "it is not an environment of ours");
    if (r == 0 && m->mode != VD_META_READ)
        m->txnid = vd__env_txnid(&m->env);
    return r;
}

/* With the lock held: from files to an open environment. */
static int load(struct vd_meta *m)
{
    vd_cleanup_close int mem_fd = -1;
    struct vd__sum sum = {.state = VD__SUM_OPEN};
    uint32_t version = 0;
    bool ro = m->mode == VD_META_READ;
    int r = open_files(m);
    if (r == -ENOENT && m->mode == VD_META_MAKE) {
        r = make_new(m);
        return r < 0 ? r : open_env(m, m->mdb_fd, VD__ENV_GUARD);
    }
    if (r == 0 && m->sum_fd >= 0)
        r = vd__sum_read(m->sum_fd, &sum, &version);
    if (r == -EPROTONOSUPPORT)
        return refuse_version(m, version);
    if (r == 0 && (ro || sum.state == VD__SUM_OPEN))
        r = memory_file(&mem_fd);
    if (r == 0)
        r = sum.state == VD__SUM_CLEAN ? prove_clean(m, &sum, ro ? mem_fd : -1)
                                       : recover(m, &sum, mem_fd);
    if (r < 0)
        return r;
    return ro ? open_env(m, mem_fd, VD__ENV_READ) : open_env(m, m->mdb_fd, VD__ENV_GUARD);
}

static void let_go(struct vd_meta *m)
{
    vd__env_close(&m->env);
    drop_fd(&m->mdb_fd);
    drop_fd(&m->sum_fd);
    drop_fd(&m->lock_fd);
    drop_fd(&m->dir_fd);
    free(m);
}

int vd_meta_open(struct vd_meta_store *s, const struct vd_id *uuid, enum vd_meta_mode mode,
                 struct vd_meta **ret_meta, char ret_why[VD_META_WHY])
{
    struct vd_meta *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->mode = mode;
    m->dir_fd = m->lock_fd = m->mdb_fd = m->sum_fd = -1;
    vd_meta_disk_path(s, uuid, m->path, sizeof(m->path));
    int r =
        vd__disk_lock(s, uuid, mode != VD_META_READ, mode == VD_META_MAKE, &m->dir_fd, &m->lock_fd);
    if (r == 0)
        r = load(m);
    else if (r == -ETIMEDOUT)
        snprintf(m->why, sizeof(m->why), "%.*s/lock: held by another process for %u s", 400,
                 m->path, VD__LOCK_TIMEOUT_MS / 1000);
    if (r < 0) {
        memcpy(ret_why, m->why, sizeof(m->why));
        let_go(m);
        return r;
    }
    if (mode == VD_META_READ) {
        drop_fd(&m->mdb_fd);
        drop_fd(&m->sum_fd);
    }
    *ret_meta = m;
    return 0;
}

int vd__session_mark_open(struct vd_meta *m)
{
    if (m->mode == VD_META_READ)
        return -EINVAL;
    m->unsynced = true;
    if (m->marked_open)
        return 0;
    struct vd__sum sum = {.state = VD__SUM_OPEN, .txnid = m->txnid};
    m->marked_open = true; /* also when it fails: the record may be torn */
    int r = vd__sum_write(m->sum_fd, &sum, true);
    m->leave_open |= r < 0;
    return r;
}

/* The file only grows. One that shrank was truncated by somebody, and LMDB may not have noticed. */
int vd__session_alive(struct vd_meta *m)
{
    struct stat st;
    if (m->mode == VD_META_READ)
        return 0;
    if (fstat(m->mdb_fd, &st) < 0)
        return -errno;
    if (vd__env_dead(&m->env) || (uint64_t)st.st_size < m->len_bytes)
        return vd__session_refuse_broken(m);
    m->len_bytes = (uint64_t)st.st_size;
    return 0;
}

static int commit(struct vd_meta *m)
{
    int r = vd__session_alive(m);
    if (r < 0)
        return r;
    r = vd__env_commit(&m->env);
    if (r < 0) {
        m->leave_open = true;
        return r == -EUCLEAN ? vd__session_refuse_broken(m) : r;
    }
    m->unsynced = false;
    m->put_error = vd__env_restart(&m->env);
    if (m->put_error == 0)
        m->txnid = vd__env_txnid(&m->env);
    /* Unsynced: it counts only if this process dies alone, and then the page cache has it. */
    struct vd__sum sum = {.state = VD__SUM_OPEN, .txnid = m->txnid};
    if (vd__sum_write(m->sum_fd, &sum, false) < 0)
        m->leave_open = true;
    return vd__session_alive(m);
}

int vd_meta_commit(struct vd_meta *m)
{
    if (m->mode == VD_META_READ)
        return -EINVAL;
    int r = m->put_error;
    if (r == 0)
        r = m->unsynced ? commit(m) : vd__session_alive(m);
    if (r < 0)
        m->put_error = vd__env_restart(&m->env);
    return r;
}

static void sum_up(struct vd_meta *m)
{
    struct vd__sum sum = {.state = VD__SUM_CLEAN, .txnid = m->txnid};
    if (m->leave_open || vd__session_alive(m) < 0)
        return;
    vd__env_close(&m->env);
    if (m->unsynced && fdatasync(m->mdb_fd) < 0)
        return;
    if (vd__sum_file(m->mdb_fd, -1, VD__ENV_MAX_BYTES, &sum.crc, &sum.len_bytes) < 0 ||
        sum.len_bytes < m->len_bytes)
        return;
    /* If this fails, the next session finds "open" and looks for itself. */
    int r = vd__sum_write(m->sum_fd, &sum, false);
    (void)r;
}

void vd_meta_close(struct vd_meta *m)
{
    if (!m)
        return;
    if (m->marked_open)
        sum_up(m);
    let_go(m);
}

const char *vd_meta_why(const struct vd_meta *m)
{
    return m->why;
}
