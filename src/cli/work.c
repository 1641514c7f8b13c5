// SPDX-License-Identifier: Apache-2.0
/*
 * Changes of a disk: by its daemon, or in this process. See cli.h.
 *
 * In this process a change is what a mount without a cache would do: the disk is owned for the time
 * that it takes, with an owner record of ours, so that two such commands, or a mount that starts
 * meanwhile, keep out of each other's way. Nobody can ask us for the disk, since we have no control
 * socket; it is held for a command's time only. That no cache saw the change is noted as always
 * (the witness's tokens differ), so the next mount does not believe what its cache holds of the
 * layer.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_disk.h"

#define INLINE_MAX 2u

static int open_disks(struct cli_work *w)
{
    const struct cli_place *p = &w->t.place;
    struct vd_disks_config config = {.cache_mode = VD_CACHE_OFF};
    int r = vd_id_new(&config.self.id);
    if (r == 0)
        r = vd_boot_id(&config.self.boot_id);
    if (r == 0 && gethostname(config.self.host, sizeof(config.self.host) - 1) < 0)
        snprintf(config.self.host, sizeof(config.self.host), "localhost");
    if (r == 0)
        r = vd_lanes_new(INLINE_MAX, &w->lanes);
    if (r == 0)
        r = vd_coordinator_local(&config.self, &w->coordinator);
    if (r < 0)
        return cli_fail(w->cli, w->path, "%s", strerror(-r));
    r = vd_meta_store_open(p->source_fd, p->meta_dir[0] ? p->meta_dir : NULL, true, &w->store);
    if (r < 0)
        return cli_fail(w->cli, w->path, "the metadata in %s%s cannot be written: %s",
                        p->meta_dir[0] ? p->meta_dir : p->source,
                        p->meta_dir[0] ? "" : "/" VD_META_FOLDER, strerror(-r));
    r = vd_filters_open(w->cli->filter_dir, &w->filters);
    if (r < 0)
        return cli_fail(w->cli, w->path, "%s", strerror(-r));
    config.meta = w->store;
    config.filters = w->filters;
    config.coordinator = w->coordinator;
    config.lanes = w->lanes;
    r = vd_disks_new(&config, &w->disks);
    return r < 0 ? cli_fail(w->cli, w->path, "%s", strerror(-r)) : 0;
}

static int open_file(struct cli_work *w)
{
    struct cli_target *t = &w->t;
    w->path_fd = -1;
    if (cli_is_private(t->rel))
        return cli_fail(w->cli, w->path, "%s is the private folder of vdiskfs; name a disk",
                        VD_META_FOLDER);
    if (*t->rel) {
        w->path_fd = openat(t->place.source_fd, t->rel, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (w->path_fd < 0 || fstat(w->path_fd, &w->st) < 0)
            return cli_fail(w->cli, w->path, "%s", strerror(errno));
    }
    if (w->path_fd < 0 || !S_ISREG(w->st.st_mode))
        return cli_fail(w->cli, w->path, "it is no regular file; name a disk");
    /* Before a store is made for it. Of what a daemon has attached the daemon knows more. */
    if (!t->place.socket[0] && !vd_disk_file_is_one(w->path_fd, &w->st))
        return cli_fail(w->cli, w->path, VD_DISK_IS_NONE);
    return 0;
}

/* The daemon keeps its disks' metadata in one place; told of another, we must not pretend. */
static int check_meta(struct cli_work *w, const char *daemons)
{
    char own[PATH_MAX], given[PATH_MAX];
    if (!w->cli->meta_dir || !*daemons || !realpath(daemons, own))
        return 0;
    if (realpath(w->cli->meta_dir, given) && strcmp(own, given) == 0)
        return 0;
    return cli_fail(w->cli, w->path, "the mount %s keeps its metadata in %s; leave --meta away",
                    w->t.place.mount, own);
}

/* Layers' files are held open while they are copied from. */
static void raise_limits(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &lim);
    }
}

void cli_work_free(struct cli_work *w)
{
    vd_disks_free(w->disks);
    vd_filters_close(w->filters);
    vd_coordinator_close(w->coordinator);
    vd_lanes_free(w->lanes);
    vd_meta_store_close(w->store);
    vd_close_p(&w->path_fd);
    cli_target_free(&w->t);
}

int cli_work_open(struct cli *cli, const char *path, struct cli_work *w)
{
    memset(w, 0, sizeof(*w));
    w->cli = cli;
    w->path = path;
    w->path_fd = -1;
    int r = cli_resolve(cli, path, &w->t);
    if (r != 0)
        return r;
    r = open_file(w);
    if (r == 0 && w->t.place.socket[0]) {
        r = check_meta(w, w->t.place.daemon_meta_dir);
    } else if (r == 0) {
        raise_limits();
        r = open_disks(w);
    }
    if (r != 0)
        cli_work_free(w);
    return r;
}

json_t *cli_work_text(struct cli_work *w, const char *text)
{
    json_t *v = json_string(text);
    if (!v)
        snprintf(
            w->why, sizeof(w->why),
            "\"%.300s\" is not UTF-8, so its daemon cannot be told; rename it, or unmount first",
            text);
    return v;
}

int cli_work_ask(struct cli_work *w, const char *command, json_t *more, json_t **ret_ok)
{
    json_t *path = cli_work_text(w, w->t.rel), *ok = NULL;
    json_t *args = path ? json_pack("{s:I, s:I, s:o}", "dev", (json_int_t)w->st.st_dev, "ino",
                                    (json_int_t)w->st.st_ino, "path", path)
                        : NULL;
    if (args && more)
        json_object_update(args, more);
    json_decref(more);
    if (!args)
        return -EILSEQ;
    int r = cli_ask(&w->t.place, command, args, CLI_LONG_TIMEOUT_MS, &ok, w->why);
    if (r == 0 && ret_ok)
        *ret_ok = json_incref(ok);
    json_decref(ok);
    return r;
}

int cli_work_end(struct cli_work *w, int result)
{
    struct cli *cli = w->cli;
    const char *path = w->path;
    char why[VD_META_WHY];
    snprintf(why, sizeof(why), "%s", w->why[0] ? w->why : strerror(-result));
    cli_work_free(w); /* lets go of the disk, before anything is said to be done */
    if (result < 0)
        return cli_fail(cli, path, "%s", why);
    return cli->json ? cli_print_json(json_object()) : CLI_DONE;
}
