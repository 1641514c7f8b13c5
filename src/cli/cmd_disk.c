// SPDX-License-Identifier: Apache-2.0
/* vdisk resize, rm, adopt: changes of one disk as a whole. */
#include <fcntl.h>
#include <string.h>

#include "cli.h"
#include "vd_disk.h"
#include "vd_size.h"

int cmd_resize(struct cli *cli)
{
    struct cli_work w;
    uint64_t size;
    bool shrink = cli_take_flag(cli, "--shrink");
    if (!cli_args_fit(cli, 2, 2) || vd_size_parse(cli->args[1], &size) < 0)
        return cli_usage_error(cli);
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    if (w.disks)
        r = vd_disks_resize(w.disks, w.path_fd, w.t.rel, size, shrink, w.why);
    else
        r = cli_work_ask(&w, "resize",
                         json_pack("{s:I, s:b}", "size", (json_int_t)size, "shrink", (int)shrink),
                         NULL);
    return cli_work_end(&w, r);
}

static int remove_here(struct cli_work *w)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(w->t.rel, '/');
    snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - w->t.rel) : 1, slash ? w->t.rel : ".");
    vd_cleanup_close int dir_fd =
        openat(w->t.place.source_fd, dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd < 0)
        return -errno;
    return vd_disks_remove(w->disks, w->path_fd, w->t.rel, dir_fd, slash ? slash + 1 : w->t.rel,
                           w->why);
}

int cmd_rm(struct cli *cli)
{
    struct cli_work w;
    struct stat st;
    if (!cli_args_fit(cli, 1, 1))
        return cli_usage_error(cli);
    if (lstat(cli->args[0], &st) == 0 && S_ISLNK(st.st_mode))
        return cli_fail(cli, cli->args[0],
                        "it is a symbolic link, and what it leads to would go; name that");
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    return cli_work_end(&w, w.disks ? remove_here(&w) : cli_work_ask(&w, "rm", NULL, NULL));
}

/* --as-plain must be said, since what the layers below hold is given up. */
int cmd_adopt(struct cli *cli)
{
    struct cli_work w;
    bool as_plain = cli_take_flag(cli, "--as-plain");
    if (!as_plain || !cli_args_fit(cli, 1, 1))
        return cli_usage_error(cli);
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    if (w.disks)
        r = vd_disks_adopt(w.disks, w.path_fd, w.t.rel, w.why);
    else
        r = cli_work_ask(&w, "adopt", NULL, NULL);
    return cli_work_end(&w, r);
}
