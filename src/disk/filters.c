// SPDX-License-Identifier: Apache-2.0
/*
 * A disk's filters come and go.
 *
 *   attach of the disk   the chain of its records is made before the first request
 *   a user's attach      own the disk; the new filter's `attach`; the gate is shut, nothing is under way; its `ready`; its record is
 *                        committed, which is the instant; the chain is exchanged; the gate opens; `start`
 *   a user's detach      the same without the record; then `detach`
 *   another mount's      is seen by the records, when this mount takes the disk anew or follows its metadata: the chain is made
 *                        anew before the next request (gate.c)
 *   detach of the disk   DRAIN, RELEASE, then every filter's `detach`
 *
 * One change of a chain at a time a disk (filters_busy); no lock is held over an upcall.
 */
#include "filter_specs.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <string.h>
#include <time.h>

#include "vd_log.h"
#include "vd_meta_filter.h"
#include "vd_step.h"
#include "vd_time.h"

#define DRAIN_MS 10000u /* until what filters still hold is failed */
#define FAILED_MS 5000u /* and until that has ended */

static __attribute__((noinline)) int follow(struct vd_disk *d)
{
    char why[VD_META_WHY] = "";
    return vd__disk_follow(d, why);
}

/* On the way of every read: the room for a sentence is not cleared where there is none. */
bool vd__filters_are_others(struct vd_disk *d)
{
    if (!d->filtered)
        return false;
    if (vd__disk_is_anothers(d) && follow(d) < 0)
        return true;
    return atomic_load_explicit(&d->filters_stale, memory_order_acquire);
}

/* ---- replacing the chain ---- */

static void begin(struct vd_disk *d)
{
    pthread_mutex_lock(&d->mu);
    while (d->filters_busy)
        pthread_cond_wait(&d->settled, &d->mu);
    d->filters_busy = true;
    pthread_mutex_unlock(&d->mu);
}

static void end(struct vd_disk *d)
{
    pthread_mutex_lock(&d->mu);
    d->filters_busy = false;
    pthread_cond_broadcast(&d->settled);
    pthread_mutex_unlock(&d->mu);
}

void vd__filters_drain(struct vd_disk *d)
{
    if (!d->filtered)
        return;
    begin(d);
    vd_filtered_drain(d->filtered, true);
    end(d);
}

/* Shuts the gate of requests and lets what filters hold go, until none is under way. -ETIMEDOUT: it is open again. */
static int stop_requests(struct vd_disk *d)
{
    char name[VD_FILTER_NAME_MAX + 1];
    vd__pause_shut(&d->requests);
    vd_filtered_drain(d->filtered, true);
    if (vd__pause_drained(&d->requests, DRAIN_MS))
        return 0;
    unsigned n = vd_filtered_force(d->filtered, name);
    if (n)
        vd_log_error("%s: filter %s held on to requests; %u are failed", d->path, name, n);
    if (vd__pause_drained(&d->requests, FAILED_MS))
        return 0;
    vd_filtered_drain(d->filtered, false);
    vd__pause_go_on(&d->requests, d->lane);
    return -ETIMEDOUT;
}

static void let_requests_go_on(struct vd_disk *d)
{
    vd_filtered_drain(d->filtered, false);
    vd__pause_go_on(&d->requests, d->lane);
}

/* A change of the records in session M, before it is committed. */
typedef int record_change(struct vd_meta *m, const struct vd_filter_spec *spec);

static int commit(struct vd_disk *d, record_change *change, const struct vd_filter_spec *spec,
                  char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = change(m, spec);
    vd_step("filter-commit");
    if (r == 0)
        r = vd_meta_commit(m);
    vd_step("filter-committed");
    return r;
}

/* What the new filters read as they were attached is theirs only if the records are still those. */
static int are_still(struct vd_disk *d, const struct specs *s, char why[VD_META_WHY])
{
    struct specs now = {0};
    int r = vd__specs_read(d, &now, why);
    if (r == 0 && now.gone)
        r = -ENOENT;
    if (r == 0 && now.sum != s->sum)
        r = -EAGAIN;
    vd__specs_clear(&now);
    return r;
}

/* The chain is that of records with SUM; who looked meanwhile may have seen others already. */
static void set_sum(struct vd_disk *d, uint32_t sum)
{
    atomic_store(&d->filters_sum, sum);
    if (atomic_load(&d->filters_seen) == sum)
        atomic_store(&d->filters_stale, false);
    if (atomic_load(&d->filters_seen) != sum)
        atomic_store(&d->filters_stale, true);
}

/* From S to the disk's chain. FRESH: the one that a user attaches, with CHANGE. Else S are those that another mount has recorded;
 * -EAGAIN: and it has changed them since. */
