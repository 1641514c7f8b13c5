// SPDX-License-Identifier: Apache-2.0
/*
 * vdisk tree: disks, snapshots and clones. A disk stands below the snapshot that it was cloned
 * from, where it began with the layer which that froze, else below the disk that it was cloned
 * from, else at the top. All disks of the source are read first, since a clone may be in any
 * folder; what is printed is one disk with all below it, or those of a folder.
 */
#include <fcntl.h>
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"

struct node {
    bool snapshot;
    char *name;
    struct vd_id uuid;           /* of the disk; of a snapshot, its disk's */
    struct vd_id id;             /* disk ID */
    struct vd_id parent, origin; /* of a clone: as its view says */
    uint64_t size_bytes;
    bool wanted; /* it is in the folder that was asked for */
    bool printed;
    size_t up, child, last_child, next; /* indices; 0: none, which no node has */
};

struct tree {
    struct cli *cli;
    struct cli_place *place;
    struct node *v;
    size_t n, room;
    struct cli_table *table;
    int failed;
};

static size_t add_node(struct tree *t, const char *name)
{
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 64;
        t->v = realloc(t->v, t->room * sizeof(*t->v));
        if (!t->v)
            abort();
        t->n += t->n == 0; /* number 0 stands for none */
    }
    struct node *n = &t->v[t->n];
    memset(n, 0, sizeof(*n));
    n->name = strdup(name);
    if (!n->name)
        abort();
    return t->n++;
}

static void put_below(struct tree *t, size_t parent, size_t child)
{
    struct node *p = &t->v[parent];
    if (p->last_child)
        t->v[p->last_child].next = child;
    else
        p->child = child;
    p->last_child = child;
    t->v[child].up = parent;
}

/* ---- reading ---- */

struct snapshots {
    struct tree *t;
    size_t disk;
};

static int add_snapshot(void *user, const struct vd_snapshot_record *r)
{
    struct snapshots *s = user;
    size_t i = add_node(s->t, r->name);
    struct node *n = &s->t->v[i];
    n->snapshot = true;
    n->uuid = s->t->v[s->disk].uuid;
    n->id = r->disk_id;
    n->size_bytes = r->size_bytes;
    put_below(s->t, s->disk, i);
    return 0;
}

static void add_snapshots(struct tree *t, const struct cli_disk *d, size_t disk)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY] = "";
    struct snapshots s = {t, disk};
    int r = vd_meta_open(t->place->store, &d->uuid, VD_META_READ, &m, why);
    if (r == 0) {
        r = vd_meta_each_snapshot(m, add_snapshot, &s);
        if (r < 0)
            snprintf(why, sizeof(why), "%s", vd_meta_why(m));
    }
    if (r < 0) {
        cli_warn(d->name, "its snapshots are not known: %s", why[0] ? why : strerror(-r));
        t->failed = CLI_FAILED;
    }
}

static int add_disk(void *user, const char *rel)
{
    struct tree *t = user;
    struct cli_disk d;
    int r = cli_disk_load(t->place, rel, &d);
    if (r < 0 && r != -ENOENT && r != -ENODATA) {
        cli_warn(rel, "%s", strerror(-r));
        t->failed = CLI_FAILED;
    }
    if (r == 0 && cli_disk_is(&d)) {
        if (d.refused)
            cli_warn(rel, "refused: %s", d.why);
        size_t i = add_node(t, d.name);
        struct node *n = &t->v[i];
        n->uuid = d.uuid;
        n->id = d.record.live_disk_id;
        n->size_bytes = d.size_bytes;
        if (d.layered) {
            n->parent = d.view.parent;
            n->origin = d.view.origin;
        }
        if (d.recorded)
            add_snapshots(t, &d, i);
    }
    cli_disk_free(&d);
    return 0;
}

/* ---- the order of things ---- */

/* Disks by UUID, snapshots by UUID and disk ID: to find a parent among thousands. */
static int compare(const void *a, const void *b, void *user)
{
    const struct tree *t = user;
    const struct node *x = &t->v[*(const size_t *)a], *y = &t->v[*(const size_t *)b];
    int c = memcmp(x->uuid.b, y->uuid.b, sizeof(x->uuid.b));
    if (c == 0)
        c = (int)x->snapshot - (int)y->snapshot;
    return c || !x->snapshot ? c : memcmp(x->id.b, y->id.b, sizeof(x->id.b));
}

/* The node of UUID: with ID the snapshot that froze that layer. 0: none. The last place of the
 * nodes is scratch. */
