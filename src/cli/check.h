// SPDX-License-Identifier: Apache-2.0
/* What the parts of `vdisk check` share. */
#ifndef VD_CLI_CHECK_H
#define VD_CLI_CHECK_H

#include "cli.h"

struct check {
    struct cli *cli;
    struct cli_place *place;
    bool whole;       /* the whole source: what has no file too, left-overs, and all of the cache */
    bool repair;      /* --repair */
    bool accept;      /* --accept: what nothing can be compared with, too */
    bool twice;       /* the source was walked a second time */
    json_t *errors;   /* array */
    json_t *left;     /* array: left-overs */
    json_t *seen;     /* object: UUIDs whose file was found, or that a daemon has attached */
    json_t *bearing;  /* object: UUID to object of the paths whose attribute names it */
    json_t *refused;  /* object: paths that cannot be bound to metadata */
    json_t *copies;   /* array: those of them that check_restored looks at */
    json_t *doubtful; /* object: paths of disks whose next open would be refused */
    json_t *ids;      /* object: disk IDs of layers that were met */
    json_t *good;     /* object: IDs of frozen layers that are as they should be */
    json_t *bad;      /* object: of those that are not, and were reported */
    json_t *maps;     /* object: IDs of maps that were verified */
    unsigned nleft;   /* errors not repaired */
    char held[256];   /* why nothing may be removed; "" */
};

/* WHAT may begin with PATH, which is not said twice. */
void check_error(struct check *c, const char *path, bool repaired, const char *what);
/* WHAT, or the words of errno where it is empty. */
void check_failed(struct check *c, const char *path, const char *what, int error);
/* Nothing is removed any more in this run: PATH is CAUSE. What a disk needs cannot be told from
 * garbage while some disk cannot be read. */
void check_hold(struct check *c, const char *path, const char *cause);
/* Is ID new to SET? It is added. */
bool check_first(json_t *set, const struct vd_id *id);
bool check_has(const json_t *set, const struct vd_id *id);
/* All that is to be said of D, a file of the source. */
void check_disk(struct check *c, struct cli_disk *d);

/* check_layers.c: the maps of a disk, of its snapshots, and their layers' files. */
void check_layers(struct check *c, const struct cli_disk *d);
/* check_restored.c: notes which UUID D's file names, and whether it is a copy that may be the
 * disk's file: then it is judged by check_restored, after all files were looked at. */
void check_note_name(struct check *c, const struct cli_disk *d);
bool check_is_copy(struct check *c, const struct cli_disk *d);
void check_restored(struct check *c);
/* check_vanished.c: metadata without a file; left-overs. After all files were looked at. */
void check_attached(struct check *c);
int check_walk_again(struct check *c);
void check_vanished(struct check *c);
void check_leftovers(struct check *c);
/* check_known.c: disks with layers that have lost their metadata and their file. After a second
 * walk. */
int check_count_known(struct check *c);
void check_known(struct check *c);
/* check_accept.c: a frozen layer whose file is not as its record says, for WHY. Compares it with
 * what the cache holds, with --repair, and reports it. */
void check_changed_layer(struct check *c, const struct vd_id *id, const char *why);

#endif
