// SPDX-License-Identifier: Apache-2.0
/* One record in and out of a session's database, for the files that know what is in it. */
#ifndef VD__META_RECORDS_H
#define VD__META_RECORDS_H

#include "codec.h"
#include "session.h"

/* What an operation of the environment said; its -EUCLEAN means the file, not a record. */
int vd__records_checked(struct vd_meta *m, int r);

/* -EUCLEAN, with the session's sentence naming DB and CAUSE. */
int vd__records_refuse(struct vd_meta *m, enum vd__env_db db, const char *cause);

/* RET_V points into the environment. 0, -ENOENT (also without the database), -EUCLEAN, -errno. */
int vd__records_get(struct vd_meta *m, enum vd__env_db db, const struct vd__key *k,
                    MDB_val *ret_v) VD_WARN_UNUSED;
/* LEN may be an encoder's error, which is returned then. */
int vd__records_put(struct vd_meta *m, enum vd__env_db db, const struct vd__key *k,
                    const void *value, ssize_t len) VD_WARN_UNUSED;
int vd__records_del(struct vd_meta *m, enum vd__env_db db, const struct vd__key *k) VD_WARN_UNUSED;

#endif
