// SPDX-License-Identifier: Apache-2.0
/* The parts of the fault sweep: what the disk must hold (model.c), the life that is led under
 * faults and the look that is taken after (life.c), a mount without FUSE (mount.c). */
#ifndef SWEEP_H
#define SWEEP_H

#include "vd_disk.h"

#define MODEL_MAX (1100u << 10)
#define DISK_BYTES ((1u << 20) + 12345u)
#define VALUES_MAX 3

/*
 * What each byte may be: one value, or while a change is under way or after it failed, one of some.
 * It lies in memory that the driver shares with the process under faults, so that it is right
 * whenever that one is killed. A value that was read is the only one from then on.
 */
struct model {
    uint64_t size[2]; /* the second: what a truncation in doubt wanted */
    uint32_t requests, failed;
    uint8_t seed;
    char lie[400];           /* what went wrong; "" if nothing */
    uint8_t last[MODEL_MAX]; /* how many values there are, but one */
    uint8_t value[VALUES_MAX][MODEL_MAX];
};

/* M is zero. */
void model_init(struct model *m);
/* A change of the bytes is about to be asked for; PATTERN 0 means zeros. End says what came of it.
 */
void model_begin(struct model *m, uint64_t off, size_t len, uint8_t pattern);
void model_end(struct model *m, uint64_t off, size_t len, bool done);
uint8_t model_byte(uint8_t pattern, uint64_t off);
/* LEN bytes were read at OFF. False, with m->lie, where a byte is none that it may be. */
bool model_saw(struct model *m, const char *where, uint64_t off, const uint8_t *buf, size_t len);
bool model_lie(struct model *m, const char *fmt, ...) VD_PRINTF(2, 3);

struct mount {
    const char *dir; /* holds source/ and cache/ */
    int source_fd;
    struct vd_meta_store *store;
    struct vd_cache *cache;
    struct vd_lanes *lanes;
    struct vd_coordinator *coordinator;
    struct vd_disks *disks;
};

/* 0, or the error of what could not be opened: a daemon would not start. READY_MS as in
 * vd_cache_config. */
int mount_open(struct mount *m, const char *dir, unsigned ready_ms);
void mount_close(struct mount *m);
int disk_make(struct mount *m, const char *name, uint64_t size);
int disk_open(struct mount *m, const char *name, struct vd_disk **ret_disk);
/* Releases it and waits until it is detached. */
void disk_close(struct mount *m, struct vd_disk *d);
ssize_t disk_read(struct vd_disk *d, uint64_t off, void *buf, size_t len);
ssize_t disk_write(struct vd_disk *d, uint64_t off, const void *buf, size_t len);
ssize_t disk_zero(struct vd_disk *d, uint64_t off, uint64_t len);
ssize_t disk_truncate(struct vd_disk *d, uint64_t size);
ssize_t disk_flush(struct vd_disk *d);

/* Exit codes of a life. */
enum { LIFE_GOOD = 0, LIFE_LIE = 1, LIFE_NO_MOUNT = 3 };

/* Every kind of request through two mounts of DIR. STEADY: the faults are the cache's alone, so no
 * request may fail. READY_MS 0 does not wait for the index. An exit code. */
int life(struct model *m, const char *dir, bool steady, unsigned ready_ms);
/* With no faults any more: everything opens, every byte is right, the cache holds no bad block,
 * works, and stays warm. An exit code. */
int look(struct model *m, const char *dir);

#endif
