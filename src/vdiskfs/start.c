// SPDX-License-Identifier: Apache-2.0
#include "start.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>

#include "control.h"
#include "vd_fs.h"
#include "vd_log.h"
#include "vd_size.h"
#include "vd_time.h"

#define STOPPING_MS 30000 /* how long to wait for a holder of the cache that has begun to stop */
#define UNMOUNTED_MS 2000 /* umount(8) returns before its daemon can say that it is stopping */
#define RETRY_MS 20
#define READY_MS 2000 /* how long the mount may wait for a warm index */
#define CACHE_PART 10 /* a tenth of the file system, and a tenth stays free */
#define CACHE_MIN_BYTES (64u << 20)

static int init_self(struct vd_daemon *d)
{
    char rundir[PATH_MAX], hex[VD_ID_HEX];

    int r = vd_id_new(&d->self.id);
    if (r == 0)
        r = vd_boot_id(&d->self.boot_id);
    if (r < 0) {
        vd_log_error("this host's random numbers or boot ID: %s", strerror(-r));
        return -1;
    }
    if (d->opt.host_name)
        snprintf(d->self.host, sizeof(d->self.host), "%s", d->opt.host_name);
    else if (gethostname(d->self.host, sizeof(d->self.host) - 1) < 0)
        snprintf(d->self.host, sizeof(d->self.host), "localhost");

    r = vd_ctl_rundir(rundir, sizeof(rundir));
    if (r < 0) {
        vd_log_warning("no run directory (%s), so no control socket: set VDISKFS_RUNDIR",
                       strerror(-r));
        return 0;
    }
    vd_id_hex(&d->self.id, hex);
    int n = snprintf(d->sock_path, sizeof(d->sock_path), "%s/%s/sock", rundir, hex);
    if (n < 0 || (size_t)n >= sizeof(d->self.endpoint)) {
        vd_log_error("%s: the run directory's path is too long", rundir);
        return -1;
    }
    memcpy(d->self.endpoint, d->sock_path, (size_t)n + 1);
    return 0;
}

static int open_store(struct vd_daemon *d)
{
    const char *meta = d->opt.meta ? d->meta_dir : NULL;
    int r = vd_meta_store_open(d->source_fd, meta, true, &d->store);
    if (r == 0) {
        if (!meta)
            snprintf(d->meta_dir, sizeof(d->meta_dir), "%.*s/%s",
                     (int)(sizeof(d->meta_dir) - sizeof(VD_META_FOLDER) - 1),
                     strcmp(d->source, "/") ? d->source : "", VD_META_FOLDER);
        r = vd_meta_empty_trash(d->store);
        if (r < 0)
            vd_log_warning("%s/trash: %s", d->meta_dir, strerror(-r));
        return 0;
    }
    if (!meta && (r == -EROFS || r == -EACCES || r == -EPERM)) {
        vd_log_warning("%s: cannot keep metadata in the source (%s), so its disks are served "
                       "uncached; give --meta=DIR",
                       d->source, strerror(-r));
        return 0;
    }
    vd_log_error("metadata folder %s: %s", meta ? meta : VD_META_FOLDER " in the source",
                 strerror(-r));
    return -1;
}

/* The file system that DIR is on, or will be. */
static int stat_file_system(const char *dir, struct statvfs *ret_st)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s", dir);
    while (statvfs(path, ret_st) < 0) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT || !slash)
            return -errno;
        slash[slash == path] = '\0';
    }
    return 0;
}

static int default_cache_size(struct vd_daemon *d, uint64_t *ret_bytes)
{
    char data[PATH_MAX + 8];
    struct statvfs fs;
    struct stat st;

    int r = stat_file_system(d->cache_dir, &fs);
    if (r < 0) {
        vd_log_error("%s: %s", d->cache_dir, strerror(-r));
        return -1;
    }
    uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize,
             avail = (uint64_t)fs.f_bavail * fs.f_frsize;
    snprintf(data, sizeof(data), "%s/data", d->cache_dir);
    if (stat(data, &st) == 0)
        avail += (uint64_t)st.st_blocks * 512; /* what this cache holds already */
    uint64_t part = total / CACHE_PART;
    uint64_t room = avail > part ? avail - part : 0;
    uint64_t size = vd_min(part, room);
    if (size < CACHE_MIN_BYTES) {
        vd_log_error("%s: its file system has no room for a cache that leaves 10 %% free; give "
                     "--cache=DIR elsewhere, --cache-size=SIZE, or --cache-mode=off",
                     d->cache_dir);
        return -1;
    }
    *ret_bytes = size;
    return 0;
}

