// SPDX-License-Identifier: Apache-2.0
/*
 * What a power cut leaves. First it is found out what is durable, then chance decides about the
 * rest, then the events that survive are played in their order.
 *
 * Durable is what a sync that had ended before the cut covers, which is what stood in the history
 * when the sync began:
 *
 *   fsync      of a file its bytes, size, attributes and time stamps; of a folder its names
 *   fdatasync  of a file its bytes and size; of a folder its names
 *   O_DSYNC    the bytes of that write, and that they are inside of the file
 *   settle     all that there is
 *
 * The rest:
 *
 *   bytes      each unit of each write is kept or lost, in any order: a byte holds what any write
 *              since the last sync put there, or what stood there before. The unit is 512 bytes,
 *              4096, or the whole write, and how many are kept is drawn too, from none to all, for
 *              each file: so all of one file may be there and nothing of another
 *   size       truncations, growth, holes and zeroed ranges of one file happened up to some moment
 *              and not after it. Bytes kept past the size are lost; a size without its bytes reads
 *              as zeros there
 *   attributes and time stamps of one file: up to some moment each; the bytes do not wait for them
 *   names      `strict`: any of them happened, but of those that touch one name in one folder the
 *              earlier before the later. A rename is whole or not at all; a sync of either of its
 *              folders makes it durable, and with it what went before on its names. The sync of a
 *              file says nothing of its name
 *              `random`: as a journal that knows one order (ext4): names, attributes, stamps and
 *              sizes of all files happened up to one moment, which no durable one of them is after,
 *              and a sync of a file covers its own names
 *   kept, dropped   everything that was done, and (in the sense of `strict`) nothing but what is
 *              durable
 *
 * What is below the folder TOLD_NAME is exempt: it is there whole, up to the cut. Not modelled:
 * sync(2) and syncfs, which FUSE does not pass on (they count for nothing); a device that lies of a
 * sync, damages what it does not write, or tears a sector; inode numbers that are used again; a
 * write of a file while a sync of the same file is under way, which FUSE lets nobody do.
 */
#include <string.h>

#include "powercut.h"

/* Of one inode. Positions are those of events. */
struct fate {
    uint64_t data_upto, all_upto;          /* durable before: bytes and size; and the rest */
    uint64_t size_end, attr_end, time_end; /* what is not durable happened before these */
    uint32_t unit;                         /* 0: whole writes */
    uint32_t keep;                         /* of 1000 units */
    bool told;
};

struct keys {
    uint64_t *slots;
    uint64_t mask;
};

struct plan {
    const struct history *h;
    const struct cut *c;
    struct world *w;
    uint64_t rng;
    uint64_t settled;
    struct fate *fates; /* by inode number */
    uint64_t nfates;
    bool *happens; /* of events that concern names */
};

static const char *const mode_names[CUT_MODES] = {"kept", "dropped", "random", "strict"};

const char *cut_mode_name(enum cut_mode mode)
{
    return mode_names[mode];
}

int cut_mode_parse(const char *text, enum cut_mode *ret_mode)
{
    for (int i = 0; i < CUT_MODES; i++)
        if (strcmp(text, mode_names[i]) == 0) {
            *ret_mode = (enum cut_mode)i;
            return 0;
        }
    return -EINVAL;
}

uint64_t cut_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool is_name(const struct event *e)
{
    return e->type == EV_CREATE || e->type == EV_LINK || e->type == EV_UNLINK ||
           e->type == EV_RENAME;
}

static bool is_attr(const struct event *e)
{
    return e->type == EV_SETXATTR || e->type == EV_REMOVEXATTR || e->type == EV_ATTR;
}

static bool is_size(const struct event *e)
{
    return e->type == EV_TRUNCATE || e->type == EV_ALLOCATE;
}

static bool chance(struct plan *p, uint32_t per_mille)
{
    return cut_random(&p->rng) % 1000 < per_mille;
}

/* ---- what is durable ---- */

static int note(struct plan *p, const struct event *e, uint64_t i)
{
    const struct fate *dir = e->dir < p->nfates ? &p->fates[e->dir] : NULL;
    if (e->ino >= p->nfates || !dir || e->dir2 >= p->nfates)
        return -EBADMSG;
    struct fate *f = &p->fates[e->ino];
    if (e->type == EV_SETTLE)
        p->settled = i;
    if (e->type == EV_CREATE)
        f->told = dir->told || (e->dir == ROOT_INO && strcmp(e->name, TOLD_NAME) == 0);
    if (e->type == EV_SYNC) {
        f->data_upto = vd_max(f->data_upto, e->off);
        if (!e->flags)
            f->all_upto = vd_max(f->all_upto, e->off);
    }
    return 0;
}

static uint64_t folder_upto(const struct plan *p, uint64_t dir)
{
    return dir ? vd_max(p->fates[dir].data_upto, p->fates[dir].all_upto) : 0;
}

