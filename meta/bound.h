// SPDX-License-Identifier: Apache-2.0
/*
 * Small records outside the environments. Both are whole or absent: they are replaced by a rename,
 * or written before anything refers to them and checked by their checksum.
 *
 *   STORE/bound/<hash of path>      which disk the file at a path is, where it takes no attribute
 *   STORE/disks/<uuid>/claim        the inode a UUID was drawn for, until metadata says so itself:
 *                                   two mounts that open one new file agree on its UUID by it
 */
#ifndef VD__META_BOUND_H
#define VD__META_BOUND_H

#include "store.h"

struct vd__bound {
    uint64_t ino;
    uint64_t size_bytes;
    struct vd_id uuid;
};

#define VD__BOUND_MAX (8 + 4 + 4 + 8 + 8 + 16 + PATH_MAX + 4)

/* Codec. PATH is stored, for the hash may collide. Encode: the length, or -ENAMETOOLONG. Decode: 0;
 * -ENOENT: sound, of another path; -EUCLEAN: damaged; -EPROTONOSUPPORT with RET_VERSION. */
ssize_t vd__bound_encode(const struct vd__bound *b, const char *path, uint8_t *ret_buf);
int vd__bound_decode(const uint8_t *buf, size_t len, const char *path, struct vd__bound *ret_b,
                     uint32_t *ret_version);

/* Reads the record of PATH. 0, -ENOENT, -EUCLEAN with RET_WHY, -errno. */
int vd__bound_get(const struct vd_meta_store *s, const char *path, struct vd__bound *ret_b,
                  char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* Replaces it, durably. 0 or -errno. */
int vd__bound_put(const struct vd_meta_store *s, const char *path,
                  const struct vd__bound *b) VD_WARN_UNUSED;

/* Is the disk's folder claimed for inode INO? */
bool vd__claim_is(const struct vd_meta_store *s, const struct vd_id *uuid, uint64_t ino);
/* Makes the disk's folder and claims it. 0 or -errno. */
int vd__claim_put(const struct vd_meta_store *s, const struct vd_id *uuid,
                  uint64_t ino) VD_WARN_UNUSED;

#endif
