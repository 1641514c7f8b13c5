// SPDX-License-Identifier: Apache-2.0
/*
 * Removal: of a disk, of what is known of it, and of what nothing refers to any more.
 *
 * A disk goes with its last name that a user gave it. Others may stand on its layers: then it is
 * refused, with their names, before the name goes. Its metadata goes to the trash, which is the
 * instant at which it stops to refer; its layers and maps are swept when no disk refers to them.
 */
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "freeze.h"
#include "vd_log.h"
#include "vd_step.h"

#define CLOSING_MS 3000u
#define SWEEP_WAIT_MS 20
#define SWEEP_TRIES 500

/* ---- what is done later ---- */

struct forget_job {
    struct vd_job job;
    struct vd_disks *ds;
    struct vd_cache_key key;
};

static void forget_run(struct vd_job *job)
{
    struct forget_job *f = vd_container_of(job, struct forget_job, job);
    vd_cache_forget(f->ds->config.cache, &f->key);
    free(f);
}

void vd__disk_forget_later(struct vd_disks *ds, const struct vd_cache_key *key)
{
    struct forget_job *f = calloc(1, sizeof(*f));
    if (!f)
        return; /* the slots are evicted in time */
    f->job.run = forget_run;
    f->ds = ds;
    f->key = *key;
    vd_lane_queue(ds->reaper, &f->job);
}

struct sweep_job {
    struct vd_job job;
    struct vd_disks *ds;
};

int vd_disks_sweep(struct vd_disks *ds, char ret_why[VD_META_WHY])
{
    ret_why[0] = '\0';
    return ds->config.meta ? vd_meta_sweep(ds->config.meta, ds->maps, false, NULL, NULL, ret_why)
                           : 0;
}

static void sweep_run(struct vd_job *job)
{
    struct sweep_job *s = vd_container_of(job, struct sweep_job, job);
    char why[VD_META_WHY];
    atomic_store(&s->ds->sweeping, false); /* what is removed from now on wants another */
    int r = vd_disks_sweep(s->ds, why);
    /* Somebody is just making a reference, perhaps who asked for this. */
    for (int i = 0; r == -EBUSY && i < SWEEP_TRIES && !atomic_load(&s->ds->stopping); i++) {
        nanosleep(&(struct timespec){.tv_nsec = SWEEP_WAIT_MS * 1000000}, NULL);
        r = vd_disks_sweep(s->ds, why);
    }
    if (r < 0 && r != -EBUSY)
        vd_log_note("what no disk refers to is kept for now: %s", why[0] ? why : strerror(-r));
    free(s);
}

void vd__sweep_later(struct vd_disks *ds)
{
    if (atomic_exchange(&ds->sweeping, true))
        return;
    struct sweep_job *s = calloc(1, sizeof(*s));
    if (!s) {
        atomic_store(&ds->sweeping, false);
        return;
    }
    s->job.run = sweep_run;
    s->job.slow = true;
    s->ds = ds;
    vd_lane_queue(ds->keeper, &s->job);
}

/* ---- a disk whose last name went ---- */

struct gone_job {
    struct vd_job job;
    struct vd_disks *ds;
    int fd;
};

static void forget_live(struct vd_disks *ds, struct vd_meta *m)
{
    struct vd_disk_record disk;
    struct vd_cache_witness w;
    if (!ds->config.cache || vd_meta_get_disk(m, &disk) < 0 ||
        vd_cache_witness_load(ds->config.cache, &disk.live_disk_id, &w) < 0)
        return;
    struct vd_cache_key key = {.disk_id = disk.live_disk_id, .generation = w.generation};
    vd_cache_forget(ds->config.cache, &key);
}

/* Metadata and slots of a disk that nobody has open and that has no name left. */
static void forget_disk(struct vd_disks *ds, int fd)
{
    struct vd_id uuid, live;
    bool made, layered = vd_layered_get(fd, &live) == 0;
    char why[VD_META_WHY];
    int r = vd_meta_bind(ds->config.meta, fd, "", false, &uuid, &made, why);
    if (r == 0) {
        vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
        r = vd_meta_open(ds->config.meta, &uuid, VD_META_READ, &m, why);
        if (r == 0)
            forget_live(ds, m);
        vd_meta_close(vd_steal_ptr(m));
        vd_step("gone-metadata");
        r = vd_meta_remove(ds->config.meta, &uuid);
        vd_step("gone-removed");
        if (r == 0 && layered)
            (void)!vd_gone_drop(ds->config.meta, &uuid);
    }
    if (r < 0 && r != -ENOENT && r != -ESTALE)
        vd_log_warning("metadata of a removed disk stays behind: %s", strerror(-r));
    if (layered)
        vd__sweep_later(ds);
}

static void gone_run(struct vd_job *job)
{
    struct gone_job *g = vd_container_of(job, struct gone_job, job);
    forget_disk(g->ds, g->fd);
    close(g->fd);
    free(g);
}

