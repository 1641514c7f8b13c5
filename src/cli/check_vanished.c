// SPDX-License-Identifier: Apache-2.0
/*
 * What belongs to no disk: metadata whose file was removed outside a mount, and left-overs of what
 * was cut off, or was let go while somebody still used it.
 *
 * Left-overs cost room and nothing else, so they are no errors: they are told, and --repair removes
 * them. Metadata without a file is an error. --repair removes it with the layers that only it
 * needs, as `vdisk rm` would have done, if that is beyond doubt: no disk depends on it, no daemon
 * has it open, two walks of a source that could be seen whole did not find its file, it is known
 * that the source begins where we think, and nothing was met that is refused or cannot be read:
 * that may need what nobody else names.
 */
#include <string.h>

#include "check.h"
#include "vd_ctl.h"

struct vanished {
    struct check *c;
    struct vd_id *ids;
    size_t n;
};

/* Disks that a daemon has open may have lost their last name; they are gone when it lets go. */
static void see_attached(struct check *c, const json_t *daemon)
{
    json_t *ok = NULL, *disk;
    size_t i;
    char why[VD_META_WHY];
    const char *socket = json_string_value(json_object_get(daemon, "socket")),
               *source = json_string_value(json_object_get(daemon, "source"));
    if (!socket || !source)
        return;
    if (vd_ctl_call(socket, "disks", NULL, CLI_TIMEOUT_MS, &ok, why, sizeof(why)) < 0) {
        if (strcmp(source, c->place->source) == 0) {
            cli_warn(source, "%s", why);
            c->place->unseen++;
            check_hold(c, source, "has a mount that does not answer");
        }
        return;
    }
    json_array_foreach(json_object_get(ok, "disks"), i, disk)
    {
        const char *uuid = json_string_value(json_object_get(disk, "uuid"));
        if (uuid)
            json_object_set_new(c->seen, uuid, json_true());
    }
    json_decref(ok);
}

/* All daemons: one source may have several, by several names. */
void check_attached(struct check *c)
{
    json_t *daemons = cli_daemons(), *info;
    size_t i;
    json_array_foreach(daemons, i, info) see_attached(c, info);
    json_decref(daemons);
}

static bool is_seen(const struct check *c, const struct vd_id *uuid)
{
    return check_has(c->seen, uuid);
}

static int see_file(void *user, const char *rel)
{
    struct check *c = user;
    struct cli_disk d;
    int r = cli_disk_load(c->place, rel, &d);
    if (r == 0 && d.bound)
        check_first(c->seen, &d.uuid);
    if (r == 0)
        check_note_name(c, &d);
    if (r < 0 && r != -ENOENT && r != -ENODATA)
        c->place->unseen++;
    cli_disk_free(&d);
    return 0;
}

int check_walk_again(struct check *c)
{
    if (c->twice)
        return 0;
    check_attached(c);
    int r = cli_walk(c->place, "", see_file, c);
    check_attached(c);
    c->twice = r == 0;
    if (r < 0 || c->place->unseen)
        check_hold(c, c->place->source, "could not be seen whole");
    return r;
}