static bool durable(const struct plan *p, const struct event *e, uint64_t i)
{
    const struct fate *f = &p->fates[e->ino];
    if (i < p->settled || f->told)
        return true;
    if (is_attr(e))
        return i < f->all_upto;
    if (!is_name(e))
        return i < f->data_upto || (e->type == EV_WRITE && e->flags);
    return i < folder_upto(p, e->dir) || i < folder_upto(p, e->dir2) ||
           (p->c->mode == CUT_RANDOM && i < vd_max(f->data_upto, f->all_upto));
}

/* ---- chance: names ---- */

/* Two names that share a number are taken for one, which only makes a cut a little tamer. */
static uint64_t key_of(uint64_t dir, const char *name)
{
    uint64_t k = dir * 0x9e3779b97f4a7c15ull;
    for (; *name; name++)
        k = (k ^ (uint8_t)*name) * 0x100000001b3ull;
    return k | 1;
}

static bool has_key(const struct keys *s, uint64_t key)
{
    uint64_t at = key >> 7 & s->mask;
    while (s->slots[at] && s->slots[at] != key)
        at = (at + 1) & s->mask;
    return s->slots[at] == key;
}

static void add_key(struct keys *s, uint64_t key)
{
    uint64_t at = key >> 7 & s->mask;
    while (s->slots[at] && s->slots[at] != key)
        at = (at + 1) & s->mask;
    s->slots[at] = key;
}

static bool touches(const struct keys *s, const struct event *e)
{
    return has_key(s, key_of(e->dir, e->name)) ||
           (e->type == EV_RENAME && has_key(s, key_of(e->dir2, e->name2)));
}

static void touch(struct keys *s, const struct event *e)
{
    add_key(s, key_of(e->dir, e->name));
    if (e->type == EV_RENAME)
        add_key(s, key_of(e->dir2, e->name2));
}

static int keys_new(struct keys *s, uint64_t n)
{
    s->mask = 16;
    while (s->mask < 4 * n)
        s->mask *= 2;
    s->slots = calloc(s->mask--, sizeof(uint64_t));
    return s->slots ? 0 : -ENOMEM;
}

static uint64_t count_names(const struct plan *p)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < p->c->at; i++)
        n += is_name(&p->h->events[i]);
    return n;
}

/* Backwards: what is durable needs what went before on its names. Forwards: what did not happen
 * keeps what comes after it on its names from happening. */
static int names_in_any_order(struct plan *p)
{
    static const uint32_t rates[] = {100, 500, 900};
    struct keys needed = {0}, lost = {0};
    uint64_t n = count_names(p);
    int r = keys_new(&needed, n);
    if (r == 0)
        r = keys_new(&lost, n);
    uint32_t rate = p->c->mode == CUT_KEPT      ? 1000
                    : p->c->mode == CUT_DROPPED ? 0
                                                : rates[cut_random(&p->rng) % 3];
    for (uint64_t i = p->c->at; r == 0 && i-- > 0;) {
        const struct event *e = &p->h->events[i];
        if (!is_name(e))
            continue;
        p->happens[i] = durable(p, e, i) || touches(&needed, e);
        if (p->happens[i])
            touch(&needed, e);
    }
    for (uint64_t i = 0; r == 0 && i < p->c->at; i++) {
        const struct event *e = &p->h->events[i];
        if (!is_name(e))
            continue;
        p->happens[i] = p->happens[i] || (!touches(&lost, e) && chance(p, rate));
        if (!p->happens[i])
            touch(&lost, e);
    }
    free(needed.slots);
    free(lost.slots);
    return r;
}

/* A moment between LOW and the cut; either end is as likely as all between. */
static uint64_t moment(struct plan *p, uint64_t low)
{
    uint64_t at = p->c->at, dice = cut_random(&p->rng), where = cut_random(&p->rng);
    low = vd_min(low, at);
    if (p->c->mode == CUT_KEPT || p->c->mode == CUT_DROPPED)
        return p->c->mode == CUT_KEPT ? at : low;
    return dice % 3 == 0 ? low : dice % 3 == 1 ? at : low + where % (at - low + 1);
}

/* The moment that the journal had reached. */
static uint64_t names_in_one_order(struct plan *p)
{
    uint64_t low = 0;
    for (uint64_t i = 0; i < p->c->at; i++) {
        const struct event *e = &p->h->events[i];
        bool journaled = is_name(e) || is_attr(e) || is_size(e);
        if (journaled && !p->fates[e->ino].told && durable(p, e, i))
            low = i + 1;
    }
    uint64_t end = moment(p, low);
    for (uint64_t i = 0; i < p->c->at; i++)
        p->happens[i] = i < end || durable(p, &p->h->events[i], i);
    return end;
}

/* ---- chance: the rest ---- */

