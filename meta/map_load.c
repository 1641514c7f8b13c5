// SPDX-License-Identifier: Apache-2.0
/*
 * A map from its files: the table, then the logs from the one on that the table names, in order.
 *
 * A log that is not the newest has an END once everything in it is durable, and only then may the
 * next one have marks. So where END is missing, what stands behind the last mark of that log was
 * not durable, and nothing in the next log is vouched for.
 */
#include "map_load.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "vd_step.h"

void vd__loaded_clear(struct vd__loaded *l)
{
    vd__bits_unref(l->bits);
    l->bits = NULL;
}

int vd__map_open_table(struct vd_maps *maps, const struct vd_id *id, struct vd__maptab **ret_t,
                       char ret_why[VD_META_WHY])
{
    char name[VD__MAP_NAME];
    vd_cleanup_close int fd = -1;
    vd__map_table_name(id, name);
    int r = vd__map_open_file(maps, name, O_RDONLY, &fd);
    if (r == 0)
        r = vd__maptab_open(fd, id, ret_t, ret_why);
    if (r == 0)
        vd_steal_fd(&fd); /* the table's now */
    return r == -EUCLEAN ? vd__map_why(maps, name, ret_why, ret_why) : r;
}

/* ---- loading ---- */

struct loading {
    struct vd_maps *maps;
    const struct vd_id *id;
    const struct vd__maptab *t;
    enum vd_map_trust trust;
    uint64_t number; /* of the log that is next */
    bool open_ended; /* an older log has no END */
    struct vd__loaded l;
    char *why;
};

static int put_extent(struct vd__bits *bits, const struct vd__extent *e)
{
    enum vd_block_state state = e->layer == VD_MAP_ZERO ? VD_BLOCK_ZERO : VD_BLOCK_OWN;
    int r = e->nblocks ? vd__bits_prepare(bits, e->first, e->nblocks, state) : 0;
    if (r == 0 && e->nblocks)
        vd__bits_put(bits, e->first, e->nblocks, state);
    return r;
}

static int load_table(struct loading *c)
{
    vd_cleanup(vd__maptab_cursor_close) struct vd__maptab_cursor cur = {0};
    struct vd__loaded *l = &c->l;
    const struct vd__maptab_head *h = &c->t->head;
    if (h->nlayers != 1) {
        snprintf(c->why, VD_META_WHY, "a live map's table with %u layers", h->nlayers);
        return -EUCLEAN;
    }
    l->layer = c->t->layers[0];
    l->size_bytes = h->size_bytes;
    l->nextents = h->nextents;
    l->first_log = h->first_log;
    struct vd__extent e,
        all = {0}; /* what is one extent is put as one, so that it makes no leaves */
    int r = vd__maptab_cursor_open(c->t, &cur);
    while (r == 0 && (r = vd__maptab_cursor_next(&cur, &e, c->why)) > 0) {
        if (all.layer == e.layer && all.first + all.nblocks == e.first) {
            all.nblocks += e.nblocks;
            r = 0;
            continue;
        }
        r = put_extent(l->bits, &all);
        all = e;
    }
    if (r == 0)
        r = put_extent(l->bits, &all);
    return r;
}

static int foreign(struct loading *c, const char *what)
{
    snprintf(c->why, VD_META_WHY, "%s", what);
    return -EUCLEAN;
}

static int check_log(struct loading *c, const struct vd__maplog_scan *s)
{
    if (!vd_id_eq(&s->head.id, c->id))
        return foreign(c, "it is another map's");
    if (s->head.number != c->number)
        return foreign(c, "its head has another number");
    bool first = !c->t && c->number == 0;
    if (!first && !vd_id_eq(&s->head.layer, &c->l.layer))
        return foreign(c, "it is another layer's");
    if (c->open_ended && s->nmarks > 0)
        return foreign(c, "it has marks, but the log before it has no end");
    if (first) {
        c->l.layer = s->head.layer;
        c->l.size_bytes = s->head.size_bytes;
    }
    return 0;
}

/* The log c->number. 0, -ENOENT, -EUCLEAN with c->why. */
static int load_log(struct loading *c, const char *name)
{
    vd_cleanup_close int fd = -1;
    struct vd__maplog_scan s;
    int r = vd__map_open_file(c->maps, name, O_RDONLY, &fd);
    if (r == 0)
        r = vd__maplog_scan(fd, c->trust, &s, c->why);
    if (r == 0)
        r = check_log(c, &s);
    if (r < 0)
        return r;
    if (!c->open_ended || c->trust == VD_MAP_TRUST_ALL) {
        r = vd__maplog_apply(fd, &s, c->l.bits, &c->l.size_bytes);
        if (r == -EUCLEAN)
            return foreign(c, "it changed while it was read");
    }
    c->l.clean = s.clean && !c->open_ended;
    c->open_ended |= !s.ended;
    c->l.nrecords += s.nslots;
    c->l.last = s;
    c->l.last_log = c->number;
    return r;
}

