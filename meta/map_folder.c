// SPDX-License-Identifier: Apache-2.0
/*
 * The folder of maps as a whole: what is in it, what is left over, removal.
 *
 * Removal moves the logs, then the table into the trash, so that a map that is half gone still says
 * by its table where its logs begin.
 */
#include <fcntl.h>

#include "map_load.h"
#include "store.h"
#include "vd_file.h"
#include "vd_step.h"

struct entry {
    struct vd_id id;
    enum vd__map_file kind;
    uint64_t log;
};

struct listing {
    struct vd_maps *maps;
    struct entry *entries;
    size_t n, room;
    bool sweep;
};

static int list_one(void *user, const char *name, enum vd__map_file kind, const struct vd_id *id,
                    uint64_t log)
{
    struct listing *l = user;
    if (kind == VD__MAP_TEMP)
        return l->sweep ? vd__temp_sweep(vd__maps_fd(l->maps, false), name) : 0;
    if (l->n == l->room) {
        size_t room = vd_max(2 * l->room, (size_t)64);
        struct entry *entries = reallocarray(l->entries, room, sizeof(*entries));
        if (!entries)
            return -ENOMEM;
        l->entries = entries;
        l->room = room;
    }
    l->entries[l->n++] = (struct entry){*id, kind, log};
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int r = memcmp(x->id.b, y->id.b, sizeof(x->id.b));
    return r ? r : (int)x->kind - (int)y->kind;
}

/* Removes logs of the N entries of one map that its table, the first of them, holds. */
static void sweep_logs(struct vd_maps *maps, const struct entry *e, size_t n)
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    char why[VD_META_WHY];
    if (n < 2 || e[0].kind != VD__MAP_TABLE || vd__map_open_table(maps, &e[0].id, &t, why) < 0)
        return;
    for (size_t i = 1; i < n; i++)
        if (e[i].log < t->head.first_log)
            vd__map_unlink_logs(maps, &e[i].id, e[i].log, e[i].log);
}

int vd_maps_each(struct vd_maps *maps, bool remove_leftovers,
                 int (*fn)(void *user, const struct vd_id *id), void *user)
{
    struct listing l = {.maps = maps, .sweep = remove_leftovers};
    int r = vd__maps_each_file(maps, list_one, &l);
    if (l.n > 0)
        qsort(l.entries, l.n, sizeof(*l.entries), by_id);
    for (size_t i = 0, n; r == 0 && i < l.n; i += n) {
        for (n = 1; i + n < l.n && vd_id_eq(&l.entries[i].id, &l.entries[i + n].id); n++)
            ;
        if (remove_leftovers)
            sweep_logs(maps, &l.entries[i], n);
        r = fn(user, &l.entries[i].id);
    }
    free(l.entries);
    return r;
}

/* ---- removal ---- */

struct removal {
    struct vd_maps *maps;
    const struct vd_id *id;
    int dirfd, trash_fd;
    bool moved;
};

/* 0, -ENOENT, -errno. */
static int discard(struct removal *d, const char *name)
{
    struct vd_id random;
    char to[VD_ID_HEX];
    int r = vd_id_new(&random);
    if (r < 0)
        return r;
    vd_id_hex(&random, to);
    if (renameat(d->dirfd, name, d->trash_fd, to) < 0)
        return -errno;
    d->moved = true;
    vd_step("map: moved to the trash");
    return unlinkat(d->trash_fd, to, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int discard_log(struct removal *d, uint64_t number)
{
    char name[VD__MAP_NAME];
    vd__map_log_name(d->id, number, name);
    return discard(d, name);
}

static int discard_any(void *user, const char *name, enum vd__map_file kind, const struct vd_id *id,
                       uint64_t log)
{
    struct removal *d = user;
    if (kind != VD__MAP_LOG || !vd_id_eq(id, d->id))
        return 0;
    int r = discard(d, name);
    return r == -ENOENT ? 0 : r;
}

/* Where a table says where the logs begin, without a look at the whole folder. */
static int discard_logs(struct removal *d)
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    char why[VD_META_WHY];
    int r = vd__map_open_table(d->maps, d->id, &t, why);
    if (r < 0)
        return vd__maps_each_file(d->maps, discard_any, d);
    for (uint64_t n = t->head.first_log; r == 0; n++)
        r = discard_log(d, n);
    if (r == -ENOENT)
        r = 0;
    for (uint64_t n = t->head.first_log; r == 0 && n > 0; n--) /* left over */
        r = discard_log(d, n - 1);
    return r == -ENOENT ? 0 : r;
}

int vd_maps_remove(struct vd_maps *maps, const struct vd_id *id)
{
    vd_cleanup_close int trash_fd = -1;
    struct removal d = {.maps = maps, .id = id, .dirfd = vd__maps_fd(maps, false)};
    char name[VD__MAP_NAME];
    if (d.dirfd < 0)
        return d.dirfd == -ENOENT ? 0 : d.dirfd;
    if (vd__map_in_use(maps, id))
        return -EBUSY;
    int r = vd__store_make_dir(maps->store, "trash", &trash_fd);
    if (r < 0)
        return r;
    d.trash_fd = trash_fd;
    r = discard_logs(&d);
    vd__map_table_name(id, name);
    if (r == 0)
        r = discard(&d, name);
    if (r == -ENOENT)
        r = 0;
    if (r < 0 || !d.moved)
        return r;
    return vd_fsync_dir(d.dirfd, ".");
}
