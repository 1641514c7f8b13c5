// SPDX-License-Identifier: Apache-2.0
/* The local coordinator: asks through the other mount's control socket, whose path its owner record
 * holds; the socket's folder and its peer check keep strangers out. */
#include "vd_owner.h"

#include <string.h>

#include "vd_ctl.h"

#define ASK_TIMEOUT_MS 2000

struct local {
    struct vd_coordinator c;
    struct vd_owner_self self;
};

static int local_ask_release(struct vd_coordinator *c, const struct vd_owner_record *holder,
                             const struct vd_id *uuid, char ret_why[VD_META_WHY])
{
    struct local *l = vd_container_of(c, struct local, c);
    if (strcmp(holder->host, l->self.host) != 0) {
        snprintf(ret_why, VD_META_WHY,
                 "it is held by %s:%u, which the local coordinator cannot ask; close it there, and "
                 "try again",
                 holder->host, holder->pid);
        return -EBUSY;
    }
    if (!holder->endpoint[0]) {
        snprintf(ret_why, VD_META_WHY,
                 "a command is at work on it on %s, pid %u; try again when that has ended",
                 holder->host, holder->pid);
        return -EBUSY;
    }
    char hex[VD_ID_HEX], asker[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    vd_id_hex(&l->self.id, asker);
    json_t *args = json_pack("{s:s, s:s}", "uuid", hex, "asker", asker);
    if (!args)
        return -ENOMEM;
    json_t *ok = NULL;
    int r = vd_ctl_call(holder->endpoint, "owner-release", args, ASK_TIMEOUT_MS, &ok, ret_why,
                        VD_META_WHY);
    json_decref(args);
    json_decref(ok);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return -ESRCH;
    return r < 0 && r != -EAGAIN ? -EBUSY : r;
}

static void local_close(struct vd_coordinator *c)
{
    free(vd_container_of(c, struct local, c));
}

static const struct vd_coordinator_ops local_ops = {
    .ask_release = local_ask_release,
    .close = local_close,
};

int vd_coordinator_local(const struct vd_owner_self *self, struct vd_coordinator **ret_c)
{
    struct local *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->c.ops = &local_ops;
    l->self = *self;
    *ret_c = &l->c;
    return 0;
}
