// SPDX-License-Identifier: Apache-2.0
/* Operations on a disk's layers: what they all begin and end with, and the freeze. */
#ifndef VD_DISK_FREEZE_H
#define VD_DISK_FREEZE_H

#include "disk.h"

/* A disk held for an operation: attached, refs shared, own_mu, the lock alone. */
struct hold {
    struct vd_disk *d;
    int refs_fd;
    bool owning; /* own_mu is held, and the lock, which goes back to BEFORE */
    enum vd_lock before;
};
/* SOLE: no client may have it open. 0; -EBUSY and the rest with WHY. */
int vd__hold(struct vd_disks *ds, int path_fd, const char *path, bool sole, struct hold *ret_h,
             char why[VD_META_WHY]);
/* Only attached, with refs: for what another mount may go on reading. */
int vd__hold_loosely(struct vd_disks *ds, int path_fd, const char *path, struct hold *ret_h,
                     char why[VD_META_WHY]);
/* Of a loose hold: now alone. */
int vd__hold_alone(struct hold *h, bool sole, char why[VD_META_WHY]);
void vd__let_go(struct hold *h);

/*
 * Freezes the held disk's live layer and begins a new one on it; NAME (NULL: none) becomes a snapshot. Clients may go on: changes
 * wait from the last sync to the commit.
 */
int vd__freeze(struct hold *h, const char *name, char why[VD_META_WHY]);

/* The file PATH_FD with the owner's lock, which nobody else holds: -EBUSY where another mount has it open. */
int vd__take_closed(int path_fd, int *ret_fd, char why[VD_META_WHY]);

/* Before the hold, since it makes upcalls: the disk's filters may refuse the snapshot NAME (NULL: a clone). */
int vd__tell_snapshot(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                      char why[VD_META_WHY]);

bool vd__snapshot_name_is_good(const char *name);
/* Removes what nothing refers to any more, later, on the keeper. */
void vd__sweep_later(struct vd_disks *ds);

#endif
