// SPDX-License-Identifier: Apache-2.0
/*
 * From a disk's metadata to its view. Done when the lock on the disk's file has just been taken, and,
 * while another mount owns the disk to write, before each read: that mount may write, take snapshots,
 * flatten.
 */
#include "disk.h"

#include <string.h>
#include <time.h>

#include "vd_log.h"
#include "vd_time.h"

#define SHARE_EVERY_MS 1000u
#define SETTLED_NS 20000000 /* a tick is 10 ms at most */
#define LOAD_TRIES 3

static int records_of(struct vd_meta *m, struct vd_disk_record *ret_disk,
                      struct vd_layer_record *ret_layer, struct vd_view_record *ret_view,
                      bool *ret_layered, char why[VD_META_WHY])
{
    int r = vd_meta_get_disk(m, ret_disk);
    if (r == 0)
        r = vd_meta_get_layer(m, 0, ret_layer);
    if (r == 0) {
        r = vd_meta_get_view(m, ret_view);
        *ret_layered = r == 0;
        if (r == -ENOENT)
            r = 0;
    }
    if (r == -EUCLEAN)
        snprintf(why, VD_META_WHY, "%s", vd_meta_why(m));
    return r;
}

/* The file that holds the live layer's blocks. Taken from the folder of layers it is *RET_OWN false. */
static int live_file(struct vd_disk *d, const struct vd_view_record *view,
                     const struct vd_layer_record *layer, struct vd_backing **ret_b, bool *ret_own,
                     char why[VD_META_WHY])
{
    vd_cleanup_close int fd = -1;
    *ret_b = d->backing;
    *ret_own = true;
    if (view->home == VD_HOME_FILE)
        return 0;
    struct stat st;
    int r = vd_backing_stat(d->backing, &st);
    if (r == 0 && view->moving && st.st_ino == layer->identity.ino)
        return 0; /* it is the disk's file already */
    if (r == 0)
        r = vd_layer_open(d->ds->config.meta, &layer->disk_id, d->backing->writable, &fd);
    /* Behind the exchange the old file is there, which may be a frozen layer of others. */
    if (r == 0 && view->moving && fstat(fd, &st) == 0 && st.st_ino != layer->identity.ino) {
        snprintf(why, VD_META_WHY, "another file has taken its place; open it again");
        return -ESTALE;
    }
    if (r < 0) {
        char rel[128];
        vd_layer_rel(&layer->disk_id, rel, sizeof(rel));
        snprintf(why, VD_META_WHY,
                 "%s: %s; it holds what was written last: restore it from a backup", rel,
                 strerror(-r));
        return r == -ENOENT ? -EUCLEAN : r;
    }
    *ret_own = false;
    return vd_backing_file_open(fd, d->backing->writable, d->ds->config.backing_direct, ret_b);
}

/* -EUCLEAN if others stand on the layer ID, which is to be D's live one; 0: none does; 1: none, though it has the
 * record of a frozen one. */
static int look_if_frozen(struct vd_disk *d, const struct vd_id *id, char why[VD_META_WHY])
{
    struct vd_layer_file file;
    char rel[128];
    int r = vd_layer_get(d->ds->config.meta, id, &file, why);
    if (r == -ENOENT)
        return 0;
    r = vd_layer_is_frozen(d->ds->config.meta, d->ds->maps, id, &d->uuid, why);
    if (r == 0)
        return 1;
    vd_layer_rel(id, rel, sizeof(rel));
    if (r == 1)
        snprintf(
            why, VD_META_WHY,
            "its metadata is older than its layers: others stand on %s, which it "
            "would write; restore .vdiskfs/disks from a later backup, or run `vdisk adopt PATH "
            "--as-plain` to take its file's bytes as they are",
            rel);
    return -EUCLEAN;
}

/* The live layer has the record of a frozen one. Either a freeze was cut before its commit, or this metadata is
 * older than that layer's freeze: then others stand on it, and it is never written again. */
