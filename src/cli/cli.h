// SPDX-License-Identifier: Apache-2.0
/*
 * What the commands of `vdisk` share: the options, places and disks (resolve.c, disk.c), and how
 * results and failures are printed (out.c). One thread. A command returns the exit status: 0 done,
 * 1 failed (and said so), 2 wrong usage.
 */
#ifndef VD_CLI_H
#define VD_CLI_H

#include <jansson.h>
#include <limits.h>
#include <sys/stat.h>

#include "vd_base.h"
#include "vd_cache.h"
#include "vd_meta.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli {
    bool json, bytes;
    const char *meta_dir, *cache_dir; /* NULL: not given */
    const char *command;              /* for usage: "cache stats" */
    const char *usage;                /* its arguments */
    char **args;                      /* after the command's words */
    int nargs;
};

/* ---- places: a source, with the daemon that serves it where one runs ---- */

struct cli_place {
    char source[PATH_MAX];    /* absolute, resolved */
    char mount[PATH_MAX];     /* "": offline */
    char socket[PATH_MAX];    /* "": offline */
    char meta_dir[PATH_MAX];  /* "": SOURCE/.vdiskfs */
    char cache_dir[PATH_MAX]; /* "": none known */
    bool rivals;              /* other mounts serve this source too, and PATH did not choose */
    int source_fd;
    struct vd_meta_store *store; /* NULL: no metadata there yet */
    struct cli_usage *used;      /* what the cache holds; see cli_cached_bytes */
};

/* A path: a place and what it names below the source ("" for the source itself). */
struct cli_target {
    struct cli_place place;
    char rel[PATH_MAX];
};

/* PATH in a mount or in a source. On failure it is said and 1 returned; T needs freeing only after
 * 0. */
int cli_resolve(const struct cli *cli, const char *path, struct cli_target *ret_t) VD_WARN_UNUSED;
/* Where no PATH is given: the one mount that runs; several or none is a failure. */
int cli_resolve_only(const struct cli *cli, struct cli_target *ret_t) VD_WARN_UNUSED;
void cli_target_free(struct cli_target *t);
/* Every mount that runs. The caller frees each and the array. A count, or -1 (said). */
int cli_resolve_all(const struct cli *cli, struct cli_target **ret_ts) VD_WARN_UNUSED;
/* Info files of all daemons, each with "socket" added: a new array. */
json_t *cli_daemons(void);

/* Asks the daemon of P. 0 or -errno with RET_WHY (VD_META_WHY bytes); -ENOTCONN where it is
 * offline. ARGS is consumed. */
int cli_ask(const struct cli_place *p, const char *command, json_t *args, unsigned timeout_ms,
            json_t **ret_ok, char *ret_why) VD_WARN_UNUSED;
#define CLI_TIMEOUT_MS 10000u
#define CLI_LONG_TIMEOUT_MS (24u * 3600 * 1000) /* the cache is walked, or all of it read */

/* ---- disks ---- */

struct cli_disk {
    char name[PATH_MAX]; /* below the source */
    int fd;
    struct stat st;
    bool bound;    /* uuid is known */
    bool recorded; /* record and live are filled in */
    bool refused;  /* its metadata is damaged: why says how */
    bool owned;    /* owner is filled in, and lives */
    struct vd_id uuid;
    struct vd_disk_record record;
    struct vd_layer_record live;
    struct vd_owner_record owner;
    char why[VD_META_WHY];
    json_t *online; /* what the daemon says of it; NULL: it is not attached there */
};

/* Reads all that is known of the file REL below P's source. 0; -ENODATA: not a disk, nor could it
 * be one (not a regular file); -errno of the file. Damaged metadata is no failure (`refused`).
 * After 0 free D. */
int cli_disk_load(const struct cli_place *p, const char *rel, struct cli_disk *d) VD_WARN_UNUSED;
void cli_disk_free(struct cli_disk *d);
/* 1 MiB or more, or it has metadata. */
bool cli_disk_is(const struct cli_disk *d);
/* cli_resolve() and cli_disk_load(), and both free; failures, also that PATH is no disk, are said.
 */
int cli_open(const struct cli *cli, const char *path, struct cli_target *t,
             struct cli_disk *d) VD_WARN_UNUSED;
void cli_close(struct cli_target *t, struct cli_disk *d);

/* Bytes of D that would be served from the cache now. */
uint64_t cli_cached_bytes(struct cli_place *p, const struct cli_disk *d);
/* The same block by block: NBLOCKS bits, allocated. 0 or -errno. */
int cli_cached_bits(struct cli_place *p, const struct cli_disk *d, uint64_t nblocks,
                    uint64_t **ret_bits) VD_WARN_UNUSED;
void cli_usage_free(struct cli_usage *u);

/* Calls FN for each regular file below REL that may be opened, in order of names; never the private
 * folder. What cannot be looked at is warned about. A non-zero return ends the walk and is
 * returned. */
int cli_walk(const struct cli_place *p, const char *rel, int (*fn)(void *user, const char *rel),
             void *user);

/* The one word of a disk, a layer's state, an owner's state. */
const char *cli_disk_state(const struct cli_disk *d);
const char *cli_layer_state(enum vd_layer_state state);
const char *cli_owner_state(enum vd_owner_state state);
/* JSON of an owner record, D's: all null where there is none. */
json_t *cli_owner_json(const struct cli_disk *d);
/* The owner's "HOST:PID", or NULL: lives in BUF. */
const char *cli_owner_name(const struct cli_disk *d, char buf[300]);

/* ---- results ---- */

/* Says `vdisk: PATH: ...` on stderr and with --json {"error"} on stdout. Always 1. */
int cli_fail(const struct cli *cli, const char *path, const char *fmt, ...) VD_PRINTF(3, 4);
/* On stderr only. */
void cli_warn(const char *path, const char *fmt, ...) VD_PRINTF(2, 3);
/* Says how the command is used. Always 2. */
int cli_usage_error(const struct cli *cli);

/* Prints DOC (consumed) as the one document, and returns 0; 1 where stdout fails. */
int cli_print_json(json_t *doc);
/* A size for people, or exact with --bytes. */
const char *cli_size(const struct cli *cli, uint64_t bytes, char buf[32]);
json_t *cli_id_json(const struct vd_id *id, bool known);
/* VALUE as JSON; null for NULL. */
json_t *cli_text_json(const char *value);

struct cli_table;
struct cli_column {
    const char *name;
    bool right;
};
/* A table as lsblk prints them. Aborts without memory. */
struct cli_table *cli_table_new(const struct cli_column *columns, size_t ncolumns);
void cli_table_row(struct cli_table *t);
/* Column COL of the last row; NULL or "" is "-". */
void cli_table_set(struct cli_table *t, size_t col, const char *text);
/* Prints and frees. 0, or 1 where stdout fails. */
int cli_table_print(struct cli_table *t);

/* ---- commands ---- */

int cmd_ls(struct cli *cli);
int cmd_info(struct cli *cli);
int cmd_owner(struct cli *cli);
int cmd_map(struct cli *cli);
int cmd_explain(struct cli *cli);
int cmd_dump(struct cli *cli);
int cmd_cache_stats(struct cli *cli);
int cmd_cache_flush(struct cli *cli);
int cmd_cache_drop(struct cli *cli);
int cmd_check(struct cli *cli);
int cmd_doctor(struct cli *cli);

#endif
