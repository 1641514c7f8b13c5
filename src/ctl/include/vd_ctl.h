// SPDX-License-Identifier: Apache-2.0
/*
 * The control socket: RUNDIR/<owner id>/sock, one JSON object a line each way.
 *
 *   {"command": "cache-stats", "args": {...}}   ->   {"ok": {...}}
 *                                               or   {"error": {"errno": N, "what": "..."}}
 *
 * Beside it RUNDIR/<owner id>/info, a JSON object {"pid", "mount", "st_dev", "source", "meta",
 * "cache", "host", "state"}: by it the command line finds the daemon of a path. Peers are checked
 * by SO_PEERCRED: root and the daemon's own uid. The client library depends on nothing but base.
 *
 * The info file is held under an OFD lock while its daemon lives, so a folder whose info file is
 * free belongs to a dead one, whatever killed it, and may be removed by whoever comes by.
 */
#ifndef VD_CTL_H
#define VD_CTL_H

#include <jansson.h>

#include "vd_base.h"
#include "vd_id.h"

#define VD_CTL_LINE_MAX (16u << 20)    /* a longer answer is refused */
#define VD_CTL_REQUEST_MAX (64u << 10) /* a longer request closes the connection */

/* ---- client (library vd_ctl_client) ---- */

/* The run directory: $VDISKFS_RUNDIR, else /run/vdiskfs as root, else $XDG_RUNTIME_DIR/vdiskfs. 0,
 * -ENOENT where none is known, -ENAMETOOLONG. */
int vd_ctl_rundir(char *ret_path, size_t len) VD_WARN_UNUSED;

/* Sends COMMAND with ARGS (borrowed, may be NULL) and waits at most TIMEOUT_MS for the answer,
 * whose "ok" value is returned as a new reference. 0; -ENOENT or -ECONNREFUSED: nobody listens
 * there; -ETIMEDOUT; -ECONNRESET: it closed the connection; -EPROTO: not an answer; or the negative
 * errno in the answer's error (RET_WHY then has its sentence, else one of our own). Blocks. Any
 * thread. */
int vd_ctl_call(const char *socket_path, const char *command, json_t *args, unsigned timeout_ms,
                json_t **ret_ok, char *ret_why, size_t why_len) VD_WARN_UNUSED;

/* Calls FN for each daemon in RUNDIR that holds the lock on its info file (a dead one's folder is
 * passed over): INFO is borrowed. A non-zero return ends the walk and is returned. 0 (also without
 * RUNDIR), -errno. */
int vd_ctl_each(const char *rundir, int (*fn)(void *user, const char *socket_path, json_t *info),
                void *user) VD_WARN_UNUSED;

/* TEXT as a JSON string; what is not UTF-8 in it (file names may hold anything) becomes U+FFFD. A
 * new reference, NULL without memory. */
json_t *vd_ctl_text(const char *text);

/* ---- server (library vd_ctl_server; libuv) ---- */

struct vd_ctl_server;

/* Answers COMMAND: returns 0 and a new reference in RET_OK (NULL: {}), or -errno and a sentence in
 * RET_WHY. ARGS is an object. Called on a thread of libuv's pool, several at a time: it may block,
 * but for long work only so long as other commands can wait (the pool has 4 threads unless
 * UV_THREADPOOL_SIZE says more). */
typedef int (*vd_ctl_handler)(void *user, const char *command, json_t *args, json_t **ret_ok,
                              char *ret_why, size_t why_len);

/* Makes RUNDIR/<id>/ (0700), the socket and the info file (INFO borrowed; the file is kept locked
 * while the server lives), removes folders of dead daemons, and serves on a thread of its own, with
 * signals blocked but for those of faults. 0; -EPERM: RUNDIR belongs to another user or others may
 * write there; -ETIMEDOUT: another daemon is stuck while it starts; -errno. To be called after the
 * last fork: the lock would live on in a child. */
int vd_ctl_server_start(const char *rundir, const struct vd_id *id, json_t *info,
                        vd_ctl_handler handler, void *user,
                        struct vd_ctl_server **ret_server) VD_WARN_UNUSED;

/* Path of the socket; valid while the server lives. */
const char *vd_ctl_server_path(const struct vd_ctl_server *s);

/* Writes the info file anew with "state": STATE ("running", "stopping"). Any thread. 0 or -errno.
 */
int vd_ctl_server_set_state(struct vd_ctl_server *s, const char *state);

/* Stops listening, waits for commands under way (those not yet begun are refused with ECANCELED),
 * removes the folder. Clients that do not take their answers are waited for 1 s. NULL is allowed.
 * Not from a handler. */
void vd_ctl_server_stop(struct vd_ctl_server *s);

#endif
