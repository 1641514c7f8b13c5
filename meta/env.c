// SPDX-License-Identifier: Apache-2.0
#include "env.h"

#include "codec.h"
#include "error.h"
#include "vd_endian.h"
#include "vd_file.h"

const char *const vd__env_db_names[VD__ENV_DBS] = {
    VD__DB_DISK,     VD__DB_LAYER,  VD__DB_OWNER,      VD__DB_VIEW,
    VD__DB_SNAPSHOT, VD__DB_FILTER, VD__DB_FILTER_DATA};

/* LMDB 0.9's page header (pgno, pad, flags, lower, upper) and meta record, as they lie in the file.
 */
enum {
    PAGE_FLAGS = 10,
    PAGE_LOWER = 12,
    PAGE_UPPER = 14,
    PAGE_HEAD = 16,
    META_MAGIC = 16,
    META_VERSION = 20,
    META_PAGE_SIZE = 40, /* the free database's pad field */
    META_LAST_PAGE = 136,
    META_END = 152,
    FLAG_LEAF = 0x02,
    FLAG_META = 0x08,
};
#define LMDB_MAGIC 0xBEEFC0DEu

int vd__env_check_head(int fd, uint64_t len_bytes, const char **ret_why)
{
    const char *why = NULL;
    if (len_bytes < 2 * VD__ENV_PAGE)
        why = "it is shorter than two pages";
    else if (len_bytes > VD__ENV_MAX_BYTES)
        why = "it is larger than 4 GiB";
    for (unsigned i = 0; i < 2 && !why; i++) {
        uint8_t m[META_END];
        ssize_t n = vd_pread_full(fd, m, sizeof(m), (off_t)(i * VD__ENV_PAGE));
        if (n < 0)
            return (int)n;
        if (n < META_END)
            why = "it is shorter than two pages";
        else if (vd_get_le32(m + META_MAGIC) != LMDB_MAGIC || !(m[PAGE_FLAGS] & FLAG_META))
            why = "it is no LMDB environment";
        else if (vd_get_le32(m + META_VERSION) != 1)
            why = "it is of another version of LMDB";
        else if (vd_get_le32(m + META_PAGE_SIZE) != VD__ENV_PAGE)
            why = "its page size is not 4096";
        else if (vd_get_le64(m + META_LAST_PAGE) >= VD__ENV_MAX_BYTES / VD__ENV_PAGE)
            why = "its page count is absurd";
    }
    if (!why)
        return 0;
    *ret_why = why;
    return -EUCLEAN;
}

bool vd__env_dead(const struct vd__env *e)
{
    return e->failed || (e->guard && vd_sigbus_dead(e->guard));
}

static bool usable(const struct vd__env *e)
{
    return e->txn && !vd__env_dead(e);
}

/* Runs a call of LMDB's that may fail an assertion, yielding its code. */
#define FENCED(e, call)                                                                            \
    ({                                                                                             \
        int rc_;                                                                                   \
        if (setjmp((e)->escape)) {                                                                 \
            (e)->failed = true;                                                                    \
            rc_ = MDB_CORRUPTED;                                                                   \
        } else {                                                                                   \
            (e)->may_escape = true;                                                                \
            rc_ = (call);                                                                          \
        }                                                                                          \
        (e)->may_escape = false;                                                                   \
        vd__env_dead(e) ? MDB_CORRUPTED : rc_;                                                     \
    })

static void on_assert(MDB_env *env, const char *msg)
{
    struct vd__env *e = mdb_env_get_userctx(env);
    if (e && e->may_escape)
        longjmp(e->escape, 1);
    fprintf(stderr, "lmdb: %s\n", msg);
    abort();
}

/*
 * Where did LMDB map the file? It does not say, so the map is given a size that nothing else in
 * this process has. LMDB has not read it yet: what it knows so far it read by system calls.
 */
static int find_map(struct vd__env *e, uint64_t map_bytes)
{
    vd_cleanup_fclose FILE *f = fopen("/proc/self/maps", "re");
    if (!f)
        return -errno;
    char line[512];
    unsigned long low, high, found = 0, nfound = 0;
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "%lx-%lx r--s", &low, &high) == 2 && high - low == map_bytes) {
            found = low;
            nfound++;
        }
    if (nfound != 1)
        return -EAGAIN;
    e->map = (void *)found;
    return 0;
}

/*
 * What LMDB sees in place of a page that cannot be read: a leaf with one record, of an empty key
 * and eight zero bytes. No leaf at all, or one without records, would send it into other memory: it
 * takes the first record of a leaf it walks to, and the free list's records for numbers with a
 * count before them.
 */
