// SPDX-License-Identifier: Apache-2.0
#include "sum.h"

#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"

static const char magic[8] = "VDMSUM\r\n";

#define PIECE (64u * 1024)

void vd__sum_encode(const struct vd__sum *s, uint8_t ret_buf[VD__SUM_LEN])
{
    memcpy(ret_buf, magic, sizeof(magic));
    vd_put_le32(ret_buf + 8, VD__SUM_VERSION);
    vd_put_le32(ret_buf + 12, s->state);
    vd_put_le64(ret_buf + 16, s->len_bytes);
    vd_put_le64(ret_buf + 24, s->txnid);
    vd_put_le32(ret_buf + 32, s->crc);
    vd_put_le32(ret_buf + 36, vd_crc32c(0, ret_buf, 36));
}

int vd__sum_decode(const uint8_t *buf, size_t len, struct vd__sum *ret_s, uint32_t *ret_version)
{
    if (len != VD__SUM_LEN || memcmp(buf, magic, sizeof(magic)) != 0 ||
        vd_get_le32(buf + 36) != vd_crc32c(0, buf, 36))
        return -EUCLEAN;
    uint32_t version = vd_get_le32(buf + 8);
    if (version != VD__SUM_VERSION) {
        *ret_version = version;
        return -EPROTONOSUPPORT;
    }
    uint32_t state = vd_get_le32(buf + 12);
    if (state != VD__SUM_OPEN && state != VD__SUM_CLEAN)
        return -EUCLEAN;
    *ret_s = (struct vd__sum){
        .state = state,
        .len_bytes = vd_get_le64(buf + 16),
        .txnid = vd_get_le64(buf + 24),
        .crc = vd_get_le32(buf + 32),
    };
    return 0;
}

int vd__sum_read(int fd, struct vd__sum *ret_s, uint32_t *ret_version)
{
    uint8_t buf[VD__SUM_LEN + 1];
    ssize_t n = vd_pread_full(fd, buf, sizeof(buf), 0);
    if (n < 0)
        return (int)n;
    struct vd__sum s = {.state = VD__SUM_OPEN};
    int r = vd__sum_decode(buf, (size_t)n, &s, ret_version);
    if (r == -EPROTONOSUPPORT)
        return r;
    *ret_s = s;
    return 0;
}

int vd__sum_write(int fd, const struct vd__sum *s, bool sync)
{
    uint8_t buf[VD__SUM_LEN];
    vd__sum_encode(s, buf);
    int r = vd_pwrite_full(fd, buf, sizeof(buf), 0);
    if (r == 0 && sync && fdatasync(fd) < 0)
        r = -errno;
    return r;
}

int vd__sum_file(int fd, int copy_fd, uint64_t max_bytes, uint32_t *ret_crc,
                 uint64_t *ret_len_bytes)
{
    vd_cleanup_free uint8_t *piece = malloc(PIECE);
    if (!piece)
        return -ENOMEM;
    uint32_t crc = 0;
    uint64_t len = 0;
    for (;;) {
        ssize_t n = vd_pread_full(fd, piece, PIECE, (off_t)len);
        if (n < 0)
            return (int)n;
        crc = vd_crc32c(crc, piece, (size_t)n);
        int r = copy_fd < 0 ? 0 : vd_pwrite_full(copy_fd, piece, (size_t)n, (off_t)len);
        if (r < 0)
            return r;
        len += (uint64_t)n;
        if (len > max_bytes)
            return -EFBIG;
        if (n < (ssize_t)PIECE)
            break;
    }
    *ret_crc = crc;
    *ret_len_bytes = len;
    return 0;
}
