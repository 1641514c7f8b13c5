// SPDX-License-Identifier: Apache-2.0
/*
 * A tree of files in memory. Inode numbers are never used twice, so an event means the same inode
 * in every world of its history; that is what lets a replayed source keep the inode numbers and
 * time stamps by which vdiskfs knows its disks, and lets parts of two cuts stand together.
 *
 * Times: what changes bytes sets mtime and ctime, what changes names or attributes of an inode its
 * ctime, what changes a folder's names the folder's mtime and ctime; as Linux file systems do.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "powercut.h"

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "powercut: no memory\n");
        abort();
    }
    return p;
}

struct world *world_new(void)
{
    struct world *w = must(calloc(1, sizeof(*w)));
    world_make_node(w, &(struct event){.ino = ROOT_INO, .mode = S_IFDIR | 0755});
    world_node(w, ROOT_INO)->nlink = 2;
    return w;
}

static void node_free(struct node *n)
{
    if (!n)
        return;
    for (uint64_t i = 0; i < n->npages; i++)
        free(n->pages[i]);
    for (uint32_t i = 0; i < n->nentries; i++)
        free(n->entries[i].name);
    for (uint32_t i = 0; i < n->nxattrs; i++) {
        free(n->xattrs[i].name);
        free(n->xattrs[i].value);
    }
    free(n->pages);
    free(n->entries);
    free(n->xattrs);
    free(n->target);
    free(n);
}

void world_free(struct world *w)
{
    if (!w)
        return;
    for (uint64_t i = 0; i < w->nnodes; i++)
        node_free(w->nodes[i]);
    free(w->nodes);
    free(w);
}

struct node *world_node(const struct world *w, uint64_t ino)
{
    return ino < w->nnodes ? w->nodes[ino] : NULL;
}

/* ---- names ---- */

static struct entry *find_entry(const struct node *dir, const char *name)
{
    for (uint32_t i = 0; i < dir->nentries; i++)
        if (strcmp(dir->entries[i].name, name) == 0)
            return &dir->entries[i];
    return NULL;
}

struct node *world_find(const struct world *w, const struct node *dir, const char *name)
{
    struct entry *e = find_entry(dir, name);
    return e ? world_node(w, e->ino) : NULL;
}

static void add_entry(struct node *dir, const char *name, uint64_t ino)
{
    dir->entries = must(reallocarray(dir->entries, dir->nentries + 1, sizeof(*dir->entries)));
    dir->entries[dir->nentries++] =
        (struct entry){.name = must(strdup(name)), .ino = ino, .cookie = ++dir->last_cookie};
}

static void remove_entry(struct world *w, struct node *dir, const char *name, int64_t time_ns)
{
    struct entry *e = find_entry(dir, name);
    if (!e)
        return;
    struct node *n = world_node(w, e->ino);
    n->nlink -= S_ISDIR(n->mode) ? vd_min(n->nlink, 2u) : vd_min(n->nlink, 1u);
    n->ctime_ns = time_ns;
    free(e->name);
    memmove(e, e + 1, (size_t)(dir->entries + dir->nentries - (e + 1)) * sizeof(*e));
    dir->nentries--;
}

static void rename_entry(struct world *w, const struct event *e)
{
    struct node *from = world_node(w, e->dir), *to = world_node(w, e->dir2);
    struct entry *a = find_entry(from, e->name), *b = find_entry(to, e->name2);
    if (!a || a == b)
        return;
    uint64_t ino = a->ino;
    if (e->flags & RENAME_EXCHANGE && b) {
        a->ino = b->ino;
        b->ino = ino;
    } else {
        world_node(w, ino)->nlink += S_ISDIR(world_node(w, ino)->mode) ? 2 : 1;
        remove_entry(w, from, e->name, e->time_ns);
        remove_entry(w, to, e->name2, e->time_ns);
        add_entry(to, e->name2, ino);
    }
    world_node(w, ino)->ctime_ns = e->time_ns;
    to->mtime_ns = to->ctime_ns = e->time_ns;
}

