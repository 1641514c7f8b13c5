// SPDX-License-Identifier: Apache-2.0
/*
 * The files of layers, below SOURCE/.vdiskfs/layers; in the source, so that a file moves between
 * there and the user's path by rename and link. The folder is made with its first file.
 *
 * Whoever makes or links a file here, or is about to write down that a disk needs it, holds
 * STORE/refs shared. A cut leaves
 *   in make     a file of any length up to the wanted one, that nothing refers to
 *   in link     the second name or none; the file itself is untouched
 *   in remove   the record without the file
 * and the next sweep removes each of these.
 */
#include "layer.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include "vd_file.h"
#include "vd_step.h"

static int open_beneath(int dirfd, const char *rel, int *ret_fd)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    };
    long fd = syscall(SYS_openat2, dirfd, rel, &how, sizeof(how));
    if (fd < 0)
        return -errno;
    *ret_fd = (int)fd;
    return 0;
}

static int make_dir(int source_fd, const char *rel, const char *parent)
{
    if (mkdirat(source_fd, rel, 0700) < 0 && errno != EEXIST)
        return -errno;
    return vd_fsync_dir(source_fd, parent); /* also of one that somebody else has just made */
}

int vd__layers_dir(const struct vd_meta_store *s, bool make, int *ret_fd)
{
    int r = open_beneath(s->source_fd, VD__LAYERS_REL, ret_fd);
    if (r != -ENOENT || !make)
        return r;
    r = make_dir(s->source_fd, VD_META_FOLDER, ".");
    if (r == 0) {
        /* The folder between is not trusted to be none of a symbolic link's. */
        vd_cleanup_close int fd = -1;
        r = open_beneath(s->source_fd, VD_META_FOLDER, &fd);
        if (r == 0)
            r = make_dir(fd, "layers", ".");
    }
    vd_cleanup_close int made_fd = -1;
    if (r == 0)
        r = open_beneath(s->source_fd, VD__LAYERS_REL, &made_fd);
    if (r == 0)
        r = vd__layers_claim(s, made_fd);
    if (r == 0)
        *ret_fd = vd_steal_fd(&made_fd);
    return r;
}

void vd__layers_path(const struct vd_meta_store *s, const char *name, char *ret_path, size_t len)
{
    char self[64], source[PATH_MAX];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", s->source_fd);
    ssize_t n = readlink(self, source, sizeof(source) - 1);
    source[n < 0 ? 0 : n] = '\0';
    size_t skip = n > 200 ? (size_t)n - 200 : 0;
    snprintf(ret_path, len, "%s%s/" VD__LAYERS_REL "/%s", skip ? "..." : "", source + skip, name);
}

void vd_layer_rel(const struct vd_id *id, char *ret_path, size_t len)
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(ret_path, len, VD__LAYERS_REL "/%s", hex);
}

void vd__layer_record_name(const struct vd_id *id, char ret_name[VD__LAYER_NAME])
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(ret_name, VD__LAYER_NAME, "%s" VD__LAYER_SUFFIX, hex);
}

/* ---- one file ---- */

int vd_layer_make(struct vd_meta_store *s, const struct vd_id *id, uint64_t size_bytes, int *ret_fd)
{
    if (size_bytes > INT64_MAX)
        return -EFBIG;
    vd_cleanup_close int dir_fd = -1;
    int r = vd__layers_dir(s, true, &dir_fd);
    if (r < 0)
        return r;
    char name[VD_ID_HEX];
    vd_id_hex(id, name);
    vd_cleanup_close int fd =
        openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    vd_step("layer-make-created");
    if (ftruncate(fd, (off_t)size_bytes) < 0 || fsync(fd) < 0)
        r = -errno;
    vd_step("layer-make-synced");
    if (r == 0)
        r = vd_fsync_dir(dir_fd, ".");
    if (r < 0) {
        unlinkat(dir_fd, name, 0);
        return r;
    }
    vd_step("layer-made");
    *ret_fd = vd_steal_fd(&fd);
    return 0;
}

static int check_type(const struct stat *st)
{
    return S_ISREG(st->st_mode) ? 0 : S_ISLNK(st->st_mode) ? -ELOOP : -EINVAL;
}