static int replace(struct vd_disk *d, const struct specs *s, const char *fresh,
                   record_change *change, const struct vd_filter_spec *spec, char why[VD_META_WHY])
{
    struct vd_chain *c = NULL;
    int r = vd_filtered_prepare(d->filtered, s->v, s->n, fresh, &c, why);
    if (r < 0)
        return r;
    r = stop_requests(d);
    if (r < 0) {
        snprintf(why, VD_META_WHY, "a request to it does not end");
        vd_filtered_discard(d->filtered, c);
        return r;
    }
    r = vd_filtered_ready(c, fresh, why);
    if (r == 0)
        r = change ? commit(d, change, spec, why) : are_still(d, s, why);
    if (r < 0) {
        let_requests_go_on(d);
        vd_filtered_discard(d->filtered, c);
        return r;
    }
    if (s->n == 0) {
        vd_filtered_discard(d->filtered, c);
        c = NULL;
    }
    struct vd_chain *old = vd_filtered_publish(d->filtered, c);
    if (!change) /* before the new ones are asked anything */
        set_sum(d, s->sum);
    let_requests_go_on(d);
    vd_filtered_settle(d->filtered, old);
    return 0;
}

int vd__filters_refresh(struct vd_disk *d)
{
    struct specs s = {0};
    char why[VD_META_WHY] = "";
    if (!atomic_load(&d->filters_stale))
        return 0;
    begin(d);
    int r = 0;
    if (atomic_load(&d->filters_stale)) {
        do {
            vd__specs_clear(&s);
            r = vd__specs_read(d, &s, why);
            if (r == 0 && s.gone)
                r = -ENOENT;
            if (r == 0)
                r = replace(d, &s, NULL, NULL, NULL, why);
        } while (r == -EAGAIN);
        if (r < 0) {
            vd_log_error("%s: its filters, which another mount changed, cannot be had: %s", d->path,
                         why[0] ? why : strerror(-r));
        }
    }
    end(d);
    vd__specs_clear(&s);
    return r < 0 ? -EIO : 0;
}

/* ---- with the disk ---- */

int vd__filters_attach(struct vd_disk *d)
{
    struct vd_disks_config *c = &d->ds->config;
    struct vd_filtered_info info = {
        .dev = d->dev, .ino = d->ino, .read_only = c->read_only || !d->backing->writable};
    struct specs s = {0};
    char why[VD_META_WHY] = "";
    if (!c->filters || vd_id_is_zero(&d->uuid))
        return vd__mark_look(d, NULL);
    snprintf(info.name, sizeof(info.name), "%s", d->path);
    vd_id_hex(&d->uuid, info.uuid);
    int r = vd__specs_read(d, &s, why);
    if (r == 0 && (r = vd__mark_look(d, &s)) < 0) {
        vd__specs_clear(&s);
        return r;
    }
    if (r == 0)
        r = vd_lane_open(c->lanes, UPCALL_THREADS, &d->upcalls);
    if (r == 0)
        r = vd_filtered_new(c->filters, &vd__below, d, &info, &d->filtered);
    struct vd_chain *chain = NULL;
    while (
        r == 0 &&
        s.n) { /* another mount may change them meanwhile; who attaches may see that as it reads */
        atomic_store(&d->filters_sum, s.sum);
        atomic_store(&d->filters_seen, s.sum);
        r = vd_filtered_prepare(d->filtered, s.v, s.n, NULL, &chain, why);
        if (r < 0)
            break;
        r = vd__disk_is_anothers(d) ? are_still(d, &s, why) : 0;
        if (r == 0)
            break;
        vd_filtered_discard(d->filtered, vd_steal_ptr(chain));
        if (r != -EAGAIN)
            break;
        vd__specs_clear(&s);
        r = vd__specs_read(d, &s, why);
        if (r == 0)
            r = vd__mark_look(d, &s);
    }
    if (r == 0) {
        if (!s.n)
            atomic_store(&d->filters_seen, s.sum);
        set_sum(d, s.sum);
        vd_filtered_publish(d->filtered, chain);
        vd_filtered_settle(d->filtered, NULL);
    } else {
        vd_log_error("%s: refused: its filters cannot be had: %s", d->path,
                     why[0] ? why : strerror(-r));
    }
    vd__specs_clear(&s);
    return r;
}

