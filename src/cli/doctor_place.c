// SPDX-License-Identifier: Apache-2.0
/* vdisk doctor, the part that looks at mounts, sources and caches. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "cli.h"
#include "doctor.h"
#include "vd_ctl.h"
#include "vd_size.h"

#define NFS_MAGIC 0x6969
#define SMB2_MAGIC 0xfe534d42
#define CIFS_MAGIC 0xff534d42
#define PING_TIMEOUT_MS 3000u

static const char *text_of(const json_t *info, const char *key)
{
    const char *v = json_string_value(json_object_get(info, key));
    return v ? v : "";
}

/* ---- mounts ---- */

static void look_at_cache_state(struct doctor *doc, const char *sock, const char *mount)
{
    json_t *ok = NULL;
    if (vd_ctl_call(sock, "cache-stats", NULL, PING_TIMEOUT_MS, &ok, NULL, 0) == 0) {
        long long bad = json_integer_value(json_object_get(ok, "checksum_errors"));
        if (json_is_true(json_object_get(ok, "dead")))
            doctor_say(doc, DOCTOR_ERROR,
                       "look into the log, mend its device or its free space, and mount anew",
                       "the cache of %s has failed: all reads go to the source", mount);
        if (bad > 0)
            doctor_say(doc, DOCTOR_WARNING, "check the cache's device and this host's memory",
                       "the cache of %s returned %lld blocks that were not what was written "
                       "(they were read from the source instead)",
                       mount, bad);
    }
    json_decref(ok);
}

/* Filters that do not do what they were attached for. */
static void look_at_filters(struct doctor *doc, const char *sock)
{
    json_t *ok = NULL, *disk, *f;
    size_t i, k;
    if (vd_ctl_call(sock, "disks", NULL, PING_TIMEOUT_MS, &ok, NULL, 0) < 0)
        return;
    json_array_foreach(json_object_get(ok, "disks"), i, disk)
    {
        json_array_foreach(json_object_get(disk, "filters"), k, f)
        {
            bool required = json_is_true(json_object_get(f, "required"));
            if (strcmp(text_of(f, "state"), "active") == 0)
                continue;
            doctor_say(doc, required ? DOCTOR_ERROR : DOCTOR_WARNING,
                       "mend its cause and open the disk anew, or vdisk filter detach it",
                       "filter %s of %s is %s (%s): the disk %s", text_of(f, "name"),
                       text_of(disk, "path"), text_of(f, "state"), text_of(f, "why"),
                       required ? "refuses I/O" : "goes on without it");
        }
    }
    json_decref(ok);
}

/* statfs(2) of a mount whose daemon may be stuck, and then would not answer: a child asks, which may be beyond
 * any signal and is left behind. It holds nothing open that others wait for. 0, -errno, -ETIMEDOUT. */
static int statfs_in_child(const char *point)
{
    int pipe_fds[2], r = 0;
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return -errno;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct statfs fs;
        for (int fd = 0; fd <= STDERR_FILENO; fd++)
            if (fd != pipe_fds[1])
                close(fd);
        r = statfs(point, &fs) < 0 ? -errno : 0;
        _exit(write(pipe_fds[1], &r, sizeof(r)) != sizeof(r));
    }
    if (pid < 0)
        r = -errno;
    close(pipe_fds[1]);
    struct pollfd p = {.fd = pipe_fds[0], .events = POLLIN};
    if (pid > 0 && poll(&p, 1, (int)PING_TIMEOUT_MS) <= 0) {
        kill(pid, SIGKILL);
        r = -ETIMEDOUT;
    } else if (pid > 0) {
        if (read(pipe_fds[0], &r, sizeof(r)) != sizeof(r))
            r = -EIO;
        waitpid(pid, NULL, 0);
    }
    close(pipe_fds[0]);
    return r;
}

/* A mount whose daemon is gone answers with ENOTCONN at once. Those that have answered a ping are not asked. */
static void look_at_orphans(struct doctor *doc, json_t *daemons)
{
    vd_cleanup_fclose FILE *f = fopen("/proc/self/mounts", "re");
    static char line[3 * PATH_MAX], point[PATH_MAX];
    char type[64];
    while (f && fgets(line, sizeof(line), f)) {
        size_t i;
        json_t *info;
        bool living = false;
        if (sscanf(line, "%*s %4095s %63s", point, type) != 2 || strcmp(type, "fuse.vdiskfs") != 0)
            continue;
        json_array_foreach(daemons, i, info) living |= strcmp(text_of(info, "mount"), point) == 0;
        int r = living ? 0 : statfs_in_child(point);
        if (r == -ENOTCONN)
            doctor_say(doc, DOCTOR_ERROR, "umount -l it, and mount anew",
                       "the daemon of the mount %s is dead", point);
        else if (r == -ETIMEDOUT)
            doctor_say(doc, DOCTOR_ERROR,
                       "look into its log; if it hangs on its source, mend that, else kill it, "
                       "umount -l, and "
                       "mount anew",
                       "the daemon of the mount %s does not answer", point);
    }
}

