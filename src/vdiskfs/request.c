// SPDX-License-Identifier: Apache-2.0
/* Arguments from a peer are checked for kind and range here; what they mean is the command's. */
#include "request.h"

#include <stdarg.h>
#include <string.h>

int vd__request_fail(const struct vd_request *q, int error, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (q->why_len)
        vsnprintf(q->why, q->why_len, fmt, args);
    va_end(args);
    return error;
}

int vd__request_number(const struct vd_request *q, const char *name, uint64_t *ret_value)
{
    json_t *v = json_object_get(q->args, name);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return vd__request_fail(q, -EINVAL, "\"%s\" must be a number", name);
    *ret_value = (uint64_t)json_integer_value(v);
    return 0;
}

int vd__request_id(const struct vd_request *q, const char *name, struct vd_id *ret_id)
{
    const char *hex = json_string_value(json_object_get(q->args, name));
    if (!hex || vd_id_parse(hex, ret_id) < 0)
        return vd__request_fail(q, -EINVAL, "\"%s\" must be an ID of 32 hex digits", name);
    return 0;
}

int vd__request_text(const struct vd_request *q, const char *name, const char **ret_text)
{
    const char *text = json_string_value(json_object_get(q->args, name));
    if (!text || !*text)
        return vd__request_fail(q, -EINVAL, "\"%s\" must be a text", name);
    *ret_text = text;
    return 0;
}

int vd__request_flag(const struct vd_request *q, const char *name, bool *ret_flag)
{
    json_t *v = json_object_get(q->args, name);
    if (v && !json_is_boolean(v))
        return vd__request_fail(q, -EINVAL, "\"%s\" must be true or false", name);
    *ret_flag = json_is_true(v);
    return 0;
}

int vd__request_inode(const struct vd_request *q, dev_t *ret_dev, ino_t *ret_ino)
{
    uint64_t dev, ino;
    int r = vd__request_number(q, "dev", &dev);
    if (r == 0)
        r = vd__request_number(q, "ino", &ino);
    if (r == 0) {
        *ret_dev = (dev_t)dev;
        *ret_ino = (ino_t)ino;
    }
    return r;
}

int vd__request_disk(const struct vd_request *q, struct vd_disk **ret_disk)
{
    dev_t dev;
    ino_t ino;
    int r = vd__request_inode(q, &dev, &ino);
    if (r == 0) {
        r = vd_disks_find(q->d->disks, dev, ino, ret_disk);
        if (r < 0)
            return vd__request_fail(q, r, "the disk is not open in this mount");
    }
    return r;
}

json_t *vd__answer_id(const struct vd_id *id)
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    return vd_id_is_zero(id) ? json_null() : json_string(hex);
}

json_t *vd__answer_stats(const struct vd_disk_stats *s)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"hits", s->hits},
        {"misses", s->misses},
        {"hit_bytes", s->hit_bytes},
        {"miss_bytes", s->miss_bytes},
        {"backing_reads", s->backing_reads},
        {"backing_read_bytes", s->backing_read_bytes},
        {"coalesced", s->coalesced},
        {"readahead_bytes", s->readahead_bytes},
        {"bypassed", s->bypassed},
        {"writes", s->writes},
        {"write_bytes", s->write_bytes},
        {"flushes", s->flushes},
        {"errors", s->errors},
    };
    json_t *o = json_object();
    for (size_t i = 0; i < VD_ARRAY_SIZE(fields); i++)
        json_object_set_new(o, fields[i].name, json_integer((json_int_t)fields[i].value));
    return o;
}
