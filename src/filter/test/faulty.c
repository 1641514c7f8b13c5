// SPDX-License-Identifier: Apache-2.0
/* A filter that faults: in the callback `where`, on requests that touch the byte `at`. */
#include <alloca.h>
#include <stdatomic.h>
#include <string.h>
#include <vdiskfs/filter.h>

#if defined(__clang__)
#define PLAIN __attribute__((optnone, noinline))
#else
#define PLAIN __attribute__((optimize("O0"), noinline))
#endif

enum { HOW, WHERE, AT, OP };

struct faulty {
    struct vd_filter_disk *disk;
    uint64_t how, where, at, op;
};

static volatile int zero, sink;
static int *volatile nowhere;
static void (*volatile no_function)(void);

PLAIN static int deeper(int n)
{
    volatile char room[512];
    room[0] = (char)n;
    return n < 0 ? n : deeper(n + 1) + room[0]; /* never: it grows */
}

PLAIN static void fault(uint64_t how)
{
    volatile char *room;
    switch (how) {
    case 0:
        *nowhere = 1;
        break;
    case 1:
        sink = 7 / zero;
        break;
    case 2:
        sink = deeper(0);
        break;
    case 3:
        room = alloca(VD_FILTER_STACK_BYTES + (1u << 19));
        room[0] = 1;
        break;
    case 4:
        __builtin_trap();
        break;
    default:
        no_function();
        break;
    }
}

/* Not from the heap: what a quarantined filter held is never freed. */
static struct faulty all[256];
static atomic_uint nall;

static int attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                  void **ret_self)
{
    struct faulty *f = &all[atomic_fetch_add(&nall, 1) % 256];
    *f = (struct faulty){disk, info->values[HOW].number, info->values[WHERE].number,
                         info->values[AT].number, info->values[OP].number};
    if (f->where == 2)
        fault(f->how);
    *ret_self = f;
    return 0;
}

static int ready(void *self)
{
    struct faulty *f = self;
    if (f->where == 4)
        fault(f->how);
    return 0;
}

static void detach(void *self)
{
}

static void look(const struct faulty *f, const struct vd_filter_request *rq)
{
    if (rq->op == f->op && f->at >= rq->offset && f->at - rq->offset < rq->length)
        fault(f->how);
}

static int submit(void *self, struct vd_filter_request *rq)
{
    struct faulty *f = self;
    if (f->where == 0)
        look(f, rq);
    return VD_FILTER_PASS;
}

static void done(void *self, struct vd_filter_request *rq)
{
    struct faulty *f = self;
    if (f->where == 1)
        look(f, rq);
}

static int event(void *self, const struct vd_filter_event *e)
{
    struct faulty *f = self;
    if (f->where == 3 && e->type == VD_FILTER_EVENT_SNAPSHOT)
        fault(f->how);
    return 0;
}

static const struct vd_filter_option options[] = {
    [HOW] = {.key = "how",
             .type = VD_FILTER_CHOICE,
             .choices = "null|divide|overflow|frame|illegal|nowhere",
             .default_value = "null"},
    [WHERE] = {.key = "where",
               .type = VD_FILTER_CHOICE,
               .choices = "submit|done|attach|event|ready",
               .default_value = "submit"},
    [AT] = {.key = "at", .type = VD_FILTER_SIZE, .default_value = "0"},
    [OP] = {.key = "op",
            .type = VD_FILTER_CHOICE,
            .choices = "read|write|flush|discard|zero",
            .default_value = "read"},
    {0},
};

static const struct vd_filter_ops ops = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(ops),
    .name = "faulty",
    .description = "faults",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .options = options,
    .attach = attach,
    .detach = detach,
    .submit = submit,
    .done = done,
    .event = event,
    .ready = ready,
};
VD_FILTER_EXPORT(ops);
