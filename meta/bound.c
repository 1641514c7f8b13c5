// SPDX-License-Identifier: Apache-2.0
#include "bound.h"

#include <fcntl.h>

#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"

static const char bound_magic[8] = "VDBOUND\n", claim_magic[8] = "VDCLAIM\n";
#define VERSION 1u
#define HEAD 48u /* magic, version, path length, inode, size, UUID */
#define CLAIM_NAME "claim"
#define CLAIM_LEN 20u

ssize_t vd__bound_encode(const struct vd__bound *b, const char *path, uint8_t *ret_buf)
{
    size_t n = strlen(path);
    if (n >= PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(ret_buf, bound_magic, 8);
    vd_put_le32(ret_buf + 8, VERSION);
    vd_put_le32(ret_buf + 12, (uint32_t)n);
    vd_put_le64(ret_buf + 16, b->ino);
    vd_put_le64(ret_buf + 24, b->size_bytes);
    memcpy(ret_buf + 32, b->uuid.b, sizeof(b->uuid.b));
    memcpy(ret_buf + HEAD, path, n);
    vd_put_le32(ret_buf + HEAD + n, vd_crc32c(0, ret_buf, HEAD + n));
    return (ssize_t)(HEAD + n + 4);
}

int vd__bound_decode(const uint8_t *buf, size_t len, const char *path, struct vd__bound *ret_b,
                     uint32_t *ret_version)
{
    if (len < HEAD + 4 || memcmp(buf, bound_magic, 8) != 0 ||
        vd_get_le32(buf + len - 4) != vd_crc32c(0, buf, len - 4))
        return -EUCLEAN;
    if (vd_get_le32(buf + 8) != VERSION) {
        *ret_version = vd_get_le32(buf + 8);
        return -EPROTONOSUPPORT;
    }
    if (vd_get_le32(buf + 12) != len - HEAD - 4)
        return -EUCLEAN;
    if (strlen(path) != len - HEAD - 4 || memcmp(path, buf + HEAD, len - HEAD - 4) != 0)
        return -ENOENT;
    struct vd__bound b = {.ino = vd_get_le64(buf + 16), .size_bytes = vd_get_le64(buf + 24)};
    memcpy(b.uuid.b, buf + 32, sizeof(b.uuid.b));
    *ret_b = b;
    return 0;
}

/* FNV-1a of 128 bits (Fowler, Noll, Vo). Not against an adversary: the record holds the path. */
static void bound_name(const char *path, char ret_name[VD_ID_HEX])
{
    const unsigned __int128 prime = ((unsigned __int128)1 << 88) + 0x13b;
    unsigned __int128 h = ((unsigned __int128)0x6c62272e07bb0142ull << 64) | 0x62b821756295c58dull;
    for (const unsigned char *p = (const unsigned char *)path; *p; p++)
        h = (h ^ *p) * prime;
    struct vd_id id;
    vd_put_be64(id.b, (uint64_t)(h >> 64));
    vd_put_be64(id.b + 8, (uint64_t)h);
    vd_id_hex(&id, ret_name);
}

int vd__bound_get(const struct vd_meta_store *s, const char *path, struct vd__bound *ret_b,
                  char ret_why[VD_META_WHY])
{
    vd_cleanup_close int dir_fd = -1;
    int r = vd__store_dir(s, "bound", &dir_fd);
    if (r < 0)
        return r;
    char name[VD_ID_HEX];
    bound_name(path, name);
    vd_cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    uint8_t buf[VD__BOUND_MAX + 1];
    ssize_t n = vd_pread_full(fd, buf, sizeof(buf), 0);
    if (n < 0)
        return (int)n;
    uint32_t version = 0;
    r = vd__bound_decode(buf, (size_t)n, path, ret_b, &version);
    if (r != -EUCLEAN && r != -EPROTONOSUPPORT)
        return r;
    char cause[64] = "checksum differs";
    if (r == -EPROTONOSUPPORT)
        snprintf(cause, sizeof(cause), "version %u; this program knows %u", version, VERSION);
    snprintf(ret_why, VD_META_WHY, "%.300s/bound/%s: %s; remove it and its disk becomes a new one",
             s->path, name, cause);
    return -EUCLEAN;
}

int vd__bound_put(const struct vd_meta_store *s, const char *path, const struct vd__bound *b)
{
    uint8_t buf[VD__BOUND_MAX];
    ssize_t len = vd__bound_encode(b, path, buf);
    if (len < 0)
        return (int)len;
    vd_cleanup_close int dir_fd = -1;
    int r = vd__store_make_dir(s, "bound", &dir_fd);
    char name[VD_ID_HEX];
    bound_name(path, name);
    return r < 0 ? r : vd_file_replace(dir_fd, name, buf, (size_t)len, 0600);
}

bool vd__claim_is(const struct vd_meta_store *s, const struct vd_id *uuid, uint64_t ino)
{
    char rel[VD__DISK_REL];
    vd__disk_rel(uuid, rel);
    vd_cleanup_close int dir_fd = -1;
    if (vd__store_dir(s, rel, &dir_fd) < 0)
        return false;
    vd_cleanup_close int fd =
        openat(dir_fd, CLAIM_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    uint8_t buf[CLAIM_LEN + 1];
    return fd >= 0 && vd_pread_full(fd, buf, sizeof(buf), 0) == CLAIM_LEN &&
           memcmp(buf, claim_magic, 8) == 0 && vd_get_le64(buf + 8) == ino &&
           vd_get_le32(buf + 16) == vd_crc32c(0, buf, 16);
}

int vd__claim_put(const struct vd_meta_store *s, const struct vd_id *uuid, uint64_t ino)
{
    char rel[VD__DISK_REL];
    vd__disk_rel(uuid, rel);
    vd_cleanup_close int dir_fd = -1;
    int r = vd__store_make_dir(s, rel, &dir_fd);
    if (r < 0)
        return r;
    uint8_t buf[CLAIM_LEN];
    memcpy(buf, claim_magic, 8);
    vd_put_le64(buf + 8, ino);
    vd_put_le32(buf + 16, vd_crc32c(0, buf, 16));
    return vd_file_replace(dir_fd, CLAIM_NAME, buf, sizeof(buf), 0600);
}
