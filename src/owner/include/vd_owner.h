// SPDX-License-Identifier: Apache-2.0
/*
 * Ownership of a disk's live layer. It *is* a lock: an open file description lock on byte 2^62 of
 * the data file, held through the descriptor that does the I/O, so that the kernel (or an NFSv4
 * server) frees what a dead owner held. The `owner` records in the metadata only say whom to ask.
 *
 *   none       no lock: reads go past the caches, writes must own first
 *   shared     read lock: any number of mounts; may cache, none writes
 *   exclusive  write lock: this mount alone; may write and cache
 *
 * A mount that wants exclusive asks each recorded shared holder to give up (it does, at once, and
 * reads past its cache from then on); an exclusive holder is named in the refusal. What NFSv4
 * delegations and leases (Gray and Cheriton, SOSP 1989) do for files, for whole disks.
 */
#ifndef VD_OWNER_H
#define VD_OWNER_H

#include "vd_base.h"
#include "vd_file.h"
#include "vd_id.h"
#include "vd_meta.h"

#define VD_OWNER_LOCK_OFF ((off_t)1 << 62)
/* The byte after it is read-locked while a file that was too small to be a disk when it was opened
 * is open for writing: it may grow into one for others, who must not cache it. */
#define VD_OWNER_PAST_OFF (VD_OWNER_LOCK_OFF + 1)
/* The byte QEMU locks to have write permission (block/file-posix.c: 100 + BLK_PERM_WRITE's bit). */
#define VD_OWNER_QEMU_WRITE_BYTE 101

/* Who we are: one a mount. */
struct vd_owner_self {
    struct vd_id id;
    struct vd_id boot_id;
    char host[256];
    char endpoint[256]; /* our control socket */
};

/* Takes, converts or drops the lock on FD, without waiting. 0, -EAGAIN, -errno. */
int vd_owner_lock(int fd, enum vd_lock mode) VD_WARN_UNUSED;

/* Says through FD (readable) that its file is written past its disk, until FD is closed. 0, -errno. */
int vd_owner_go_past(int fd) VD_WARN_UNUSED;
/* Does anybody but FD's holder say so? */
bool vd_owner_is_gone_past(int fd);

/* A coordinator carries requests between mounts. */
struct vd_coordinator;
struct vd_coordinator_ops {
    int (*ask_release)(struct vd_coordinator *c, const struct vd_owner_record *holder,
                       const struct vd_id *uuid, char ret_why[VD_META_WHY]);
    void (*close)(struct vd_coordinator *c);
};
struct vd_coordinator {
    const struct vd_coordinator_ops *ops;
};

/* The local coordinator: Unix control sockets of mounts on this host. 0, -ENOMEM. */
int vd_coordinator_local(const struct vd_owner_self *self,
                         struct vd_coordinator **ret_c) VD_WARN_UNUSED;

/* Asks HOLDER to give up disk UUID. 0: it has; -EBUSY: it refuses (RET_WHY); -EAGAIN: it is
 * detaching, its lock will go; -ESRCH: nobody answers there. Bounded by 2 s; blocks. */
static inline int vd_coordinator_ask(struct vd_coordinator *c, const struct vd_owner_record *holder,
                                     const struct vd_id *uuid, char ret_why[VD_META_WHY])
{
    return c->ops->ask_release(c, holder, uuid, ret_why);
}
static inline void vd_coordinator_close(struct vd_coordinator *c)
{
    if (c)
        c->ops->close(c);
}

/* In session M: all owner records but those of SELF are removed when EXCLUSIVE (we hold the write
 * lock: theirs are stale), and ours is written with STATE and EPOCH. 0 or -errno of the records. */
int vd_owner_record_put(struct vd_meta *m, const struct vd_owner_self *self,
                        enum vd_owner_state state, uint64_t epoch) VD_WARN_UNUSED;

/* The highest epoch of any record, 0 without records. */
int vd_owner_epoch(struct vd_meta *m, uint64_t *ret_epoch) VD_WARN_UNUSED;

#endif
