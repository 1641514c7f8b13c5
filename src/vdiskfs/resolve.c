// SPDX-License-Identifier: Apache-2.0
/* Where things are: everything that can be refused before the process goes to the background. */
#include "start.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vd_log.h"
#include "vd_paths.h"

static int real_folder(const char *what, const char *path, char ret_path[PATH_MAX])
{
    struct stat st;

    if (!realpath(path, ret_path) || stat(ret_path, &st) < 0) {
        if (errno == ENOTCONN)
            vd_log_error("%s: a file system whose daemon died is mounted here; umount %s", path,
                         path);
        else
            vd_log_error("%s %s: %s", what, path, strerror(errno));
        return -1;
    }
    if (!S_ISDIR(st.st_mode)) {
        vd_log_error("%s %s: not a directory", what, path);
        return -1;
    }
    return 0;
}

/* PATH from the root on; it need not exist. */
static int absolute(const char *path, char ret_path[PATH_MAX])
{
    char cwd[PATH_MAX];
    int n;

    if (path[0] == '/')
        n = snprintf(ret_path, PATH_MAX, "%s", path);
    else if (!getcwd(cwd, sizeof(cwd)))
        n = -1;
    else
        n = snprintf(ret_path, PATH_MAX, "%s/%s", strcmp(cwd, "/") ? cwd : "", path);
    if (n < 0 || n >= PATH_MAX) {
        vd_log_error("%s: %s", path, strerror(n < 0 ? errno : ENAMETOOLONG));
        return -1;
    }
    return 0;
}

/* Is PATH at or below DIR? Both resolved. */
static bool is_below(const char *path, const char *dir)
{
    size_t n = strcmp(dir, "/") == 0 ? 0 : strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static int check_overlap(const struct vd_daemon *d)
{
    struct stat source, mount;

    if (stat(d->source, &source) < 0 || stat(d->mountpoint, &mount) < 0) {
        vd_log_error("%s: %s", d->source, strerror(errno));
        return -1;
    }
    if (source.st_dev == mount.st_dev && source.st_ino == mount.st_ino) {
        vd_log_error("%s: source and mount point are the same directory; mount elsewhere",
                     d->mountpoint);
        return -1;
    }
    if (is_below(d->mountpoint, d->source)) {
        vd_log_error("%s: the mount point is inside the source %s, so the mount would contain "
                     "itself; mount elsewhere",
                     d->mountpoint, d->source);
        return -1;
    }
    if (is_below(d->source, d->mountpoint)) {
        vd_log_error("%s: the mount would cover its own source %s; mount elsewhere", d->mountpoint,
                     d->source);
        return -1;
    }
    return 0;
}

/* What of PATH is there, resolved: where the rest will be made. */
static int real_part(const char *path, char ret_path[PATH_MAX])
{
    char part[PATH_MAX];

    snprintf(part, sizeof(part), "%s", path);
    while (!realpath(part, ret_path)) {
        char *slash = strrchr(part, '/');
        if (errno != ENOENT || !slash)
            return -errno;
        slash[slash == part] = '\0';
    }
    return 0;
}

static int check_cache_place(const struct vd_daemon *d)
{
    char real[PATH_MAX];

    if (real_part(d->cache_dir, real) < 0)
        return 0; /* who makes it says why */
    if (is_below(real, d->source)) {
        vd_log_error("%s: the cache is inside the source %s, so it would be served, and cached, "
                     "itself; give --cache=DIR elsewhere",
                     d->cache_dir, d->source);
        return -1;
    }
    if (is_below(real, d->mountpoint)) {
        vd_log_error("%s: the mount %s would cover its own cache; give --cache=DIR elsewhere",
                     d->cache_dir, d->mountpoint);
        return -1;
    }
    return 0;
}

static int find_cache_dir(struct vd_daemon *d)
{
    if (d->opt.cache_mode == VD_CACHE_OFF)
        return 0;
    if (d->opt.cache)
        return absolute(d->opt.cache, d->cache_dir) < 0 ? -1 : check_cache_place(d);
    int r = vd_default_cache_dir(d->source, d->cache_dir, sizeof(d->cache_dir));
    if (r < 0)
        vd_log_error("no default place for a cache (%s); give --cache=DIR or --cache-mode=off",
                     r == -ENOENT ? "neither XDG_CACHE_HOME nor HOME is set" : strerror(-r));
    return r < 0 ? -1 : check_cache_place(d);
}

int vd_daemon_resolve(struct vd_daemon *d)
{
    struct stat st;

    if (real_folder("source", d->opt.source, d->source) < 0 ||
        real_folder("mount point", d->opt.mountpoint, d->mountpoint) < 0 || check_overlap(d) < 0 ||
        find_cache_dir(d) < 0 || (d->opt.meta && absolute(d->opt.meta, d->meta_dir) < 0) ||
        (d->opt.filter_dir && absolute(d->opt.filter_dir, d->filter_dir) < 0))
        return -1;
    d->source_fd = open(d->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (d->source_fd < 0 || fstat(d->source_fd, &st) < 0) {
        vd_log_error("source %s: %s", d->source, strerror(errno));
        return -1;
    }
    d->source_dev = st.st_dev;
    if (access("/dev/fuse", F_OK) < 0) {
        vd_log_error("/dev/fuse: %s; load the kernel's fuse module (modprobe fuse), or give the "
                     "container this device",
                     strerror(errno));
        return -1;
    }
    return 0;
}
