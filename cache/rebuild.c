// SPDX-License-Identifier: Apache-2.0
/*
 * The index made anew from the slot table: after a kill, a power cut, a damaged index, a resize.
 * Nothing is served or admitted meanwhile, so the thread is alone with slots, index and policy but
 * for stats; drops that come meanwhile are in the pending log and are applied before the cache is
 * ready.
 *
 * A record that was being changed (odd version), holds nothing, or has a key that another slot has
 * too, is wiped. Everything else is kept as it is; the checksums decide later.
 */
#include <signal.h>
#include <string.h>

#include "engine.h"
#include "vd_log.h"
#include "vd_time.h"

#define BATCH 4096u

struct batch {
    struct vd__index_entry entry[BATCH];
    bool dup[BATCH];
    size_t n;
};

static bool stopped(struct vd__engine *e)
{
    return atomic_load_explicit(&e->stopping, memory_order_relaxed) || vd__dead(e);
}

static void wipe(struct vd__engine *e, uint32_t slot)
{
    vd__slot_wipe(&e->slots, vd__slot(&e->slots, slot));
}

static int add_batch(struct vd__engine *e, struct batch *b)
{
    int r = b->n ? vd__index_add(&e->index, b->entry, b->n, b->dup) : 0;
    if (r < 0 && !vd__no_room(r))
        return r;
    if (r < 0)
        vd__count(e, ERRORS, 1);
    pthread_mutex_lock(&e->alloc_mu);
    for (size_t i = 0; i < b->n; i++) {
        const struct vd__index_entry *entry = &b->entry[i];
        if (r < 0 || b->dup[i])
            wipe(e, entry->slot);
        else
            e->policy->ops->put(e->policy, entry->slot, vd__key_hash(&entry->key, entry->slotno));
    }
    pthread_mutex_unlock(&e->alloc_mu);
    b->n = 0;
    return 0;
}

/* Whether the slot holds something to keep; else it is free. */
static bool examine(struct vd__engine *e, uint32_t slot, struct vd__index_entry *ret_entry)
{
    struct vd__slot *r = vd__slot(&e->slots, slot);
    uint32_t i = 0;
    vd__slot_key(r, &ret_entry->key, &ret_entry->slotno);
    ret_entry->slot = slot;
    while (i < e->slots.slot_blocks && !vd__slot_word(r, i))
        i++;
    bool empty = i == e->slots.slot_blocks, has_key = !vd_id_is_zero(&ret_entry->key.disk_id);
    bool keep = !empty && has_key && !(vd__slot_version(r) & 1);
    if (!keep && (!empty || has_key || vd__slot_version(r) & 1))
        wipe(e, slot);
    return keep;
}

static int walk_table(struct vd__engine *e)
{
    struct batch *b = malloc(sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->n = 0;
    int r = 0;
    for (uint32_t i = 0; i < e->slots.nslots && r == 0; i++) {
        if (i % 1024 == 0 && stopped(e))
            r = -ECANCELED;
        else if (examine(e, i, &b->entry[b->n]) && ++b->n == BATCH)
            r = add_batch(e, b);
    }
    if (r == 0)
        r = add_batch(e, b);
    free(b);
    return r;
}

static void apply_pending(struct vd__engine *e)
{
    struct vd__pending taken;
    while (!stopped(e) && vd__pending_take(e, &taken)) {
        for (uint32_t i = 0; taken.all && i < e->slots.nslots; i++)
            vd__slot_clear(vd__slot(&e->slots, i), 0, e->slots.slot_blocks);
        for (size_t i = 0; !taken.all && i < taken.n; i++)
            vd__clear_range(e, &taken.ranges[i].key, taken.ranges[i].first_block,
                            taken.ranges[i].nblocks);
        free(taken.ranges);
    }
}

static void say_rebuilt(struct vd__engine *e)
{
    pthread_mutex_lock(&e->ready_mu);
    e->rebuilt = true;
    pthread_cond_broadcast(&e->ready_cond);
    pthread_mutex_unlock(&e->ready_mu);
}

static void *rebuild(void *arg)
{
    struct vd__engine *e = arg;
    uint64_t began = vd_now_ms();
    int r = walk_table(e);
    if (r < 0 && r != -ECANCELED)
        vd__die(e, "index.mdb: rebuild: %s", strerror(-r));
    if (r == 0)
        apply_pending(e);
    say_rebuilt(e);
    if (!atomic_load(&e->ready))
        return NULL;
    vd_log_debug("cache: index rebuilt in %llu ms: %u slots in use",
                 (unsigned long long)(vd_now_ms() - began), e->policy->ops->used(e->policy));
    pthread_mutex_lock(&e->sync_mu);
    vd__pending_end(e);
    pthread_mutex_unlock(&e->sync_mu);
    return NULL;
}

int vd__rebuild_start(struct vd__engine *e)
{
    /* Signals are for the threads that expect them; the faults of this one still reach it. */
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = -pthread_create(&e->rebuilder, NULL, rebuild, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    e->rebuilding = r == 0;
    return r;
}

void vd__rebuild_wait(struct vd__engine *e, unsigned timeout_ms)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += timeout_ms / 1000;
    ts.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&e->ready_mu);
    while (!e->rebuilt && !pthread_cond_timedwait(&e->ready_cond, &e->ready_mu, &ts))
        ;
    pthread_mutex_unlock(&e->ready_mu);
}

void vd__rebuild_stop(struct vd__engine *e)
{
    if (!e->rebuilding)
        return;
    atomic_store(&e->stopping, true);
    pthread_join(e->rebuilder, NULL);
    e->rebuilding = false;
}
