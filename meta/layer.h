// SPDX-License-Identifier: Apache-2.0
/* The folder of layers, for the files that work in it. */
#ifndef VD__META_LAYER_H
#define VD__META_LAYER_H

#include "store.h"
#include "vd_view.h"

#define VD__LAYERS_REL VD_META_FOLDER "/layers"
#define VD__LAYER_NAME (VD_ID_HEX + 6) /* a disk ID and ".layer" */
#define VD__LAYER_SUFFIX ".layer"
#define VD__LAYER_FILE_LEN 92u

void vd__layer_record_name(const struct vd_id *id, char ret_name[VD__LAYER_NAME]);

/* Opens the folder; with MAKE it is made where missing. 0, -ENOENT, -EROFS, -errno. */
int vd__layers_dir(const struct vd_meta_store *s, bool make, int *ret_fd) VD_WARN_UNUSED;

/* The folder LAYERS_FD was just made for S. 0 or -errno. */
int vd__layers_claim(const struct vd_meta_store *s, int layers_fd) VD_WARN_UNUSED;
/* May S sweep it? 1, 0: it is another store's; -EUCLEAN: what says so is damaged; -errno. */
int vd__layers_ours(const struct vd_meta_store *s, int layers_fd) VD_WARN_UNUSED;

/* "/absolute/source/.vdiskfs/layers/NAME", for messages; of a long path the end. */
void vd__layers_path(const struct vd_meta_store *s, const char *name, char *ret_path, size_t len);

/* How many names in the folder the inode of ST has; RET_ID is one of them. A count or -errno. Looks
 * at every file. */
int vd__layer_names(const struct vd_meta_store *s, const struct stat *st,
                    struct vd_id *ret_id) VD_WARN_UNUSED;

/* Codec of a layer's record. Decode: 0; -EUCLEAN; -EPROTONOSUPPORT with RET_VERSION. */
void vd__layer_file_encode(const struct vd_layer_file *l, uint8_t ret_buf[VD__LAYER_FILE_LEN]);
int vd__layer_file_decode(const uint8_t *buf, size_t len, struct vd_layer_file *ret_l,
                          uint32_t *ret_version);

#endif
