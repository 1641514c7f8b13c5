// SPDX-License-Identifier: Apache-2.0
/*
 * Files that came back with another inode: a source that was restored from a backup of its files,
 * or copied. The metadata of a disk with layers names its file by inode, so that a copy beside it
 * is never taken for the disk, and each such file is refused. Where the file that the metadata
 * names is gone, and one file bears the disk's UUID, --repair binds the disk to that.
 *
 *   all is well   the source was seen whole, twice; no file of it is the disk's own; no daemon has
 *                 the disk; one file names it; its attributes are those that the disk's file had
 *   the bytes     of a disk whose live layer is not in its file they do not matter. Else they must
 *                 belong to the metadata: after a clean end the size and time of last change are
 *                 noted there. Where they differ only --accept takes them
 *   not clean     the metadata is from a disk in use: what its map says counts as after a power cut
 *   moving        a flatten was cut in its last step. A file with its mark had not moved yet, and
 *                 the step is begun anew; one without holds all of the disk: `vdisk adopt`
 *
 * A plain disk needs none of this: its restored file becomes a new disk.
 */
#include <string.h>

#include "check.h"
#include "vd_ctl.h"

static json_t *bearers(const struct check *c, const struct vd_id *uuid)
{
    char hex[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    json_t *paths = json_object_get(c->bearing, hex);
    if (!paths) {
        paths = json_object();
        json_object_set_new(c->bearing, hex, paths);
    }
    return paths;
}

/* The records of the disk that D's file names. 0 where it has layers and another inode. */
static int named_disk(struct check *c, const struct cli_disk *d, struct vd_disk_record *record,
                      struct vd_layer_record *layer, struct vd_view_record *view)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY];
    int r = vd_meta_open(c->place->store, &d->named_uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, record);
    if (r == 0)
        r = vd_meta_get_layer(m, 0, layer);
    if (r == 0)
        r = vd_meta_get_view(m, view);
    return r < 0 ? r : view->file_ino == d->st.st_ino ? -EEXIST : 0;
}

void check_note_name(struct check *c, const struct cli_disk *d)
{
    if (d->named)
        json_object_set_new_nocheck(bearers(c, &d->named_uuid), d->name, json_true());
}

bool check_is_copy(struct check *c, const struct cli_disk *d)
{
    struct vd_disk_record record;
    struct vd_layer_record layer;
    struct vd_view_record view;
    struct vd_id live;
    check_note_name(c, d);
    if (!c->whole || !d->named || !d->refused || d->bound || vd_layered_get(d->fd, &live) < 0 ||
        vd_id_eq(&live, &vd_layered_moved) || named_disk(c, d, &record, &layer, &view) < 0 ||
        vd_id_is_zero(&live) != (view.home == VD_HOME_FILE))
        return false;
    json_array_append_new(c->copies, json_string_nocheck(d->name));
    return true;
}

struct candidate {
    struct check *c;
    struct cli_disk d;
    struct vd_disk_record record;
    struct vd_layer_record layer;
    struct vd_view_record view;
    char what[2 * VD_META_WHY];
};

static bool is_of_one_backup(const struct candidate *k)
{
    struct vd_identity now;
    vd_identity_of(&k->d.st, &now);
    return k->view.home != VD_HOME_FILE || !k->record.clean ||
           (now.size_bytes == k->layer.identity.size_bytes &&
            now.mtime_ns == k->layer.identity.mtime_ns);
}

static void list_bearers(const struct candidate *k, char *buf, size_t len)
{
    const char *path;
    json_t *v;
    size_t n = 0;
    buf[0] = '\0';
    json_object_foreach(bearers(k->c, &k->d.named_uuid), path, v)
    {
        if (n < len)
            n += (size_t)snprintf(buf + n, len - n, "%s%.100s", n ? ", " : "", path);
    }
}

