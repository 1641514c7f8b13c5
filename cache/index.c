// SPDX-License-Identifier: Apache-2.0
/*
 * LMDB reads its file through a mapping and trusts what it finds there. Before a clean index is
 * opened its checksum was verified; after a kill it is made afresh; and a page that cannot be read
 * (SIGBUS) is replaced by an empty leaf, which ends every walk. The lock file is a mapping too: it
 * is allocated in full beforehand, so that a full file system is an error at open and no fault
 * later.
 */
#include "index.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

#include "vd_counter.h"
#include "vd_endian.h"
#include "vd_log.h"

#define LOCK_FILE_BYTES 16384 /* LMDB's header and more readers than we begin */
#define MAP_BYTES_BASE (32ull << 20)
#define MAP_BYTES_A_SLOT 320ull /* 46 bytes an entry, pages half full, two snapshots, slack */

static int to_errno(int rc)
{
    switch (rc) {
    case MDB_SUCCESS:
        return 0;
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
        return -ENOSPC;
    case MDB_READERS_FULL:
        return -EBUSY;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_PANIC:
    case MDB_MAP_RESIZED:
        return -EUCLEAN;
    default:
        return rc > 0 ? -rc : -EIO;
    }
}

static int make_lock_file(int dirfd)
{
    if (unlinkat(dirfd, "index.mdb-lock", 0) < 0 && errno != ENOENT)
        return -errno;
    vd_cleanup_close int fd =
        openat(dirfd, "index.mdb-lock", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    return -posix_fallocate(fd, 0, LOCK_FILE_BYTES);
}

/* LMDB does not tell where it has mapped its file; the kernel does. */
static int find_map(int dirfd, void **ret_addr, size_t *ret_len)
{
    struct stat st;
    if (fstatat(dirfd, "index.mdb", &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    vd_cleanup_fclose FILE *f = fopen("/proc/self/maps", "re");
    if (!f)
        return -errno;
    char line[PATH_MAX + 128];
    while (fgets(line, sizeof(line), f)) {
        unsigned long from, to, off, ino;
        if (sscanf(line, "%lx-%lx %*s %lx %*x:%*x %lu", &from, &to, &off, &ino) == 4 && off == 0 &&
            ino == st.st_ino && strstr(line, "/index.mdb")) {
            *ret_addr = (void *)from;
            *ret_len = to - from;
            return 0;
        }
    }
    return -ENOENT;
}

static int guard(int dirfd, struct vd__index *ix)
{
    /* An empty leaf (8 bytes page number, 2 padding, 2 flags, lower and upper offset) whose free
     * space reads, in place of a meta page, as two trees without a root, and pages 0 and 1 in use:
     * LMDB asserts that a root is neither of them. */
    uint8_t leaf[4096] = {0};
    vd_put_le16(leaf + 10, 0x02);
    vd_put_le16(leaf + 12, 16);
    vd_put_le16(leaf + 14, 4096);
    vd_put_le64(leaf + 80, UINT64_MAX);
    vd_put_le64(leaf + 128, UINT64_MAX);
    vd_put_le64(leaf + 136, 1);
    void *addr = NULL;
    size_t len = 0;
    int r = find_map(dirfd, &addr, &len);
    if (r < 0) {
        vd_log_warning(
            "cache: index.mdb is not among the mappings of /proc/self/maps: an I/O error "
            "on it will end this process");
        return 0;
    }
    return vd_sigbus_add(addr, len, leaf, &ix->bus);
}

static int open_db(struct vd__index *ix)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &ix->dbi);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

static int open_readers(struct vd__index *ix)
{
    for (unsigned i = 0; i < VD__READERS; i++) {
        int rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &ix->readers[i].txn);
        if (rc)
            return rc;
        mdb_txn_reset(ix->readers[i].txn);
        ix->readers[i].dbi = ix->dbi;
    }
    return 0;
}

int vd__index_open(const char *dir, int dirfd, uint32_t nslots, struct vd__index *ix)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof(path), "%s/index.mdb", dir) >= sizeof(path))
        return -ENAMETOOLONG;
    int r = make_lock_file(dirfd);
    if (r < 0)
        return r;
    int rc = mdb_env_create(&ix->env);
    if (!rc)
        rc = mdb_env_set_mapsize(ix->env, MAP_BYTES_BASE + nslots * MAP_BYTES_A_SLOT);
    if (!rc)
        rc = mdb_env_open(ix->env, path,
                          MDB_NOSUBDIR | MDB_NOTLS | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NORDAHEAD,
                          0600);
    if (!rc)
        r = guard(dirfd, ix);
    if (rc || r < 0)
        return rc ? to_errno(rc) : r;
    rc = open_db(ix);
    if (!rc)
        rc = open_readers(ix);
    return to_errno(rc);
}

void vd__index_close(struct vd__index *ix)
{
    for (unsigned i = 0; i < VD__READERS; i++)
        if (ix->readers[i].txn)
            mdb_txn_abort(ix->readers[i].txn);
    vd_sigbus_del(ix->bus);
    if (ix->env)
        mdb_env_close(ix->env);
    memset(ix, 0, sizeof(*ix));
}

int vd__index_sync(struct vd__index *ix)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat st;
    int fd, r = to_errno(mdb_env_sync(ix->env, 1));
    if (r == 0)
        r = to_errno(mdb_env_get_fd(ix->env, &fd));
    if (r == 0)
        r = to_errno(mdb_env_info(ix->env, &info));
    if (r == 0)
        r = to_errno(mdb_env_stat(ix->env, &stat));
    if (r == 0 && fstat(fd, &st) < 0)
        r = -errno;
    if (r == 0 && (uint64_t)st.st_size < (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize)
        r = -EUCLEAN;
    return r;
}

