// SPDX-License-Identifier: Apache-2.0
/*
 * The log of a live map: a head in 4 KiB and records of 32 bytes.
 *
 *   OWN, ZERO  first block, number of blocks
 *   SIZE       size of the disk in bytes
 *   MARK       the data of every record in the slots below P are durable; the log is known to be
 *              durable below slot S, because an earlier sync of it has ended
 *   END        a mark of everything below it, and the log's last record: now the next log may have
 *              marks
 *
 * A record's checksum covers its slot, and it bears the log's salt, so that neither a record of
 * another place nor one of a file that lay here before verifies. Records are appended in order, one
 * at a time, 512 being a multiple of 32: a killed process leaves a prefix, and at most one torn
 * record. A power cut leaves any of the sectors that were not synced.
 *
 * So, of a log whose writer was killed (VD_MAP_TRUST_ALL), what does not verify is the end; a sound
 * record behind it is damage. After a power cut (VD_MAP_TRUST_MARKED) the last mark counts below
 * which everything verifies. A mark below which something does not was never synced (the sync takes
 * mark and records to the disk in any order), so nobody was told of it, unless it is damage: what
 * must verify in any case is what stands below S of any mark. A clean close notes S once more.
 */
#ifndef VD__MAP_LOG_H
#define VD__MAP_LOG_H

#include "map_bits.h"

#define VD__MAPLOG_HEAD_LEN 512u /* of its space, the rest is zero */
#define VD__MAPLOG_RECORDS_OFF 4096u
#define VD__MAPLOG_RECORD_LEN 32u
#define VD__MAPLOG_SLOTS_MAX (1ull << 25) /* a fold is wanted after 2^18 */

struct vd__maplog_head {
    struct vd_id id, layer;
    uint64_t number;
    uint64_t size_bytes; /* of the disk when the log was begun */
    uint64_t salt;
    uint64_t room; /* slots; the file has been, durably, at least that long */
};

enum vd__maplog_type {
    VD__MAPLOG_OWN = VD_BLOCK_OWN,
    VD__MAPLOG_ZERO = VD_BLOCK_ZERO,
    VD__MAPLOG_SIZE = 3,
    VD__MAPLOG_MARK = 4,
    VD__MAPLOG_END = 5,
};

struct vd__maplog_record {
    uint32_t type;
    uint64_t a, b; /* first and number; bytes and 0; P and S */
};

/* ---- codecs: pure ---- */

void vd__maplog_head_encode(const struct vd__maplog_head *h, uint8_t ret_buf[VD__MAPLOG_HEAD_LEN]);
/* 0, -EUCLEAN with RET_WHY (a constant string). Any bytes may come. */
int vd__maplog_head_decode(const uint8_t buf[VD__MAPLOG_HEAD_LEN], struct vd__maplog_head *ret_h,
                           const char **ret_why);

void vd__maplog_record_encode(const struct vd__maplog_record *r, uint64_t slot, uint64_t salt,
                              uint8_t ret_buf[VD__MAPLOG_RECORD_LEN]);
/* Does it verify? 0: RET_R is what it says; -ENODATA: no (any bytes may come); -EUCLEAN: it does,
 * and says what nobody writes. */
int vd__maplog_record_decode(const uint8_t buf[VD__MAPLOG_RECORD_LEN], uint64_t slot, uint64_t salt,
                             struct vd__maplog_record *ret_r);

/* ---- reading ---- */

struct vd__maplog_scan {
    struct vd__maplog_head head;
    uint64_t len_bytes; /* of the file */
    uint64_t nslots;    /* up to the last record that verifies */
    uint64_t nbelieved; /* records in the slots below count */
    uint64_t nknown;    /* slots below are known to be durable */
    uint64_t nmarks;
    bool ended; /* with an END, everything below it sound */
    bool clean; /* no change behind the last mark that counts, and nothing torn */
};

/* Reads all of the log FD. 0; -EUCLEAN with RET_WHY (without the file's name); -errno. */
int vd__maplog_scan(int fd, enum vd_map_trust trust, struct vd__maplog_scan *ret_scan,
                    char ret_why[VD_META_WHY]) VD_WARN_UNUSED;

/* Puts the records that SCAN believes into BITS, the size into SIZE_BYTES. 0, -ENOMEM, -EUCLEAN (it
 * changed since), -errno. */
int vd__maplog_apply(int fd, const struct vd__maplog_scan *scan, struct vd__bits *bits,
                     uint64_t *size_bytes) VD_WARN_UNUSED;

/* ---- writing ---- */

/* A log that is appended to. Fields: lock: the live map's mu, but where it says otherwise. */
struct vd__maplog {
    struct vd__maplog *next;     /* newer */
    int fd;                      /* constant */
    struct vd__maplog_head head; /* constant, but for its room: of the marking thread */
    uint64_t base;               /* sequence number of slot 0 */
    uint64_t nslots;
    uint64_t end;   /* sequence number behind the last change; set when the next takes over */
    uint64_t room;  /* slots that have space on the disk */
    uint64_t known; /* slots below are durable; of the marking thread */
    uint64_t noted; /* the last mark's S */
};

/* Writes an empty log, with its first room, into the empty file FD; HEAD's salt and room are
 * chosen. 0, -errno. */
int vd__maplog_init(int fd, struct vd__maplog_head *head) VD_WARN_UNUSED;

/* Takes over FD, a log that SCAN read, to go on at its end. NULL: no memory (FD stays the
 * caller's). */
struct vd__maplog *vd__maplog_resume(int fd, const struct vd__maplog_scan *scan);
void vd__maplog_close(struct vd__maplog *l); /* NULL is allowed */
VD_DEFINE_CLEANUP(struct vd__maplog, vd__maplog_close)

/*
 * Appends a record, unsynced; there is always room left on the disk for the mark after a change.
 * After an error what is in the slot is not known, and the next record is written in its place. 0;
 * -ENOSPC, -EDQUOT; -errno with *RET_BROKEN true: the device or file system is not to be trusted
 * any more.
 */
int vd__maplog_append(struct vd__maplog *l, const struct vd__maplog_record *r,
                      bool *ret_broken) VD_WARN_UNUSED;

/* Says in the head, not synced, that the file's length has been synced with ROOM slots, so that one
 * that was cut short later is known for it. 0, -errno: it is not known what the head says. */
int vd__maplog_note_room(struct vd__maplog *l, uint64_t room) VD_WARN_UNUSED;

#endif
