// SPDX-License-Identifier: Apache-2.0
/*
 * One disk: its file, its metadata, what its daemon says. The metadata is read by a session of our
 * own, which a running daemon does not mind; damage there makes the disk `refused`, never the
 * command fail.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/xattr.h>

#include "cli.h"
#include "vd_ctl.h"

#define OWNER_LOCK_OFF ((off_t)1 << 62)
#define MIN_BYTES (1u << 20) /* a smaller file is a disk only if it has been one */

/* ---- the owner ---- */

/* What lock somebody holds on the disk: F_UNLCK, F_RDLCK, F_WRLCK. */
static short held_lock(int fd)
{
    struct flock lk = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = OWNER_LOCK_OFF, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lk) < 0 ? F_UNLCK : lk.l_type;
}

struct owner_search {
    struct cli_disk *d;
    short lock;
    struct vd_id boot_id;
    char host[256];
};

/* A record is of a living owner if the lock that it stands for is held, and its process is not
 * known to be gone: the lock is the truth, but of several shared holders it does not say whose it
 * is. */
static bool owner_lives(const struct owner_search *s, const struct vd_owner_record *r)
{
    if (r->state == VD_OWNER_NONE || s->lock == F_UNLCK ||
        (s->lock == F_WRLCK) != (r->state != VD_OWNER_SHARED))
        return false;
    if (vd_id_eq(&r->boot_id, &s->boot_id))
        return kill((pid_t)r->pid, 0) == 0 || errno != ESRCH;
    return strcmp(r->host, s->host) != 0;
}

static int look_at_owner(void *user, const struct vd_owner_record *r)
{
    struct owner_search *s = user;
    if (owner_lives(s, r) && (!s->d->owned || r->pid < s->d->owner.pid)) {
        s->d->owner = *r;
        s->d->owned = true;
    }
    return 0;
}

static int load_owner(struct cli_disk *d, struct vd_meta *m)
{
    struct owner_search s = {.d = d, .lock = held_lock(d->fd)};
    if (vd_boot_id(&s.boot_id) < 0)
        memset(&s.boot_id, 0, sizeof(s.boot_id));
    gethostname(s.host, sizeof(s.host) - 1);
    return vd_meta_each_owner(m, look_at_owner, &s);
}

/* ---- loading ---- */

static void refuse(struct cli_disk *d, int error, const char *cause)
{
    char why[VD_META_WHY];
    d->refused = true;
    snprintf(why, sizeof(why), "%s", d->why[0] ? d->why : *cause ? cause : strerror(-error));
    snprintf(d->why, sizeof(d->why), "%s", cli_cause(d->name, why));
}

static int load_view(struct cli_disk *d, struct vd_meta *m)
{
    int r = vd_meta_get_view(m, &d->view);
    d->layered = r == 0;
    return r == -ENOENT ? 0 : r;
}

static void load_records(const struct cli_place *p, struct cli_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(p->store, &d->uuid, VD_META_READ, &m, d->why);
    if (r == -ENOENT)
        return; /* bound, and not yet written: an attach is under way, or was cut short */
    if (r < 0) {
        refuse(d, r, "");
        return;
    }
    r = vd_meta_get_disk(m, &d->record);
    if (r == 0)
        r = vd_meta_get_layer(m, 0, &d->live);
    if (r == 0)
        r = load_view(d, m);
    if (r == 0)
        r = load_owner(d, m);
    if (r < 0 && r != -ENOENT)
        refuse(d, r, vd_meta_why(m));
    d->recorded = r == 0;
}

/* Of a disk with layers the file tells nothing about size and times; the live layer's does. */
static void stat_live(const struct cli_place *p, struct cli_disk *d)
{
    char path[128];
    if (d->view.home != VD_HOME_LAYERS)
        return;
    int r = vd_layer_stat(p->store, &d->record.live_disk_id, &d->live_st);
    if (r == 0)
        return;
    vd_layer_rel(&d->record.live_disk_id, path, sizeof(path));
    d->refused = true;
    snprintf(d->why, sizeof(d->why),
             "its live layer %s, which holds what was written last, cannot be looked at: %s; "
             "restore it from a backup",
             path, strerror(-r));
}

/* The binding's own reader tells damage from absence; here a name counts if it is one. */
bool cli_named_uuid(int fd, struct vd_id *ret_uuid)
{
    char value[2 + VD_ID_HEX];
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, sizeof(value) - 1);
    if (n != 2 + VD_ID_HEX - 1)
        return false;
    value[n] = '\0';
    return strncmp(value, "1:", 2) == 0 && vd_id_parse(value + 2, ret_uuid) == 0;
}

static void load_meta(const struct cli_place *p, struct cli_disk *d)
{
    bool made;
    d->named = cli_named_uuid(d->fd, &d->named_uuid);
    int r = vd_meta_bind(p->store, d->fd, d->name, false, &d->uuid, &made, d->why);
    if (r == -ENOENT || r == -ESTALE) {
        d->why[0] = '\0'; /* no disk yet; or a copy, which becomes a disk of its own when opened */
        return;
    }
    if (r < 0) {
        refuse(d, r, "");
        return;
    }
    d->bound = true;
    load_records(p, d);
    if (d->recorded && d->layered)
        stat_live(p, d);
}

