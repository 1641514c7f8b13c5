// SPDX-License-Identifier: Apache-2.0
/*
 * Making a live map, making one ready for changes, and folding its logs into its table.
 *
 *   fold   make log n+1, durably, with its name
 *          appends go to it from now on
 *          sync the data, END in the logs up to n, synced
 *          write a table of the old table and the logs up to n, from the files: what is in memory
 *          holds records of log n+1, whose data may not be durable
 *          the table gets the old one's name, durably; it says that logs begin with n+1
 *          remove the logs up to n
 *
 * Cut anywhere, the files say the same: before the table has its name the old table and all logs
 * count, n+1 too, then the new table and log n+1. After a failure the map goes on with one log
 * more.
 *
 * Where a writer died, the records that were believed become a table the same way, so that those
 * that were not are never looked at again.
 */
#include "map_live.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "vd_file.h"
#include "vd_log.h"
#include "vd_step.h"

static int taken(struct vd_maps *maps, const char *name)
{
    struct stat st;
    int dirfd = vd__maps_fd(maps, true);
    if (dirfd < 0)
        return dirfd;
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
    return errno == ENOENT ? 0 : -errno;
}

int vd__map_taken(struct vd_maps *maps, const struct vd_id *id)
{
    char name[VD__MAP_NAME];
    vd__map_table_name(id, name);
    int r = taken(maps, name);
    vd__map_log_name(id, 0, name);
    return r < 0 ? r : taken(maps, name);
}

/* Makes the log that HEAD describes (but for its salt), empty, durable, with its name. */
static int make_log(struct vd_maps *maps, const struct vd__maplog_head *head,
                    struct vd__maplog **ret_log)
{
    vd_cleanup(vd__temp_drop) struct vd__temp t = {.fd = -1};
    struct vd__maplog_scan s = {.head = *head};
    char name[VD__MAP_NAME];
    vd__map_log_name(&head->id, head->number, name);
    int r = vd__temp_make(maps, name, &t);
    if (r == 0)
        r = vd__maplog_init(t.fd, &s.head);
    if (r == 0)
        r = vd__temp_name(&t, name);
    if (r < 0)
        return r;
    s.len_bytes = VD__MAPLOG_RECORDS_OFF + s.head.room * VD__MAPLOG_RECORD_LEN;
    struct vd__maplog *l = vd__maplog_resume(t.fd, &s);
    if (!l)
        return -ENOMEM;
    t.fd = -1; /* the log's */
    *ret_log = l;
    return 0;
}

int vd_live_map_make(struct vd_maps *maps, const struct vd_id *id, const struct vd_id *layer,
                     uint64_t size_bytes)
{
    vd_cleanup(vd__maplog_close_p) struct vd__maplog *l = NULL;
    struct vd__maplog_head head = {.id = *id, .layer = *layer, .size_bytes = size_bytes};
    if (size_bytes > INT64_MAX)
        return -EFBIG;
    int r = vd__map_taken(maps, id);
    return r < 0 ? r : make_log(maps, &head, &l);
}

/* ---- begin ---- */

/* Nobody has written since the open? Somebody else's record would be behind our last one. */
static int check_unchanged(struct vd_live_map *lm, int fd)
{
    struct vd__maplog_record rec;
    uint8_t buf[VD__MAPLOG_RECORD_LEN];
    char name[VD__MAP_NAME];
    uint64_t slot = lm->last.nslots;
    vd__map_log_name(&lm->id, lm->last_log + 1, name);
    int r = taken(lm->maps, name);
    if (r < 0)
        return r == -EEXIST ? -ESTALE : r;
    ssize_t n = vd_pread_full(fd, buf, sizeof(buf),
                              (off_t)(VD__MAPLOG_RECORDS_OFF + slot * VD__MAPLOG_RECORD_LEN));
    if (n < 0)
        return (int)n;
    if (n == sizeof(buf) &&
        vd__maplog_record_decode(buf, slot, lm->last.head.salt, &rec) != -ENODATA)
        return -ESTALE;
    return 0;
}

static void start(struct vd_live_map *lm, struct vd__maplog *l)
{
    pthread_mutex_lock(&lm->mark_mu);
    pthread_mutex_lock(&lm->mu);
    lm->oldest = lm->newest = l;
    lm->last_log = l->head.number;
    lm->marked = l->nslots;
    atomic_store_explicit(&lm->pending, l->nslots, memory_order_release);
    pthread_mutex_unlock(&lm->mu);
    pthread_mutex_unlock(&lm->mark_mu);
}