static struct vd__reader *claim(struct vd__index *ix)
{
    unsigned start = vd_counter_shard() * (VD__READERS / VD_COUNTER_SHARDS);
    for (unsigned i = 0; i < VD__READERS; i++) {
        struct vd__reader *r = &ix->readers[(start + i) % VD__READERS];
        if (!atomic_load_explicit(&r->busy, memory_order_relaxed) &&
            !atomic_exchange_explicit(&r->busy, true, memory_order_acquire))
            return r;
    }
    return NULL;
}

struct vd__reader *vd__index_read_begin(struct vd__index *ix, bool wait, int *ret_error)
{
    struct vd__reader *r;
    *ret_error = 0;
    while (!(r = claim(ix))) {
        if (!wait)
            return NULL;
        sched_yield();
    }
    int rc = mdb_txn_renew(r->txn);
    if (rc) {
        *ret_error = to_errno(rc);
        atomic_store_explicit(&r->busy, false, memory_order_release);
        return NULL;
    }
    return r;
}

void vd__index_read_end(struct vd__reader *r)
{
    mdb_txn_reset(r->txn);
    atomic_store_explicit(&r->busy, false, memory_order_release);
}

static int value_slot(const MDB_val *v, uint32_t *ret_slot)
{
    if (v->mv_size != 4)
        return -EUCLEAN;
    *ret_slot = vd_get_le32(v->mv_data);
    return 0;
}

static int get(MDB_txn *txn, MDB_dbi dbi, const struct vd_cache_key *key, uint64_t slotno,
               uint32_t *ret_slot)
{
    uint8_t buf[VD__INDEX_KEY_BYTES];
    vd__index_key_encode(key, slotno, buf);
    MDB_val k = {sizeof(buf), buf}, v;
    int rc = mdb_get(txn, dbi, &k, &v);
    return rc ? to_errno(rc) : value_slot(&v, ret_slot);
}

int vd__index_get(struct vd__reader *r, const struct vd_cache_key *key, uint64_t slotno,
                  uint32_t *ret_slot)
{
    return get(r->txn, r->dbi, key, slotno, ret_slot);
}

int vd__index_each(struct vd__reader *r, const struct vd_cache_key *key, uint64_t first,
                   uint64_t last, int (*fn)(void *user, uint64_t slotno, uint32_t slot), void *user)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(r->txn, r->dbi, &cursor);
    if (rc)
        return to_errno(rc);
    uint8_t buf[VD__INDEX_KEY_BYTES];
    vd__index_key_encode(key, first, buf);
    MDB_val k = {sizeof(buf), buf}, v;
    int ret = 0;
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    while (!rc && !ret) {
        if (k.mv_size != sizeof(buf) || memcmp(k.mv_data, buf, 24) != 0)
            break;
        uint64_t slotno = vd__index_key_slotno(k.mv_data);
        uint32_t slot;
        if (slotno > last)
            break;
        ret = value_slot(&v, &slot);
        if (!ret)
            ret = fn(user, slotno, slot);
        if (!ret)
            rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return ret ? ret : rc == MDB_NOTFOUND ? 0 : to_errno(rc);
}

static int put(MDB_txn *txn, MDB_dbi dbi, const struct vd__index_entry *e, unsigned flags)
{
    uint8_t kbuf[VD__INDEX_KEY_BYTES], vbuf[4];
    vd__index_key_encode(&e->key, e->slotno, kbuf);
    vd_put_le32(vbuf, e->slot);
    MDB_val k = {sizeof(kbuf), kbuf}, v = {sizeof(vbuf), vbuf};
    return mdb_put(txn, dbi, &k, &v, flags);
}

static int del(MDB_txn *txn, MDB_dbi dbi, const struct vd__index_entry *e)
{
    uint32_t slot;
    int r = get(txn, dbi, &e->key, e->slotno, &slot);
    if (r == -ENOENT || (r == 0 && slot != e->slot))
        return 0;
    if (r < 0)
        return r;
    uint8_t buf[VD__INDEX_KEY_BYTES];
    vd__index_key_encode(&e->key, e->slotno, buf);
    MDB_val k = {sizeof(buf), buf};
    return to_errno(mdb_del(txn, dbi, &k, NULL));
}

static int finish(MDB_txn *txn, int r)
{
    if (r < 0) {
        mdb_txn_abort(txn);
        return r;
    }
    return to_errno(mdb_txn_commit(txn));
}

int vd__index_replace(struct vd__index *ix, const struct vd__index_entry *old,
                      const struct vd__index_entry *e)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc)
        return to_errno(rc);
    int r = old ? del(txn, ix->dbi, old) : 0;
    if (r == 0)
        r = to_errno(put(txn, ix->dbi, e, 0));
    return finish(txn, r);
}

int vd__index_remove(struct vd__index *ix, const struct vd__index_entry *e, size_t n)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc)
        return to_errno(rc);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = del(txn, ix->dbi, &e[i]);
    return finish(txn, r);
}

int vd__index_add(struct vd__index *ix, const struct vd__index_entry *e, size_t n, bool *ret_dup)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc)
        return to_errno(rc);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        rc = put(txn, ix->dbi, &e[i], MDB_NOOVERWRITE);
        ret_dup[i] = rc == MDB_KEYEXIST;
        r = ret_dup[i] ? 0 : to_errno(rc);
    }
    return finish(txn, r);
}

int vd__index_empty(struct vd__index *ix)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc)
        return to_errno(rc);
    return finish(txn, to_errno(mdb_drop(txn, ix->dbi, 0)));
}
