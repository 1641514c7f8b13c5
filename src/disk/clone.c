// SPDX-License-Identifier: Apache-2.0
/*
 * Clones. A clone begins with the frozen maps of its parent, or of one of its parent's snapshots, and
 * an empty layer of its own; what parent and clone share they share for good, in files and in the
 * cache. Where nothing was written to the parent since it was last frozen nothing is frozen anew: a
 * thousand clones of an image stand on one map.
 *
 *   1  map and file of the new layer, the file among the layers with all its attributes
 *   2  the clone's metadata
 *   3  the file gets its name; this is the instant at which the clone is there
 *   4  the name among the layers goes
 *
 * Cut before 3, the sweep finds metadata whose file never got a name, and removes both.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "freeze.h"
#include "heritage.h"
#include "vd_meta_filter.h"
#include "vd_step.h"

struct clone {
    struct vd_disks *ds;
    char *why;
    /* from the parent */
    struct vd_id parent, origin;
    uint64_t size;
    unsigned nmaps;
    struct vd_id maps[VD_VIEW_MAPS];
    struct stat like;
    /* the new one */
    const char *path;
    struct vd_id uuid, disk_id, map_id, token;
    struct heritage *heritage;
    int fd;
};

static int from_snapshot(struct clone *c, struct vd_disk *d, const char *name)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_snapshot_record s;
    int r = vd_meta_open(c->ds->config.meta, &d->uuid, VD_META_READ, &m, c->why);
    if (r == 0)
        r = vd_meta_get_snapshot(m, name, &s);
    if (r == -ENOENT)
        snprintf(c->why, VD_META_WHY, "it has no snapshot \"%s\"", name);
    if (r < 0)
        return r;
    c->origin = s.disk_id;
    c->size = s.size_bytes;
    c->nmaps = s.nmaps;
    memcpy(c->maps, s.maps, sizeof(c->maps));
    return 0;
}

/* From the parent's frozen maps. False: something was written above them. */
static bool from_view(struct clone *c, struct vd_disk *d)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    bool same = v->live->lm && v->nmaps && vd_live_map_empty(v->live->lm);
    if (same) {
        c->origin = v->chains[0]->layers[0]->file.disk_id;
        c->size = atomic_load(&d->size_bytes);
        c->nmaps = v->nmaps;
        for (unsigned i = 0; i < v->nmaps; i++)
            c->maps[i] = *vd_map_id(v->maps[i]);
    }
    vd__view_put(v, shard);
    return same;
}

static int inherit(struct clone *c, struct vd_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(c->ds->config.meta, &d->uuid, VD_META_READ, &m, c->why);
    return r < 0 ? r : vd__heritage_read(m, &c->heritage);
}

static int from_parent(struct clone *c, struct hold *h, const char *snapshot)
{
    struct vd_disk *d = h->d;
    c->parent = d->uuid;
    int r = vd_backing_stat(d->backing, &c->like);
    if (r == 0)
        r = inherit(c, d);
    if (r < 0)
        return r;
    if (snapshot)
        return from_snapshot(c, d, snapshot);
    /* Shared, nobody else writes it; exclusive, we do; else it has to be ours first. */
    if (atomic_load(&d->state) != VD_OWNER_NONE && from_view(c, d))
        return 0;
    r = vd__hold_alone(h, false, c->why);
    if (r == 0 && !from_view(c, d)) {
        r = vd__freeze(h, NULL, c->why);
        if (r == 0) { /* what was written since is not the clone's */
            unsigned shard;
            struct view *v = vd__view_get(d, &shard);
            c->origin = v->chains[0]->layers[0]->file.disk_id;
            c->size = v->chains[0]->layers[0]->file.size_bytes;
            c->nmaps = v->nmaps;
            for (unsigned i = 0; i < v->nmaps; i++)
                c->maps[i] = *vd_map_id(v->maps[i]);
            vd__view_put(v, shard);
        }
    }
    return r;
}

static int make_file(struct clone *c)
{
    int r = vd_id_new(&c->uuid);
    if (r == 0)
        r = vd_id_new(&c->disk_id);
    if (r == 0)
        r = vd_id_new(&c->map_id);
    if (r == 0)
        r = vd_id_new(&c->token);
    if (r < 0)
        return r;
    vd_step("clone-map");
    r = vd_live_map_make(c->ds->maps, &c->map_id, &c->disk_id, c->size);
    vd_step("clone-file");
    if (r == 0)
        r = vd_layer_make(c->ds->config.meta, &c->disk_id, c->size, &c->fd);
    if (r == 0)
        r = vd_meta_attr_set(c->fd, &c->uuid);
    if (r == 0)
        r = vd_layered_mark(c->fd, NULL);
    if (r == 0 && vd__heritage_required(c->heritage))
        r = vd_filter_mark_set(c->fd, VD_FILTER_MARK_REQUIRED);
    if (r < 0)
        return r;
    bool root = geteuid() == 0;
    if ((root && fchown(c->fd, c->like.st_uid, c->like.st_gid) < 0) ||
        fchmod(c->fd, c->like.st_mode & 07777) < 0 || fsync(c->fd) < 0)
        return -errno;
    return 0;
}