static int guard_map(struct vd__env *e, uint64_t map_bytes)
{
    uint8_t page[VD__ENV_PAGE] = {0};
    uint16_t node = VD__ENV_PAGE - 32;
    vd_put_le16(page + PAGE_FLAGS, FLAG_LEAF);
    vd_put_le16(page + PAGE_LOWER, PAGE_HEAD + 2);
    vd_put_le16(page + PAGE_UPPER, node);
    vd_put_le16(page + PAGE_HEAD, node);
    page[node] = 8; /* the record's length; flags and key length are 0 */
    return vd_sigbus_add((void *)(uintptr_t)e->map, map_bytes, page, &e->guard);
}

static int open_map(struct vd__env *e, int fd, uint64_t map_bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int rc = mdb_env_create(&e->env);
    if (rc)
        return vd__meta_error(rc);
    mdb_env_set_userctx(e->env, e);
    mdb_env_set_assert(e->env, on_assert);
    mdb_env_set_maxdbs(e->env, VD__ENV_MAX_DBS);
    mdb_env_set_mapsize(e->env, map_bytes);
    unsigned flags = MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS;
    flags |= e->flags & VD__ENV_READ ? MDB_RDONLY : 0;
    flags |= e->flags & VD__ENV_NOSYNC ? MDB_NOSYNC : 0;
    rc = mdb_env_open(e->env, path, flags, 0600);
    int r = vd__meta_error(rc);
    if (r == 0 && (e->flags & (VD__ENV_GUARD | VD__ENV_LOCATE)))
        r = find_map(e, map_bytes);
    if (r == 0 && (e->flags & VD__ENV_GUARD))
        r = guard_map(e, map_bytes);
    if (r < 0) {
        mdb_env_close(e->env);
        e->env = NULL;
    }
    return r;
}

/* FENCED stands only in functions without loops: what it may jump back to is then all there is. */
static int fenced_begin(struct vd__env *e)
{
    unsigned rdonly = e->flags & VD__ENV_READ ? MDB_RDONLY : 0;
    return FENCED(e, mdb_txn_begin(e->env, NULL, rdonly, &e->txn));
}

/* Asking for the count makes LMDB read the database's root now. Left until it is needed, a root
 * that cannot be read counts as "no such key", and mdb_put goes on with a cursor that points
 * nowhere. */
static int open_db(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *ret_dbi)
{
    MDB_stat st;
    int rc = mdb_dbi_open(txn, name, flags, ret_dbi);
    return rc ? rc : mdb_stat(txn, *ret_dbi, &st);
}

static int fenced_db(struct vd__env *e, const char *name, unsigned create, MDB_dbi *ret_dbi)
{
    return FENCED(e, open_db(e->txn, name, create, ret_dbi));
}

static int fenced_step(struct vd__env *e, MDB_cursor *c, MDB_val *k, MDB_val *v, MDB_cursor_op op)
{
    return FENCED(e, mdb_cursor_get(c, k, v, op));
}

static int begin(struct vd__env *e)
{
    unsigned create = e->flags & VD__ENV_MAKE ? MDB_CREATE : 0;
    int rc = fenced_begin(e);
    for (unsigned i = 0; i < VD__ENV_DBS && !rc; i++) {
        bool core = i < VD__ENV_CORE_DBS;
        e->dbi[i] = VD__ENV_NO_DBI;
        rc = fenced_db(e, vd__env_db_names[i], core ? create : 0, &e->dbi[i]);
        if (rc == MDB_NOTFOUND)
            rc = core ? MDB_CORRUPTED : MDB_SUCCESS;
    }
    return vd__meta_error(rc);
}

int vd__env_open(struct vd__env *e, int fd, unsigned flags)
{
    int r;
    e->flags = flags;
    for (int tries = 0;; tries++) {
        struct vd_id tag;
        r = vd_id_new(&tag);
        if (r < 0)
            return r;
        uint64_t pages = VD__ENV_MAX_BYTES / VD__ENV_PAGE + (vd_get_le32(tag.b) & 0xfffff);
        r = open_map(e, fd, pages * VD__ENV_PAGE);
        if (r != -EAGAIN || tries == 3)
            break;
    }
    if (r == 0)
        r = begin(e);
    if (r < 0)
        vd__env_close(e);
    return r;
}

static void end(struct vd__env *e)
{
    MDB_txn *txn = vd_steal_ptr(e->txn);
    /* After a failed assertion nothing of LMDB's may run on this transaction: its pages are leaked.
     */
    if (txn && !e->failed) {
        int rc = FENCED(e, (mdb_txn_abort(txn), 0));
        (void)rc;
    }
}

void vd__env_close(struct vd__env *e)
{
    end(e);
    vd_sigbus_del(e->guard);
    e->guard = NULL;
    if (e->env)
        mdb_env_close(e->env);
    e->env = NULL;
}

int vd__env_commit(struct vd__env *e)
{
    MDB_txn *txn = vd_steal_ptr(e->txn);
    return vd__meta_error(FENCED(e, mdb_txn_commit(txn)));
}

uint64_t vd__env_txnid(const struct vd__env *e)
{
    return mdb_txn_id(e->txn) - 1;
}

