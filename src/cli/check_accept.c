// SPDX-License-Identifier: Apache-2.0
/*
 * A frozen layer whose file is not as its record says. Where only the time of its last change
 * differs (a backup was restored, somebody touched it) its bytes may still be what they were. What
 * can tell is the cache: it holds blocks of the layer, each with a checksum that proves the block's
 * key and bytes. If all that it holds are in the file, and it holds some, the file's time is taken
 * into the record; if one differs, never. Where it holds none, nothing tells: only who asks for
 * --accept can know. Size, a missing file or a missing record cannot be mended here.
 */
#include <inttypes.h>
#include <string.h>

#include "check.h"
#include "vd_file.h"

struct compare {
    int fd;
    uint64_t size_bytes;
    uint64_t same;
    uint64_t block; /* that differs */
};

/* The end of a layer's last block is zero in the cache. 1: it differs. */
static int compare_block(void *user, uint64_t block, const void *bytes)
{
    struct compare *k = user;
    uint8_t buf[VD_BLOCK_SIZE];
    if (block > k->size_bytes >> VD_BLOCK_SHIFT)
        return 0; /* past its end: no disk asks for it there */
    ssize_t n = vd_pread_full(k->fd, buf, sizeof(buf), (off_t)(block << VD_BLOCK_SHIFT));
    if (n < 0)
        return (int)n;
    memset(buf + n, 0, sizeof(buf) - (size_t)n);
    if (memcmp(buf, bytes, sizeof(buf)) != 0) {
        k->block = block;
        return 1;
    }
    k->same++;
    return 0;
}

/* Compares the layer with what the cache holds. 0; 1: something differs; -errno. */
static int compare_layer(struct check *c, const struct vd_layer_file *file, struct compare *k)
{
    struct vd_cache_key key;
    if (!cli_frozen_key(c->place->cache_dir, file, &key))
        return 0;
    int r = vd_cache_scan_blocks(c->place->cache_dir, &key, compare_block, k);
    return r == -ENOENT || r == -EUCLEAN ? 0 : r;
}

/* Could it be that only the time changed? 0 with FILE and FD; else the reason in -errno. */
static int only_touched(struct check *c, const struct vd_id *id, struct vd_layer_file *file,
                        struct stat *st, int *ret_fd)
{
    char why[VD_META_WHY];
    vd_cleanup_close int fd = -1;
    int r = vd_layer_get(c->place->store, id, file, why);
    if (r == 0)
        r = vd_layer_open(c->place->store, id, false, &fd);
    if (r == 0 && fstat(fd, st) < 0)
        r = -errno;
    if (r < 0)
        return r;
    if ((uint64_t)st->st_size != file->size_bytes)
        return -EUCLEAN;
    *ret_fd = vd_steal_fd(&fd);
    return 0;
}

/* Whoever writes while we compare moves the time: then nothing is taken. */
static int take(struct check *c, struct vd_layer_file *file, const struct stat *before, int fd)
{
    struct stat now;
    if (fstat(fd, &now) < 0)
        return -errno;
    struct vd_identity a, b;
    vd_identity_of(before, &a);
    vd_identity_of(&now, &b);
    if (!vd_identity_eq(&a, &b))
        return -EAGAIN;
    file->mtime_ns = b.mtime_ns;
    return vd_layer_put(c->place->store, file);
}

void check_changed_layer(struct check *c, const struct vd_id *id, const char *why)
{
    char path[128], what[2 * VD_META_WHY];
    vd_cleanup_close int fd = -1;
    struct vd_layer_file file;
    struct stat st;
    bool repaired = false;
    vd_layer_rel(id, path, sizeof(path));
    snprintf(what, sizeof(what), "%s", why);
    if (!c->repair || only_touched(c, id, &file, &st, &fd) < 0) {
        check_error(c, path, false, what);
        return;
    }
    struct compare k = {.fd = fd, .size_bytes = file.size_bytes};
    int r = compare_layer(c, &file, &k);
    if (r > 0) {
        snprintf(what, sizeof(what),
                 "%s; block %" PRIu64 " is not what the cache holds of it, so its bytes changed: "
                 "restore it from a backup",
                 why, k.block);
    } else if (r == 0 && k.same == 0 && !c->accept) {
        snprintf(what, sizeof(what),
                 "%s; the cache holds no block of it to compare with: if you know that its bytes "
                 "are as they were, vdisk check --repair --accept takes them",
                 why);
    } else {
        r = r < 0 ? r : take(c, &file, &st, fd);
        repaired = r == 0;
        if (r < 0)
            snprintf(what, sizeof(what), "%s; it could not be accepted: %s", why, strerror(-r));
        else
            snprintf(what, sizeof(what),
                     "%s; accepted as it is: its size is right, and all %" PRIu64
                     " blocks that the cache holds of it are the same%s",
                     why, k.same, k.same ? "" : " (none: on your word)");
    }
    check_error(c, path, repaired, what);
}