static int collect(void *user, const struct vd_id *uuid)
{
    struct vanished *v = user;
    if (is_seen(v->c, uuid))
        return 0;
    struct vd_id *more = realloc(v->ids, (v->n + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    v->ids = more;
    v->ids[v->n++] = *uuid;
    return 0;
}

/* A clone that was cut off before its file had a name: the sweep's, not ours. */
static bool is_unborn(struct check *c, struct vd_meta *m, const struct vd_disk_record *record)
{
    struct vd_view_record view;
    struct stat st;
    return vd_meta_get_view(m, &view) == 0 && view.home == VD_HOME_FILE &&
           vd_layer_stat(c->place->store, &record->live_disk_id, &st) == 0;
}

struct child {
    struct vd_meta_store *store;
    char *why;
};

static int name_child(void *user, const struct vd_id *uuid, const char *path)
{
    const struct child *k = user;
    char name[450];
    vd_meta_disk_name(k->store, uuid, path, name, sizeof(name));
    snprintf(k->why, VD_META_WHY, "%s depends on it", name);
    return 1;
}

/* Removes the metadata of UUID. 0, or why not. */
static int repair(struct check *c, const struct vd_id *uuid, bool layered, char *why)
{
    if (c->place->unseen || !c->place->known || !c->twice || c->held[0]) {
        bool seen = !c->place->unseen && c->place->known && c->twice;
        snprintf(why, VD_META_WHY, "%s, so it is left",
                 seen ? c->held : "not all of the source could be seen");
        return -EAGAIN;
    }
    why[0] = '\0';
    /* Nobody stands on a plain disk's bytes; a disk that was flattened may still have children. */
    struct child k = {.store = c->place->store, .why = why};
    int r = layered ? vd_meta_each_child(k.store, uuid, name_child, &k, why) : 0;
    if (r == 0)
        r = vd_meta_remove(c->place->store, uuid);
    if (r < 0 && !why[0])
        snprintf(why, VD_META_WHY, "%s", strerror(-r));
    return r > 0 ? -EBUSY : r;
}

/* Has a file that names the disk been refused? Then that was said. */
static bool is_refused(const struct check *c, const struct vd_id *uuid, const char *path)
{
    char hex[VD_ID_HEX];
    const char *rel;
    json_t *v;
    vd_id_hex(uuid, hex);
    if (json_object_get(c->refused, path))
        return true;
    json_object_foreach(json_object_get(c->bearing, hex), rel, v)
    {
        if (json_object_get(c->refused, rel))
            return true;
    }
    return false;
}

/* What cannot be read holds everything back; so it is looked for before anything is removed. */
static bool is_readable(struct check *c, const struct vd_id *uuid)
{
    char path[PATH_MAX], why[VD_META_WHY] = "";
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record record;
    struct vd_view_record view;
    int r = vd_meta_open(c->place->store, uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, &record);
    if (r == 0)
        r = vd_meta_get_view(m, &view);
    if (r == -EUCLEAN && m)
        snprintf(why, sizeof(why), "%s", vd_meta_why(m));
    if (r == 0 || r == -ENOENT) /* removed, or still being made */
        return true;
    vd_meta_disk_path(c->place->store, uuid, path, sizeof(path));
    check_failed(c, path, why, r);
    check_hold(c, path, "cannot be read");
    return false;
}

static void report(struct check *c, const struct vd_id *uuid)
{
    char path[PATH_MAX], why[VD_META_WHY] = "", what[PATH_MAX + 2 * VD_META_WHY];
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record record;
    struct vd_view_record view;
    vd_meta_disk_path(c->place->store, uuid, path, sizeof(path));
    int r = vd_meta_open(c->place->store, uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, &record);
    if (r < 0)
        return; /* removed, or still being made */
    if (is_refused(c, uuid, record.path) || is_unborn(c, m, &record))
        return; /* said already; or said by the sweep */
    bool layered = vd_meta_get_view(m, &view) != -ENOENT;
    vd_meta_close(vd_steal_ptr(m));
    int n = snprintf(what, sizeof(what),
                     "no file belongs to it: its data file, last at %s, was removed or replaced "
                     "outside a mount",
                     record.path);
    bool repaired = c->repair && repair(c, uuid, layered, why) == 0;
    if (repaired)
        snprintf(what + n, sizeof(what) - (size_t)n, "; its metadata was removed");
    else if (c->repair)
        snprintf(what + n, sizeof(what) - (size_t)n, "; %s", why);
    check_error(c, path, repaired, what);
}

void check_vanished(struct check *c)
{
    struct vanished v = {.c = c};
    check_attached(c);
    int r = vd_meta_each_disk(c->place->store, collect, &v);
    int lost = r < 0 ? r : check_count_known(c);
    if (r == 0 && (v.n || lost)) /* it may have been renamed to where the first walk had been */
        r = lost < 0 ? lost : check_walk_again(c);
    if (r < 0 && r != -ENOENT)
        check_failed(c, c->place->source, "", r);
    bool *readable = calloc(v.n + 1, sizeof(*readable));
    if (!readable)
        abort();
    for (size_t i = 0; r == 0 && i < v.n; i++)
        readable[i] = !is_seen(c, &v.ids[i]) && is_readable(c, &v.ids[i]);
    if (r == 0)
        check_known(c);
    for (size_t i = 0; r == 0 && i < v.n; i++)
        if (readable[i])
            report(c, &v.ids[i]);
    free(readable);
    free(v.ids);
}

/* ---- left-overs ---- */

static int add_leftover(void *user, const char *what)
{
    json_array_append_new(user, vd_ctl_text(what));
    return 0;
}

static int sweep(struct check *c, char *why)
{
    json_t *ok = NULL;
    int r;
    why[0] = '\0';
    if (!c->repair || !c->place->socket[0])
        return vd_meta_sweep(c->place->store, cli_maps(c->place), !c->repair, add_leftover, c->left,
                             why);
    /* The daemon knows which maps it still uses. */
    r = vd_meta_sweep(c->place->store, cli_maps(c->place), true, add_leftover, c->left, why);
    if (r > 0)
        r = cli_ask(c->place, "sweep", NULL, CLI_LONG_TIMEOUT_MS, &ok, why);
    json_decref(ok);
    return r;
}

void check_leftovers(struct check *c)
{
    char why[VD_META_WHY];
    size_t i;
    json_t *what;
    if (c->held[0]) {
        cli_warn(c->place->source, "left-overs are %s, since %s",
                 c->repair ? "not removed" : "not looked for", c->held);
        return;
    }
    if (!cli_maps(c->place))
        return;
    int r = sweep(c, why);
    if (r == -EBUSY || r == -EROFS || r == -EACCES || r == -EPERM)
        json_array_clear(c->left); /* layers are being changed, or may not be */
    else if (r == -EUCLEAN && c->nleft) {
        json_array_clear(c->left);
        cli_warn(c->place->source, "left-overs are not removed: %s", why);
    } else if (r < 0)
        check_failed(c, c->place->source, why, r);
    if (!c->cli->json)
        json_array_foreach(c->left, i, what)
            printf("%s: %s\n", json_string_value(what),
                   c->repair ? "nothing referred to it; removed"
                             : "nothing refers to it (no error; vdisk check --repair removes it)");
}
