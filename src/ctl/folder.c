// SPDX-License-Identifier: Apache-2.0
/*
 * A daemon's folder in the run directory.
 *
 * Who holds the OFD lock of its info file lives. A new info file is locked before it is renamed
 * over the old one, so that there is no instant without a lock. Folders are made, and those of the
 * dead removed, under the lock of RUNDIR/.lock, so that nobody takes a folder that is being made
 * for a dead one's.
 */
#include "folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "address.h"
#include "vd_ctl.h"
#include "vd_file.h"

#define START_TIMEOUT_MS 5000

static int make_parents(const char *path)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len >= sizeof(part))
        return -ENAMETOOLONG;
    memcpy(part, path, len + 1);
    for (char *s = strchr(part + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -errno;
        *s = '/';
    }
    return 0;
}

/* Whoever may write into the run directory could put a socket of his own in ours' place. */
static int open_rundir(const char *rundir, int *ret_fd)
{
    if (mkdir(rundir, 0700) < 0 && errno == ENOENT) {
        int r = make_parents(rundir);
        if (r < 0)
            return r;
        if (mkdir(rundir, 0700) < 0 && errno != EEXIST)
            return -errno;
    }
    vd_cleanup_close int fd = open(rundir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return -EPERM;
    *ret_fd = vd_steal_fd(&fd);
    return 0;
}

static void remove_folder(int rundir_fd, const char *name)
{
    vd_cleanup_close int fd =
        openat(rundir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    static const char *const ours[] = {"sock", "info", "info.new"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(ours); i++)
        unlinkat(fd, ours[i], 0);
    unlinkat(rundir_fd, name, AT_REMOVEDIR);
}

static bool is_dead(int rundir_fd, const char *name)
{
    char path[NAME_MAX + 8];
    snprintf(path, sizeof(path), "%s/info", name);
    vd_cleanup_close int fd =
        openat(rundir_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT;
    struct stat st;
    struct flock lk = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_GETLK, &lk) == 0 && lk.l_type == F_UNLCK && fstat(fd, &st) == 0 &&
           st.st_nlink > 0; /* 0: the living one has just replaced it */
}

static void remove_dead(int rundir_fd)
{
    int fd = openat(rundir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        vd_close_p(&fd);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        struct vd_id id;
        if (strlen(e->d_name) == VD_ID_HEX - 1 && vd_id_parse(e->d_name, &id) == 0 &&
            is_dead(rundir_fd, e->d_name))
            remove_folder(rundir_fd, e->d_name);
    }
    closedir(dir);
}

/* lock: f->mu, or nobody else knows F yet */
static int write_info(struct vd__ctl_folder *f)
{
    vd_cleanup_free char *text = json_dumps(f->info, JSON_COMPACT);
    if (!text)
        return -ENOMEM;
    unlinkat(f->fd, "info.new", 0);
    vd_cleanup_close int fd =
        openat(f->fd, "info.new", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = vd_lock_try(fd, VD_LOCK_EXCLUSIVE, 0, 0);
    if (r == 0)
        r = vd_pwrite_full(fd, text, strlen(text), 0);
    if (r == 0 && renameat(f->fd, "info.new", f->fd, "info") < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(f->fd, "info.new", 0);
        return r;
    }
    vd_close_p(&f->info_fd);
    f->info_fd = vd_steal_fd(&fd);
    return 0;
}

int vd__ctl_folder_state(struct vd__ctl_folder *f, const char *state)
{
    pthread_mutex_lock(&f->mu);
    int r = json_object_set_new(f->info, "state", json_string(state)) < 0 ? -ENOMEM : 0;
    if (r == 0)
        r = write_info(f);
    pthread_mutex_unlock(&f->mu);
    return r;
}

static int make_socket(const char *path, int *ret_fd)
{
    struct sockaddr_un addr;
    vd_cleanup_close int dirfd = -1;
    int r = vd__ctl_address(path, &addr, &dirfd);
    if (r < 0)
        return r;
    vd_cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    *ret_fd = vd_steal_fd(&fd);
    return 0;
}

static int make_folder(struct vd__ctl_folder *f)
{
    if (mkdirat(f->rundir_fd, f->name, 0700) < 0)
        return -errno;
    f->fd = openat(f->rundir_fd, f->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (f->fd < 0)
        return -errno;
    return write_info(f);
}

int vd__ctl_folder_make(const char *rundir, const struct vd_id *id, json_t *info,
                        struct vd__ctl_folder *f, int *ret_listen_fd)
{
    vd_id_hex(id, f->name);
    int n = snprintf(f->sock_path, sizeof(f->sock_path), "%s/%s/sock", rundir, f->name);
    if (n < 0 || (size_t)n >= sizeof(f->sock_path))
        return -ENAMETOOLONG;
    f->info = json_deep_copy(info);
    if (!f->info)
        return -ENOMEM;
    int r = open_rundir(rundir, &f->rundir_fd);
    if (r < 0)
        return r;
    vd_cleanup_close int lock_fd =
        openat(f->rundir_fd, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (lock_fd < 0)
        return -errno;
    r = vd_lock_wait(lock_fd, VD_LOCK_EXCLUSIVE, 0, 0, START_TIMEOUT_MS);
    if (r < 0)
        return r;
    remove_dead(f->rundir_fd);
    r = make_folder(f);
    return r < 0 ? r : make_socket(f->sock_path, ret_listen_fd);
}

void vd__ctl_folder_remove(struct vd__ctl_folder *f)
{
    if (f->fd >= 0)
        remove_folder(f->rundir_fd, f->name);
    vd_close_p(&f->info_fd);
    vd_close_p(&f->fd);
    vd_close_p(&f->rundir_fd);
    json_decref(f->info);
    pthread_mutex_destroy(&f->mu);
}