void vd__filters_detach(struct vd_disk *d)
{
    if (d->filtered && !atomic_load(&d->filters_ended)) {
        /* Clients' requests have ended; threads of filters find the end of theirs. */
        pthread_mutex_lock(&d->mu);
        atomic_store(&d->filters_ended, true);
        while (d->refreshing)
            pthread_cond_wait(&d->settled, &d->mu);
        pthread_mutex_unlock(&d->mu);
        vd__pause_shut(&d->requests);
        vd_filtered_drain(d->filtered, true);
        while (!vd__pause_drained(&d->requests, DRAIN_MS)) {
            char name[VD_FILTER_NAME_MAX + 1];
            unsigned n = vd_filtered_force(d->filtered, name);
            if (n)
                vd_log_error("%s: filter %s held on to requests; %u are failed", d->path, name, n);
            else
                vd_log_warning("%s: a filter's own request does not end", d->path);
        }
        vd__pause_go_on(&d->requests, d->lane);
        vd_filtered_end(d->filtered, d->locked == VD_LOCK_EXCLUSIVE && !atomic_load(&d->gone));
    }
}

void vd__filters_free(struct vd_disk *d)
{
    vd_filtered_free(vd_steal_ptr(d->filtered));
    vd_lane_close(vd_steal_ptr(d->upcalls));
}

/* ---- what a user asks for ---- */

/* The disk, owned, with its chain to be changed: 0, and to be let go. */
static int take(struct vd_disks *ds, int path_fd, const char *path, struct vd_disk **ret_d,
                struct specs *ret_s, char why[VD_META_WHY])
{
    struct vd_disk *d;
    struct stat st;
    why[0] = '\0';
    if (!ds->config.meta) {
        snprintf(why, VD_META_WHY,
                 "the source has no metadata (it is read-only and no --meta was given)");
        return -EROFS;
    }
    if (fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0)
        return -errno;
    if (!vd_disks_is_disk(ds, path_fd, &st)) {
        snprintf(why, VD_META_WHY, "it is not a disk: a regular file of 1 MiB or more");
        return -EINVAL;
    }
    int r = vd_disk_open(ds, path_fd, path, false, &d);
    if (r == -EUCLEAN)
        snprintf(why, VD_META_WHY, "it is refused; `vdisk check` says why");
    if (r < 0)
        return r;
    if (!d->filtered) {
        snprintf(why, VD_META_WHY, "its metadata cannot be used; the log says why");
        r = -EROFS;
    }
    if (r == 0)
        r = vd_disk_own(d, why);
    if (r == 0)
        r = vd__filters_refresh(d);
    if (r < 0) {
        vd_disk_release(d);
        return r;
    }
    begin(d);
    r = vd__specs_read(d, ret_s, why);
    if (r < 0) {
        end(d);
        vd_disk_release(d);
        return r;
    }
    *ret_d = d;
    return 0;
}

static void let_go(struct vd_disk *d, struct specs *s)
{
    vd__specs_clear(s);
    end(d);
    vd_disk_release(d);
}

static int put_record(struct vd_meta *m, const struct vd_filter_spec *spec)
{
    struct vd_filter_record rec;
    vd__spec_record(spec, &rec);
    return vd_meta_put_filter(m, &rec);
}

/* With its private metadata; also what an attach that was cut has left of them. */
static int del_record(struct vd_meta *m, const struct vd_filter_spec *spec)
{
    int r = vd_meta_del_filter(m, spec->name);
    return r == -ENOENT ? 0 : r;
}

static int attach(struct vd_disk *d, struct specs *s, struct vd_filter_spec *spec,
                  char why[VD_META_WHY])
{
    if (vd__specs_find(s, spec->name) < s->n) {
        snprintf(why, VD_META_WHY, "it has a filter %s already; detach that first", spec->name);
        return -EEXIST;
    }
    /* Another number than any before: others know by it that it is not the one that was detached. */
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    spec->order = (uint64_t)vd_timespec_ns(now);
    for (size_t i = 0; i < s->n; i++)
        spec->order = vd_max(spec->order, s->v[i].order + 1);
    int r = vd__specs_add(s, spec);
    if (r == 0)
        r = commit(d, del_record, spec, why);
    if (r == 0)
        r = vd__mark_changing(d, spec, why);
    if (r == 0)
        r = replace(d, s, spec->name, put_record, spec, why);
    if (r < 0 && r != -EROFS) { /* what it has put while it was asked */
        int undone = commit(d, del_record, spec, (char[VD_META_WHY]){0});
        if (s->n && vd__specs_find(s, spec->name) == s->n - 1)
            s->n--;
        if (undone == 0)
            vd__mark_settled(d, spec, s);
    }
    if (r == 0)
        vd__mark_settled(d, spec, s);
    if (r == 0) {
        vd__specs_sort(s);
        atomic_store(&d->filters_seen, vd__specs_sum(s));
        atomic_store(&d->filters_sum, vd__specs_sum(s));
    }
    return r;
}