static void draw_fates(struct plan *p, uint64_t journal_end)
{
    static const uint32_t units[] = {512, PAGE_BYTES, 0}, rates[] = {0, 100, 500, 900, 1000};
    for (uint64_t i = 0; i < p->nfates; i++) {
        struct fate *f = &p->fates[i];
        f->unit = units[cut_random(&p->rng) % VD_ARRAY_SIZE(units)];
        f->keep = rates[cut_random(&p->rng) % VD_ARRAY_SIZE(rates)];
        if (p->c->mode == CUT_KEPT || p->c->mode == CUT_DROPPED)
            f->keep = p->c->mode == CUT_KEPT ? 1000 : 0;
        f->size_end = moment(p, vd_max(p->settled, f->data_upto));
        f->attr_end = moment(p, vd_max(p->settled, f->all_upto));
        f->time_end = moment(p, vd_max(p->settled, f->all_upto));
        if (p->c->mode == CUT_RANDOM)
            f->size_end = f->attr_end = f->time_end = journal_end;
    }
}

/* ---- playing ---- */

static void play_write(struct plan *p, struct node *n, const struct event *e, uint64_t i)
{
    const struct fate *f = &p->fates[e->ino];
    uint64_t end = e->off + e->data_len;
    if (durable(p, e, i)) {
        node_write(n, e->off, e->data, e->data_len);
        return;
    }
    if (i < f->size_end)
        n->size = vd_max(n->size, end);
    for (uint64_t off = e->off, next; off < end; off = next) {
        next = f->unit ? vd_min(end, vd_align_down(off, (uint64_t)f->unit) + f->unit) : end;
        uint64_t stop = vd_min(next, n->size);
        if (chance(p, f->keep) && off < stop)
            node_write(n, off, e->data + (off - e->off), stop - off);
    }
}

static void play(struct plan *p, const struct event *e, uint64_t i)
{
    const struct fate *f = &p->fates[e->ino];
    struct node *n = world_node(p->w, e->ino);
    if (is_name(e)) {
        if (p->happens[i])
            world_apply_names(p->w, e);
        return;
    }
    if (is_attr(e)) {
        if (durable(p, e, i) || i < f->attr_end)
            node_apply_attr(n, e);
        return;
    }
    if (e->type == EV_WRITE)
        play_write(p, n, e, i);
    else if (!is_size(e) || !(durable(p, e, i) || i < f->size_end))
        return;
    else if (e->type == EV_TRUNCATE)
        node_resize(n, e->off);
    else
        node_allocate(n, e);
    if (f->told || i < vd_max(p->settled, f->all_upto) || i < f->time_end)
        n->mtime_ns = n->ctime_ns = e->time_ns;
}

static int play_all(struct plan *p, uint64_t first)
{
    for (uint64_t i = first; i < p->c->at; i++) {
        const struct event *e = &p->h->events[i];
        if (e->type == EV_CREATE)
            world_make_node(p->w, e);
        if ((e->ino && !world_node(p->w, e->ino)) || (e->dir && !world_node(p->w, e->dir)) ||
            (e->dir2 && !world_node(p->w, e->dir2)))
            return -EBADMSG;
        if (e->ino)
            play(p, e, i);
    }
    world_count_links(p->w);
    return 0;
}

/* What the history begins with: nothing, or what a cut of another history left. */
static int begin(struct plan *p)
{
    const struct event *e = &p->h->events[0];
    if (p->h->n == 0 || p->c->at == 0 || e->type != EV_BASE) {
        p->w = world_new();
        return 0;
    }
    struct history *base = NULL;
    int r = history_load(e->name, &base);
    if (r < 0)
        return r;
    r = cut_world(base, &(struct cut){e->off, (enum cut_mode)e->flags, e->len}, &p->w);
    history_free(base);
    return r;
}

static int plan_and_play(struct plan *p)
{
    int r = begin(p);
    if (r < 0)
        return r;
    p->nfates = vd_max(p->w->nnodes, UINT64_C(2));
    for (uint64_t i = 0; i < p->c->at; i++)
        if (p->h->events[i].type == EV_CREATE)
            p->nfates = vd_max(p->nfates, p->h->events[i].ino + 1);
    p->fates = calloc(p->nfates, sizeof(*p->fates));
    p->happens = calloc(p->c->at + 1, sizeof(bool));
    if (!p->fates || !p->happens)
        return -ENOMEM;
    for (uint64_t i = 0; i < p->w->nnodes; i++)
        p->fates[i].told = p->w->nodes[i] && p->w->nodes[i]->told;
    uint64_t first = p->h->n && p->h->events[0].type == EV_BASE ? 1 : 0, journal_end = 0;
    for (uint64_t i = first; r == 0 && i < p->c->at; i++)
        r = note(p, &p->h->events[i], i);
    if (r == 0 && p->c->mode == CUT_RANDOM)
        journal_end = names_in_one_order(p);
    else if (r == 0)
        r = names_in_any_order(p);
    if (r < 0)
        return r;
    draw_fates(p, journal_end);
    return play_all(p, first);
}

int cut_world(const struct history *h, const struct cut *c, struct world **ret_w)
{
    struct cut within = *c;
    within.at = vd_min(c->at, h->n);
    struct plan p = {.h = h, .c = &within, .rng = c->seed};
    int r = plan_and_play(&p);
    free(p.fates);
    free(p.happens);
    if (r < 0)
        world_free(p.w);
    else
        *ret_w = p.w;
    return r;
}
