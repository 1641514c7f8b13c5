// SPDX-License-Identifier: Apache-2.0
/*
 * The parts of the steps test: a tale of disks, told to a model and, where there is a mount, done
 * (steps_tale.c); what is looked at after a cut (steps_look.c); the scenes (steps_scenes.c); the
 * driver (steps.c).
 */
#ifndef STEPS_H
#define STEPS_H

#include "sweep.h"

#define SECTOR 512u
#define SNAPS_MAX 10
#define DISKS_MAX 6

/* The content of a disk: each sector is filled from a number; 0: zeroes. */
struct image {
    uint64_t size; /* a multiple of SECTOR */
    uint32_t *stamp;
};

struct told_snap {
    char name[16];
    struct image image;
};

struct told_disk {
    char name[16];
    struct image now;
    unsigned nsnaps;
    struct told_snap snap[SNAPS_MAX];
    struct vd_disk *d; /* a client has it open */
};

/* What the disks hold; with MOUNT what is told is done too. */
struct tale {
    struct mount *mount;
    unsigned ndisks;
    struct told_disk disk[DISKS_MAX];
    int failed; /* 0, or the error of the first thing that could not be done */
    char why[VD_META_WHY + 64];
};

/* One thing that is done; nothing where an earlier one failed. The model follows where it was done. */
void tale_make(struct tale *t, const char *name, uint64_t size);
void tale_open(struct tale *t, const char *name);
void tale_close(struct tale *t, const char *name);
void tale_write(struct tale *t, const char *name, uint64_t off, uint64_t len, uint32_t stamp);
void tale_zero(struct tale *t, const char *name, uint64_t off, uint64_t len);
void tale_truncate(struct tale *t, const char *name, uint64_t size);
void tale_flush(struct tale *t, const char *name);
void tale_snapshot(struct tale *t, const char *name, const char *snap);
void tale_snapshot_rm(struct tale *t, const char *name, const char *snap);
void tale_revert(struct tale *t, const char *name, const char *snap);
void tale_clone(struct tale *t, const char *name, const char *snap, const char *child);
void tale_flatten(struct tale *t, const char *name);
void tale_resize(struct tale *t, const char *name, uint64_t size);
void tale_remove(struct tale *t, const char *name);
/* The file's own bytes are those of its first snapshot. */
void tale_adopt(struct tale *t, const char *name, const char *bytes_of);

struct told_disk *tale_disk(struct tale *t, const char *name);
void tale_copy(struct tale *to, const struct tale *from); /* without mount and open disks */
void tale_free(struct tale *t);
void sector_fill(uint64_t *buf, uint64_t sector, uint32_t stamp);

/*
 * A scene: what is there before, and what is done, one act after the other, each wholly done or not
 * at all. ACT returns false where there is no act I.
 */
struct scene {
    const char *name;
    void (*before)(struct tale *t);
    bool (*act)(struct tale *t, unsigned i);
    unsigned arm;        /* the first act that is cut */
    bool arm_only;       /* the acts before are many changes: only for kills */
    const char *refused; /* a disk that may be refused while the act that adopts it is cut off */
};
extern const struct scene scenes[];
extern const unsigned nscenes;

/* The state of T's disks as M has it. Empty, or what differs. */
bool look_same(struct mount *m, const struct tale *t, const char *but, char *ret_why, size_t len);
/* Sweeps; a second sweep must find nothing. */
bool look_swept(struct mount *m, char *ret_why, size_t len);
/* Closes and opens the mount: what it does behind our backs has ended then. */
bool look_remount(struct mount *m, char *ret_why, size_t len);
/* Writes to every disk and looks at all; then removes them all: nothing may be left. */
bool look_apart(struct mount *m, struct tale *t, char *ret_why, size_t len);
bool look_removed(struct mount *m, struct tale *t, char *ret_why, size_t len);

#endif
