// SPDX-License-Identifier: Apache-2.0
/*
 * LMDB, fenced in. One environment, one transaction at a time, the three databases that every disk
 * has, and those that only disks with layers or filters need: these are made with their first
 * record, so that an environment without them is an ordinary one.
 *
 * LMDB trusts its file: it maps it, follows what it finds, and calls abort() where an assertion
 * fails. Three fences. The file is proven before it comes here (session.c). A writable map is
 * registered with vd_sigbus, so that truncation or an I/O error under it shows an empty leaf page
 * instead of killing us. And an assertion leaves LMDB by longjmp: LMDB runs with MDB_NOLOCK, so it
 * holds no lock, and what it leaks is a few pages; going on behind a failed assertion could write
 * anywhere, and abort() would take all other disks along. After either the environment is dead:
 * every call says -EUCLEAN.
 */
#ifndef VD__META_ENV_H
#define VD__META_ENV_H

#include <lmdb.h>
#include <setjmp.h>

#include "vd_meta.h"
#include "vd_sigbus.h"

#define VD__ENV_PAGE 4096u
#define VD__ENV_MAX_BYTES (4ull << 30) /* of address space; the file grows as it is used */
#define VD__ENV_MAX_DBS 16u
#define VD__ENV_CORE_DBS 3u
#define VD__ENV_DBS 7u
#define VD__ENV_NO_DBI ((MDB_dbi)0) /* a database that is not there; 0 is LMDB's free list */

enum vd__env_db {
    VD__ENV_DISK,
    VD__ENV_LAYER,
    VD__ENV_OWNER,
    VD__ENV_VIEW,
    VD__ENV_SNAPSHOT,
    VD__ENV_FILTER,
    VD__ENV_FILTER_DATA,
};
extern const char *const vd__env_db_names[VD__ENV_DBS];

enum vd__env_flags {
    VD__ENV_READ = 1,    /* read-only */
    VD__ENV_MAKE = 2,    /* make the core databases that are missing */
    VD__ENV_NOSYNC = 4,  /* in memory: nothing to make durable */
    VD__ENV_GUARD = 8,   /* register the map with vd_sigbus */
    VD__ENV_LOCATE = 16, /* find out where the map is */
};

struct vd__env {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi[VD__ENV_DBS];
    unsigned flags;
    const uint8_t *map; /* with GUARD or LOCATE */
    bool failed;        /* an assertion of LMDB's */
    bool may_escape;
    jmp_buf escape;
    struct vd_sigbus_region *guard;
};

/* Looks at the two meta pages of FD, LEN_BYTES long: magic, version, page size, bounds. 0; -EUCLEAN
 * and what is wrong in RET_WHY; -errno. */
int vd__env_check_head(int fd, uint64_t len_bytes, const char **ret_why) VD_WARN_UNUSED;

/* Opens the file FD (which stays the caller's) and begins a transaction. E must be zeroed, and must
 * not move until vd__env_close. 0 or -errno. */
int vd__env_open(struct vd__env *e, int fd, unsigned flags) VD_WARN_UNUSED;

/* Forgets what is not committed. Harmless on a zeroed E. */
void vd__env_close(struct vd__env *e);

/* Is the map or LMDB's state beyond use? Asked after every call that found nothing wrong. */
bool vd__env_dead(const struct vd__env *e);

/* Commits; then there is no transaction until vd__env_restart. After a failure nothing has changed
 * as far as a reader can tell, but pages may have been written. */
int vd__env_commit(struct vd__env *e) VD_WARN_UNUSED;
/* The last committed transaction, asked in a write transaction. */
uint64_t vd__env_txnid(const struct vd__env *e);
/* Begins again after a failure or to forget changes. */
int vd__env_restart(struct vd__env *e) VD_WARN_UNUSED;

/* RET_VALUE points into the environment: valid until the next call. */
int vd__env_get(struct vd__env *e, MDB_dbi dbi, const void *key, size_t key_len,
                MDB_val *ret_value) VD_WARN_UNUSED;
int vd__env_put(struct vd__env *e, MDB_dbi dbi, const void *key, size_t key_len, const void *value,
                size_t len) VD_WARN_UNUSED;
int vd__env_del(struct vd__env *e, MDB_dbi dbi, const void *key, size_t key_len) VD_WARN_UNUSED;

/* Calls FN for each record of DBI, in order of keys; FN may not change the environment. A non-zero
 * return ends the walk and is returned. DBI 1 holds the databases by name, DBI 0 the free pages
 * (readable only). */
#define VD__ENV_FREE_DBI ((MDB_dbi)0)
#define VD__ENV_MAIN_DBI ((MDB_dbi)1)
int vd__env_each(struct vd__env *e, MDB_dbi dbi,
                 int (*fn)(void *user, const MDB_val *key, const MDB_val *value),
                 void *user) VD_WARN_UNUSED;

/* The same for those records whose key begins with the LEN bytes at PREFIX. */
int vd__env_each_prefix(struct vd__env *e, MDB_dbi dbi, const void *prefix, size_t len,
                        int (*fn)(void *user, const MDB_val *key, const MDB_val *value),
                        void *user) VD_WARN_UNUSED;

/* Makes the database DB in this transaction where it is not there. 0 or -errno. */
int vd__env_make_db(struct vd__env *e, enum vd__env_db db) VD_WARN_UNUSED;

/* Opens the database NAME for this transaction. 0, -ENOENT, -errno. */
int vd__env_db(struct vd__env *e, const char *name, MDB_dbi *ret_dbi) VD_WARN_UNUSED;

#endif