int vd__env_restart(struct vd__env *e)
{
    end(e);
    int r = vd__env_dead(e) ? -EUCLEAN : begin(e);
    if (r < 0)
        end(e);
    return r;
}

int vd__env_get(struct vd__env *e, MDB_dbi dbi, const void *key, size_t key_len, MDB_val *ret_value)
{
    if (!usable(e))
        return -EUCLEAN;
    MDB_val k = {key_len, (void *)(uintptr_t)key};
    return vd__meta_error(FENCED(e, mdb_get(e->txn, dbi, &k, ret_value)));
}

/*
 * Before a record is replaced or deleted. LMDB frees a value that has a page of its own by the
 * count of pages in that page's head, which it has not read before: where the page cannot be read,
 * what the guard shows instead counts hundreds of millions, and LMDB lists each of them, in 2 GiB
 * of memory. So the page is touched first, and the environment is dead before LMDB goes on.
 */
static int touch_old(struct vd__env *e, MDB_dbi dbi, MDB_val *key)
{
    MDB_val v;
    int rc = FENCED(e, mdb_get(e->txn, dbi, key, &v));
    if (rc == 0 && v.mv_size > 0)
        (void)*(const volatile uint8_t *)v.mv_data;
    return vd__env_dead(e) ? MDB_CORRUPTED : rc;
}

static int fenced_put(struct vd__env *e, MDB_dbi dbi, MDB_val *key, MDB_val *value)
{
    return FENCED(e, mdb_put(e->txn, dbi, key, value, 0));
}

static int fenced_del(struct vd__env *e, MDB_dbi dbi, MDB_val *key)
{
    return FENCED(e, mdb_del(e->txn, dbi, key, NULL));
}

int vd__env_put(struct vd__env *e, MDB_dbi dbi, const void *key, size_t key_len, const void *value,
                size_t len)
{
    if (!usable(e))
        return -EUCLEAN;
    MDB_val k = {key_len, (void *)(uintptr_t)key}, v = {len, (void *)(uintptr_t)value};
    int rc = touch_old(e, dbi, &k);
    return vd__meta_error(rc == 0 || rc == MDB_NOTFOUND ? fenced_put(e, dbi, &k, &v) : rc);
}

int vd__env_del(struct vd__env *e, MDB_dbi dbi, const void *key, size_t key_len)
{
    if (!usable(e))
        return -EUCLEAN;
    MDB_val k = {key_len, (void *)(uintptr_t)key};
    int rc = touch_old(e, dbi, &k);
    return vd__meta_error(rc == 0 ? fenced_del(e, dbi, &k) : rc);
}

static int open_cursor(struct vd__env *e, MDB_dbi dbi, MDB_cursor **ret_c)
{
    return vd__meta_error(FENCED(e, mdb_cursor_open(e->txn, dbi, ret_c)));
}

static bool begins_with(const MDB_val *key, const void *prefix, size_t len)
{
    return key->mv_size >= len && (len == 0 || memcmp(key->mv_data, prefix, len) == 0);
}

int vd__env_each_prefix(struct vd__env *e, MDB_dbi dbi, const void *prefix, size_t len,
                        int (*fn)(void *user, const MDB_val *key, const MDB_val *value), void *user)
{
    MDB_cursor *c = NULL;
    int r = usable(e) ? open_cursor(e, dbi, &c) : -EUCLEAN;
    if (r < 0)
        return r;
    MDB_cursor_op op = len > 0 ? MDB_SET_RANGE : MDB_FIRST;
    bool at_end = false;
    while (r == 0 && !at_end) {
        MDB_val k = {len, (void *)(uintptr_t)prefix}, v;
        int rc = fenced_step(e, c, &k, &v, op);
        at_end = rc == MDB_NOTFOUND || (rc == 0 && !begins_with(&k, prefix, len));
        if (!at_end)
            r = rc ? vd__meta_error(rc) : fn(user, &k, &v);
        op = MDB_NEXT;
    }
    if (!e->failed)
        mdb_cursor_close(c);
    return vd__env_dead(e) ? -EUCLEAN : r;
}

int vd__env_each(struct vd__env *e, MDB_dbi dbi,
                 int (*fn)(void *user, const MDB_val *key, const MDB_val *value), void *user)
{
    return vd__env_each_prefix(e, dbi, NULL, 0, fn, user);
}

int vd__env_db(struct vd__env *e, const char *name, MDB_dbi *ret_dbi)
{
    return usable(e) ? vd__meta_error(fenced_db(e, name, 0, ret_dbi)) : -EUCLEAN;
}

int vd__env_make_db(struct vd__env *e, enum vd__env_db db)
{
    if (!usable(e))
        return -EUCLEAN;
    if (e->dbi[db] != VD__ENV_NO_DBI)
        return 0;
    return vd__meta_error(fenced_db(e, vd__env_db_names[db], MDB_CREATE, &e->dbi[db]));
}