int vd__refuse_if_frozen(struct vd_disk *d, const struct vd_id *id, char why[VD_META_WHY])
{
    int r = look_if_frozen(d, id, why);
    return r == 1 ? vd_layer_unput(d->ds->config.meta, id) : r;
}

static int load_chains(struct vd_disk *d, const struct vd_view_record *view, struct chain **chains,
                       char why[VD_META_WHY])
{
    int r = 0;
    for (unsigned i = 0; i < view->nmaps && r == 0; i++) {
        struct vd_map *map;
        r = vd_map_get(d->ds->maps, &view->maps[i], &map, why);
        if (r == -ENOENT) {
            char hex[VD_ID_HEX];
            vd_id_hex(&view->maps[i], hex);
            snprintf(why, VD_META_WHY, "maps/%s.map: it is missing; restore it from a backup", hex);
            r = -EUCLEAN;
        }
        if (r == 0)
            r = vd__chain_get(d->ds, map, &chains[i], why);
    }
    return r;
}

static int layered_view(struct vd_disk *d, const struct vd_disk_record *disk,
                        const struct vd_layer_record *layer, const struct vd_view_record *rec,
                        struct view **ret_v, char why[VD_META_WHY])
{
    struct chain *chains[VD_VIEW_MAPS] = {NULL};
    struct vd_backing *b = NULL;
    bool own = true;
    struct vd_live_map *lm = NULL;
    struct live *live = NULL;
    struct vd_id boot;
    int r = vd_boot_id(&boot);
    if (r == 0 && d->locked != VD_LOCK_NONE)
        r = vd__refuse_if_frozen(d, &disk->live_disk_id, why);
    if (r == 0)
        r = load_chains(d, rec, chains, why);
    if (r == 0)
        r = live_file(d, rec, layer, &b, &own, why);
    bool all = disk->clean || vd_id_eq(&boot, &disk->boot_id);
    if (r == 0)
        r = vd_live_map_open(d->ds->maps, &rec->live_map,
                             all ? VD_MAP_TRUST_ALL : VD_MAP_TRUST_MARKED, &lm, why);
    if (r == -ENOENT) {
        snprintf(why, VD_META_WHY, "its live map is missing; restore .vdiskfs/maps from a backup");
        r = -EUCLEAN;
    }
    if (r == 0) {
        live = vd__live_new(&disk->live_disk_id, b, own, lm);
        r = live ? 0 : -ENOMEM;
    }
    if (r == 0) {
        *ret_v = vd__view_new(d, live, chains, rec->nmaps);
        r = *ret_v ? 0 : -ENOMEM;
    }
    if (r == 0)
        return 0;
    if (live) {
        vd__live_unref(d, live);
    } else {
        vd_live_map_close(lm);
        if (!own)
            vd_backing_close(b);
    }
    for (unsigned i = 0; i < VD_VIEW_MAPS; i++)
        vd__chain_put(d->ds, chains[i]);
    return r;
}

static int plain_view(struct vd_disk *d, const struct vd_id *disk_id, struct view **ret_v)
{
    struct live *live = vd__live_new(disk_id, d->backing, true, NULL);
    if (!live)
        return -ENOMEM;
    *ret_v = vd__view_new(d, live, NULL, 0);
    if (*ret_v)
        return 0;
    vd__live_unref(d, live);
    return -ENOMEM;
}

static int check_file(struct vd_disk *d, uint64_t ino, char why[VD_META_WHY])
{
    struct stat st;
    int r = vd_backing_stat(d->backing, &st);
    if (r == 0 && st.st_ino != ino && st.st_nlink == 0) {
        snprintf(why, VD_META_WHY, "another mount has put a new file in its place; open it again");
        r = -ESTALE;
    }
    return r;
}