static size_t find(struct tree *t, size_t *order, const struct vd_id *uuid, const struct vd_id *id)
{
    size_t scratch = t->n, lo = 0, hi = t->n - 1;
    t->v[scratch] = (struct node){.uuid = *uuid, .snapshot = id != NULL};
    if (id)
        t->v[scratch].id = *id;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = compare(&scratch, &order[mid], t);
        if (c == 0)
            return order[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return 0;
}

static void arrange(struct tree *t)
{
    if (t->n == 0)
        return;
    size_t *order = calloc(t->n, sizeof(*order));
    struct node *v = realloc(t->v, (t->n + 1) * sizeof(*v));
    if (!order || !v)
        abort();
    t->v = v;
    for (size_t i = 1; i < t->n; i++)
        order[i - 1] = i;
    qsort_r(order, t->n - 1, sizeof(*order), compare, t);
    for (size_t i = 1; i < t->n; i++) {
        struct node *n = &t->v[i];
        if (n->snapshot || vd_id_is_zero(&n->parent))
            continue;
        size_t parent = find(t, order, &n->parent, &n->origin);
        if (!parent)
            parent = find(t, order, &n->parent, NULL);
        if (parent && parent != i)
            put_below(t, parent, i);
    }
    free(order);
}

/* ---- printing ---- */

static json_t *node_json(struct tree *t, size_t i)
{
    struct node *n = &t->v[i];
    json_t *children = json_array();
    n->printed = true;
    for (size_t c = n->child; c; c = t->v[c].next)
        if (!t->v[c].printed) /* damaged records may go in a circle */
            json_array_append_new(children, node_json(t, c));
    return json_pack("{s:o, s:o, s:s, s:o}", "name", vd_ctl_text(t->v[i].name), "disk_id",
                     cli_id_json(&t->v[i].id, true), "kind", n->snapshot ? "snapshot" : "disk",
                     "children", children);
}

static void add_rows(struct tree *t, size_t i, struct cli_row *parent)
{
    struct node *n = &t->v[i];
    char text[VD_ID_HEX];
    struct cli_row *row = cli_table_row_below(t->table, parent);
    n->printed = true;
    cli_table_set(t->table, 0, n->name);
    cli_table_set(t->table, 1, n->snapshot ? "snapshot" : "disk");
    cli_table_set(t->table, 2, cli_size(t->cli, n->size_bytes, text));
    vd_id_hex(&n->id, text);
    cli_table_set(t->table, 3, vd_id_is_zero(&n->id) ? NULL : text);
    for (size_t c = n->child; c; c = t->v[c].next)
        if (!t->v[c].printed)
            add_rows(t, c, row);
}

/* Is it printed below another that is wanted? Damaged records may go in a circle. */
static bool hangs(const struct tree *t, size_t i)
{
    size_t steps = 0;
    for (i = t->v[i].up; i && steps < t->n; i = t->v[i].up, steps++)
        if (t->v[i].wanted && !t->v[i].snapshot)
            return true;
    return false;
}

static int print_all(struct tree *t)
{
    static const struct cli_column columns[] = {
        {"NAME", false}, {"KIND", false}, {"SIZE", true}, {"DISK-ID", false}};
    json_t *disks = json_array();
    if (!t->cli->json)
        t->table = cli_table_new_tree(columns, VD_ARRAY_SIZE(columns));
    /* Those at the top first; then what is left, where records go in a circle. */
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 1; i < t->n; i++) {
            struct node *n = &t->v[i];
            if (n->snapshot || n->printed || !n->wanted || (pass == 0 && hangs(t, i)))
                continue;
            if (t->table)
                add_rows(t, i, NULL);
            else
                json_array_append_new(disks, node_json(t, i));
        }
    if (!t->table)
        return cli_print_json(json_pack("{s:o}", "disks", disks));
    json_decref(disks);
    return cli_table_print(t->table);
}

static int print_one(struct tree *t, size_t i)
{
    static const struct cli_column columns[] = {
        {"NAME", false}, {"KIND", false}, {"SIZE", true}, {"DISK-ID", false}};
    if (t->cli->json)
        return cli_print_json(node_json(t, i));
    t->table = cli_table_new_tree(columns, VD_ARRAY_SIZE(columns));
    add_rows(t, i, NULL);
    return cli_table_print(t->table);
}

/* Is the disk NAME in the folder REL ("": the source)? */
static bool is_in(const char *name, const char *rel)
{
    size_t len = strlen(rel);
    return !len || (strncmp(name, rel, len) == 0 && name[len] == '/');
}

static int print_tree(struct tree *t, const char *path, const char *rel)
{
    struct stat st;
    if (*rel && fstatat(t->place->source_fd, rel, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return cli_fail(t->cli, path, "%s", strerror(errno));
    if (!*rel || S_ISDIR(st.st_mode)) {
        for (size_t i = 1; i < t->n; i++)
            t->v[i].wanted = is_in(t->v[i].name, rel);
        return print_all(t);
    }
    for (size_t i = 1; i < t->n; i++)
        if (!t->v[i].snapshot && strcmp(t->v[i].name, rel) == 0)
            return print_one(t, i);
    return cli_fail(t->cli, path, "it is no disk");
}

int cmd_tree(struct cli *cli)
{
    struct cli_target target;
    struct tree t = {.cli = cli, .place = &target.place};
    const char *path = cli->nargs ? cli->args[0] : NULL;
    if (!cli_args_fit(cli, 0, 1))
        return cli_usage_error(cli);
    int r = path ? cli_resolve(cli, path, &target) : cli_resolve_only(cli, &target);
    if (r != 0)
        return r;
    r = cli_walk(&target.place, "", add_disk, &t);
    if (r < 0) {
        r = cli_fail(cli, path, "%s", strerror(-r));
    } else {
        arrange(&t);
        r = print_tree(&t, path, target.rel);
    }
    for (size_t i = 1; i < t.n; i++)
        free(t.v[i].name);
    free(t.v);
    cli_target_free(&target);
    return r ? r : t.failed;
}