int vd_disks_filter_attach(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                           const char *config, char ret_why[VD_META_WHY])
{
    struct vd_filter_spec spec = {0};
    struct specs s = {0};
    struct vd_disk *d;
    ret_why[0] = '\0';
    if (!ds->config.filters)
        return -EOPNOTSUPP;
    if (strlen(name) > VD_FILTER_NAME_MAX || strlen(config) >= sizeof(spec.config)) {
        snprintf(ret_why, VD_META_WHY, "its configuration has more than %zu bytes",
                 sizeof(spec.config) - 1);
        return -EINVAL;
    }
    snprintf(spec.name, sizeof(spec.name), "%s", name);
    snprintf(spec.config, sizeof(spec.config), "%s", config);
    int r = vd_filter_spec_complete(ds->config.filters, &spec, ret_why);
    if (r == 0)
        r = take(ds, path_fd, path, &d, &s, ret_why);
    if (r < 0)
        return r;
    r = attach(d, &s, &spec, ret_why);
    let_go(d, &s);
    return r;
}

int vd_disks_filter_detach(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                           char ret_why[VD_META_WHY])
{
    struct specs s = {0};
    struct vd_disk *d;
    if (!ds->config.filters)
        return -EOPNOTSUPP;
    int r = take(ds, path_fd, path, &d, &s, ret_why);
    if (r < 0)
        return r;
    size_t i = vd__specs_find(&s, name);
    if (i == s.n) {
        snprintf(ret_why, VD_META_WHY, "it has no filter %.40s", name);
        r = -ENOENT;
    } else {
        struct vd_filter_spec spec = s.v[i];
        memmove(&s.v[i], &s.v[i + 1], (s.n - i - 1) * sizeof(*s.v));
        s.n--;
        r = vd__mark_changing(d, &spec, ret_why);
        if (r == 0)
            r = replace(d, &s, NULL, del_record, &spec, ret_why);
        if (r == 0) {
            vd__mark_settled(d, &spec, &s);
            uint32_t sum = vd__specs_sum(&s);
            atomic_store(&d->filters_seen, sum);
            atomic_store(&d->filters_sum, sum);
        }
    }
    let_go(d, &s);
    return r;
}

int vd_disk_each_filter(struct vd_disk *d, bool status,
                        int (*fn)(void *user, const struct vd_filter_report *r), void *user)
{
    return d->filtered ? vd_filtered_each(d->filtered, status, fn, user) : 0;
}

/* ---- clients, snapshots, clones ---- */

int vd_disk_client_open(struct vd_disk *d, bool write, char ret_why[VD_META_WHY])
{
    ret_why[0] = '\0';
    if (d->filtered && vd__disk_is_anothers(d)) /* it may have others by now */
        (void)!vd__disk_follow(d, ret_why);
    ret_why[0] = '\0';
    int r = d->filtered ? vd__filters_refresh(d) : 0;
    if (r == 0 && d->filtered && vd_filtered_chain(d->filtered))
        r = vd_filtered_open(d->filtered, write, ret_why);
    return r;
}

struct close_job {
    struct vd_job job;
    struct vd_disk *d;
    bool write;
};

static void close_run(struct vd_job *job)
{
    struct close_job *c = vd_container_of(job, struct close_job, job);
    vd_filtered_close(c->d->filtered, c->write);
    vd_disk_put(c->d);
    free(c);
}

void vd_disk_client_close(struct vd_disk *d, bool write)
{
    struct close_job *c = NULL;
    if (d->filtered && vd_filtered_chain(d->filtered))
        c = malloc(sizeof(*c));
    if (!c) {
        vd_disk_release(d);
        return;
    }
    *c = (struct close_job){.job = {.run = close_run, .slow = true}, .d = d, .write = write};
    /* Closed as of now; the reference passes on to the job. Else vd_disks_free would take it for one that nobody gives back. */
    pthread_mutex_lock(&d->ds->mu);
    d->opens--;
    pthread_mutex_unlock(&d->ds->mu);
    vd_lane_queue(d->ds->reaper, &c->job);
}

int vd__filters_snapshot(struct vd_disk *d, const char *name, char why[VD_META_WHY])
{
    const struct vd_filter_event e = {
        .size = sizeof(e), .type = VD_FILTER_EVENT_SNAPSHOT, .snapshot = name};
    if (!d->filtered)
        return 0;
    /* Another mount may have attached some since this one had the disk. */
    if (atomic_load(&d->state) == VD_OWNER_NONE)
        (void)!vd__disk_follow(d, why);
    why[0] = '\0';
    int r = vd__filters_refresh(d);
    return r < 0 ? r : vd_filtered_event(d->filtered, &e, why);
}
