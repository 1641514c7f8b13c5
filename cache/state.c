// SPDX-License-Identifier: Apache-2.0
/*
 * `state` stands beside the other files only while no process has them open, and only after a clean
 * stop: it vouches for the index by its checksum and holds what the policy knows. It is removed,
 * durably, before anything changes, so whatever is found later without it was cut off.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "engine.h"
#include "vd_crc.h"
#include "vd_file.h"
#include "vd_log.h"

static int checksum_index(int dirfd, uint64_t *ret_bytes, uint32_t *ret_crc)
{
    enum { CHUNK = 1 << 20 };
    vd_cleanup_close int fd = openat(dirfd, "index.mdb", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    vd_cleanup_free uint8_t *buf = malloc(CHUNK);
    if (fd < 0)
        return -errno;
    if (!buf)
        return -ENOMEM;
    uint32_t crc = 0;
    uint64_t off = 0;
    for (;;) {
        ssize_t n = vd_pread_full(fd, buf, CHUNK, (off_t)off);
        if (n < 0)
            return (int)n;
        crc = vd_crc32c(crc, buf, (size_t)n);
        off += (uint64_t)n;
        if (n < CHUNK)
            break;
    }
    *ret_bytes = off;
    *ret_crc = crc;
    return 0;
}

/* The whole file, in memory of the caller's from then on. 0, -ENOENT, -errno. */
static int read_whole(int dirfd, uint8_t **ret_buf, size_t *ret_len)
{
    vd_cleanup_close int fd = openat(dirfd, "state", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    uint8_t *buf = malloc((size_t)st.st_size + 1);
    if (!buf)
        return -ENOMEM;
    ssize_t n = vd_pread_full(fd, buf, (size_t)st.st_size, 0);
    if (n < 0) {
        free(buf);
        return (int)n;
    }
    *ret_buf = buf;
    *ret_len = (size_t)n;
    return 0;
}

/* Whether the state fits the table, the index and the policy; loads the policy then. */
static bool fits(struct vd__engine *e, const uint8_t *buf, size_t len)
{
    struct vd__state_header h;
    uint64_t index_bytes;
    uint32_t index_crc;
    if (len < VD__STATE_HEADER_BYTES || vd__state_header_decode(buf, &h) < 0)
        return false;
    const uint8_t *policy = buf + VD__STATE_HEADER_BYTES;
    size_t policy_bytes = len - VD__STATE_HEADER_BYTES;
    return vd_id_eq(&h.incarnation, &e->slots.incarnation) && h.nslots == e->slots.nslots &&
           h.policy_bytes == policy_bytes && vd_crc32c(0, policy, policy_bytes) == h.policy_crc &&
           !strcmp(h.policy, e->policy->ops->name) &&
           checksum_index(e->dirfd, &index_bytes, &index_crc) == 0 &&
           index_bytes == h.index_bytes && index_crc == h.index_crc &&
           e->policy->ops->load(e->policy, policy, policy_bytes) == 0;
}

int vd__state_load(struct vd__engine *e, bool trust, bool *ret_clean)
{
    vd_cleanup_free uint8_t *buf = NULL;
    size_t len = 0;
    *ret_clean = false;
    int r = read_whole(e->dirfd, &buf, &len);
    if (r == -ENOENT)
        return 0;
    if (unlinkat(e->dirfd, "state", 0) < 0)
        return -errno;
    int sync = vd_fsync_dir(e->dirfd, ".");
    if (sync < 0)
        return sync;
    *ret_clean = trust && r == 0 && fits(e, buf, len);
    if (trust && !*ret_clean)
        vd_log_warning("cache: %s: state or index.mdb is damaged: the index is rebuilt", e->dir);
    return 0;
}

int vd__state_save(struct vd__engine *e)
{
    struct vd__state_header h = {.incarnation = e->slots.incarnation, .nslots = e->slots.nslots};
    int r = checksum_index(e->dirfd, &h.index_bytes, &h.index_crc);
    if (r < 0)
        return r;
    snprintf(h.policy, sizeof(h.policy), "%s", e->policy->ops->name);
    h.policy_bytes = e->policy->ops->state_bytes(e->policy);
    size_t len = VD__STATE_HEADER_BYTES + h.policy_bytes;
    vd_cleanup_free uint8_t *buf = malloc(len);
    if (!buf)
        return -ENOMEM;
    e->policy->ops->save(e->policy, buf + VD__STATE_HEADER_BYTES);
    h.policy_crc = vd_crc32c(0, buf + VD__STATE_HEADER_BYTES, h.policy_bytes);
    vd__state_header_encode(&h, buf);
    return vd_file_replace(e->dirfd, "state", buf, len, 0600);
}
