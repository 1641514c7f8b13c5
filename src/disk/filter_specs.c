// SPDX-License-Identifier: Apache-2.0
/* The records of a disk's filters, as a list, and their sum, by which others' changes are seen; the mark on the disk's file that goes with
 * a required one. */
#include "filter_specs.h"

#include <string.h>
#include <unistd.h>

#include "vd_crc.h"
#include "vd_log.h"
#include "vd_step.h"

void vd__specs_clear(struct specs *s)
{
    free(s->v);
    *s = (struct specs){0};
}

int vd__specs_add(struct specs *s, const struct vd_filter_spec *spec)
{
    struct vd_filter_spec *v = realloc(s->v, (s->n + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    s->v = v;
    s->v[s->n++] = *spec;
    return 0;
}

void vd__spec_record(const struct vd_filter_spec *s, struct vd_filter_record *ret_r)
{
    *ret_r = (struct vd_filter_record){
        .filter_class = s->filter_class,
        .required = s->required,
        .cloned = s->cloned,
        .order = s->order,
    };
    snprintf(ret_r->name, sizeof(ret_r->name), "%s", s->name);
    snprintf(ret_r->config, sizeof(ret_r->config), "%s", s->config);
}

static uint32_t sum_of(const struct vd_filter_record *r, uint32_t sum)
{
    sum = vd_crc32c(sum, r->name, strlen(r->name) + 1);
    sum = vd_crc32c(sum, &r->order, sizeof(r->order));
    sum = vd_crc32c(sum, &r->required, sizeof(r->required));
    return vd_crc32c(sum, r->config, strlen(r->config) + 1);
}

static int add_record(void *user, const struct vd_filter_record *r)
{
    struct specs *s = user;
    struct vd_filter_spec spec = {
        .filter_class = r->filter_class,
        .required = r->required,
        .cloned = r->cloned,
        .order = r->order,
    };
    snprintf(spec.name, sizeof(spec.name), "%s", r->name);
    snprintf(spec.config, sizeof(spec.config), "%s", r->config);
    s->sum = sum_of(r, s->sum);
    return vd__specs_add(s, &spec);
}

int vd__specs_read(struct vd_disk *d, struct specs *s, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_READ, &m, why);
    s->gone = r == -ENOENT;
    if (r < 0)
        return s->gone ? 0 : r;
    r = vd_meta_each_filter(m, add_record, s);
    if (r == -EUCLEAN)
        snprintf(why, VD_META_WHY, "%s", vd_meta_why(m));
    return r;
}

static int add_sum(void *user, const struct vd_filter_record *r)
{
    uint32_t *sum = user;
    *sum = sum_of(r, *sum);
    return 0;
}

int vd__filters_look(struct vd_disk *d, struct vd_meta *m)
{
    uint32_t sum = 0;
    if (!d->filtered)
        return 0;
    int r = vd_meta_each_filter(m, add_sum, &sum);
    if (r < 0)
        return r;
    atomic_store(&d->filters_seen, sum);
    if (sum != atomic_load(&d->filters_sum))
        atomic_store(&d->filters_stale, true);
    return 0;
}

/* ---- the mark on the disk's file ---- */

static bool any_required(const struct specs *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].required)
            return true;
    return false;
}

/* Before a record of a required filter comes or goes. */
int vd__mark_changing(struct vd_disk *d, const struct vd_filter_spec *spec, char why[VD_META_WHY])
{
    if (!spec->required)
        return 0;
    int r = vd_filter_mark_set(d->backing->fd, VD_FILTER_MARK_CHANGING);
    if (r == 0 && fsync(d->backing->fd) < 0)
        r = -errno;
    if (r < 0)
        snprintf(why, VD_META_WHY,
                 "its file cannot be marked as one that must not be read without filter %s: %s",
                 spec->name, strerror(-r));
    vd_step("filter-marked");
    return r;
}

/* After it: S are the disk's filters now. CHANGING is as safe, but where the metadata are lost. */
void vd__mark_settled(struct vd_disk *d, const struct vd_filter_spec *spec, const struct specs *s)
{
    if (!spec->required)
        return;
    int r = vd_filter_mark_set(d->backing->fd,
                               any_required(s) ? VD_FILTER_MARK_REQUIRED : VD_FILTER_MARK_NONE);
    if (r == 0 && fsync(d->backing->fd) < 0)
        r = -errno;
    if (r < 0)
        vd_log_warning("%s: its attribute " VD_META_XATTR_FILTERED " cannot be changed: %s",
                       d->path, strerror(-r));
}

/* May it be served with S? NULL: its metadata cannot be used. */
int vd__mark_look(struct vd_disk *d, const struct specs *s)
{
    enum vd_filter_mark mark;
    int r = vd_filter_mark_get(d->backing->fd, &mark);
    if (r < 0 || mark == VD_FILTER_MARK_NONE || (s && any_required(s)) ||
        (s && mark == VD_FILTER_MARK_CHANGING))
        return r;
    vd_log_error("%s: refused: it must not be read without a filter that its metadata %s; restore "
                 "them, or run `vdisk adopt PATH --as-plain` to take its bytes as they are",
                 d->path, s ? "do not have" : "would have, which cannot be used");
    return -EUCLEAN;
}

size_t vd__specs_find(const struct specs *s, const char *name)
{
    size_t i = 0;
    while (i < s->n && strcmp(s->v[i].name, name) != 0)
        i++;
    return i;
}

uint32_t vd__specs_sum(const struct specs *s)
{
    struct vd_filter_record rec;
    uint32_t sum = 0;
    /* in the order in which records are read: the library sorts them */
    for (size_t i = 0; i < s->n; i++) {
        vd__spec_record(&s->v[i], &rec);
        sum = sum_of(&rec, sum);
    }
    return sum;
}

static int by_place(const void *x, const void *y)
{
    const struct vd_filter_spec *a = x, *b = y;
    if (a->filter_class != b->filter_class)
        return a->filter_class < b->filter_class ? -1 : 1;
    if (a->order != b->order)
        return a->order < b->order ? -1 : 1;
    return strcmp(a->name, b->name);
}

void vd__specs_sort(struct specs *s)
{
    qsort(s->v, s->n, sizeof(*s->v), by_place);
}
