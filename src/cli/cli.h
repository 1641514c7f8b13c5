// SPDX-License-Identifier: Apache-2.0
/*
 * What the commands of `vdisk` share: the options (options.c), places and disks (resolve.c,
 * disk.c), a disk's layers (layers.c) and what is cached of them (usage.c), changes of disks
 * (work.c), and how results and failures are printed (out.c). One thread, but for those that
 * src/disk makes. A command returns the exit status: 0 done, 1 failed (and said so), 2 wrong usage.
 */
#ifndef VD_CLI_H
#define VD_CLI_H

#include <jansson.h>
#include <limits.h>
#include <sys/stat.h>

#include "vd_base.h"
#include "vd_cache.h"
#include "vd_map.h"
#include "vd_meta.h"
#include "vd_view.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli {
    bool json, bytes;
    const char *meta_dir, *cache_dir, *source_dir, *filter_dir; /* NULL: not given */
    const char *command;                           /* for usage: "cache stats" */
    const char *usage;                             /* its arguments */
    char **args;                                   /* after the command's words */
    int nargs;
    int nplain; /* so many at their end are no options, whatever they begin with */
};

/* Takes the flag NAME ("--shrink") out of the command's arguments: was it there? */
bool cli_take_flag(struct cli *cli, const char *name);
/* The same of an option with a value, "NAME VALUE" or "NAME=VALUE": NULL where it is not there, or
 * lacks its value (then it stays, and cli_args_fit says no). */
const char *cli_take_value(struct cli *cli, const char *name);
/* After those: are there MIN to MAX arguments, and no unknown option? */
bool cli_args_fit(const struct cli *cli, int min, int max);

/* ---- places: a source, with the daemon that serves it where one runs ---- */

