// SPDX-License-Identifier: Apache-2.0
/*
 * What belongs to no disk: metadata whose file was removed outside a mount, and left-overs of what
 * was cut off, or was let go while somebody still used it.
 *
 * Left-overs cost room and nothing else, so they are no errors: they are told, and --repair removes
 * them. Metadata without a file is an error. --repair removes it with the layers that only it
 * needs, as `vdisk rm` would have done, if that is beyond doubt: no disk depends on it, no daemon
 * has it open, two walks of a source that could be seen whole did not find its file, and it is
 * known that the source begins where we think.
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
static void see_attached(struct check *c)
{
    json_t *ok = NULL, *disk;
    size_t i;
    char why[VD_META_WHY];
    if (!c->place->socket[0])
        return;
    if (cli_ask(c->place, "disks", NULL, CLI_TIMEOUT_MS, &ok, why) < 0) {
        cli_warn(c->place->mount, "%s", why);
        c->place->unseen++;
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

static bool is_seen(const struct check *c, const struct vd_id *uuid)
{
    char hex[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    return json_object_get(c->seen, hex) != NULL;
}

static int see_file(void *user, const char *rel)
{
    struct check *c = user;
    struct cli_disk d;
    char hex[VD_ID_HEX];
    if (cli_disk_load(c->place, rel, &d) == 0 && d.bound) {
        vd_id_hex(&d.uuid, hex);
        json_object_set_new(c->seen, hex, json_true());
    }
    cli_disk_free(&d);
    return 0;
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

static int name_child(void *user, const struct vd_id *uuid, const char *path)
{
    snprintf(user, VD_META_WHY, "%.400s depends on it", path);
    return 1;
}

/* Removes the metadata of UUID. 0, or why not. */
static int repair(struct check *c, const struct vd_id *uuid, char *why)
{
    if (c->place->unseen || !c->place->known) {
        snprintf(why, VD_META_WHY, "not all of the source could be seen, so it is left");
        return -EAGAIN;
    }
    why[0] = '\0';
    int r = vd_meta_each_child(c->place->store, uuid, name_child, why, why);
    if (r == 0)
        r = vd_meta_remove(c->place->store, uuid);
    if (r < 0 && !why[0])
        snprintf(why, VD_META_WHY, "%s", strerror(-r));
    return r > 0 ? -EBUSY : r;
}

static void report(struct check *c, const struct vd_id *uuid)
{
    char path[PATH_MAX], why[VD_META_WHY] = "", what[PATH_MAX + 2 * VD_META_WHY];
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record record;
    vd_meta_disk_path(c->place->store, uuid, path, sizeof(path));
    int r = vd_meta_open(c->place->store, uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, &record);
    if (r == -ENOENT)
        return; /* removed, or still being made */
    if (r < 0) {
        check_failed(c, path, why, r);
        return;
    }
    if (json_object_get(c->refused, record.path) || is_unborn(c, m, &record))
        return; /* said already; or said by the sweep */
    vd_meta_close(vd_steal_ptr(m));
    int n = snprintf(what, sizeof(what),
                     "no file belongs to it: its data file, last at %s, was removed or replaced "
                     "outside a mount",
                     record.path);
    bool repaired = c->repair && repair(c, uuid, why) == 0;
    if (repaired)
        snprintf(what + n, sizeof(what) - (size_t)n, "; its metadata was removed");
    else if (c->repair)
        snprintf(what + n, sizeof(what) - (size_t)n, "; %s", why);
    check_error(c, path, repaired, what);
}

void check_vanished(struct check *c)
{
    struct vanished v = {.c = c};
    see_attached(c);
    int r = vd_meta_each_disk(c->place->store, collect, &v);
    if (r == 0 && v.n) /* it may have been renamed to where the first walk had been already */
        r = cli_walk(c->place, "", see_file, c);
    if (r == 0 && v.n)
        see_attached(c);
    if (r < 0 && r != -ENOENT)
        check_failed(c, c->place->source, "", r);
    for (size_t i = 0; r == 0 && i < v.n; i++)
        if (!is_seen(c, &v.ids[i]))
            report(c, &v.ids[i]);
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
    if (!cli_maps(c->place))
        return;
    int r = sweep(c, why);
    if (r == -EBUSY || r == -EROFS || r == -EACCES || r == -EPERM || (r == -EUCLEAN && c->nleft))
        json_array_clear(c->left); /* layers are being changed; may not be; or it is said already */
    else if (r < 0)
        check_failed(c, c->place->source, why, r);
    if (!c->cli->json)
        json_array_foreach(c->left, i, what)
            printf("%s: %s\n", json_string_value(what),
                   c->repair ? "nothing referred to it; removed"
                             : "nothing refers to it (no error; vdisk check --repair removes it)");
}