static int load_logs(struct loading *c, uint64_t upto)
{
    uint64_t first = c->number;
    for (;; c->number++) {
        char name[VD__MAP_NAME];
        vd__map_log_name(c->id, c->number, name);
        int r = load_log(c, name);
        if (r == -EUCLEAN)
            return vd__map_why(c->maps, name, c->why, c->why);
        if (r == -ENOENT && c->number == first && !c->t)
            return -ENOENT;
        bool wanted = c->number == first || !c->open_ended || upto != UINT64_MAX;
        if (r == -ENOENT && wanted)
            return vd__map_why(c->maps, name, "it is missing", c->why);
        if (r == -ENOENT)
            return 0;
        if (r < 0 || c->number == upto)
            return r;
    }
}

int vd__map_load(struct vd_maps *maps, const struct vd_id *id, const struct vd__maptab *t,
                 enum vd_map_trust trust, uint64_t upto, struct vd__loaded *ret_l,
                 char ret_why[VD_META_WHY])
{
    struct loading c = {.maps = maps, .id = id, .t = t, .trust = trust, .why = ret_why};
    c.l.bits = vd__bits_new();
    int r = c.l.bits ? 0 : -ENOMEM;
    if (r == 0 && t)
        r = load_table(&c);
    if (r == -EUCLEAN) {
        char name[VD__MAP_NAME];
        vd__map_table_name(id, name);
        vd__map_why(maps, name, ret_why, ret_why);
    }
    c.number = c.l.first_log;
    if (r == 0)
        r = load_logs(&c, upto);
    if (r < 0)
        vd__loaded_clear(&c.l);
    else
        *ret_l = c.l;
    return r;
}

bool vd__map_still_named(struct vd_maps *maps, const struct vd_id *id, const struct vd__maptab *t)
{
    char name[VD__MAP_NAME];
    struct stat a, b;
    int dirfd = vd__maps_fd(maps, false);
    vd__map_table_name(id, name);
    if (dirfd < 0 || fstatat(dirfd, name, &a, AT_SYMLINK_NOFOLLOW) < 0)
        return !t;
    return t && fstat(t->fd, &b) == 0 && a.st_ino == b.st_ino;
}

static int find_log(void *user, const char *name, enum vd__map_file kind, const struct vd_id *id,
                    uint64_t log)
{
    return kind == VD__MAP_LOG && vd_id_eq(id, user);
}

int vd__map_missing(struct vd_maps *maps, const struct vd_id *id, char why[VD_META_WHY])
{
    char name[VD__MAP_NAME];
    struct vd_id copy = *id;
    int r = vd__maps_each_file(maps, find_log, &copy);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    vd__map_table_name(id, name);
    return vd__map_why(maps, name, "it is missing, and so is the first log", why);
}

int vd__map_load_any(struct vd_maps *maps, const struct vd_id *id, enum vd_map_trust trust,
                     struct vd__maptab **ret_t, struct vd__loaded *ret_l, char ret_why[VD_META_WHY])
{
    for (;;) {
        vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
        int r = vd__map_open_table(maps, id, &t, ret_why);
        if (r < 0 && r != -ENOENT)
            return r;
        if (t && t->head.flags & VD__MAPTAB_FROZEN) {
            *ret_t = vd_steal_ptr(t);
            return 0;
        }
        r = vd__map_load(maps, id, t, trust, UINT64_MAX, ret_l, ret_why);
        if (r == 0)
            *ret_t = NULL;
        if (r == 0 || vd__map_still_named(maps, id, t))
            return r == -ENOENT ? vd__map_missing(maps, id, ret_why) : r;
        /* Its logs went into a new table while we looked for them. */
    }
}

/* ---- writing a table ---- */

static int write_bits(struct vd__maptab_writer *w, const struct vd__bits *bits)
{
    uint64_t pos = 0, first, n;
    enum vd_block_state state;
    int r = 0;
    while (r == 0 && vd__bits_next(bits, &pos, &first, &n, &state))
        r = vd__maptab_add(w, first, n, state == VD_BLOCK_ZERO ? VD_MAP_ZERO : 0);
    return r;
}

int vd__map_write_table(struct vd_maps *maps, const struct vd__maptab_head *head,
                        const struct vd_id *layer, const struct vd__bits *bits,
                        uint64_t *ret_nextents)
{
    vd_cleanup(vd__maptab_writer_free_p) struct vd__maptab_writer *w = NULL;
    vd_cleanup(vd__temp_drop) struct vd__temp t = {.fd = -1};
    char name[VD__MAP_NAME];
    vd__map_table_name(&head->id, name);
    int r = vd__temp_make(maps, name, &t);
    if (r == 0)
        r = vd__maptab_writer_new(t.fd, head, &w);
    if (r == 0)
        r = write_bits(w, bits);
    if (r == 0)
        r = vd__maptab_finish(w, layer, 1);
    if (r == 0)
        r = vd__temp_name(&t, name);
    if (r == 0 && ret_nextents)
        *ret_nextents = vd__maptab_written(w);
    return r;
}

void vd__map_unlink_logs(struct vd_maps *maps, const struct vd_id *id, uint64_t first,
                         uint64_t last)
{
    int dirfd = vd__maps_fd(maps, false);
    for (uint64_t n = first; dirfd >= 0 && n <= last; n++) {
        char name[VD__MAP_NAME];
        vd__map_log_name(id, n, name);
        unlinkat(dirfd, name, 0);
        vd_step("map: log removed");
    }
}
