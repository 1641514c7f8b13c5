// SPDX-License-Identifier: Apache-2.0
/*
 * Fills: a token in its layer's list from before the backing is read. Two tokens never overlap, nor
 * a token and a write that began before it. Who finds a block taken waits on that token and reads
 * the cache again when it has ended, whatever became of it: so nobody is ever handed the bytes of a
 * fill that a write has overtaken.
 */
#include "engine.h"

int vd__fill_begin(struct vd_cache_layer *layer, struct vd_cache_fill *f)
{
    struct vd__layer *l = vd__layer(layer);
    struct vd_list *it;
    if (!vd__usable(l->engine))
        return -EAGAIN;
    vd_list_init(&f->link);
    vd_list_init(&f->waiters);
    f->poisoned = false;
    int r = 0;
    pthread_mutex_lock(&l->mu);
    vd_list_for_each (it, &l->writes) {
        struct vd_cache_write *w = vd_list_entry(it, struct vd_cache_write, link);
        if (vd__overlap(w->first_block, w->nblocks, f->first_block, f->nblocks)) {
            r = -EAGAIN;
            goto out;
        }
    }
    vd_list_for_each (it, &l->fills) {
        struct vd_cache_fill *other = vd_list_entry(it, struct vd_cache_fill, link);
        if (vd__overlap(other->first_block, other->nblocks, f->first_block, f->nblocks)) {
            r = f->ready ? 1 : -EAGAIN;
            if (f->ready)
                vd_list_add_tail(&other->waiters, &f->link);
            goto out;
        }
    }
    vd_list_add_tail(&l->fills, &f->link);
out:
    pthread_mutex_unlock(&l->mu);
    return r;
}

/* Takes F out and wakes its waiters. Each may free or reuse its own memory from ready on, and F's
 * owner F's memory from our return on, so both are left alone after. */
static void end(struct vd__layer *l, struct vd_cache_fill *f)
{
    struct vd_list waiters;
    vd_list_init(&waiters);
    pthread_mutex_lock(&l->mu);
    vd_list_del(&f->link);
    while (!vd_list_empty(&f->waiters)) {
        struct vd_list *it = f->waiters.next;
        vd_list_del(it);
        vd_list_add_tail(&waiters, it);
    }
    pthread_mutex_unlock(&l->mu);
    while (!vd_list_empty(&waiters)) {
        struct vd_cache_fill *w = vd_list_entry(waiters.next, struct vd_cache_fill, link);
        vd_list_del(&w->link);
        w->ready(w);
    }
}

void vd__fill_commit(struct vd_cache_layer *layer, struct vd_cache_fill *f, const void *buf,
                     const uint64_t *which)
{
    struct vd__layer *l = vd__layer(layer);
    struct vd__admission a = {.layer = l,
                              .buf = buf,
                              .first_block = f->first_block,
                              .nblocks = f->nblocks,
                              .which = which,
                              .gate = &f->poisoned,
                              .open = false};
    vd__admit(&a);
    end(l, f);
}

void vd__fill_abort(struct vd_cache_layer *layer, struct vd_cache_fill *f)
{
    end(vd__layer(layer), f);
}