static int make_metadata(struct clone *c)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct stat st;
    if (fstat(c->fd, &st) < 0)
        return -errno;
    struct vd_disk_record disk = {
        .uuid = c->uuid,
        .live_disk_id = c->disk_id,
        .size_bytes = c->size,
        .nlayers = 1,
        .clean = true,
        .boot_id = c->ds->config.self.boot_id,
    };
    struct vd_layer_record layer = {
        .disk_id = c->disk_id,
        .state = VD_LAYER_LIVE,
        .generation = 1,
        .token = c->token,
        .created_s = (uint64_t)time(NULL),
    };
    struct vd_view_record view = {
        .home = VD_HOME_FILE,
        .file_ino = st.st_ino,
        .live_map = c->map_id,
        .nmaps = c->nmaps,
        .parent = c->parent,
        .origin = c->origin,
    };
    vd_identity_of(&st, &layer.identity);
    snprintf(disk.path, sizeof(disk.path), "%s", c->path);
    memcpy(view.maps, c->maps, sizeof(view.maps));
    vd_step("clone-metadata");
    int r = vd_meta_open(c->ds->config.meta, &c->uuid, VD_META_MAKE, &m, c->why);
    if (r == 0)
        r = vd_meta_put_disk(m, &disk);
    if (r == 0)
        r = vd_meta_put_layer(m, 0, &layer);
    if (r == 0)
        r = vd_meta_put_view(m, &view);
    if (r == 0)
        r = vd__heritage_write(c->heritage, m);
    return r < 0 ? r : vd_meta_commit(m);
}

/* Steps 3 and 4. */
static int give_name(struct clone *c, int dir_fd, const char *name)
{
    char proc[32];
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", c->fd);
    int r = vd_known_put(c->ds->config.meta, &c->uuid);
    if (r < 0)
        return r;
    vd_step("clone-name");
    if (linkat(AT_FDCWD, proc, dir_fd, name, AT_SYMLINK_FOLLOW) < 0) {
        if (errno == EEXIST)
            snprintf(c->why, VD_META_WHY, "%.300s exists already", c->path);
        else if (errno == EXDEV)
            snprintf(c->why, VD_META_WHY, "%.300s is not on the file system of .vdiskfs/layers",
                     c->path);
        return -errno;
    }
    if (fsync(dir_fd) < 0)
        return -errno; /* it may be there after a power cut, and is whole then */
    vd_step("clone-named");
    (void)!vd_layer_remove(c->ds->config.meta, &c->disk_id);
    return 0;
}

static void undo(struct clone *c)
{
    if (!vd_id_is_zero(&c->uuid))
        (void)!vd_meta_remove(c->ds->config.meta, &c->uuid);
    if (!vd_id_is_zero(&c->disk_id))
        (void)!vd_layer_remove(c->ds->config.meta, &c->disk_id);
    if (!vd_id_is_zero(&c->map_id))
        (void)!vd_maps_remove(c->ds->maps, &c->map_id);
}

int vd_disks_clone(struct vd_disks *ds, int path_fd, const char *path, const char *snapshot,
                   int child_dir_fd, const char *child_name, const char *child_path,
                   char ret_why[VD_META_WHY])
{
    struct hold h;
    struct clone c = {.ds = ds, .why = ret_why, .path = child_path, .fd = -1};
    ret_why[0] = '\0';
    if (faccessat(child_dir_fd, child_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        snprintf(ret_why, VD_META_WHY, "%.300s exists already", child_path);
        return -EEXIST;
    }
    int r = snapshot ? 0 : vd__tell_snapshot(ds, path_fd, path, NULL, ret_why);
    if (r == 0)
        r = vd__hold_loosely(ds, path_fd, path, &h, ret_why);
    if (r < 0)
        return r;
    r = from_parent(&c, &h, snapshot);
    if (r == 0) {
        r = make_file(&c);
        if (r == 0)
            r = make_metadata(&c);
        if (r == 0)
            r = give_name(&c, child_dir_fd, child_name);
        if (r < 0)
            undo(&c);
    }
    vd_close_p(&c.fd);
    vd__heritage_free(c.heritage);
    vd__let_go(&h);
    return r;
}