/* May K's file become the disk's? Else `what` says why not. */
static bool may_be_bound(struct candidate *k)
{
    struct check *c = k->c;
    size_t n = json_object_size(bearers(c, &k->d.named_uuid));
    char names[400], hex[VD_ID_HEX];
    vd_id_hex(&k->d.named_uuid, hex);
    if (check_has(c->seen, &k->d.named_uuid)) {
        snprintf(k->what, sizeof(k->what), "%s", k->d.why);
    } else if (n != 1) {
        list_bearers(k, names, sizeof(names));
        snprintf(k->what, sizeof(k->what),
                 "the file of disk %s, which has layers, is gone, and %zu files say that they are "
                 "copies of it: %s; remove all but the right one, then run vdisk check --repair",
                 hex, n, names);
    } else if (c->place->unseen || !c->twice || !c->place->known) {
        snprintf(k->what, sizeof(k->what), "%s; not all of the source could be seen", k->d.why);
    } else if (!is_of_one_backup(k) && !c->accept) {
        snprintf(k->what, sizeof(k->what),
                 "it was restored from a backup or copied, and its size or time of last change is "
                 "not what the metadata of disk %s says: restore both from one backup; if you know "
                 "that they belong together, vdisk check --repair --accept takes it",
                 hex);
    } else if (!c->repair) {
        snprintf(k->what, sizeof(k->what),
                 "it was restored from a backup or copied, and the file that it was copied from is "
                 "gone; run `vdisk check --repair` on the whole source, which makes it the file of "
                 "disk %s",
                 hex);
    } else {
        return true;
    }
    return false;
}

/* First what its map's records count for, and what names a layer by its old inode. */
static int bind_file(struct candidate *k, char *why)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_meta_store *store = k->c->place->store;
    const struct vd_id *uuid = &k->d.named_uuid;
    int r = vd_meta_open(store, uuid, VD_META_WRITE, &m, why);
    if (r < 0)
        return r;
    if (!k->record.clean)
        k->record.boot_id = (struct vd_id){0};
    snprintf(k->record.path, sizeof(k->record.path), "%.*s", (int)sizeof(k->record.path) - 1,
             k->d.name);
    r = vd_meta_put_disk(m, &k->record);
    if (r == 0 && k->view.moving) {
        k->view.moving = false;
        r = vd_meta_put_view(m, &k->view);
    }
    if (r == 0)
        r = vd_meta_commit(m);
    vd_meta_close(vd_steal_ptr(m));
    return r < 0 ? r : vd_meta_rebind_view(store, uuid, k->d.fd, why);
}

static void look_again(struct check *c, const char *rel)
{
    struct cli_disk d;
    if (cli_disk_load(c->place, rel, &d) == 0)
        check_disk(c, &d);
    cli_disk_free(&d);
}

static void judge(struct check *c, const char *rel)
{
    struct candidate k = {.c = c};
    char why[VD_META_WHY] = "", hex[VD_ID_HEX];
    bool bound = false;
    if (cli_disk_load(c->place, rel, &k.d) < 0) {
        cli_disk_free(&k.d);
        return; /* removed meanwhile */
    }
    if (!k.d.refused || !k.d.named || named_disk(c, &k.d, &k.record, &k.layer, &k.view) < 0) {
        check_disk(c, &k.d); /* somebody changed it meanwhile */
        cli_disk_free(&k.d);
        return;
    }
    if (may_be_bound(&k)) {
        vd_id_hex(&k.d.named_uuid, hex);
        int r = bind_file(&k, why);
        bound = r == 0;
        if (bound)
            snprintf(k.what, sizeof(k.what),
                     "it was restored from a backup or copied, and the file that it was copied "
                     "from is gone: it is the file of disk %s now",
                     hex);
        else
            snprintf(k.what, sizeof(k.what), "%s; it could not be bound to its disk: %s", k.d.why,
                     why[0] ? why : strerror(-r));
    }
    check_error(c, rel, bound, k.what);
    if (!bound) {
        json_object_set_new_nocheck(c->refused, rel, json_true());
        json_object_set_new_nocheck(c->doubtful, rel, json_true());
    }
    cli_disk_free(&k.d);
    if (bound)
        look_again(c, rel);
}

void check_restored(struct check *c)
{
    size_t i;
    json_t *rel;
    if (!json_array_size(c->copies))
        return;
    int r = check_walk_again(c);
    if (r < 0)
        check_failed(c, c->place->source, "", r);
    json_array_foreach(c->copies, i, rel) judge(c, json_string_value(rel));
}