void world_apply_names(struct world *w, const struct event *e)
{
    struct node *dir = world_node(w, e->dir), *n = world_node(w, e->ino);
    switch (e->type) {
    case EV_CREATE:
    case EV_LINK:
        add_entry(dir, e->name, e->ino);
        n->nlink += S_ISDIR(n->mode) ? 2 : 1;
        n->ctime_ns = e->time_ns;
        break;
    case EV_UNLINK:
        remove_entry(w, dir, e->name, e->time_ns);
        break;
    case EV_RENAME:
        rename_entry(w, e);
        break;
    }
    dir->mtime_ns = dir->ctime_ns = e->time_ns;
}

void world_make_node(struct world *w, const struct event *e)
{
    if (e->ino >= w->nnodes) {
        uint64_t n = vd_max(e->ino + 1, UINT64_C(2));
        w->nodes = must(reallocarray(w->nodes, n, sizeof(struct node *)));
        memset(w->nodes + w->nnodes, 0, (n - w->nnodes) * sizeof(struct node *));
        w->nnodes = n;
    }
    struct node *n = must(calloc(1, sizeof(*n)));
    *n = (struct node){.ino = e->ino,
                       .mode = (uint32_t)e->mode,
                       .uid = (uint32_t)e->uid,
                       .gid = (uint32_t)e->gid,
                       .rdev = e->off,
                       .mtime_ns = e->time_ns,
                       .ctime_ns = e->time_ns};
    if (S_ISLNK(e->mode)) {
        n->target = must(strndup((const char *)e->data, e->data_len));
        n->size = e->data_len;
    }
    const struct node *dir = e->dir ? world_node(w, e->dir) : NULL;
    n->told = dir && (dir->told || (dir->ino == ROOT_INO && strcmp(e->name, TOLD_NAME) == 0));
    w->nodes[e->ino] = n;
}

static void count_below(struct world *w, struct node *dir)
{
    dir->nlink = 2;
    for (uint32_t i = 0; i < dir->nentries; i++) {
        struct node *n = world_node(w, dir->entries[i].ino);
        if (S_ISDIR(n->mode)) {
            dir->nlink++;
            count_below(w, n);
        } else {
            n->nlink++;
        }
    }
}

void world_count_links(struct world *w)
{
    for (uint64_t i = 0; i < w->nnodes; i++)
        if (w->nodes[i])
            w->nodes[i]->nlink = 0;
    count_below(w, world_node(w, ROOT_INO));
}

static void move_tree(struct world *w, struct world *from, uint64_t ino)
{
    struct node *n = world_node(from, ino);
    if (!n)
        return; /* a second name of what was moved already */
    if (ino >= w->nnodes) {
        w->nodes = must(reallocarray(w->nodes, ino + 1, sizeof(struct node *)));
        memset(w->nodes + w->nnodes, 0, (ino + 1 - w->nnodes) * sizeof(struct node *));
        w->nnodes = ino + 1;
    }
    node_free(w->nodes[ino]);
    w->nodes[ino] = n;
    from->nodes[ino] = NULL;
    for (uint32_t i = 0; i < n->nentries; i++)
        move_tree(w, from, n->entries[i].ino);
}

void world_graft(struct world *w, struct world *from, const char *name)
{
    struct node *root = world_node(w, ROOT_INO);
    const struct node *other = world_find(from, world_node(from, ROOT_INO), name);
    remove_entry(w, root, name, root->mtime_ns);
    if (other) {
        add_entry(root, name, other->ino);
        move_tree(w, from, other->ino);
    }
    world_count_links(w);
}

/* ---- bytes ---- */

static uint8_t *page_at(struct node *n, uint64_t page)
{
    if (page >= n->npages) {
        uint64_t room = vd_max(page + 1, 2 * n->npages);
        n->pages = must(reallocarray(n->pages, room, sizeof(uint8_t *)));
        memset(n->pages + n->npages, 0, (room - n->npages) * sizeof(uint8_t *));
        n->npages = room;
    }
    if (!n->pages[page])
        n->pages[page] = must(calloc(1, PAGE_BYTES));
    return n->pages[page];
}

bool world_has_bytes(const struct node *n, uint64_t page)
{
    return page < n->npages && n->pages[page];
}

void node_read(const struct node *n, uint64_t off, uint8_t *buf, size_t len)
{
    while (len) {
        size_t at = off % PAGE_BYTES, part = vd_min(len, (size_t)PAGE_BYTES - at);
        if (world_has_bytes(n, off / PAGE_BYTES))
            memcpy(buf, n->pages[off / PAGE_BYTES] + at, part);
        else
            memset(buf, 0, part);
        buf += part;
        off += part;
        len -= part;
    }
}

