// SPDX-License-Identifier: Apache-2.0
/*
 * Disks with layers that have lost their metadata. The store keeps a list of disks with layers, and
 * no sweep removes anything while one of them has none: what it needs cannot be told. Where a file
 * bears its UUID that file is refused, and says so. Where none does, the disk is gone but for its
 * layers: an error, since the metadata may be in a backup. --repair takes the disk off the list,
 * and the sweep that follows takes what only it needed. That cannot be undone, so it is done only
 * if the source was seen whole, twice, nothing in it is refused, and no daemon has the disk.
 */
#include <string.h>

#include "check.h"
#include "vd_ctl.h"

static bool has_metadata(struct check *c, const struct vd_id *uuid)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY];
    return vd_meta_open(c->place->store, uuid, VD_META_READ, &m, why) != -ENOENT;
}

struct lost {
    struct check *c;
    struct vd_id *ids;
    size_t n;
};

static int collect(void *user, const struct vd_id *uuid)
{
    struct lost *l = user;
    if (has_metadata(l->c, uuid) || check_has(l->c->bearing, uuid))
        return 0;
    struct vd_id *more = realloc(l->ids, (l->n + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    l->ids = more;
    l->ids[l->n++] = *uuid;
    return 0;
}

static int count(struct check *c, struct lost *l)
{
    *l = (struct lost){.c = c};
    return vd_known_each(c->place->store, collect, l);
}

int check_count_known(struct check *c)
{
    struct lost l;
    int r = count(c, &l);
    free(l.ids);
    return r < 0 ? r : (int)l.n;
}

/* Whoever is just making or removing a disk has the lock. */
static int drop(struct check *c, const struct vd_id *uuid)
{
    vd_cleanup_close int fd = -1;
    int r = vd_refs_lock(c->place->store, true, &fd);
    if (r == 0 && has_metadata(c, uuid))
        r = -EBUSY;
    return r < 0 ? r : vd_known_drop(c->place->store, uuid);
}

static void report(struct check *c, const struct vd_id *uuid)
{
    char path[PATH_MAX], what[2 * VD_META_WHY];
    int r = -EAGAIN;
    vd_meta_disk_path(c->place->store, uuid, path, sizeof(path));
    int n = snprintf(what, sizeof(what),
                     "it is missing, the disk has layers, and no file bears its UUID; restore it "
                     "from a backup");
    if (!c->repair)
        snprintf(what + n, sizeof(what) - (size_t)n,
                 ", or vdisk check --repair gives the disk up, with what only it needs");
    else if (check_has(c->seen, uuid))
        snprintf(what + n, sizeof(what) - (size_t)n, "; a mount has it open");
    else if (c->held[0] || !c->twice || !c->place->known)
        snprintf(what + n, sizeof(what) - (size_t)n, "; it is not given up in this run, since %s",
                 c->held[0] ? c->held : "not all of the source could be seen");
    else if ((r = drop(c, uuid)) < 0)
        snprintf(what + n, sizeof(what) - (size_t)n, "; it could not be given up: %s",
                 strerror(-r));
    else
        snprintf(what, sizeof(what),
                 "it is missing, the disk had layers, and no file bears its UUID: given up");
    check_error(c, path, r == 0, what);
    if (r < 0)
        check_hold(c, path, "is missing");
}

void check_known(struct check *c)
{
    struct lost l;
    int r = count(c, &l);
    if (r < 0)
        check_failed(c, c->place->source, "", r);
    for (size_t i = 0; r == 0 && i < l.n; i++)
        report(c, &l.ids[i]);
    free(l.ids);
}
