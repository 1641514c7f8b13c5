// SPDX-License-Identifier: Apache-2.0
/*
 * From a path to a place: the source it belongs to, and the daemon that serves it.
 *
 *   in a mount     the file system's device number is in some daemon's info file; what lies below
 *                  the mount point lies below its source
 *   in a source    of a running daemon; else --source, the nearest folder upwards with a private
 *                  folder in it, or with --meta what the disk's record says
 *   neither        a folder that was never mounted: it is its own source, without metadata
 */
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_paths.h"

static const char *text_of(const json_t *info, const char *key)
{
    const char *v = json_string_value(json_object_get(info, key));
    return v ? v : "";
}

static int add_daemon(void *user, const char *socket_path, json_t *info)
{
    json_object_set_new(info, "socket", vd_ctl_text(socket_path));
    json_array_append(user, info);
    return 0;
}

json_t *cli_daemons(void)
{
    json_t *list = json_array();
    char rundir[PATH_MAX];
    if (vd_ctl_rundir(rundir, sizeof(rundir)) == 0) {
        int r = vd_ctl_each(rundir, add_daemon, list);
        if (r < 0)
            cli_warn(rundir, "running mounts cannot be found: %s", strerror(-r));
    }
    return list;
}

int cli_ask(struct cli_place *p, const char *command, json_t *args, unsigned timeout_ms,
            json_t **ret_ok, char *ret_why)
{
    int r = -ENOTCONN;
    if (p->hung) {
        snprintf(ret_why, VD_META_WHY, "the daemon of %.300s does not answer", p->mount);
        r = -ETIMEDOUT;
    } else if (p->socket[0])
        r = vd_ctl_call(p->socket, command, args, timeout_ms, ret_ok, ret_why, VD_META_WHY);
    else
        snprintf(ret_why, VD_META_WHY,
                 "no mount of %.300s is running, and only its daemon knows this", p->source);
    p->hung |= r == -ETIMEDOUT;
    json_decref(args);
    return r;
}

/* PATH as below FOLDER: what follows it, without a slash, or NULL. */
static const char *below(const char *path, const char *folder)
{
    size_t len = strlen(folder);
    if (len == 1 && folder[0] == '/')
        return path + 1;
    if (len == 0 || strncmp(path, folder, len) != 0 || (path[len] && path[len] != '/'))
        return NULL;
    return path[len] ? path + len + 1 : path + len;
}

bool cli_is_private(const char *rel)
{
    return below(rel, VD_META_FOLDER) != NULL;
}

/* ---- mount points ---- */

struct mount {
    dev_t dev;
    char type[64];
    char rel[PATH_MAX]; /* of the path that was looked up, below the root of the file system */
};

/* mountinfo writes blanks and backslashes as three octal digits; proc(5). */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

/* The mount that REAL lies in: the last of those with the longest mount point. */
static int find_mount(const char *real, struct mount *ret_m)
{
    vd_cleanup_fclose FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return -errno;
    static char line[3 * PATH_MAX], root[PATH_MAX], point[PATH_MAX];
    size_t best = 0;
    int found = -ENOENT;
    while (fgets(line, sizeof(line), f)) {
        unsigned major_no, minor_no;
        char type[64] = "";
        const char *dash = strstr(line, " - ");
        if (!dash || sscanf(dash, " - %63s", type) != 1 ||
            sscanf(line, "%*d %*d %u:%u %4095s %4095s", &major_no, &minor_no, root, point) != 4)
            continue;
        unescape(root);
        unescape(point);
        const char *rest = below(real, point);
        if (!rest || strlen(point) < best)
            continue;
        best = strlen(point);
        ret_m->dev = makedev(major_no, minor_no);
        memcpy(ret_m->type, type, sizeof(type));
        const char *inside = root[1] ? root + 1 : "";
        int n = snprintf(ret_m->rel, sizeof(ret_m->rel), "%s%s%s", inside,
                         *inside && *rest ? "/" : "", rest);
        found = n < (int)sizeof(ret_m->rel) ? 0 : -ENAMETOOLONG;
    }
    return found;
}

/* ---- places ---- */

static void place_init(struct cli_place *p)
{
    memset(p, 0, sizeof(*p));
    p->source_fd = -1;
}

static void place_set_daemon(struct cli_place *p, const json_t *info)
{
    snprintf(p->source, sizeof(p->source), "%s", text_of(info, "source"));
    snprintf(p->mount, sizeof(p->mount), "%s", text_of(info, "mount"));
    snprintf(p->socket, sizeof(p->socket), "%s", text_of(info, "socket"));
    snprintf(p->meta_dir, sizeof(p->meta_dir), "%s", text_of(info, "meta"));
    memcpy(p->daemon_meta_dir, p->meta_dir, sizeof(p->daemon_meta_dir));
    snprintf(p->cache_dir, sizeof(p->cache_dir), "%s", text_of(info, "cache"));
    snprintf(p->filter_dir, sizeof(p->filter_dir), "%s", text_of(info, "filters"));
    p->known = true;
}