static int open_cache(struct vd_daemon *d)
{
    char why[512] = "", note[PATH_MAX + 16];

    if (d->opt.cache_mode == VD_CACHE_OFF || !d->store) {
        d->opt.cache_mode = VD_CACHE_OFF;
        *d->cache_dir = '\0';
        return 0;
    }
    d->cache_size_bytes = d->opt.cache_size_bytes;
    if (!d->cache_size_bytes && default_cache_size(d, &d->cache_size_bytes) < 0)
        return -1;
    snprintf(note, sizeof(note), "vdiskfs %s", d->mountpoint);
    struct vd_cache_config config = {
        .dir = d->cache_dir,
        .size_bytes = d->cache_size_bytes,
        .slot_bytes = d->opt.cache_slot_bytes,
        .note = note,
        .stopping_ms = STOPPING_MS,
        .ready_ms = READY_MS,
    };
    uint64_t begin_ms = vd_now_ms();
    int r;
    for (;;) {
        r = vd_cache_open(&config, &d->cache, why, sizeof(why));
        if (r != -EBUSY || vd_now_ms() - begin_ms >= UNMOUNTED_MS)
            break;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000}, NULL);
    }
    if (r < 0)
        vd_log_error("cache %s%s", *why ? why : strerror(-r),
                     r == -EBUSY ? "; each mount needs a cache of its own: give --cache=DIR" : "");
    return r < 0 ? -1 : 0;
}

static bool is_network(const struct vd_daemon *d)
{
    struct statfs st;
    if (fstatfs(d->source_fd, &st) < 0)
        return false;
    switch ((uint32_t)st.f_type) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case CEPH_SUPER_MAGIC:
    case OCFS2_SUPER_MAGIC:
    case AFS_SUPER_MAGIC:
    case 0x01161970u: /* GFS2 */
    case 0x0bd00bd0u: /* Lustre */
        return true;
    default:
        return false;
    }
}

static int open_disks(struct vd_daemon *d)
{
    unsigned threads = d->opt.threads ? d->opt.threads : vd_session_default_threads();

    d->opt.threads = threads;
    /* Half of the workers at most wait in backings; the rest serve hits and names. */
    int r = vd_lanes_new(threads / 2, &d->lanes);
    if (r == 0)
        r = vd_coordinator_local(&d->self, &d->coordinator);
    if (r == 0)
        r = vd_filters_open(*d->filter_dir ? d->filter_dir : NULL, &d->filters);
    if (r == 0) {
        struct vd_disks_config config = {
            .meta = d->store,
            .cache = d->cache,
            .cache_mode = d->opt.cache_mode,
            .coordinator = d->coordinator,
            .self = d->self,
            .lanes = d->lanes,
            .filters = d->filters,
            .own_at_open = d->opt.own_at_open,
            .read_only = d->opt.read_only,
            .backing_direct = d->opt.backing_direct == VD_DIRECT_YES ||
                              (d->opt.backing_direct == VD_DIRECT_AUTO && is_network(d)),
        };
        r = vd_disks_new(&config, &d->disks);
    }
    if (r == 0)
        r = vd_jobs_new(&d->jobs);
    if (r < 0)
        vd_log_error("cannot start: %s", strerror(-r));
    return r < 0 ? -1 : 0;
}

int vd_daemon_open(struct vd_daemon *d)
{
    d->started_s = time(NULL);
    if (init_self(d) < 0 || open_store(d) < 0 || open_cache(d) < 0)
        return -1;
    return open_disks(d);
}

int vd_daemon_listen(struct vd_daemon *d)
{
    char rundir[PATH_MAX];
    struct statx st;

    /* The attributes of the root are there since the mount: asking for no more makes no request. */
    if (statx(AT_FDCWD, d->mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) == 0)
        d->mount_dev = makedev(st.stx_dev_major, st.stx_dev_minor);
    if (!*d->sock_path || vd_ctl_rundir(rundir, sizeof(rundir)) < 0)
        return 0;
    json_t *info = vd_control_info(d);
    int r = info ? vd_ctl_server_start(rundir, &d->self.id, info, vd_control_handle, d, &d->ctl)
                 : -ENOMEM;
    json_decref(info);
    if (r < 0)
        vd_log_error("control socket %s: %s", d->sock_path, strerror(-r));
    return r < 0 ? -1 : 0;
}

void vd_daemon_stopping(struct vd_daemon *d)
{
    if (d->disks)
        vd_disks_stopping(d->disks);
    if (d->jobs)
        vd_jobs_stop(d->jobs);
    if (d->cache)
        vd_cache_stopping(d->cache);
    if (d->ctl)
        (void)vd_ctl_server_set_state(d->ctl, "stopping");
}

void vd_daemon_close(struct vd_daemon *d)
{
    /* First, since a command under way may wait for it. */
    if (d->fs)
        vd_fs_close_handles(d->fs);
    /* Commands and jobs look at disks and cache, so none may come any more. */
    if (d->ctl)
        vd_ctl_server_stop(vd_steal_ptr(d->ctl));
    vd_jobs_free(vd_steal_ptr(d->jobs));
    vd_fs_free(vd_steal_ptr(d->fs));
    vd_disks_free(vd_steal_ptr(d->disks));
    vd_filters_close(vd_steal_ptr(d->filters));
    vd_coordinator_close(vd_steal_ptr(d->coordinator));
    vd_lanes_free(vd_steal_ptr(d->lanes));
    vd_cache_close(vd_steal_ptr(d->cache));
    vd_meta_store_close(vd_steal_ptr(d->store));
    if (d->source_fd >= 0)
        close(d->source_fd);
    d->source_fd = -1;
    vd_options_clear(&d->opt);
}
