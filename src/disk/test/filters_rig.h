// SPDX-License-Identifier: Apache-2.0
/* What the tests of filters before real disks share: two mounts of one disk, and places where a request is held. */
#ifndef VD_TEST_FILTERS_RIG_H
#define VD_TEST_FILTERS_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "hook.h"
#include "rig.h"

#define BYTES (2u << 20)
#define HELD_OFF 8192 /* where reads of the backing, and those that `blocking` sees, are held */
#define SECRET_BYTES 58

extern const char secret[SECRET_BYTES];
extern uint8_t inverted[SECRET_BYTES]; /* set by two_mounts */

/* While HOLD is set, what is held is; HELD: something is. The next read of HELD_OFF in the backing, if HOLD_BACKING. */
extern atomic_bool hold, held, hold_backing;

void nap(void);
int attach(struct rig *r, const char *disk, const char *name, hook_fn *fn);
/* Opens the disk and closes it: no mount has it. */
void settled(struct rig *r, const char *name);
bool file_has(const struct rig *r, const void *what, size_t len);

struct task {
    struct vd_disk *d;
    uint64_t off;
    bool write, flush;
    char buf[sizeof(secret)];
    ssize_t result;
    atomic_int tid; /* of the thread that runs it; 0: not begun */
};
void *run_task(void *task);
/* Waits until the task has asked, and its thread sleeps until it is answered. */
void await_asleep(struct task *task);
enum vd_owner_state state_of(struct vd_disk *d);

/* Hooks. blocking: holds what begins at HELD_OFF, and flushes, on a thread that may wait; slow_to_attach: where it is found in the
 * metadata, it is held, and then reads SECRET_BYTES; giving: leaves its disk in OWN. */
int blocking(const struct hook_args *a);
int passing(const struct hook_args *a);
int slow_to_attach(const struct hook_args *a);
extern uint8_t at_attach[SECRET_BYTES];
extern int64_t at_attach_n;
int giving(const struct hook_args *a);
extern struct vd_filter_disk *own;

/* By a thread of a filter's own, of the secret at HELD_OFF. */
struct own_read {
    struct vd_filter_disk *disk;
    uint8_t buf[sizeof(secret)];
    int64_t n;
};
void *read_by_own(void *own_read);

/* Two mounts of a disk D that hook0 filters where FN is given; A shares it. */
struct vd_disk *two_mounts(struct rig *a, struct rig *b, hook_fn *fn);
/* The same, of a disk that B writes, and A only reads. */
struct vd_disk *anothers(struct rig *a, struct rig *b, hook_fn *fn, struct vd_disk **ret_db);
/* A gives up its share; B attaches hook7, which inverts, writes the secret at HELD_OFF, and lets go. */
void another_encrypts(struct rig *a, struct rig *b, struct vd_disk *da);
void end_two(struct rig *a, struct rig *b, struct vd_disk *da);

/* For vd_disk_read: counts in an atomic_int, which is waited for. */
void one_answered(void *answered, ssize_t result, const void *data);
void await_one(atomic_int *answered);

#endif
