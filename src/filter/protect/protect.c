// SPDX-License-Identifier: Apache-2.0
/*
 * protect: parts of a disk that a guest may read and not write. For a boot sector, a partition
 * table, a recovery partition, or a whole disk that must stay as it is although QEMU wants to open
 * it for writing.
 *
 * A write, discard or zero with one byte in a protected range fails as a whole, before any filter
 * or the disk below sees it; so does a shrink that would cut such a byte off. Growing is allowed.
 * With the range `all` nothing can be written, not even behind the end.
 *
 * The filter is required: a disk of which it is missing or quarantined refuses I/O, as nothing would
 * protect it then.
 *
 * EPERM is the default and not EROFS: the guest sees an I/O error either way (virtio-blk and SCSI
 * have no word for either; QEMU's werror=enospc reports both to the guest and stops for neither),
 * NBD knows EPERM alone, and to programs that write the file themselves EROFS would say that the
 * whole file system is read-only.
 *
 * Threads: the ranges never change after attach; the counter is atomic.
 */
#include <vdiskfs/filter.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "ranges.h"

#define STATUS_RANGES 512u /* shown at most */

enum option { RANGES, ERROR };

static const struct vd_filter_option options[] = {
    [RANGES] = {.key = "ranges",
                .type = VD_FILTER_TEXT,
                .must = true,
                .help = "START-END and START+LENGTH, separated by commas; or all"},
    [ERROR] = {.key = "error",
               .type = VD_FILTER_CHOICE,
               .default_value = "EPERM",
               .choices = "EPERM|EROFS|EIO",
               .help = "what a write there fails with"},
    {0},
};
static const int errors[] = {EPERM, EROFS, EIO}; /* in the order of the choices */

struct protect {
    struct vd_filter_disk *disk;
    struct ranges ranges;
    int error;
    _Atomic uint64_t denied;
};

static int protect_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                          void **ret_self)
{
    struct protect *f = calloc(1, sizeof(*f));
    struct ranges_fault fault;

    if (!f)
        return -ENOMEM;
    int r = ranges_parse(info->values[RANGES].text, &f->ranges, &fault);
    if (r < 0) {
        char why[256];
        snprintf(why, sizeof(why), "ranges: '%s' %s", fault.part, fault.what);
        if (r == -EINVAL)
            vd_filter_why(disk, why);
        free(f);
        return r;
    }
    f->disk = disk;
    f->error = errors[info->values[ERROR].number];
    *ret_self = f;
    return 0;
}

static void protect_detach(void *self)
{
    struct protect *f = self;

    ranges_free(&f->ranges);
    free(f);
}

static int protect_submit(void *self, struct vd_filter_request *rq)
{
    struct protect *f = self;
    uint64_t end;

    if (rq->op == VD_FILTER_READ || rq->op == VD_FILTER_FLUSH) /* all others write */
        return VD_FILTER_PASS;
    if (__builtin_add_overflow(rq->offset, rq->length, &end))
        end = UINT64_MAX;
    if (!ranges_overlap(&f->ranges, rq->offset, end))
        return VD_FILTER_PASS;
    atomic_fetch_add_explicit(&f->denied, 1, memory_order_relaxed);
    return -f->error;
}

static int protect_event(void *self, const struct vd_filter_event *event)
{
    struct protect *f = self;

    if (event->type != VD_FILTER_EVENT_SHRINK ||
        !ranges_overlap(&f->ranges, event->new_bytes, event->old_bytes))
        return 0;
    atomic_fetch_add_explicit(&f->denied, 1, memory_order_relaxed);
    vd_filter_why(f->disk,
                  "the cut would take bytes in a protected range away; choose a size behind "
                  "the last range, or detach the filter first");
    return -f->error;
}

static int protect_status(void *self, char *ret_json, size_t len)
{
    struct protect *f = self;
    size_t used = 0;

    used += (size_t)snprintf(ret_json, len, "{\"denied\":%llu,\"ranges_total\":%zu,\"ranges\":[",
                             (unsigned long long)atomic_load(&f->denied), f->ranges.n);
    for (size_t i = 0; i < f->ranges.n && i < STATUS_RANGES && used < len; i++) {
        const struct range *r = &f->ranges.list[i];
        used += (size_t)snprintf(ret_json + used, len - used,
                                 "%s{\"start\":%llu,\"end\":", i ? "," : "",
                                 (unsigned long long)r->start);
        if (used < len && r->end == RANGES_TO_THE_END)
            used += (size_t)snprintf(ret_json + used, len - used, "null}");
        else if (used < len)
            used +=
                (size_t)snprintf(ret_json + used, len - used, "%llu}", (unsigned long long)r->end);
    }
    if (used < len)
        used += (size_t)snprintf(ret_json + used, len - used, "]}");
    return used < len ? 0 : -ENOSPC;
}

static const struct vd_filter_ops protect = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "protect",
    .description = "ranges that cannot be written",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .flags = VD_FILTER_REQUIRED | VD_FILTER_ONLY_LOOKS,
    .options = options,
    .attach = protect_attach,
    .detach = protect_detach,
    .submit = protect_submit,
    .event = protect_event,
    .status = protect_status,
};
VD_FILTER_EXPORT(protect);