void node_write(struct node *n, uint64_t off, const uint8_t *buf, size_t len)
{
    n->size = vd_max(n->size, off + len);
    while (len) {
        size_t at = off % PAGE_BYTES, part = vd_min(len, (size_t)PAGE_BYTES - at);
        memcpy(page_at(n, off / PAGE_BYTES) + at, buf, part);
        buf += part;
        off += part;
        len -= part;
    }
}

void node_zero(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t end = vd_min(off + len, n->npages * PAGE_BYTES);
    while (off < end) {
        uint64_t page = off / PAGE_BYTES, at = off % PAGE_BYTES;
        uint64_t part = vd_min(end - off, PAGE_BYTES - at);
        if (n->pages[page] && part == PAGE_BYTES) {
            free(n->pages[page]);
            n->pages[page] = NULL;
        } else if (n->pages[page]) {
            memset(n->pages[page] + at, 0, part);
        }
        off += part;
    }
}

void node_resize(struct node *n, uint64_t size)
{
    if (size < n->size)
        node_zero(n, size, n->size - size);
    n->size = size;
}

void node_allocate(struct node *n, const struct event *e)
{
    if (e->flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        node_zero(n, e->off, e->len);
    if (!(e->flags & FALLOC_FL_KEEP_SIZE))
        n->size = vd_max(n->size, e->off + e->len);
}

/* ---- attributes ---- */

struct xattr *node_xattr(const struct node *n, const char *name)
{
    for (uint32_t i = 0; i < n->nxattrs; i++)
        if (strcmp(n->xattrs[i].name, name) == 0)
            return &n->xattrs[i];
    return NULL;
}

static void set_xattr(struct node *n, const struct event *e)
{
    struct xattr *x = node_xattr(n, e->name);
    if (!x) {
        n->xattrs = must(reallocarray(n->xattrs, n->nxattrs + 1, sizeof(*n->xattrs)));
        x = &n->xattrs[n->nxattrs++];
        *x = (struct xattr){.name = must(strdup(e->name))};
    }
    free(x->value);
    x->value = must(malloc(e->data_len + 1));
    memcpy(x->value, e->data, e->data_len);
    x->len = e->data_len;
}

static void remove_xattr(struct node *n, const char *name)
{
    struct xattr *x = node_xattr(n, name);
    if (!x)
        return;
    free(x->name);
    free(x->value);
    *x = n->xattrs[--n->nxattrs];
}

void node_apply_attr(struct node *n, const struct event *e)
{
    if (e->type == EV_SETXATTR)
        set_xattr(n, e);
    else if (e->type == EV_REMOVEXATTR)
        remove_xattr(n, e->name);
    else {
        if (e->flags & ATTR_MODE)
            n->mode = (n->mode & S_IFMT) | ((uint32_t)e->mode & 07777);
        if (e->flags & ATTR_UID)
            n->uid = (uint32_t)e->uid;
        if (e->flags & ATTR_GID)
            n->gid = (uint32_t)e->gid;
        if (e->flags & ATTR_MTIME)
            n->mtime_ns = e->mtime_ns;
    }
    n->ctime_ns = e->time_ns;
}

void world_apply(struct world *w, const struct event *e)
{
    struct node *n = world_node(w, e->ino);
    switch (e->type) {
    case EV_CREATE:
        world_make_node(w, e);
        world_apply_names(w, e);
        break;
    case EV_LINK:
    case EV_UNLINK:
    case EV_RENAME:
        world_apply_names(w, e);
        break;
    case EV_WRITE:
        node_write(n, e->off, e->data, e->data_len);
        break;
    case EV_TRUNCATE:
        node_resize(n, e->off);
        break;
    case EV_ALLOCATE:
        node_allocate(n, e);
        break;
    case EV_SETXATTR:
    case EV_REMOVEXATTR:
    case EV_ATTR:
        node_apply_attr(n, e);
        break;
    }
    if (e->type == EV_WRITE || e->type == EV_TRUNCATE || e->type == EV_ALLOCATE)
        n->mtime_ns = n->ctime_ns = e->time_ns;
}
