// SPDX-License-Identifier: Apache-2.0
/*
 * The record beside a frozen layer's file. It is replaced by rename, so it is the old or the new
 * one whole, and a cut leaves at most a temporary file that the sweep removes.
 *
 * A layer is what its record says by size and mtime, not by inode or ctime: one that was restored
 * from a backup with its times is the layer still.
 */
#include <assert.h>
#include <fcntl.h>

#include "layer.h"
#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"
#include "vd_step.h"
#include "vd_time.h"

static const char magic[8] = "VDLAYER\n";
#define VERSION 1u

static_assert(VD__LAYER_FILE_LEN == 8 + 4 + 4 + 3 * 16 + 3 * 8 + 4, "version 1");

void vd__layer_file_encode(const struct vd_layer_file *l, uint8_t ret_buf[VD__LAYER_FILE_LEN])
{
    memcpy(ret_buf, magic, 8);
    vd_put_le32(ret_buf + 8, VERSION);
    vd_put_le32(ret_buf + 12, 0);
    memcpy(ret_buf + 16, l->disk_id.b, 16);
    memcpy(ret_buf + 32, l->token.b, 16);
    memcpy(ret_buf + 48, l->owner.b, 16);
    vd_put_le64(ret_buf + 64, l->size_bytes);
    vd_put_le64(ret_buf + 72, (uint64_t)l->mtime_ns);
    vd_put_le64(ret_buf + 80, l->created_s);
    vd_put_le32(ret_buf + 88, vd_crc32c(0, ret_buf, 88));
}

int vd__layer_file_decode(const uint8_t *buf, size_t len, struct vd_layer_file *ret_l,
                          uint32_t *ret_version)
{
    if (len < 16 || memcmp(buf, magic, 8) != 0 ||
        vd_get_le32(buf + len - 4) != vd_crc32c(0, buf, len - 4))
        return -EUCLEAN;
    if (vd_get_le32(buf + 8) != VERSION) {
        *ret_version = vd_get_le32(buf + 8);
        return -EPROTONOSUPPORT;
    }
    if (len != VD__LAYER_FILE_LEN || vd_get_le32(buf + 12) != 0)
        return -EUCLEAN;
    struct vd_layer_file l = {
        .size_bytes = vd_get_le64(buf + 64),
        .mtime_ns = (int64_t)vd_get_le64(buf + 72),
        .created_s = vd_get_le64(buf + 80),
    };
    memcpy(l.disk_id.b, buf + 16, 16);
    memcpy(l.token.b, buf + 32, 16);
    memcpy(l.owner.b, buf + 48, 16);
    *ret_l = l;
    return 0;
}

int vd_layer_put(struct vd_meta_store *s, const struct vd_layer_file *l)
{
    uint8_t buf[VD__LAYER_FILE_LEN];
    char name[VD__LAYER_NAME];
    vd_cleanup_close int dir_fd = -1;
    int r = vd__layers_dir(s, true, &dir_fd);
    if (r < 0)
        return r;
    vd__layer_file_encode(l, buf);
    vd__layer_record_name(&l->disk_id, name);
    vd_step("layer-put");
    r = vd_file_replace(dir_fd, name, buf, sizeof(buf), 0600);
    vd_step("layer-put-done");
    return r;
}

static int refuse(const struct vd_meta_store *s, const char *name, char ret_why[VD_META_WHY],
                  const char *cause, const char *remedy)
{
    char path[VD_META_WHY];
    vd__layers_path(s, name, path, sizeof(path));
    snprintf(ret_why, VD_META_WHY, "%.300s: %.90s; %.110s", path, cause, remedy);
    return -EUCLEAN;
}

#define RECORD_REMEDY "restore it from a backup or run `vdisk check PATH --repair`"

int vd_layer_get(struct vd_meta_store *s, const struct vd_id *id, struct vd_layer_file *ret_l,
                 char ret_why[VD_META_WHY])
{
    vd_cleanup_close int dir_fd = -1;
    ret_why[0] = '\0';
    int r = vd__layers_dir(s, false, &dir_fd);
    if (r < 0)
        return r;
    char name[VD__LAYER_NAME], cause[64] = "checksum differs";
    vd__layer_record_name(id, name);
    vd_cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    uint8_t buf[VD__LAYER_FILE_LEN + 1];
    struct vd_layer_file l;
    uint32_t version = 0;
    ssize_t n = vd_pread_full(fd, buf, sizeof(buf), 0);
    if (n < 0)
        return (int)n;
    r = vd__layer_file_decode(buf, (size_t)n, &l, &version);
    if (r == -EPROTONOSUPPORT)
        snprintf(cause, sizeof(cause), "version %u; this program knows %u", version, VERSION);
    else if (r == 0 && !vd_id_eq(&l.disk_id, id))
        snprintf(cause, sizeof(cause), "it is the record of another layer");
    else if (r == 0) {
        *ret_l = l;
        return 0;
    }
    return refuse(s, name, ret_why, cause, RECORD_REMEDY);
}

int vd_layer_verify(struct vd_meta_store *s, const struct vd_id *id, struct vd_layer_file *ret_l,
                    char ret_why[VD_META_WHY])
{
    struct vd_layer_file l;
    struct stat st;
    char hex[VD_ID_HEX], record[VD__LAYER_NAME], cause[96];
    vd_id_hex(id, hex);
    vd__layer_record_name(id, record);
    ret_why[0] = '\0';
    int r = vd_layer_stat(s, id, &st);
    if (r == -ENOENT)
        return refuse(s, hex, ret_why, "the frozen layer is missing", "restore it from a backup");
    if (r == -ELOOP || r == -EINVAL)
        return refuse(s, hex, ret_why, "it is not a regular file", "restore it from a backup");
    if (r == 0)
        r = vd_layer_get(s, id, &l, ret_why);
    if (r == -ENOENT)
        return refuse(s, record, ret_why, "the frozen layer's record is missing", RECORD_REMEDY);
    if (r < 0)
        return r;
    if ((uint64_t)st.st_size != l.size_bytes) {
        snprintf(cause, sizeof(cause), "the frozen layer has %lld bytes instead of %llu",
                 (long long)st.st_size, (unsigned long long)l.size_bytes);
        return refuse(s, hex, ret_why, cause,
                      "restore it from a backup, or run `vdisk check PATH --repair`");
    }
    if (vd_timespec_ns(st.st_mtim) != l.mtime_ns)
        return refuse(s, hex, ret_why, "the frozen layer was changed since it was frozen",
                      "run `vdisk check PATH --repair`, or restore it from a backup");
    if (ret_l)
        *ret_l = l;
    return 0;
}

int vd_layer_unput(struct vd_meta_store *s, const struct vd_id *id)
{
    vd_cleanup_close int dir_fd = -1;
    char name[VD__LAYER_NAME];
    vd__layer_record_name(id, name);
    int r = vd__layers_dir(s, false, &dir_fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}
