// SPDX-License-Identifier: Apache-2.0
/* Commands that tell about disks: what is attached, its layers, whose its blocks are. */
#include "request.h"

#define EXTENTS_MAX 16384u /* of one answer: below 2 MiB of it */

static const char *owner_state_name(enum vd_owner_state state)
{
    static const char *const names[] = {
        [VD_OWNER_NONE] = "none",
        [VD_OWNER_SHARED] = "shared",
        [VD_OWNER_EXCLUSIVE] = "exclusive",
        [VD_OWNER_RELEASING] = "releasing",
    };
    return (unsigned)state < VD_ARRAY_SIZE(names) ? names[state] : "none";
}

static int add_filter(void *user, const struct vd_filter_report *f)
{
    return json_array_append_new(user, vd__answer_filter(f)) < 0 ? -ENOMEM : 0;
}

static json_t *encode_disk(struct vd_disk *disk)
{
    struct vd_disk_info info;
    struct vd_disk_stats stats;
    vd_disk_get_info(disk, &info);
    vd_disk_get_stats(disk, &stats);
    char generation[20]; /* 64 random bits are no JSON number */
    snprintf(generation, sizeof(generation), "%016llx", (unsigned long long)info.generation);
    json_t *o = json_pack(
        "{s:b, s:o, s:o, s:s, s:I, s:o, s:i, s:s, s:I, s:b, s:I, s:o}", "attached", 1, "uuid",
        vd__answer_id(&info.uuid), "disk_id", vd__answer_id(&info.disk_id), "generation",
        generation, "size", (json_int_t)info.size_bytes, "path", vd_ctl_text(info.path), "opens",
        (int)info.opens, "owner_state", owner_state_name(info.owner_state), "epoch",
        (json_int_t)info.epoch, "caching", (int)info.caching, "cached_bytes",
        (json_int_t)info.cached_bytes, "stats", vd__answer_stats(&stats));
    json_t *merge = json_null();
    if (info.merge_total)
        merge = json_pack("{s:I, s:I}", "done", (json_int_t)info.merge_done, "total",
                          (json_int_t)info.merge_total);
    json_object_update_new(o, json_pack("{s:b, s:I, s:o, s:o}", "layered", (int)info.layered,
                                        "nlayers", (json_int_t)info.nlayers, "parent",
                                        vd__answer_id(&info.parent), "merge", merge));
    json_t *filters = json_array();
    (void)!vd_disk_each_filter(disk, false, add_filter, filters);
    json_object_set_new(o, "filters", filters);
    return o;
}

int vd__do_info(const struct vd_request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = vd__request_disk(q, &disk);
    if (r == -ENOENT)
        *ret_ok = json_pack("{s:b}", "attached", 0);
    else if (r == 0)
        *ret_ok = encode_disk(disk);
    return r == -ENOENT ? 0 : r;
}

static int add_disk(void *user, struct vd_disk *disk)
{
    json_array_append_new(user, encode_disk(disk));
    return 0;
}

int vd__do_disks(const struct vd_request *q, json_t **ret_ok)
{
    json_t *list = json_array();
    vd_disks_each(q->d->disks, add_disk, list);
    *ret_ok = json_pack("{s:o}", "disks", list);
    return 0;
}

struct layer_list {
    json_t *layers;
    const char *own_path; /* of the disk's own file */
};

static int add_layer(void *user, const struct vd_disk_layer *l)
{
    struct layer_list *list = user;
    int r = json_array_append_new(list->layers,
                                  json_pack("{s:I, s:o, s:o, s:s, s:o}", "index",
                                            (json_int_t)json_array_size(list->layers), "disk_id",
                                            vd__answer_id(&l->disk_id), "path",
                                            vd_ctl_text(*l->path ? l->path : list->own_path),
                                            "state", l->live ? "live" : "frozen", "snapshot",
                                            *l->snapshot ? vd_ctl_text(l->snapshot) : json_null()));
    return r < 0 ? -ENOMEM : 0;
}

int vd__do_layers(const struct vd_request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    struct vd_disk_info info;
    int r = vd__request_disk(q, &disk);
    if (r < 0)
        return r;
    vd_disk_get_info(disk, &info);
    struct layer_list list = {.layers = json_array(), .own_path = info.path};
    r = vd_disk_each_layer(disk, add_layer, &list);
    if (r < 0)
        json_decref(list.layers);
    else
        *ret_ok = json_pack("{s:o}", "layers", list.layers);
    return r;
}

struct extent_list {
    json_t *extents;
    size_t max;
    uint64_t next_bytes; /* behind the last one */
};

static int add_extent(void *user, const struct vd_disk_extent *e)
{
    struct extent_list *list = user;
    if (json_array_size(list->extents) == list->max)
        return 1;
    list->next_bytes = e->start_bytes + e->length_bytes;
    int r = json_array_append_new(
        list->extents,
        json_pack("{s:I, s:I, s:o, s:I, s:b}", "start", (json_int_t)e->start_bytes, "length",
                  (json_int_t)e->length_bytes, "disk_id", vd__answer_id(&e->disk_id), "depth",
                  (json_int_t)e->depth, "zero", (int)e->zero));
    return r < 0 ? -ENOMEM : 0;
}

int vd__do_extents(const struct vd_request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    uint64_t off_bytes, len_bytes, max = EXTENTS_MAX;
    int r = vd__request_disk(q, &disk);
    if (r == 0)
        r = vd__request_number(q, "offset", &off_bytes);
    if (r == 0)
        r = vd__request_number(q, "length", &len_bytes);
    if (r == 0 && json_object_get(q->args, "max"))
        r = vd__request_number(q, "max", &max);
    if (r < 0)
        return r;
    max = vd_min(max, (uint64_t)EXTENTS_MAX);
    struct extent_list list = {.extents = json_array(), .max = vd_max(max, (uint64_t)1)};
    r = vd_disk_each_extent(disk, off_bytes, vd_min(len_bytes, (uint64_t)INT64_MAX - off_bytes),
                            add_extent, &list);
    if (r < 0) {
        json_decref(list.extents);
        return r;
    }
    *ret_ok = json_pack("{s:o, s:o}", "extents", list.extents, "next",
                        r > 0 ? json_integer((json_int_t)list.next_bytes) : json_null());
    return 0;
}
