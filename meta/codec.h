// SPDX-License-Identifier: Apache-2.0
/*
 * Records as they lie in the environment. Pure functions: bytes in, bytes or structs out.
 *
 *   u16 type | u16 version | u32 payload length | payload | u32 CRC32C
 *
 * All little-endian. The checksum covers the name of the database and the key too, so that a sound
 * record in the wrong place does not verify. Payloads have one length a version; texts fill their
 * field with NULs, at least one, so that equal records are equal bytes.
 *
 * Only filter-data is as long as what it holds: u32 length | as many bytes, and nothing after them.
 * Its key is the filter's name, NUL, and the filter's own key for it; the other texts that are keys
 * stand there without NUL.
 */
#ifndef VD__META_CODEC_H
#define VD__META_CODEC_H

#include "vd_meta.h"
#include "vd_meta_filter.h"
#include "vd_view.h"

enum vd__rec_type {
    VD__REC_DISK = 1,
    VD__REC_LAYER = 2,
    VD__REC_OWNER = 3,
    VD__REC_VIEW = 4,
    VD__REC_SNAPSHOT = 5,
    VD__REC_FILTER = 6,
    VD__REC_FILTER_DATA = 7,
};

#define VD__REC_VERSION 1u
#define VD__REC_HEAD 8u
#define VD__REC_OVERHEAD 12u /* head and checksum */
#define VD__DISK_LEN 1088u
#define VD__LAYER_LEN 1368u
#define VD__OWNER_LEN 560u
#define VD__VIEW_LEN 120u
#define VD__SNAPSHOT_LEN 344u
#define VD__FILTER_LEN 2104u
#define VD__REC_MAX (VD__FILTER_LEN + VD__REC_OVERHEAD) /* of the types above */
#define VD__FILTER_DATA_HEAD 4u
#define VD__FILTER_DATA_REC_MAX (VD__FILTER_DATA_HEAD + VD_META_FILTER_DATA + VD__REC_OVERHEAD)
#define VD__REC_WHY 128

#define VD__DB_DISK "disk"
#define VD__DB_LAYER "layer"
#define VD__DB_OWNER "owner"
#define VD__DB_VIEW "view"
#define VD__DB_SNAPSHOT "snapshot"
#define VD__DB_FILTER "filter"
#define VD__DB_FILTER_DATA "filter-data"

#define VD__KEY_MAX 255u /* a snapshot's name */

struct vd__key {
    uint8_t b[VD__KEY_MAX];
    size_t len;
};
struct vd__key vd__key_index(uint64_t index);
struct vd__key vd__key_id(const struct vd_id *id);
/* 0, or -EINVAL where NAME cannot be a snapshot's. */
int vd__key_name(const char *name, struct vd__key *ret_k);
/* 0, or -EINVAL where NAME cannot be a filter's, or KEY not that of a value of its. */
int vd__key_filter(const char *name, struct vd__key *ret_k);
int vd__key_filter_data(const char *name, const char *key, struct vd__key *ret_k);

/* Encoders: the whole record into RET_VALUE (VD__REC_MAX bytes); its length, or -EINVAL where a
 * text is too long or a number out of range. */
ssize_t vd__encode_disk(const struct vd_disk_record *r, void *ret_value);
ssize_t vd__encode_layer(uint32_t index, const struct vd_layer_record *r, void *ret_value);
ssize_t vd__encode_owner(const struct vd_owner_record *r, void *ret_value);
ssize_t vd__encode_view(const struct vd_view_record *r, void *ret_value);
ssize_t vd__encode_snapshot(const struct vd_snapshot_record *r, void *ret_value);
ssize_t vd__encode_filter(const struct vd_filter_record *r, void *ret_value);
/* RET_VALUE has VD__FILTER_DATA_REC_MAX bytes. */
ssize_t vd__encode_filter_data(const struct vd__key *key, const void *bytes, size_t len,
                               void *ret_value);

/* Decoders: 0, or -EUCLEAN with RET_WHY saying what is wrong with the record. Any bytes may come.
 */
int vd__decode_disk(const void *value, size_t len, struct vd_disk_record *ret_r,
                    char ret_why[VD__REC_WHY]);
int vd__decode_layer(uint32_t index, const void *value, size_t len, struct vd_layer_record *ret_r,
                     char ret_why[VD__REC_WHY]);
int vd__decode_owner(const struct vd__key *key, const void *value, size_t len,
                     struct vd_owner_record *ret_r, char ret_why[VD__REC_WHY]);
int vd__decode_view(const void *value, size_t len, struct vd_view_record *ret_r,
                    char ret_why[VD__REC_WHY]);
int vd__decode_snapshot(const struct vd__key *key, const void *value, size_t len,
                        struct vd_snapshot_record *ret_r, char ret_why[VD__REC_WHY]);
int vd__decode_filter(const struct vd__key *key, const void *value, size_t len,
                      struct vd_filter_record *ret_r, char ret_why[VD__REC_WHY]);

struct vd__filter_datum {
    char filter[VD_META_FILTER_NAME];
    char key[VD_META_FILTER_KEY];
    const void *bytes; /* in the record that was decoded */
    size_t len;
};
int vd__decode_filter_data(const struct vd__key *key, const void *value, size_t len,
                           struct vd__filter_datum *ret_d, char ret_why[VD__REC_WHY]);

/* Length and checksum only: records of every type and version. 0 or -EUCLEAN. */
int vd__rec_verify(const char *db, const void *key, size_t key_len, const void *value, size_t len);

#endif
