// SPDX-License-Identifier: Apache-2.0
/* A disk's filters as its metadata name them, whether or not a daemon has it open. */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_meta_filter.h"

const char *cli_filter_class(uint64_t filter_class)
{
    static const char *const names[] = {"inspection", "replication", "encryption", "quota"};
    return filter_class >= 1 && filter_class <= VD_ARRAY_SIZE(names) ? names[filter_class - 1]
                                                                     : "unknown";
}

json_t *cli_filter_config(const char *lines)
{
    json_t *o = json_object();
    vd_cleanup_free char *copy = strdup(lines);
    char *save = NULL;
    for (char *line = copy ? strtok_r(copy, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        char *eq = strchr(line, '=');
        if (!eq)
            continue;
        *eq = '\0';
        json_object_set_new(o, line, vd_ctl_text(eq + 1));
    }
    return o;
}

static int add(void *user, const struct vd_filter_record *r)
{
    return json_array_append_new(user, json_pack("{s:s, s:s, s:o, s:b}", "name", r->name, "class",
                                                 cli_filter_class(r->filter_class), "config",
                                                 cli_filter_config(r->config), "required",
                                                 (int)r->required)) < 0
               ? -ENOMEM
               : 0;
}

json_t *cli_filters(const struct cli_place *p, const struct cli_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY] = "";
    json_t *list = json_array();
    if (!p->store || !d->bound || !d->recorded)
        return list;
    int r = vd_meta_open(p->store, &d->uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_each_filter(m, add, list);
    if (r < 0 && r != -ENOENT)
        cli_warn(d->name, "its filters cannot be read: %s",
                 why[0] ? why
                 : m    ? vd_meta_why(m)
                        : strerror(-r));
    return list;
}
