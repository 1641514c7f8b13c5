// SPDX-License-Identifier: Apache-2.0
/* Reads everything of a map and says what is wrong. Its owner may be changing it meanwhile: before
 * anything is said of a table or its logs, it must still be the table; else all is read anew. */
#include "map_load.h"

struct verifying {
    struct vd_maps *maps;
    const struct vd_id *id;
    const struct vd__maptab *t; /* or NULL */
    int (*report)(void *user, const char *what);
    void *user;
    int n;
    uint64_t highest_log;
    bool has_log;
};

/* 0, -EAGAIN: it was another table; what REPORT returned. */
static int say(struct verifying *v, const char *what)
{
    if (!vd__map_still_named(v->maps, v->id, v->t))
        return -EAGAIN;
    v->n++;
    return v->report(v->user, what);
}

static int say_table(struct verifying *v, const char *what)
{
    char name[VD__MAP_NAME], why[VD_META_WHY];
    vd__map_table_name(v->id, name);
    vd__map_why(v->maps, name, what, why);
    return say(v, why);
}

static int verify_pages(struct verifying *v)
{
    uint64_t nextents = 0;
    int before = v->n, r = 0;
    for (uint64_t p = 0; r == 0 && p < v->t->head.npages; p++) {
        uint8_t buf[VD__MAPTAB_PAGE_LEN];
        char why[VD_META_WHY];
        r = vd__maptab_read(v->t, p, 1, buf, why);
        if (r == 0)
            nextents += vd__maptab_page_count(buf);
        else if (r == -EUCLEAN)
            r = say_table(v, why);
    }
    if (r == 0 && v->n == before && nextents != v->t->head.nextents)
        r = say_table(v, "its head has another number of extents");
    return r;
}

static int note_log(void *user, const char *name, enum vd__map_file kind, const struct vd_id *id,
                    uint64_t log)
{
    struct verifying *v = user;
    if (kind == VD__MAP_LOG && vd_id_eq(id, v->id)) {
        v->highest_log = vd_max(v->highest_log, log);
        v->has_log = true;
    }
    return 0;
}

/* A log that those before it do not lead to. */
static int verify_order(struct verifying *v, uint64_t last_log)
{
    char name[VD__MAP_NAME], why[VD_META_WHY];
    if (!v->has_log || v->highest_log <= last_log)
        return 0;
    vd__map_log_name(v->id, v->highest_log, name);
    vd__map_why(v->maps, name, "a log before it is missing", why);
    return say(v, why);
}

static int verify_logs(struct verifying *v)
{
    vd_cleanup(vd__loaded_clear) struct vd__loaded l = {0};
    char why[VD_META_WHY];
    int r =
        vd__maps_each_file(v->maps, note_log, v); /* first, so that a newer one is no surprise */
    if (r == 0)
        r = vd__map_load(v->maps, v->id, v->t, VD_MAP_TRUST_MARKED, UINT64_MAX, &l, why);
    if (r == -ENOENT && vd__map_still_named(v->maps, v->id, v->t))
        r = vd__map_missing(v->maps, v->id, why);
    if (r == -EUCLEAN)
        return say(v, why);
    return r < 0 ? r : verify_order(v, l.last_log);
}

static int verify(struct verifying *v)
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    char why[VD_META_WHY];
    int before = v->n;
    int r = vd__map_open_table(v->maps, v->id, &t, why);
    if (r == -EUCLEAN) { /* without it nobody knows where the logs begin */
        v->n++;
        return v->report(v->user, why);
    }
    if (r < 0 && r != -ENOENT)
        return r;
    v->t = t;
    r = t ? verify_pages(v) : 0;
    bool frozen = t && t->head.flags & VD__MAPTAB_FROZEN;
    if (r == 0 && !frozen && v->n == before)
        r = verify_logs(v);
    if (r == -ENOENT && !vd__map_still_named(v->maps, v->id, t))
        r = -EAGAIN;
    v->t = NULL;
    return r;
}

int vd_maps_verify(struct vd_maps *maps, const struct vd_id *id,
                   int (*report)(void *user, const char *what), void *user)
{
    struct verifying v = {.maps = maps, .id = id, .report = report, .user = user};
    int r;
    do {
        v.highest_log = 0;
        v.has_log = false;
        r = verify(&v);
    } while (r == -EAGAIN);
    return r != 0 ? r : v.n;
}
