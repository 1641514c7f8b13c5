// SPDX-License-Identifier: Apache-2.0
/*
 * Filters on the host's side: finding and loading them, a disk's chain of them, and the way of a request through
 * the chain. What a filter itself sees is <vdiskfs/filter.h>.
 *
 *   struct vd_filters    one a mount: the folder, what was loaded from it, the timer of deferred requests
 *   struct vd_filtered   one a disk: what services work on
 *   struct vd_chain      a disk's filters in order; fixed once made, replaced as a whole
 *
 * A chain is replaced only while no request of its disk is under way, which its user sees to (src/disk: the gate). So a
 * request meets each filter as often on its way up as on its way down.
 *
 * The library knows nothing of disks: what lies below the last filter is struct vd_filter_below.
 */
#ifndef VD_FILTER_H
#define VD_FILTER_H

#include <sys/types.h>
#include <vdiskfs/filter.h>

#include "vd_backing.h" /* lanes */
#include "vd_base.h"

#define VD_FILTERS_MAX 16u /* on one disk */
#define VD_FILTER_WHY 512
#define VD_FILTER_CONFIG_MAX 2048u

struct vd_filters;
struct vd_filtered;
struct vd_chain;

/* ---- the filters of a mount ---- */

/* The filters of DIR (NULL: the build tree's `filters` beside the program where there is one, else the installed
 * ones). Nothing is loaded yet, and DIR need not exist. 0, -ENOMEM, -errno. */
int vd_filters_open(const char *dir, struct vd_filters **ret_fs) VD_WARN_UNUSED;
/* Every vd_filtered must be freed. Logs an error if a request was never answered. NULL is allowed. */
void vd_filters_close(struct vd_filters *fs);
const char *vd_filters_dir(const struct vd_filters *fs);
/* Requests in chains now. Exact once they are quiet: 0 at the end. */
uint64_t vd_filters_inflight(struct vd_filters *fs);
/* The mount ends: deferred requests of all disks are let go, new ones are not deferred, and what a filter still holds after
 * GRACE_MS is failed. Makes upcalls. */
void vd_filters_stopping(struct vd_filters *fs, unsigned grace_ms);

/* A filter that can be attached, or cannot: then WHY says it, and OPS is NULL. */
struct vd_filter_available {
    const char *name;
    const struct vd_filter_ops *ops;
    const char *why;
};
/* Loads each and calls FN, in order of names. A non-zero return ends it and is returned. 0 without the folder; -errno. */
int vd_filters_each(struct vd_filters *fs,
                    int (*fn)(void *user, const struct vd_filter_available *a),
                    void *user) VD_WARN_UNUSED;

/* ---- a disk's filters ---- */

/* A filter on a disk, as it is kept in the disk's metadata. */
struct vd_filter_spec {
    char name[VD_FILTER_NAME_MAX + 1];
    uint32_t filter_class;
    bool required, cloned;
    uint64_t order;                    /* among those of a class */
    char config[VD_FILTER_CONFIG_MAX]; /* KEY=VALUE, one a line */
};

/* Fills in the rest of SPEC from its name and config: class, required, cloned. 0; -ENOENT: no such filter; -EPERM,
 * -ENOEXEC: refused; -EINVAL: its config is wrong. WHY says it. */
int vd_filter_spec_complete(struct vd_filters *fs, struct vd_filter_spec *spec,
                            char why[VD_FILTER_WHY]) VD_WARN_UNUSED;

typedef void (*vd_filter_done)(void *user, ssize_t result, const void *data);

/* A request to the first filter. DATA of a write are borrowed until the call returns. */
struct vd_filter_submit {
    enum vd_filter_op op;
    unsigned flags; /* VD_FILTER_DATA_ONLY, VD_FILTER_EXTEND */
    uint64_t off, len;
    const void *data;
    unsigned ticket;
    vd_filter_done done;
    void *user;
};

/*
 * What lies below a disk's filters. DISK is that of vd_filtered_new. Of the first three DONE is called once, on any thread,
 * perhaps before they return, and DATA of a read is valid during it; data to be written are borrowed until
 * they return. CHANGED: a filter may change the bytes in DATA. The _now ones do it on the calling thread and may block.
 */
struct vd_filter_below {
    void (*read)(void *disk, uint64_t off, size_t len, bool changed, vd_filter_done done,
                 void *user);
    void (*write)(void *disk, uint64_t off, const void *data, size_t len, vd_filter_done done,
                  void *user);
    void (*change)(void *disk, enum vd_filter_op op, unsigned flags, uint64_t off, uint64_t len,
                   vd_filter_done done, void *user);
    ssize_t (*read_now)(void *disk, uint64_t off, void *buf, size_t len);
    ssize_t (*write_now)(void *disk, uint64_t off, const void *data, size_t len);
    int (*change_now)(void *disk, enum vd_filter_op op, unsigned flags, uint64_t off, uint64_t len);
    int64_t (*next_data)(void *disk, uint64_t off); /* SEEK_DATA; blocks */
    uint64_t (*size)(void *disk);
    uint64_t (*epoch)(void *disk);
    int64_t (*get_data)(void *disk, const char *filter, const char *key, void *buf, size_t len);
    int (*put_data)(void *disk, const char *filter, const char *key, const void *buf, size_t len);
    int (*del_data)(void *disk, const char *filter, const char *key);
    /* A thread that may wait. */
    void (*queue)(void *disk, struct vd_job *job);
    /* Around work of a filter that belongs to no request: the chain is not replaced meanwhile. Waits. 0, -ESHUTDOWN.
     * leave: -EIO if what it HAS_READ is not to be believed: another mount has changed the filters meanwhile. */
    int (*enter)(void *disk, unsigned *ret_ticket);
    int (*leave)(void *disk, unsigned ticket, bool has_read);
    /* Has another mount changed the filters since the chain was made? Then what was just read is not to be believed. Blocks. */
    bool (*others)(void *disk);
    /* Request S (but for its data) has ended: lets its ticket go, then calls its `done`; or does S again. */
    void (*finish)(void *disk, const struct vd_filter_submit *s, ssize_t result, const void *data);
};