/* Writes what is believed as the table of a map whose logs begin anew. */
static int recover(struct vd_live_map *lm)
{
    vd_cleanup(vd__maplog_close_p) struct vd__maplog *l = NULL;
    struct vd__maplog_head log = {
        .id = lm->id,
        .layer = lm->layer,
        .number = lm->last_log + 1,
        .size_bytes = vd_live_map_size(lm),
    };
    struct vd__maptab_head table = {
        .id = lm->id, .first_log = log.number, .size_bytes = log.size_bytes};
    uint64_t nextents;
    vd_step("map: begin after a dead writer");
    int r = make_log(lm->maps, &log, &l);
    if (r == 0)
        r = vd__map_write_table(lm->maps, &table, &lm->layer, lm->bits, &nextents);
    if (r < 0)
        return r;
    vd__map_unlink_logs(lm->maps, &lm->id, lm->first_log, lm->last_log);
    lm->first_log = log.number;
    atomic_store(&lm->nextents, nextents);
    atomic_store(&lm->nrecords, 0);
    start(lm, vd_steal_ptr(l));
    return 0;
}

int vd_live_map_begin(struct vd_live_map *lm)
{
    vd_cleanup_close int fd = -1;
    char name[VD__MAP_NAME];
    assert(!lm->newest);
    vd__map_log_name(&lm->id, lm->last_log, name);
    int r = vd__map_open_file(lm->maps, name, O_RDWR, &fd);
    if (r == 0)
        r = check_unchanged(lm, fd);
    if (r == -ENOENT)
        r = -ESTALE;
    if (r < 0)
        return r;
    if (!lm->clean)
        return recover(lm);
    struct vd__maplog *l = vd__maplog_resume(fd, &lm->last);
    if (!l)
        return -ENOMEM;
    vd_steal_fd(&fd); /* the log's */
    start(lm, l);
    return 0;
}

/* ---- fold ---- */

/* Makes the next log and has appends go there. RET_NUMBER is the last of the old ones, RET_BOUNDARY
 * the number to mark. 1: there is nothing to fold. */
static int switch_logs(struct vd_live_map *lm, uint64_t *ret_number, uint64_t *ret_boundary)
{
    pthread_mutex_lock(&lm->mu);
    struct vd__maplog *old = lm->newest; /* nobody else changes which one it is */
    assert(old);
    int r = lm->failed ? -EIO : lm->frozen ? -EROFS : 0;
    if (r == 0 && old->nslots == 0 && old->head.number == lm->first_log)
        r = 1;
    pthread_mutex_unlock(&lm->mu);
    if (r != 0)
        return r;
    struct vd__maplog_head head = {
        .id = lm->id,
        .layer = lm->layer,
        .number = old->head.number + 1,
        .size_bytes = vd_live_map_size(lm),
    };
    struct vd__maplog *l;
    r = make_log(lm->maps, &head, &l);
    if (r < 0)
        return r;
    pthread_mutex_lock(&lm->mu);
    if (lm->failed) {
        pthread_mutex_unlock(&lm->mu);
        vd__maplog_close(l); /* empty, it does no harm */
        return -EIO;
    }
    old->end = old->base + old->nslots;
    l->base = old->end + 1;
    old->next = l;
    lm->newest = l;
    *ret_number = old->head.number;
    *ret_boundary = l->base;
    pthread_mutex_unlock(&lm->mu);
    vd_step("map: fold begun");
    return 0;
}

/* A table of everything up to log NUMBER, from the files. */
static int build(struct vd_live_map *lm, uint64_t number, uint64_t *ret_nextents,
                 char why[VD_META_WHY])
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    vd_cleanup(vd__loaded_clear) struct vd__loaded l = {0};
    int r = vd__map_open_table(lm->maps, &lm->id, &t, why);
    if (r == 0 || r == -ENOENT)
        r = vd__map_load(lm->maps, &lm->id, t, VD_MAP_TRUST_MARKED, number, &l, why);
    if (r == 0 && !l.last.ended) {
        char name[VD__MAP_NAME];
        vd__map_log_name(&lm->id, number, name);
        r = vd__map_why(lm->maps, name, "its end is gone", why);
    }
    if (r < 0)
        return r;
    struct vd__maptab_head head = {
        .id = lm->id, .first_log = number + 1, .size_bytes = l.size_bytes};
    return vd__map_write_table(lm->maps, &head, &lm->layer, l.bits, ret_nextents);
}

int vd_live_map_fold(struct vd_live_map *lm, int (*sync_data)(void *user), void *user)
{
    char why[VD_META_WHY];
    uint64_t number, boundary, nextents;
    int r = switch_logs(lm, &number, &boundary);
    if (r != 0)
        return vd_min(r, 0);
    r = sync_data(user);
    if (r == 0)
        r = vd_live_map_mark(lm, boundary);
    if (r == 0)
        r = build(lm, number, &nextents, why);
    if (r == -EUCLEAN)
        vd_log_error("%s", why);
    if (r < 0)
        return r;
    vd__map_unlink_logs(lm->maps, &lm->id, lm->first_log, number);
    lm->first_log = number + 1;
    atomic_store(&lm->nextents, nextents);
    pthread_mutex_lock(&lm->mu);
    atomic_store(&lm->nrecords, lm->newest->nslots);
    pthread_mutex_unlock(&lm->mu);
    return 0;
}