struct cli_place {
    char source[PATH_MAX];          /* absolute, resolved */
    char mount[PATH_MAX];           /* "": offline */
    char socket[PATH_MAX];          /* "": offline */
    char meta_dir[PATH_MAX];        /* "": SOURCE/.vdiskfs */
    char daemon_meta_dir[PATH_MAX]; /* the same, before --meta; "": offline */
    char cache_dir[PATH_MAX];       /* "": none known */
    char filter_dir[PATH_MAX];      /* "": the default */
    bool rivals; /* other mounts serve this source too, and PATH did not choose */
    bool known;  /* that the source begins there is known, not guessed */
    int source_fd;
    struct vd_meta_store *store; /* NULL: no metadata there yet */
    struct vd_maps *maps;        /* see cli_maps */
    json_t *verdicts;            /* see cli_disk_probe; NULL: none yet */
    struct cli_usage *used;      /* what the cache holds; see cli_cached_bits */
    unsigned unseen;             /* files and folders that cli_walk could not look at */
    bool hung;                   /* the daemon has not answered in time, and is not asked again */
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
/* Is REL, below a source, our private folder, or in it? */
bool cli_is_private(const char *rel);
/* Every mount that runs. The caller frees each and the array. A count, or -1 (said). */
int cli_resolve_all(const struct cli *cli, struct cli_target **ret_ts) VD_WARN_UNUSED;
/* Info files of all daemons, each with "socket" added: a new array. */
json_t *cli_daemons(void);

/* Asks the daemon of P. 0 or -errno with RET_WHY (VD_META_WHY bytes); -ENOTCONN where it is
 * offline; -ETIMEDOUT, and from then on at once, where it hangs. ARGS is consumed. */
int cli_ask(struct cli_place *p, const char *command, json_t *args, unsigned timeout_ms,
            json_t **ret_ok, char *ret_why) VD_WARN_UNUSED;
#define CLI_TIMEOUT_MS 10000u
#define CLI_LONG_TIMEOUT_MS (24u * 3600 * 1000) /* the cache is walked, or all of it read */

/* ---- disks ---- */

struct cli_disk {
    char name[PATH_MAX]; /* below the source */
    int fd;
    struct stat st;      /* of its file */
    struct stat live_st; /* of the live layer's file: its own, where it has no layers */
    uint64_t size_bytes; /* as clients see it */
    uint32_t nlayers;    /* after cli_disk_probe */
    bool named;          /* its file bears the attribute with named_uuid, its own or a copied one */
    bool bound;          /* uuid is known */
    bool recorded;       /* record and live are filled in */
    bool layered;        /* view is filled in */
    bool refused;        /* its metadata is damaged, or older than its layers: why says how */
    bool broken;         /* see cli_disk_probe */
    bool owned;          /* owner is filled in, and lives */
    struct vd_id uuid, named_uuid;
    struct vd_disk_record record;
    struct vd_layer_record live;
    struct vd_view_record view;
    struct vd_owner_record owner;
    char why[VD_META_WHY];
    json_t *online; /* what the daemon says of it; NULL: it is not attached there */
};

/* Reads all that is known of the file REL below P's source. 0; -ENODATA: not a disk, nor could it
 * be one (not a regular file); -errno of the file. Damaged metadata is no failure (`refused`).
 * After 0 free D. */
int cli_disk_load(struct cli_place *p, const char *rel, struct cli_disk *d) VD_WARN_UNUSED;
void cli_disk_free(struct cli_disk *d);
/* Counts D's layers, and, where no daemon has it open, asks what its next open would: `refused`
 * where others stand on the layer that it would write, `broken` where a map, or a frozen layer's
 * file, is missing or not as it was; with why. Each layer is looked at once a place. */
void cli_disk_probe(struct cli_place *p, struct cli_disk *d);
/* The UUID in the attribute of the file FD, whoever's it is. */
bool cli_named_uuid(int fd, struct vd_id *ret_uuid);
/* 1 MiB or more, or it has metadata. */
bool cli_disk_is(const struct cli_disk *d);
/* cli_resolve() and cli_disk_load(), and both free; failures, also that PATH is no disk, are said.
 */
int cli_open(const struct cli *cli, const char *path, struct cli_target *t,
             struct cli_disk *d) VD_WARN_UNUSED;
void cli_close(struct cli_target *t, struct cli_disk *d);

/* {"dev", "ino"}: how a daemon is told of D. */
json_t *cli_disk_args(const struct cli_disk *d);

/* ---- layers ---- */

struct cli_layer {
    struct vd_id disk_id; /* zero: none yet */
    bool live;
    bool file; /* its bytes are in the disk's own file */
    char path[PATH_MAX];
    char snapshot[VD_SNAPSHOT_NAME_MAX + 1]; /* its name in this disk, or "" */
    int fd;                                  /* -1: not opened yet */
};

/* The layers of a disk, newest first; a plain disk has one. Of an attached disk they are its
 * daemon's, since its files may change under us; else they come from the metadata. */
struct cli_layers {
    struct cli_place *place;
    const struct cli_disk *disk;
    struct cli_layer *v;
    size_t n, nopen;
    bool online;
    struct vd_live_map *live_map; /* offline, with layers */
    struct vd_map *maps[VD_VIEW_MAPS];
    unsigned nmaps;
};

struct cli_extent {
    uint64_t start_bytes, length_bytes;
    size_t layer; /* an index, or CLI_NO_LAYER: zero, and no layer holds it */
    bool zero;
};
#define CLI_NO_LAYER SIZE_MAX

/* Reads them. P and D are borrowed. 0; -EUCLEAN and the like with WHY (VD_META_WHY bytes). After 0
 * free L. */
int cli_layers_load(struct cli_place *p, const struct cli_disk *d, struct cli_layers *ret_l,
                    char *why) VD_WARN_UNUSED;
void cli_layers_free(struct cli_layers *l);
/* Extents of [OFF, +LEN), in order, adjacent equal ones joined. HOLES: what a layer's file has no
 * data for is zero (where the file system tells). A non-zero return of FN ends the walk and is
 * returned. */
int cli_layers_each(struct cli_layers *l, uint64_t off, uint64_t len, bool holes,
                    int (*fn)(void *user, const struct cli_extent *e), void *user,
                    char *why) VD_WARN_UNUSED;
/* The maps of P's store; NULL where there are none, or they cannot be had. P's. */
struct vd_maps *cli_maps(struct cli_place *p);

/* ---- filters ---- */

/* Those of D, from the top: [{"name", "class", "config": {KEY: VALUE}, "required"}]. */
json_t *cli_filters(const struct cli_place *p, const struct cli_disk *d);
/* LINES of KEY=VALUE as an object. */
json_t *cli_filter_config(const char *lines);
const char *cli_filter_class(uint64_t filter_class);

/* ---- the cache ---- */

/* Bytes of D that would be served from the cache now, whichever layer holds them. */
uint64_t cli_cached_bytes(struct cli_place *p, const struct cli_disk *d);
/* The same block by block: bits for the whole disk, allocated. 0 or -errno. */
int cli_cached_bits(struct cli_layers *l, uint64_t **ret_bits) VD_WARN_UNUSED;
void cli_usage_free(struct cli_usage *u);

/* The key under which the cache in CACHE_DIR holds good blocks of a frozen layer. */
bool cli_frozen_key(const char *cache_dir, const struct vd_layer_file *file,
                    struct vd_cache_key *ret_key);

/* Calls FN for each regular file below REL that may be opened, in order of names; never the private
 * folder. What cannot be looked at is warned about, and counted in P->unseen. A non-zero return
 * ends the walk and is returned. */
int cli_walk(struct cli_place *p, const char *rel, int (*fn)(void *user, const char *rel),
             void *user);

/* The one word of a disk, a layer's state, an owner's state. */
const char *cli_disk_state(const struct cli_disk *d);
const char *cli_layer_state(enum vd_layer_state state);
const char *cli_owner_state(enum vd_owner_state state);
/* JSON of an owner record, D's: all null where there is none. */
json_t *cli_owner_json(const struct cli_disk *d);
/* The owner's "HOST:PID", or NULL: lives in BUF. */
const char *cli_owner_name(const struct cli_disk *d, char buf[300]);

/* ---- changes of a disk ---- */

/*
 * A disk that is to be changed. Where a daemon serves its source, attached or not, the change is
 * the daemon's (disks is NULL, and cli_work_ask asks it); else it is made in this process, by the
 * same functions, with this process as a mount of its own that has no cache: locks, records and
 * what a cut leaves are one code.
 */
struct cli_work {
    struct cli *cli;
    const char *path; /* as given, for messages */
    struct cli_target t;
    int path_fd; /* O_PATH */
    struct stat st;
    struct vd_disks *disks; /* NULL: online */
    struct vd_meta_store *store;
    struct vd_lanes *lanes;
    struct vd_filters *filters;
    struct vd_coordinator *coordinator;
    char why[VD_META_WHY];
};

/* 0, or 1: said. The disk's metadata is not looked at. After 0 end W. */
int cli_work_open(struct cli *cli, const char *path, struct cli_work *ret_w) VD_WARN_UNUSED;
/* Asks the daemon to do COMMAND with the disk; ARGS (may be NULL) is consumed. RET_OK may be NULL.
 * 0 or -errno, with W->why. */
int cli_work_ask(struct cli_work *w, const char *command, json_t *args,
                 json_t **ret_ok) VD_WARN_UNUSED;
/* Says a failure RESULT (-errno), frees W, prints {} with --json; returns the exit status. */
int cli_work_end(struct cli_work *w, int result);
/* Frees W, where the failure has been said. */
void cli_work_free(struct cli_work *w);
/* TEXT as it must go through a control socket, unchanged; NULL, and said in W->why, where it is not
 * UTF-8. */
json_t *cli_work_text(struct cli_work *w, const char *text);

/* ---- results ---- */

/* Says `vdisk: PATH: ...` on stderr and with --json {"error"} on stdout. Always 1. */
int cli_fail(const struct cli *cli, const char *path, const char *fmt, ...) VD_PRINTF(3, 4);
/* The same of wrong usage. Always 2. */
int cli_wrong(const struct cli *cli, const char *fmt, ...) VD_PRINTF(2, 3);
/* WHY without the name in front, where that is PATH's (WHY's may be cut, or absolute). */
const char *cli_cause(const char *path, const char *why);
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
/* Unix time as RFC 3339. */
const char *cli_time(uint64_t unix_s, char buf[32]);

struct cli_table;
struct cli_row;
struct cli_column {
    const char *name;
    bool right;
};
/* A table as lsblk prints them. Aborts without memory. */
struct cli_table *cli_table_new(const struct cli_column *columns, size_t ncolumns);
/* The same with a first column that shows which row is below which. */
struct cli_table *cli_table_new_tree(const struct cli_column *columns, size_t ncolumns);
void cli_table_row(struct cli_table *t);
/* A row below PARENT (NULL: at the top); for the rows below it in turn. */
struct cli_row *cli_table_row_below(struct cli_table *t, struct cli_row *parent);
/* Column COL of the last row; NULL or "" is "-". */
void cli_table_set(struct cli_table *t, size_t col, const char *text);
/* Prints and frees. 0, or 1 where stdout fails. */
int cli_table_print(struct cli_table *t);

/* ---- commands ---- */

int cmd_ls(struct cli *cli);
int cmd_tree(struct cli *cli);
int cmd_snapshot(struct cli *cli);
int cmd_snapshots(struct cli *cli);
int cmd_revert(struct cli *cli);
int cmd_snapshot_rm(struct cli *cli);
int cmd_clone(struct cli *cli);
int cmd_flatten(struct cli *cli);
int cmd_resize(struct cli *cli);
int cmd_rm(struct cli *cli);
int cmd_adopt(struct cli *cli);
int cmd_info(struct cli *cli);
int cmd_owner(struct cli *cli);
int cmd_map(struct cli *cli);
int cmd_explain(struct cli *cli);
int cmd_dump(struct cli *cli);
int cmd_cache_stats(struct cli *cli);
int cmd_cache_flush(struct cli *cli);
int cmd_cache_drop(struct cli *cli);
int cmd_filter_ls(struct cli *cli);
int cmd_filter_attach(struct cli *cli);
int cmd_filter_detach(struct cli *cli);
int cmd_check(struct cli *cli);
int cmd_doctor(struct cli *cli);

#endif