void vd_disks_gone(struct vd_disks *ds, int path_fd)
{
    struct stat st;
    struct vd_disk *d;
    struct vd_id live;
    if (!ds->config.meta || fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0)
        return;
    /* One with layers has one name of its user's, and maybe others among the layers. */
    bool layered = vd_layered_get(path_fd, &live) == 0;
    if (st.st_nlink > 0 && !layered)
        return;
    if (vd_disks_find(ds, st.st_dev, st.st_ino, &d) == 0) {
        atomic_store(&d->gone, true); /* the detach sees it */
        vd_disk_put(d);
        return;
    }
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    vd_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd >= 0 && layered) /* others may ask for its parent's removal at once */
        forget_disk(ds, fd);
    struct gone_job *g = fd < 0 || layered ? NULL : calloc(1, sizeof(*g));
    if (!g)
        return;
    g->fd = vd_steal_fd(&fd);
    g->job.run = gone_run;
    g->ds = ds;
    vd_lane_queue(ds->reaper, &g->job);
}

/* ---- may it go? ---- */

struct children {
    struct vd_meta_store *store;
    char *why;
    unsigned n;
};

static int add_child(void *user, const struct vd_id *uuid, const char *path)
{
    struct children *c = user;
    char name[160];
    size_t len = strlen(c->why);
    vd_meta_disk_name(c->store, uuid, path, name, sizeof(name));
    if (c->n++ < 3)
        snprintf(c->why + len, VD_META_WHY - len, "%s%s", len ? ", " : "", name);
    return 0;
}

static int check_children(struct vd_disks *ds, const struct vd_id *uuid, char why[VD_META_WHY])
{
    char names[VD_META_WHY] = "", cause[VD_META_WHY] = "";
    struct children c = {.store = ds->config.meta, .why = names};
    int r = vd_meta_each_child(ds->config.meta, uuid, add_child, &c, cause);
    if (r < 0) {
        snprintf(why, VD_META_WHY, "who depends on it cannot be told: %.400s",
                 cause[0] ? cause : strerror(-r));
        return r;
    }
    if (!c.n)
        return 0;
    snprintf(why, VD_META_WHY, "%u disk%s depend%s on it: %.350s%s; flatten or remove %s first",
             c.n, c.n == 1 ? "" : "s", c.n == 1 ? "s" : "", names, c.n > 3 ? ", ..." : "",
             c.n == 1 ? "it" : "them");
    return -EBUSY;
}

int vd_disks_may_remove(struct vd_disks *ds, int path_fd, char ret_why[VD_META_WHY])
{
    struct vd_id live, uuid;
    ret_why[0] = '\0';
    if (!ds->config.meta || vd_layered_get(path_fd, &live) < 0 ||
        vd_id_eq(&live, &vd_layered_moved))
        return 0;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    vd_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    bool made;
    int r = fd < 0 ? -errno : vd_meta_bind(ds->config.meta, fd, "", false, &uuid, &made, ret_why);
    /* A copy, or one whose metadata is gone: nobody can depend on it by its name. */
    if (r == -ENOENT || r == -ESTALE || r == -EUCLEAN) {
        ret_why[0] = '\0';
        return 0;
    }
    if (r == 0)
        r = check_children(ds, &uuid, ret_why);
    /* Where that cannot be written, a cut in the next instant leaves metadata of nothing. */
    if (r == 0)
        (void)!vd_gone_put(ds->config.meta, &uuid, fd);
    vd_step("gone-put");
    return r;
}

int vd__take_closed(int path_fd, int *ret_fd, char why[VD_META_WHY])
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    vd_cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    /* Whoever is just closing it needs a moment. */
    int r = vd_lock_wait(fd, VD_LOCK_EXCLUSIVE, VD_OWNER_LOCK_OFF, 1, CLOSING_MS);
    if (r == -ETIMEDOUT) {
        snprintf(why, VD_META_WHY, "another mount has it open; close it there first");
        return -EBUSY;
    }
    if (r == 0)
        *ret_fd = vd_steal_fd(&fd);
    return r;
}

int vd_disks_remove(struct vd_disks *ds, int path_fd, const char *path, int dir_fd,
                    const char *name, char ret_why[VD_META_WHY])
{
    struct stat st, named;
    struct vd_disk *d;
    ret_why[0] = '\0';
    if (ds->config.read_only)
        return -EROFS;
    if (fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0)
        return -errno;
    if (!vd_disks_is_disk(ds, path_fd, &st)) {
        snprintf(ret_why, VD_META_WHY, VD_DISK_IS_NONE);
        return -EINVAL;
    }
    if (vd_disks_find(ds, st.st_dev, st.st_ino, &d) == 0) {
        pthread_mutex_lock(&ds->mu);
        bool open = d->opens > 0;
        pthread_mutex_unlock(&ds->mu);
        vd_disk_put(d);
        if (open) {
            snprintf(ret_why, VD_META_WHY, "a client has it open; close it first");
            return -EBUSY;
        }
    }
    vd_cleanup_close int locked_fd = -1;
    int r = vd__take_closed(path_fd, &locked_fd, ret_why);
    if (r == 0)
        r = vd_disks_may_remove(ds, path_fd, ret_why);
    if (r < 0)
        return r;
    if (fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (named.st_ino != st.st_ino || named.st_dev != st.st_dev)
        return -ESTALE;
    vd_step("rm-unlink");
    if (unlinkat(dir_fd, name, 0) < 0)
        return -errno;
    vd_step("rm-unlinked");
    r = fsync(dir_fd) < 0 ? -errno : 0;
    vd_disks_gone(ds, path_fd);
    return r;
}
