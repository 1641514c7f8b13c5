// SPDX-License-Identifier: Apache-2.0
/*
 * A live map in memory.
 *
 * Records are numbered from 0 on when the map is opened, through all logs; the numbers of slots
 * that are behind a log's last change are used for marks, and one more lies between two logs, so
 * that a mark of everything in a log is always something new. "Pending" is the number behind the
 * last change.
 *
 *   oldest -> ... -> newest    logs that have no END yet; appends go to newest
 *
 * Only the newest log takes changes. Marks go to the log that holds the records they vouch for,
 * oldest log first: END, synced, in each that is full, before a mark in the next.
 *
 * Locks: mark_mu before mu. No sync is waited for under either.
 *   mu       appending: the list of logs, their slots, pending, failed
 *   mark_mu  who writes marks: one thread at a time; the others wait for it and may find that
 *            it did theirs
 */
#ifndef VD__MAP_LIVE_H
#define VD__MAP_LIVE_H

#include "map.h"
#include "map_load.h"

struct vd_live_map {
    struct vd_maps *maps;
    struct vd_list link;    /* lock: maps->mu */
    struct vd_id id, layer; /* constant */
    struct vd__bits *bits;  /* constant */
    _Atomic uint64_t size_bytes;

    pthread_mutex_t mu;
    struct vd__maplog *oldest, *newest; /* NULL until begin */
    _Atomic uint64_t pending;           /* changes: lock: mu */
    bool failed;                        /* a record or mark got lost: no more changes; lock: mu */
    bool frozen;                        /* lock: mu */

    pthread_mutex_t mark_mu;
    pthread_cond_t marked_cond;
    bool marking;         /* lock: mark_mu */
    uint64_t mark_wanted; /* lock: mark_mu */
    uint64_t marked;      /* everything below is durable; lock: mark_mu */
    int mark_error;       /* a sync failed: no more marks; lock: mark_mu */

    bool clean;                   /* from open to begin: the last log can be gone on with */
    struct vd__maplog_scan last;  /* the same: as it was read */
    uint64_t first_log, last_log; /* of the fold's thread, and of begin */
    _Atomic uint64_t nextents;    /* of the table */
    _Atomic uint64_t nrecords;    /* since the last fold */
};

#endif