/* The mark on the disk's file is not durable with the commit of what it says. */
static void follow_mark(struct vd_disk *d, const struct live *l)
{
    struct vd_id want = l->own_file ? (struct vd_id){0} : l->disk_id, is;
    if (d->ds->config.read_only || d->moving || d->locked == VD_LOCK_NONE ||
        (vd_layered_get(d->backing->fd, &is) == 0 && vd_id_eq(&is, &want)))
        return;
    int r = vd_layered_mark(d->backing->fd, l->own_file ? NULL : &want);
    if (r < 0)
        vd_log_warning("%s: its attribute " VD_META_XATTR_LAYERED " cannot be set: %s", d->path,
                       strerror(-r));
}

static uint64_t mix(uint64_t h, uint64_t n)
{
    h = (h ^ n) * 0x9e3779b97f4a7c15;
    return h ^ h >> 29;
}

uint64_t vd__disk_content(struct vd_disk *d, const struct vd_layer_record *layer)
{
    uint64_t n = content_of(&layer->token);
    struct vd_identity id;
    if (vd__disk_identity(d, &id) < 0 || vd_identity_eq(&id, &layer->identity))
        return n;
    n = mix(mix(n, id.ino), id.size_bytes);
    return mix(mix(n, (uint64_t)id.mtime_ns), (uint64_t)id.ctime_ns);
}

int vd__disk_load(struct vd_disk *d, struct vd_meta *m, char why[VD_META_WHY])
{
    struct vd_disk_record disk;
    struct vd_layer_record layer;
    struct vd_view_record view;
    bool layered = false;
    int r = records_of(m, &disk, &layer, &view, &layered, why);
    if (r < 0)
        return r;
    d->moving = layered && view.moving;
    r = check_file(d, layered && !view.moving ? view.file_ino : layer.identity.ino, why);
    struct view *old = atomic_load(&d->view), *v = NULL;
    if (r == 0)
        r = vd__filters_look(d, m);
    if (r < 0)
        return r;
    if (!layered && old && !old->live->lm && vd_id_eq(&old->live->disk_id, &layer.disk_id)) {
        atomic_store(&d->content, vd__disk_content(d, &layer));
        return 0;
    }
    r = layered ? layered_view(d, &disk, &layer, &view, &v, why)
                : plain_view(d, &layer.disk_id, &v);
    if (r < 0)
        return r;
    if (layered) {
        atomic_store(&d->size_bytes, vd_live_map_size(v->live->lm));
        follow_mark(d, v->live);
    }
    pthread_mutex_lock(&d->mu);
    d->parent = layered ? view.parent : (struct vd_id){0};
    pthread_mutex_unlock(&d->mu);
    vd__view_publish(d, v);
    atomic_store(&d->content, vd__disk_content(d, &layer));
    return 0;
}

int vd__disk_begin_changes(struct vd_disk *d)
{
    struct live *l = vd__live(d);
    struct stat st;
    if (!l->lm || l->begun)
        return 0;
    uint64_t size = vd_live_map_size(l->lm);
    int r = vd_backing_sync(l->backing, true);
    if (r == 0)
        r = vd_live_map_begin(l->lm);
    if (r == 0)
        r = vd_backing_stat(l->backing, &st);
    /* A writer died between the size in the map and the file's. */
    if (r == 0 && (uint64_t)st.st_size != size)
        r = vd_backing_truncate(l->backing, size);
    l->begun = r == 0;
    return r;
}

/* ---- following another mount ---- */

static struct file_stamp stamp_of(const struct stat *st)
{
    return (struct file_stamp){.ino = st->st_ino,
                               .size_bytes = (uint64_t)st->st_size,
                               .mtime_ns = vd_timespec_ns(st->st_mtim),
                               .ctime_ns = vd_timespec_ns(st->st_ctim)};
}

