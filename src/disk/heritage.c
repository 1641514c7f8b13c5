// SPDX-License-Identifier: Apache-2.0
/*
 * What a clone has of its parent's filters: those without which the bytes that it shares mean nothing (encryption), with
 * their private metadata. Read from the parent's metadata and written into the clone's, one session after the other.
 */
#include "heritage.h"

#include <string.h>

#include "disk.h"
#include "vd_meta_filter.h"

struct heritage {
    struct vd_filter_record *specs;
    size_t nspecs;
    struct datum *data;
    size_t ndata;
};

struct datum {
    char filter[VD_META_FILTER_NAME], key[VD_META_FILTER_KEY];
    void *value;
    size_t len;
};

void vd__heritage_free(struct heritage *h)
{
    for (size_t i = 0; h && i < h->ndata; i++)
        free(h->data[i].value);
    if (h) {
        free(h->data);
        free(h->specs);
    }
    free(h);
}

struct gather_data {
    struct heritage *h;
    const char *filter;
};

static int gather_datum(void *user, const char *key, const void *value, size_t len)
{
    struct gather_data *g = user;
    struct datum *data = realloc(g->h->data, (g->h->ndata + 1) * sizeof(*data));
    if (!data)
        return -ENOMEM;
    g->h->data = data;
    struct datum *x = &data[g->h->ndata];
    *x = (struct datum){.value = malloc(len + 1), .len = len};
    if (!x->value)
        return -ENOMEM;
    memcpy(x->value, value, len);
    snprintf(x->filter, sizeof(x->filter), "%s", g->filter);
    snprintf(x->key, sizeof(x->key), "%s", key);
    g->h->ndata++;
    return 0;
}

static int gather_record(void *user, const struct vd_filter_record *r)
{
    struct heritage *h = user;
    if (!r->cloned)
        return 0;
    struct vd_filter_record *specs = realloc(h->specs, (h->nspecs + 1) * sizeof(*specs));
    if (!specs)
        return -ENOMEM;
    h->specs = specs;
    h->specs[h->nspecs++] = *r;
    return 0;
}

int vd__heritage_read(struct vd_meta *m, struct heritage **ret_h)
{
    struct heritage *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    int r = vd_meta_each_filter(m, gather_record, h);
    for (size_t i = 0; r == 0 && i < h->nspecs; i++) {
        struct gather_data g = {.h = h, .filter = h->specs[i].name};
        r = vd_meta_each_filter_data(m, h->specs[i].name, gather_datum, &g);
    }
    if (r < 0)
        vd__heritage_free(h);
    else
        *ret_h = h;
    return r;
}

bool vd__heritage_required(const struct heritage *h)
{
    for (size_t i = 0; i < h->nspecs; i++)
        if (h->specs[i].required)
            return true;
    return false;
}

int vd__heritage_write(const struct heritage *h, struct vd_meta *m)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < h->nspecs; i++)
        r = vd_meta_put_filter(m, &h->specs[i]);
    for (size_t i = 0; r == 0 && i < h->ndata; i++)
        r = vd_meta_put_filter_data(m, h->data[i].filter, h->data[i].key, h->data[i].value,
                                    h->data[i].len);
    return r;
}