struct vd_filtered_info {
    char name[1024]; /* below the source */
    char uuid[33];   /* "" without metadata */
    uint64_t dev, ino;
    bool read_only;
};

/* BELOW and DISK must outlive it. 0, -ENOMEM. */
int vd_filtered_new(struct vd_filters *fs, const struct vd_filter_below *below, void *disk,
                    const struct vd_filtered_info *info, struct vd_filtered **ret_f) VD_WARN_UNUSED;
/* No request may be under way; see vd_filtered_end. NULL is allowed. */
void vd_filtered_free(struct vd_filtered *f);

/* The chain now; NULL: no filters. */
struct vd_chain *vd_filtered_chain(struct vd_filtered *f);

/*
 * Makes the chain of SPECS. A filter that the chain now has with the same spec is kept; the others are attached: those which
 * cannot be are `missing`, but where FRESH (a name; NULL: none) cannot be this fails. SPECS may be in any order. 0; -errno with WHY of
 * attaching FRESH; -E2BIG: too many. Makes upcalls; no lock may be held.
 */
int vd_filtered_prepare(struct vd_filtered *f, const struct vd_filter_spec *specs, size_t n,
                        const char *fresh, struct vd_chain **ret_chain,
                        char why[VD_FILTER_WHY]) VD_WARN_UNUSED;
/* The last word of FRESH in a prepared CHAIN, with no request under way: 0; -errno with WHY. Makes upcalls. */
int vd_filtered_ready(struct vd_chain *chain, const char *fresh,
                      char why[VD_FILTER_WHY]) VD_WARN_UNUSED;
/* Puts CHAIN (NULL: none) in place; no request may be under way. Returns the old one. */
struct vd_chain *vd_filtered_publish(struct vd_filtered *f, struct vd_chain *chain);
/* After publishing, and after requests may come: starts what is new in the chain, detaches what only OLD has (NULL: none),
 * and frees it. Makes upcalls. */
void vd_filtered_settle(struct vd_filtered *f, struct vd_chain *old);
/* Gives a prepared chain up. Makes upcalls. */
void vd_filtered_discard(struct vd_filtered *f, struct vd_chain *chain);

/* ON: deferred requests are let go, and none is deferred. Makes upcalls (DRAIN). */
void vd_filtered_drain(struct vd_filtered *f, bool on);
/* Fails what filters still hold. How many requests that were; the name of one such filter in NAME. */
unsigned vd_filtered_force(struct vd_filtered *f, char name[VD_FILTER_NAME_MAX + 1]);
/* The disk is being closed, requests have ended: services for filters' own threads end, RELEASE if EXCLUSIVE, all
 * are detached. Before it the gate must be shut (`enter` fails), and it is told DRAIN. */
void vd_filtered_end(struct vd_filtered *f, bool exclusive);

/* EVENT to each filter from the top; the first that refuses ends it: its -errno and WHY ("filter NAME: ..."). Makes
 * upcalls. The first enters the gate for it, the second is for who is in it and has C from there. */
int vd_filtered_event(struct vd_filtered *f, const struct vd_filter_event *event,
                      char why[VD_FILTER_WHY]) VD_WARN_UNUSED;
int vd_chain_event(struct vd_chain *c, const struct vd_filter_event *event,
                   char why[VD_FILTER_WHY]) VD_WARN_UNUSED;
bool vd_chain_wants_events(const struct vd_chain *c);
/* Is a required filter missing or quarantined? Then no I/O goes on. */
bool vd_chain_refuses(const struct vd_chain *c);
/* A client opens the disk: 0, -errno and WHY; -EIO: a required filter is missing or quarantined. */
int vd_filtered_open(struct vd_filtered *f, bool writable, char why[VD_FILTER_WHY]) VD_WARN_UNUSED;
void vd_filtered_close(struct vd_filtered *f, bool writable);

/* Any thread, does not wait. `finish` is called once. */
void vd_chain_submit(struct vd_chain *c, const struct vd_filter_submit *s);

enum vd_filter_state { VD_FILTER_ACTIVE, VD_FILTER_QUARANTINED, VD_FILTER_MISSING };

/* A filter of a disk, for people. */
struct vd_filter_report {
    const struct vd_filter_spec *spec;
    enum vd_filter_state state;
    const char *why; /* why it is not active; "" */
    uint64_t requests, errors, faults, deferred;
    uint64_t callback_ns; /* mean time in its submit, sampled; 0: not known */
    const char *status;   /* a JSON object, or "" */
};
/* Calls FN for each, from the top. STATUS: asks each for it (upcalls). */
int vd_filtered_each(struct vd_filtered *f, bool status,
                     int (*fn)(void *user, const struct vd_filter_report *r), void *user);

#endif
