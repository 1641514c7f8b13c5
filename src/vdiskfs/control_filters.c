// SPDX-License-Identifier: Apache-2.0
/* Commands about a disk's filters. */
#include <string.h>

#include "request.h"

int vd__do_filter_attach(const struct vd_request *q, json_t **ret_ok)
{
    struct vd__target t = VD__TARGET_INIT;
    char why[VD_META_WHY] = "";
    const char *name, *config = "";
    int r = vd__request_text(q, "name", &name);
    if (r == 0 && json_string_length(json_object_get(q->args, "config")))
        r = vd__request_text(q, "config", &config);
    if (r == 0)
        r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = vd_disks_filter_attach(q->d->disks, t.at.fd, t.at.path, name, config, why);
    return vd__request_finish(q, &t, r, why);
}

int vd__do_filter_detach(const struct vd_request *q, json_t **ret_ok)
{
    struct vd__target t = VD__TARGET_INIT;
    char why[VD_META_WHY] = "";
    const char *name;
    int r = vd__request_text(q, "name", &name);
    if (r == 0)
        r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = vd_disks_filter_detach(q->d->disks, t.at.fd, t.at.path, name, why);
    return vd__request_finish(q, &t, r, why);
}

json_t *vd__answer_filter(const struct vd_filter_report *f)
{
    static const char *const states[] = {
        [VD_FILTER_ACTIVE] = "active",
        [VD_FILTER_QUARANTINED] = "quarantined",
        [VD_FILTER_MISSING] = "missing",
    };
    json_t *o = json_pack(
        "{s:s, s:I, s:b, s:o, s:s, s:o, s:I, s:I, s:I, s:I, s:o}", "name", f->spec->name, "class",
        (json_int_t)f->spec->filter_class, "required", (int)f->spec->required, "config",
        vd_ctl_text(f->spec->config), "state", states[f->state], "why",
        *f->why ? vd_ctl_text(f->why) : json_null(), "requests", (json_int_t)f->requests, "errors",
        (json_int_t)f->errors, "faults", (json_int_t)f->faults, "deferred", (json_int_t)f->deferred,
        "callback_ns", f->callback_ns ? json_integer((json_int_t)f->callback_ns) : json_null());
    json_t *status = *f->status ? json_loads(f->status, 0, NULL) : NULL;
    json_object_set_new(o, "status", status ? status : json_null());
    return o;
}

static int add(void *user, const struct vd_filter_report *f)
{
    return json_array_append_new(user, vd__answer_filter(f)) < 0 ? -ENOMEM : 0;
}

/* Of an attached disk, from the top. */
int vd__do_filters(const struct vd_request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = vd__request_disk(q, &disk);
    if (r < 0)
        return r;
    json_t *list = json_array();
    r = vd_disk_each_filter(disk, true, add, list);
    if (r < 0)
        json_decref(list);
    else
        *ret_ok = json_pack("{s:o}", "filters", list);
    return r;
}