static bool same_stamp(const struct file_stamp *a, const struct file_stamp *b)
{
    return a->ino == b->ino && a->size_bytes == b->size_bytes && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

/* What the view V was made of, as it is now: the records, and the live map's log. */
static int stamps_of(struct vd_disk *d, const struct view *v, struct meta_stamp *ret_s)
{
    struct stat st;
    struct meta_stamp s = {0};
    int r = vd_meta_stat(d->ds->config.meta, &d->uuid, &st);
    if (r == 0)
        s.records = stamp_of(&st);
    if (r == 0 && v->live->lm) {
        int found = vd_live_map_stat(v->live->lm, &st);
        if (found == 0)
            s.log = stamp_of(&st); /* else it differs from any that was */
    }
    if (r == 0)
        *ret_s = s;
    return r;
}

/* A time stamp moves with the kernel's tick: what was changed in the last of them may change again under the same one. */
static bool settled(const struct meta_stamp *s)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return vd_timespec_ns(now) - vd_max(s->records.mtime_ns, s->log.mtime_ns) > SETTLED_NS;
}

static int load_again(struct vd_disk *d, char why[VD_META_WHY])
{
    struct meta_stamp before = {0};
    int r = stamps_of(d, atomic_load(&d->view), &before);
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    if (r == 0)
        r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd__disk_load(d, m, why);
    if (r < 0)
        return r;
    struct meta_stamp after = {0};
    r = stamps_of(d, atomic_load(&d->view), &after);
    pthread_mutex_lock(&d->mu);
    d->stamp = r == 0 && same_stamp(&before.records, &after.records) && settled(&after)
                   ? after
                   : (struct meta_stamp){0};
    pthread_mutex_unlock(&d->mu);
    return 0;
}

static bool is_current(struct vd_disk *d)
{
    unsigned shard;
    struct meta_stamp now = {0};
    struct view *v = vd__view_get(d, &shard);
    int r = stamps_of(d, v, &now);
    bool layered = v->live->lm != NULL;
    vd__view_put(v, shard);
    if (r == -ENOENT)
        return true; /* it was removed: the file is all there is */
    pthread_mutex_lock(&d->mu);
    bool same = r == 0 && d->stamp.records.ino && same_stamp(&now.records, &d->stamp.records) &&
                (!layered || (now.log.ino && same_stamp(&now.log, &d->stamp.log)));
    pthread_mutex_unlock(&d->mu);
    return same;
}

/* Whoever had the disk may have let it go: then it is shared again, and cached. */
static void try_to_share(struct vd_disk *d, char why[VD_META_WHY])
{
    pthread_mutex_lock(&d->mu);
    bool now = vd_now_ms() - d->share_tried_ms >= SHARE_EVERY_MS;
    if (now)
        d->share_tried_ms = vd_now_ms();
    pthread_mutex_unlock(&d->mu);
    if (now && !atomic_load(&d->unrecorded))
        (void)!vd__disk_share_if_free(d, why);
}

int vd__disk_follow(struct vd_disk *d, char why[VD_META_WHY])
{
    try_to_share(d, why);
    why[0] = '\0';
    if (is_current(d))
        return 0;
    pthread_mutex_lock(&d->own_mu);
    int r = 0;
    for (int i = 0; i < LOAD_TRIES; i++) {
        /* Files change places under us while another mount folds or merges. */
        r = atomic_load(&d->state) == VD_OWNER_NONE && !is_current(d) ? load_again(d, why) : 0;
        if (r != -EUCLEAN && r != -ENOENT)
            break;
    }
    pthread_mutex_unlock(&d->own_mu);
    return r;
}

/* ---- without an owner record ---- */

/* The lock that keeps out who would freeze the live layer is not held: its record is left alone. */
int vd__disk_follow_unrecorded(struct vd_disk *d, char why[VD_META_WHY])
{
    atomic_store(&d->unrecorded, true); /* until the next open, which tries again */
    int r = vd__disk_follow(d, why);
    struct live *live = vd__live(d);
    if (r == 0)
        r = live->lm ? look_if_frozen(d, &live->disk_id, why) : -ENODATA;
    if (r < 0)
        atomic_store(&d->unrecorded, false);
    return vd_min(r, 0);
}
