// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "vd_ctl.h"
#include "vd_file.h"

static void closedir_p(DIR **d)
{
    if (*d)
        closedir(*d);
}

/* The info of the daemon in folder NAME, a new reference; NULL if it is dead or its file is no
 * info. */
static json_t *live_info(int dirfd, const char *name)
{
    char path[NAME_MAX + 8];
    snprintf(path, sizeof(path), "%s/info", name);
    vd_cleanup_close int fd = -1;
    for (;;) {
        fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
            return NULL;
        struct flock lk = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        struct stat st;
        if (fcntl(fd, F_OFD_GETLK, &lk) < 0 || fstat(fd, &st) < 0)
            return NULL;
        if (lk.l_type != F_UNLCK)
            break;
        if (st.st_nlink > 0)
            return NULL;
        close(fd); /* replaced by a newer one between our open and our look at the lock */
    }
    char text[65536];
    ssize_t n = vd_pread_full(fd, text, sizeof(text), 0);
    json_t *info = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
    if (info && !json_is_object(info)) {
        json_decref(info);
        info = NULL;
    }
    return info;
}

int vd_ctl_each(const char *rundir, int (*fn)(void *user, const char *socket_path, json_t *info),
                void *user)
{
    vd_cleanup(closedir_p) DIR *dir = opendir(rundir);
    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (!e)
            return -errno;
        struct vd_id id;
        if (strlen(e->d_name) != VD_ID_HEX - 1 || vd_id_parse(e->d_name, &id) < 0)
            continue;
        json_t *info = live_info(dirfd(dir), e->d_name);
        if (!info)
            continue;
        char path[PATH_MAX];
        int n = snprintf(path, sizeof(path), "%s/%s/sock", rundir, e->d_name);
        int r = n > 0 && (size_t)n < sizeof(path) ? fn(user, path, info) : 0;
        json_decref(info);
        if (r != 0)
            return r;
    }
}
