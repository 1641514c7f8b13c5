// SPDX-License-Identifier: Apache-2.0
/* vdisk clone: a new disk that begins as another is, or was at a snapshot. */
#include <fcntl.h>
#include <string.h>

#include "cli.h"
#include "vd_disk.h"

/* Where the clone is to be: its folder, which is there, and a name in it, which is not. */
struct child {
    const char *given;
    struct cli_target dir;
    int dir_fd;
    char rel[PATH_MAX]; /* below the source */
    const char *name;   /* its last part; in REL */
};

static void child_free(struct child *c)
{
    vd_close_p(&c->dir_fd);
    cli_target_free(&c->dir);
}

/* Splits PATH into a folder and a name: "." and "x" for "x". */
static int split(const char *path, char dir[PATH_MAX], const char **ret_name)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = slash ? vd_max((size_t)(slash - path), (size_t)1) : 1;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || len >= PATH_MAX)
        return -EINVAL;
    snprintf(dir, PATH_MAX, "%.*s", (int)len, slash ? path : ".");
    *ret_name = name;
    return 0;
}

static bool is_below(const char *path, const char *folder)
{
    size_t len = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    return strncmp(path, folder, len) == 0 && (path[len] == '/' || !path[len]);
}

static bool same_source(const struct cli_place *a, const struct cli_place *b)
{
    struct stat x, y;
    return fstat(a->source_fd, &x) == 0 && fstat(b->source_fd, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

static int look_at_child(struct cli *cli, const struct cli_work *parent, struct child *c)
{
    struct stat st;
    const char *in = c->dir.rel;
    if (!same_source(&c->dir.place, &parent->t.place))
        return cli_fail(cli, c->given, "it is not in the source of its parent, %s",
                        parent->t.place.source);
    c->dir_fd = openat(c->dir.place.source_fd, *in ? in : ".",
                       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (c->dir_fd < 0)
        return cli_fail(cli, c->given, "%s", strerror(errno));
    if (cli_is_private(c->rel))
        return cli_fail(cli, c->given, "%s is the private folder of vdiskfs; choose another place",
                        VD_META_FOLDER);
    if (fstatat(c->dir_fd, c->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return cli_fail(cli, c->given, "it exists already; choose another name");
    return 0;
}

/* 0, or said. */
static int child_find(struct cli *cli, const char *path, const struct cli_work *parent,
                      struct child *c)
{
    char dir[PATH_MAX];
    c->given = path;
    c->dir_fd = -1;
    if (split(path, dir, &c->name) < 0)
        return cli_fail(cli, path, "it names no file; name the disk that is to be made");
    char real[PATH_MAX];
    if (!realpath(dir, real))
        return cli_fail(cli, path, "its folder: %s", strerror(errno));
    struct cli at = *cli;
    const char *source = parent->t.place.source;
    if (parent->disks) { /* no daemon says where the source begins; the parent's does for both */
        if (!is_below(real, source))
            return cli_fail(cli, path, "it is not in the source of its parent, %s", source);
        at.source_dir = source;
    }
    int r = cli_resolve(&at, real, &c->dir);
    if (r != 0)
        return r;
    int n =
        snprintf(c->rel, sizeof(c->rel), "%s%s%s", c->dir.rel, c->dir.rel[0] ? "/" : "", c->name);
    if (n < 0 || (size_t)n >= sizeof(c->rel))
        r = cli_fail(cli, path, "%s", strerror(ENAMETOOLONG));
    else
        r = look_at_child(cli, parent, c);
    if (r != 0)
        child_free(c);
    return r;
}

static int ask_daemon(struct cli_work *w, const char *child, const char *snapshot)
{
    json_t *args = json_object(), *text = cli_work_text(w, child);
    int r = text ? json_object_set_new(args, "child", text) : -EILSEQ;
    if (r == 0 && snapshot) {
        text = cli_work_text(w, snapshot);
        r = text ? json_object_set_new(args, "snapshot", text) : -EILSEQ;
    }
    if (r < 0) {
        json_decref(args);
        return -EILSEQ;
    }
    return cli_work_ask(w, "clone", args, NULL);
}

int cmd_clone(struct cli *cli)
{
    struct cli_work w;
    struct child c = {0};
    const char *snapshot = cli_take_value(cli, "--snapshot");
    if (!cli_args_fit(cli, 2, 2))
        return cli_usage_error(cli);
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    if (child_find(cli, cli->args[1], &w, &c) != 0) {
        cli_work_free(&w);
        return CLI_FAILED;
    }
    if (w.disks)
        r = vd_disks_clone(w.disks, w.path_fd, w.t.rel, snapshot, c.dir_fd, c.name, c.rel, w.why);
    else
        r = ask_daemon(&w, c.rel, snapshot);
    child_free(&c);
    return cli_work_end(&w, r);
}