json_t *cli_disk_args(const struct cli_disk *d)
{
    return json_pack("{s:I, s:I}", "dev", (json_int_t)d->st.st_dev, "ino",
                     (json_int_t)d->st.st_ino);
}

static void load_online(struct cli_place *p, struct cli_disk *d)
{
    char why[VD_META_WHY];
    json_t *ok = NULL;
    if (p->hung)
        return; /* it was said of the first disk */
    int r = cli_ask(p, "info", cli_disk_args(d), CLI_TIMEOUT_MS, &ok, why);
    if (r == 0 && json_is_true(json_object_get(ok, "attached"))) {
        d->online = json_incref(ok);
        d->size_bytes = (uint64_t)json_integer_value(json_object_get(ok, "size"));
    } else if (r < 0 && r != -ENOTCONN)
        cli_warn(d->name, "%s", why);
    json_decref(ok);
}

/* Opened through O_PATH first: opening a device or a pipe may do something. */
static int open_file(const struct cli_place *p, const char *rel, struct cli_disk *d)
{
    vd_cleanup_close int path_fd = openat(p->source_fd, rel, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (path_fd < 0 || fstat(path_fd, &d->st) < 0)
        return -errno;
    if (!S_ISREG(d->st.st_mode))
        return -ENODATA;
    char proc[64];
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path_fd);
    d->fd = open(proc, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    return d->fd < 0 ? -errno : 0;
}

int cli_disk_load(struct cli_place *p, const char *rel, struct cli_disk *d)
{
    memset(d, 0, sizeof(*d));
    d->fd = -1;
    if (!*rel)
        return -ENODATA; /* the source itself */
    snprintf(d->name, sizeof(d->name), "%s", rel);
    int r = open_file(p, rel, d);
    if (r < 0)
        return r;
    d->live_st = d->st;
    d->nlayers = 1;
    if (p->store)
        load_meta(p, d);
    d->size_bytes = (uint64_t)d->live_st.st_size;
    if (p->socket[0] && cli_disk_is(d))
        load_online(p, d);
    return 0;
}

void cli_disk_free(struct cli_disk *d)
{
    vd_close_p(&d->fd);
    json_decref(d->online);
    d->online = NULL;
    d->fd = -1;
}

bool cli_disk_is(const struct cli_disk *d)
{
    return d->bound || d->refused || d->st.st_size >= MIN_BYTES;
}

int cli_open(const struct cli *cli, const char *path, struct cli_target *t, struct cli_disk *d)
{
    int r = cli_resolve(cli, path, t);
    if (r != 0)
        return r;
    r = cli_disk_load(&t->place, t->rel, d);
    if (r == 0 && cli_disk_is(d))
        return 0;
    if (r == 0 || r == -ENODATA)
        r = cli_fail(cli, path,
                     r == 0 ? "it is smaller than 1 MiB and so no disk; it is passed through"
                            : "it is no regular file; name a disk");
    else
        r = cli_fail(cli, path, "%s cannot be opened: %s", t->rel, strerror(-r));
    cli_close(t, d);
    return r;
}

void cli_close(struct cli_target *t, struct cli_disk *d)
{
    cli_disk_free(d);
    cli_target_free(t);
}

/* ---- words ---- */

const char *cli_disk_state(const struct cli_disk *d)
{
    bool clone = d->layered && !vd_id_is_zero(&d->view.parent);
    return d->refused || d->broken ? "refused" : clone ? "clone" : "plain";
}

const char *cli_layer_state(enum vd_layer_state state)
{
    return state == VD_LAYER_FROZEN ? "frozen" : "live";
}

const char *cli_owner_state(enum vd_owner_state state)
{
    switch (state) {
    case VD_OWNER_SHARED:
        return "shared";
    case VD_OWNER_EXCLUSIVE:
        return "exclusive";
    case VD_OWNER_RELEASING:
        return "releasing";
    case VD_OWNER_NONE:
        break;
    }
    return "none";
}

json_t *cli_owner_json(const struct cli_disk *d)
{
    if (!d->owned)
        return json_pack("{s:n, s:n, s:n, s:n, s:s, s:n}", "id", "host", "pid", "epoch", "state",
                         "none", "endpoint");
    return json_pack("{s:o, s:o, s:i, s:I, s:s, s:o}", "id", cli_id_json(&d->owner.id, true),
                     "host", vd_ctl_text(d->owner.host), "pid", (int)d->owner.pid, "epoch",
                     (json_int_t)d->owner.epoch, "state", cli_owner_state(d->owner.state),
                     "endpoint", vd_ctl_text(d->owner.endpoint));
}

const char *cli_owner_name(const struct cli_disk *d, char buf[300])
{
    if (!d->owned)
        return NULL;
    snprintf(buf, 300, "%s:%u", d->owner.host, d->owner.pid);
    return buf;
}