/* Fills in what does not depend on how the place was found. */
static int place_open(const struct cli *cli, const char *path, struct cli_place *p)
{
    if (cli->meta_dir)
        snprintf(p->meta_dir, sizeof(p->meta_dir), "%s", cli->meta_dir);
    if (cli->filter_dir)
        snprintf(p->filter_dir, sizeof(p->filter_dir), "%s", cli->filter_dir);
    if (cli->cache_dir)
        snprintf(p->cache_dir, sizeof(p->cache_dir), "%s", cli->cache_dir);
    else if (!p->socket[0] && vd_default_cache_dir(p->source, p->cache_dir, PATH_MAX) < 0)
        p->cache_dir[0] = '\0';
    p->source_fd = open(p->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (p->source_fd < 0)
        return cli_fail(cli, path, "its source %s cannot be opened: %s", p->source,
                        strerror(errno));
    int r = vd_meta_store_open(p->source_fd, p->meta_dir[0] ? p->meta_dir : NULL, false, &p->store);
    if (r == -ENOENT && !cli->meta_dir)
        r = 0;
    if (r < 0)
        return cli_fail(cli, path, "the metadata in %s%s cannot be opened: %s",
                        p->meta_dir[0] ? p->meta_dir : p->source,
                        p->meta_dir[0] ? "" : "/" VD_META_FOLDER, strerror(-r));
    return 0;
}

struct vd_maps *cli_maps(struct cli_place *p)
{
    if (!p->maps && p->store) {
        int r = vd_maps_open(p->store, 0, &p->maps);
        if (r < 0)
            cli_warn(p->source, "the maps of its disks cannot be opened: %s", strerror(-r));
    }
    return p->maps;
}

void cli_target_free(struct cli_target *t)
{
    vd_maps_close(t->place.maps);
    vd_meta_store_close(t->place.store);
    vd_close_p(&t->place.source_fd);
    cli_usage_free(t->place.used);
    json_decref(t->place.verdicts);
    place_init(&t->place);
}

static int finish(const struct cli *cli, const char *path, struct cli_target *t)
{
    int r = place_open(cli, path, &t->place);
    if (r != 0)
        cli_target_free(t);
    return r;
}

/* How much of a disk the daemon INFO has: 0 not attached, 1 attached, 2 owns it alone. */
static int grip(const json_t *info, const struct stat *st)
{
    json_t *ok = NULL;
    json_t *args =
        json_pack("{s:I, s:I}", "dev", (json_int_t)st->st_dev, "ino", (json_int_t)st->st_ino);
    int g = 0;
    if (vd_ctl_call(text_of(info, "socket"), "info", args, CLI_TIMEOUT_MS, &ok, NULL, 0) == 0 &&
        json_is_true(json_object_get(ok, "attached")))
        g = strcmp(text_of(ok, "owner_state"), "exclusive") == 0 ? 2 : 1;
    json_decref(args);
    json_decref(ok);
    return g;
}

/* REAL in the source of a daemon. Where several serve one source, the one that has the disk. */
static bool find_source(json_t *daemons, const char *real, const struct stat *st,
                        struct cli_target *t)
{
    size_t i, best_len = 0;
    int best_grip = -1;
    json_t *info, *best = NULL;
    json_array_foreach(daemons, i, info)
    {
        const char *source = text_of(info, "source");
        size_t len = strlen(source);
        if (!below(real, source) || len < best_len)
            continue;
        if (len > best_len) {
            best_grip = -1;
            t->place.rivals = false;
        }
        t->place.rivals |= best_grip >= 0;
        int g = S_ISREG(st->st_mode) ? grip(info, st) : 0;
        if (g > best_grip) {
            best = info;
            best_grip = g;
        }
        best_len = len;
    }
    if (!best)
        return false;
    place_set_daemon(&t->place, best);
    snprintf(t->rel, sizeof(t->rel), "%s", below(real, t->place.source));
    return true;
}

/* Where the metadata is elsewhere no folder marks the source; the disk's record tells where the
 * disk was below it. REAL is cut to the source in DIR. */
static bool find_by_record(const char *meta_dir, const char *real, char dir[PATH_MAX])
{
    vd_cleanup(vd_meta_store_close_p) struct vd_meta_store *store = NULL;
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    vd_cleanup_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    vd_cleanup_close int fd = open(real, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct vd_disk_record record;
    struct vd_id uuid;
    char why[VD_META_WHY];
    bool made;
    if (root < 0 || fd < 0 || vd_meta_store_open(root, meta_dir, false, &store) < 0 ||
        vd_meta_bind(store, fd, real, false, &uuid, &made, why) < 0 ||
        vd_meta_open(store, &uuid, VD_META_READ, &m, why) < 0 || vd_meta_get_disk(m, &record) < 0)
        return false;
    size_t len = strlen(real), n = strlen(record.path);
    if (n == 0 || n + 1 >= len || real[len - n - 1] != '/' ||
        strcmp(real + len - n, record.path) != 0)
        return false;
    snprintf(dir, PATH_MAX, "%.*s", (int)vd_max(len - n - 1, (size_t)1), real);
    return true;
}

static bool find_private(const char *first, char dir[PATH_MAX])
{
    char private[PATH_MAX + 16];
    snprintf(dir, PATH_MAX, "%s", first);
    for (;;) {
        struct stat st;
        snprintf(private, sizeof(private), "%s/%s", dir[1] ? dir : "", VD_META_FOLDER);
        if (lstat(private, &st) == 0 && S_ISDIR(st.st_mode))
            return true;
        if (!dir[1])
            return false;
        *vd_max(strrchr(dir, '/'), dir + 1) = '\0';
    }
}

static int find_folder(const struct cli *cli, const char *path, const char *real, bool is_dir,
                       struct cli_target *t)
{
    char first[PATH_MAX], *dir = t->place.source;
    snprintf(first, sizeof(first), "%s", real);
    if (!is_dir)
        *vd_max(strrchr(first, '/'), first + 1) = '\0';
    t->place.known = true;
    if (cli->source_dir) {
        if (!realpath(cli->source_dir, dir))
            return cli_fail(cli, cli->source_dir, "%s", strerror(errno));
        if (!below(real, dir))
            return cli_fail(cli, path, "it is not below the source %s", dir);
    } else if (!find_private(first, dir) &&
               (is_dir || !cli->meta_dir || !find_by_record(cli->meta_dir, real, dir))) {
        memcpy(dir, first, sizeof(first));
        t->place.known = false;
    }
    snprintf(t->rel, sizeof(t->rel), "%s", below(real, dir));
    return 0;
}

static int fail_dead(const struct cli *cli, const char *path)
{
    return cli_fail(cli, path, "the mount's daemon is dead; unmount it (umount -l) and mount anew");
}

/* A mount of ours without a daemon. The kernel may still answer for it from memory; statfs(2) asks.
 */
static int fail_unknown(const struct cli *cli, const char *path, const char *real)
{
    struct statfs fs;
    if (statfs(real, &fs) < 0 && errno == ENOTCONN)
        return fail_dead(cli, path);
    return cli_fail(cli, path,
                    "no daemon of this mount is found; is it another user's, or is VDISKFS_RUNDIR "
                    "not the one that it was mounted with?");
}

static int find(const struct cli *cli, json_t *daemons, const char *path, struct cli_target *t)
{
    char real[PATH_MAX];
    struct stat st;
    struct mount m = {0};
    if (!realpath(path, real) || stat(real, &st) < 0)
        return errno == ENOTCONN ? fail_dead(cli, path)
                                 : cli_fail(cli, path, "%s", strerror(errno));
    if (find_mount(real, &m) == 0) {
        size_t i;
        json_t *info;
        json_array_foreach(daemons, i, info)
        {
            if ((dev_t)json_integer_value(json_object_get(info, "st_dev")) != m.dev)
                continue;
            place_set_daemon(&t->place, info);
            memcpy(t->rel, m.rel, sizeof(t->rel));
            return 0;
        }
        if (strcmp(m.type, "fuse.vdiskfs") == 0)
            return fail_unknown(cli, path, real);
    }
    if (find_source(daemons, real, &st, t))
        return 0;
    return find_folder(cli, path, real, S_ISDIR(st.st_mode), t);
}

int cli_resolve(const struct cli *cli, const char *path, struct cli_target *t)
{
    place_init(&t->place);
    json_t *daemons = cli_daemons();
    int r = find(cli, daemons, path, t);
    json_decref(daemons);
    return r != 0 ? r : finish(cli, path, t);
}

int cli_resolve_only(const struct cli *cli, struct cli_target *t)
{
    place_init(&t->place);
    t->rel[0] = '\0';
    json_t *daemons = cli_daemons();
    size_t n = json_array_size(daemons);
    int r = 0;
    if (n == 0)
        r = cli_fail(cli, NULL, "no mount is running; name a PATH");
    else if (n > 1)
        r = cli_fail(cli, NULL, "%zu mounts are running; name a PATH in one of them", n);
    else
        place_set_daemon(&t->place, json_array_get(daemons, 0));
    json_decref(daemons);
    return r != 0 ? r : finish(cli, t->place.mount, t);
}

int cli_resolve_all(const struct cli *cli, struct cli_target **ret_ts)
{
    json_t *daemons = cli_daemons();
    size_t n = json_array_size(daemons), i;
    struct cli_target *ts = calloc(n + 1, sizeof(*ts));
    if (!ts)
        abort();
    for (i = 0; i < n; i++) {
        place_init(&ts[i].place);
        place_set_daemon(&ts[i].place, json_array_get(daemons, i));
        if (finish(cli, ts[i].place.mount, &ts[i]) != 0)
            break;
    }
    json_decref(daemons);
    if (i == n) {
        *ret_ts = ts;
        return (int)n;
    }
    while (i-- > 0)
        cli_target_free(&ts[i]);
    free(ts);
    return -1;
}
