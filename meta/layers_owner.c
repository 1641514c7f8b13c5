// SPDX-License-Identifier: Apache-2.0
/*
 * Whose layers are these? The folder is the source's, and a store elsewhere (--meta) sees the layers of
 * another store there as what nobody refers to. So a store elsewhere that makes the folder writes its own
 * ID, drawn then, into layers/.store and STORE/layers-id; where the two differ, or only one is there, it
 * is not ours to sweep. The store in the source has neither file.
 */
#include <fcntl.h>
#include <string.h>

#include "layer.h"
#include "vd_file.h"

#define MARK ".store"
#define OURS "layers-id"

/* The ID in the file, or zero where there is none. 0 or -errno. */
static int read_id(int dir_fd, const char *name, struct vd_id *ret_id)
{
    char text[VD_ID_HEX] = "";
    *ret_id = (struct vd_id){0};
    vd_cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    ssize_t n = vd_pread_full(fd, text, sizeof(text) - 1, 0);
    if (n < 0)
        return (int)n;
    return vd_id_parse(text, ret_id) == 0 && !vd_id_is_zero(ret_id) ? 0 : -EUCLEAN;
}

static bool is_elsewhere(const struct vd_meta_store *s)
{
    struct stat a, b;
    return fstat(s->fd, &a) < 0 ||
           fstatat(s->source_fd, VD_META_FOLDER, &b, AT_SYMLINK_NOFOLLOW) < 0 ||
           a.st_ino != b.st_ino || a.st_dev != b.st_dev;
}

int vd__layers_claim(const struct vd_meta_store *s, int layers_fd)
{
    struct vd_id id;
    char hex[VD_ID_HEX];
    if (!is_elsewhere(s))
        return 0;
    int r = vd_id_new(&id);
    if (r < 0)
        return r;
    vd_id_hex(&id, hex);
    r = vd_file_replace(s->fd, OURS, hex, VD_ID_HEX - 1, 0600);
    return r < 0 ? r : vd_file_replace(layers_fd, MARK, hex, VD_ID_HEX - 1, 0600);
}

int vd__layers_ours(const struct vd_meta_store *s, int layers_fd)
{
    struct vd_id mark, ours;
    int r = read_id(layers_fd, MARK, &mark);
    if (r == 0)
        r = read_id(s->fd, OURS, &ours);
    if (r < 0)
        return r;
    if (!is_elsewhere(s))
        return vd_id_is_zero(&mark);
    return !vd_id_is_zero(&mark) && vd_id_eq(&mark, &ours);
}