int vd_layer_open(struct vd_meta_store *s, const struct vd_id *id, bool write, int *ret_fd)
{
    vd_cleanup_close int dir_fd = -1;
    int r = vd__layers_dir(s, false, &dir_fd);
    if (r < 0)
        return r;
    char name[VD_ID_HEX];
    vd_id_hex(id, name);
    vd_cleanup_close int fd =
        openat(dir_fd, name, (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENXIO || errno == EISDIR ? -EINVAL : -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    r = check_type(&st);
    if (r < 0)
        return r;
    *ret_fd = vd_steal_fd(&fd);
    return 0;
}

int vd_layer_stat(struct vd_meta_store *s, const struct vd_id *id, struct stat *ret_st)
{
    vd_cleanup_close int dir_fd = -1;
    int r = vd__layers_dir(s, false, &dir_fd);
    if (r < 0)
        return r;
    char name[VD_ID_HEX];
    struct stat st;
    vd_id_hex(id, name);
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    r = check_type(&st);
    if (r == 0)
        *ret_st = st;
    return r;
}

/* The name is taken: by the same file? */
static int is_same(int dir_fd, const char *name, int fd)
{
    struct stat a, b;
    if (fstatat(fd, "", &a, AT_EMPTY_PATH) < 0 ||
        fstatat(dir_fd, name, &b, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return a.st_ino == b.st_ino && a.st_dev == b.st_dev ? 0 : -EEXIST;
}

int vd_layer_link(struct vd_meta_store *s, const struct vd_id *id, int fd)
{
    vd_cleanup_close int dir_fd = -1;
    int r = vd__layers_dir(s, true, &dir_fd);
    if (r < 0)
        return r;
    char self[32], name[VD_ID_HEX];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    vd_id_hex(id, name);
    if (linkat(AT_FDCWD, self, dir_fd, name, AT_SYMLINK_FOLLOW) < 0)
        r = errno == EEXIST ? is_same(dir_fd, name, fd) : -errno;
    if (r < 0)
        return r;
    vd_step("layer-link-linked");
    /* Also where the name was there: whoever made it may have been cut before this. */
    r = vd_fsync_dir(dir_fd, ".");
    vd_step("layer-linked");
    return r;
}

static int unlink_if_there(int dir_fd, const char *name)
{
    return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int vd_layer_remove(struct vd_meta_store *s, const struct vd_id *id)
{
    vd_cleanup_close int dir_fd = -1;
    int r = vd__layers_dir(s, false, &dir_fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    char name[VD_ID_HEX], record[VD__LAYER_NAME];
    vd_id_hex(id, name);
    vd__layer_record_name(id, record);
    r = unlink_if_there(dir_fd, name);
    vd_step("layer-remove-file");
    if (r == 0)
        r = unlink_if_there(dir_fd, record);
    vd_step("layer-remove-record");
    return r < 0 ? r : vd_fsync_dir(dir_fd, ".");
}

/* ---- all of them ---- */

struct ids {
    struct vd_id *p;
    size_t n, room;
};

static int add(struct ids *l, const struct vd_id *id)
{
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        void *p = realloc(l->p, room * sizeof(*l->p));
        if (!p)
            return -ENOMEM;
        l->p = p;
        l->room = room;
    }
    l->p[l->n++] = *id;
    return 0;
}

/* Is NAME a layer's file or, with RECORDS, its record? */
static bool is_layer(const char *name, bool records, struct vd_id *ret_id)
{
    char hex[VD_ID_HEX];
    size_t n = strlen(name);
    bool record = n == VD__LAYER_NAME - 1 && strcmp(name + VD_ID_HEX - 1, VD__LAYER_SUFFIX) == 0;
    if (n != VD_ID_HEX - 1 && !(record && records))
        return false;
    memcpy(hex, name, VD_ID_HEX - 1);
    hex[VD_ID_HEX - 1] = '\0';
    struct vd_id id;
    char again[VD_ID_HEX];
    if (vd_id_parse(hex, &id) < 0)
        return false;
    vd_id_hex(&id, again);
    if (strcmp(hex, again) != 0)
        return false;
    *ret_id = id;
    return true;
}

static int gather(const struct vd_meta_store *s, bool records, struct ids *ret)
{
    int fd;
    int r = vd__layers_dir(s, false, &fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -ENOMEM;
    }
    const struct dirent *e;
    struct vd_id id;
    for (errno = 0; r == 0 && (e = readdir(d)); errno = 0)
        if (is_layer(e->d_name, records, &id))
            r = add(ret, &id);
    if (r == 0)
        r = -errno;
    closedir(d);
    return r;
}

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct vd_id));
}

int vd_layer_each(struct vd_meta_store *s, int (*fn)(void *user, const struct vd_id *id),
                  void *user)
{
    struct ids all = {0};
    int r = gather(s, true, &all);
    if (r == 0 && all.n > 0)
        qsort(all.p, all.n, sizeof(*all.p), by_id);
    for (size_t i = 0; r == 0 && i < all.n; i++)
        if (i == 0 || !vd_id_eq(&all.p[i], &all.p[i - 1]))
            r = fn(user, &all.p[i]);
    free(all.p);
    return r;
}

int vd__layer_names(const struct vd_meta_store *s, const struct stat *st, struct vd_id *ret_id)
{
    struct ids all = {0};
    vd_cleanup_close int dir_fd = -1;
    int r = gather(s, false, &all), n = 0;
    if (r == 0 && all.n > 0)
        r = vd__layers_dir(s, false, &dir_fd);
    for (size_t i = 0; r == 0 && i < all.n; i++) {
        char name[VD_ID_HEX];
        struct stat l;
        vd_id_hex(&all.p[i], name);
        if (fstatat(dir_fd, name, &l, AT_SYMLINK_NOFOLLOW) == 0 && l.st_ino == st->st_ino &&
            l.st_dev == st->st_dev) {
            *ret_id = all.p[i];
            n++;
        }
    }
    free(all.p);
    return r < 0 ? r : n;
}