void doctor_mounts(struct doctor *doc, json_t *daemons)
{
    size_t i;
    json_t *info;
    json_array_foreach(daemons, i, info)
    {
        json_t *ok = NULL;
        const char *sock = text_of(info, "socket"), *mount = text_of(info, "mount");
        int r = vd_ctl_call(sock, "ping", NULL, PING_TIMEOUT_MS, &ok, NULL, 0);
        long long pid = json_integer_value(json_object_get(info, "pid"));
        if (r < 0) {
            doctor_say(doc, DOCTOR_ERROR, "look into its log; if it hangs on the source, mend that",
                       "the daemon of %s (pid %lld) does not answer: %s", mount, pid, strerror(-r));
        } else {
            doctor_say(doc, DOCTOR_OK, NULL, "%s is mounted on %s (pid %lld)",
                       text_of(info, "source"), mount, pid);
            look_at_cache_state(doc, sock, mount);
            look_at_filters(doc, sock);
        }
        json_decref(ok);
    }
    look_at_orphans(doc, daemons);
}

/* ---- a source and its cache ---- */

static void look_at_source(struct doctor *doc, const char *source)
{
    struct statfs fs;
    char value[16];
    if (statfs(source, &fs) < 0) {
        doctor_say(doc, DOCTOR_ERROR, "mend it, or unmount what is mounted from it",
                   "the source %s cannot be read: %s", source, strerror(errno));
        return;
    }
    if (getxattr(source, VD_META_XATTR, value, sizeof(value)) < 0 && errno == EOPNOTSUPP)
        doctor_say(
            doc, DOCTOR_NOTE,
            "rename disks through a mount only, or move the source to a file system with user "
            "attributes",
            "the file system of %s takes no user attributes: disks are known by path", source);
    else
        doctor_say(doc, DOCTOR_OK, NULL, "the file system of %s takes user attributes", source);
    unsigned long magic = (unsigned long)fs.f_type & 0xffffffff;
    if (magic == NFS_MAGIC || magic == SMB2_MAGIC || magic == CIFS_MAGIC)
        doctor_say(doc, DOCTOR_NOTE, "on NFS, use version 4 without the option nolock",
                   "%s is on a network file system: ownership is as good as its locks", source);
}

/* 1 spins, 0 does not, -1 not known (no block device of its own). */
static int spins(dev_t dev)
{
    static const char *const where[] = {"queue", "../queue"}; /* of a disk, of a partition */
    for (size_t i = 0; i < VD_ARRAY_SIZE(where); i++) {
        char path[128];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/rotational", major(dev), minor(dev),
                 where[i]);
        vd_cleanup_fclose FILE *f = fopen(path, "re");
        int c = f ? fgetc(f) : EOF;
        if (c == '0' || c == '1')
            return c - '0';
    }
    return -1;
}

static void look_at_cache(struct doctor *doc, const char *source, const char *cache)
{
    char dir[PATH_MAX], size[32];
    struct stat st, source_st;
    struct statvfs fs;
    snprintf(dir, sizeof(dir), "%s", cache);
    while (stat(dir, &st) < 0 && errno == ENOENT && strrchr(dir, '/') > dir)
        *strrchr(dir, '/') = '\0'; /* not made yet: look where it will be */
    if (stat(dir, &st) < 0 || statvfs(dir, &fs) < 0) {
        doctor_say(doc, DOCTOR_ERROR, "mend it, or name another with --cache",
                   "the cache folder %s cannot be used: %s", cache, strerror(errno));
        return;
    }
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    vd_size_print(room, size, sizeof(size));
    if (fs.f_blocks && fs.f_bavail < fs.f_blocks / 20)
        doctor_say(doc, DOCTOR_WARNING, "make room there, or name another place with --cache",
                   "only %s are free for the cache in %s", size, cache);
    else
        doctor_say(doc, DOCTOR_OK, NULL, "%s are free for the cache in %s", size, cache);
    if (stat(source, &source_st) == 0 && source_st.st_dev == st.st_dev)
        doctor_say(doc, DOCTOR_NOTE, "put the cache on a faster local device with --cache",
                   "the cache %s is on the same file system as its source: it can hardly be faster",
                   cache);
    if (spins(st.st_dev) == 1)
        doctor_say(doc, DOCTOR_WARNING, "put the cache on an SSD with --cache",
                   "the cache %s is on a rotating disk", cache);
}

void doctor_place(struct doctor *doc, const char *source, const char *cache)
{
    look_at_source(doc, source);
    if (cache && *cache)
        look_at_cache(doc, source, cache);
}
