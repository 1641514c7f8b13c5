// SPDX-License-Identifier: Apache-2.0
/* What the parts of `vdisk check` share. */
#ifndef VD_CLI_CHECK_H
#define VD_CLI_CHECK_H

#include "cli.h"

struct check {
    struct cli *cli;
    struct cli_place *place;
    bool whole;      /* the whole source: what has no file too, left-overs, and all of the cache */
    bool repair;     /* --repair */
    bool accept;     /* --accept: a frozen layer that nothing can be compared with, too */
    json_t *errors;  /* array */
    json_t *left;    /* array: left-overs */
    json_t *seen;    /* object: UUIDs whose file was found */
    json_t *refused; /* object: paths whose binding cannot be read */
    json_t *ids;     /* object: disk IDs of layers that were met */
    json_t *maps;    /* object: IDs of maps that were verified */
    unsigned nleft;  /* errors not repaired */
};

void check_error(struct check *c, const char *path, bool repaired, const char *what);
/* WHAT, or the words of errno where it is empty. */
void check_failed(struct check *c, const char *path, const char *what, int error);
/* Is ID new to SET? It is added. */
bool check_first(json_t *set, const struct vd_id *id);

/* check_layers.c: the maps of a disk, of its snapshots, and their layers' files. */
void check_layers(struct check *c, const struct cli_disk *d);
/* check_vanished.c: metadata without a file; left-overs. After all files were looked at. */
void check_vanished(struct check *c);
void check_leftovers(struct check *c);
/* check_accept.c: a frozen layer whose file is not as its record says, for WHY. Compares it with
 * what the cache holds, with --repair, and reports it. */
void check_changed_layer(struct check *c, const struct vd_id *id, const char *why);

#endif
