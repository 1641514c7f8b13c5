// SPDX-License-Identifier: Apache-2.0
#include "filters_rig.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

const char secret[SECRET_BYTES] = "this is what the guest wrote, and nobody below may see it";

static void invert(uint8_t *to, const uint8_t *from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        to[i] = (uint8_t)~from[i];
}

int attach(struct rig *r, const char *disk, const char *name, hook_fn *fn)
{
    char config[64], why[VD_META_WHY] = "";
    vd_cleanup_close int fd = openat(r->source_fd, disk, O_PATH | O_CLOEXEC);
    snprintf(config, sizeof(config), "hook=%llu\n", (unsigned long long)(uintptr_t)fn);
    int e = vd_disks_filter_attach(r->disks, fd, disk, name, config, why);
    if (e < 0)
        fprintf(stderr, "%s\n", why);
    return e;
}

void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void settled(struct rig *r, const char *name)
{
    struct vd_disk *d = rig_open(r, name);
    rig_close(r, d);
}

bool file_has(const struct rig *r, const void *what, size_t len)
{
    static uint8_t bytes[BYTES];
    vd_cleanup_close int fd = openat(r->source_fd, "d", O_RDONLY | O_CLOEXEC);
    ssize_t n = pread(fd, bytes, sizeof(bytes), 0);
    return n > 0 && memmem(bytes, (size_t)n, what, len) != NULL;
}

atomic_bool hold, held;

int blocking(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT || !atomic_load(&hold) ||
        (a->rq->offset != 8192 && a->rq->op != VD_FILTER_FLUSH))
        return 0;
    if (!(a->rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    atomic_store(&held, true);
    while (atomic_load(&hold))
        nap();
    return 0;
}

int passing(const struct hook_args *a)
{
    return 0;
}

void *run_task(void *arg)
{
    struct task *t = arg;
    atomic_store(&t->tid, (int)gettid());
    if (t->write)
        memcpy(t->buf, secret, sizeof(secret));
    t->result = t->flush   ? rig_flush(t->d)
                : t->write ? rig_write(t->d, t->off, t->buf, sizeof(t->buf))
                           : rig_read(t->d, t->off, t->buf, sizeof(t->buf));
    return NULL;
}

static bool sleeps(int tid)
{
    char path[64], line[256] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    const char *state = f && fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
    return state && state[1] && state[2] == 'S';
}

void await_asleep(struct task *t)
{
    for (int i = 0; !t->tid || !sleeps(t->tid); i++) {
        ck_assert_msg(i < 10000, "thread %d does not sleep", t->tid);
        nap();
    }
}

enum vd_owner_state state_of(struct vd_disk *d)
{
    struct vd_disk_info info;
    vd_disk_get_info(d, &info);
    return info.owner_state;
}

/* A gives up its share, B attaches hook7, which inverts, and writes the secret at 0 and 8192; B lets go. */
void another_encrypts(struct rig *a, struct rig *b, struct vd_disk *da)
{
    struct vd_disk_info info;
    char why[VD_META_WHY];
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(vd_disks_release_request(a->disks, &info.uuid, why), 0);
    ck_assert_int_eq(attach(b, "d", "hook7", hook_inverting), 0);
    struct vd_disk *db = rig_open(b, "d");
    ck_assert_int_eq(rig_write(db, 8192, secret, sizeof(secret)), sizeof(secret));
    rig_close(b, db);
}

uint8_t inverted[sizeof(secret)];

/* Two mounts of a disk D that hook0 filters; A shares it. */
struct vd_disk *two_mounts(struct rig *a, struct rig *b, hook_fn *fn)
{
    invert(inverted, (const uint8_t *)secret, sizeof(secret));
    atomic_store(&hold, false);
    atomic_store(&held, false);
    rig_init(a);
    a->filter_dir = TEST_FILTERS;
    rig_mount(a);
    rig_make(a, "d", BYTES);
    if (fn)
        ck_assert_int_eq(attach(a, "d", "hook0", fn), 0);
    settled(a, "d");
    *b = *a;
    b->cache_name = "other";
    ck_assert_int_eq(rig_try_mount(b), 0);
    struct vd_disk *da = rig_open(a, "d");
    ck_assert_int_eq(state_of(da), VD_OWNER_SHARED);
    return da;
}

/* Two mounts of a disk D that B writes, and A only reads; hook0 filters it where FN is given. */
struct vd_disk *anothers(struct rig *a, struct rig *b, hook_fn *fn, struct vd_disk **ret_db)
{
    rig_close(a, two_mounts(a, b, fn));
    *ret_db = rig_open(b, "d");
    ck_assert_int_eq(rig_write(*ret_db, 65536, "x", 1), 1);
    struct vd_disk *da = rig_open(a, "d");
    ck_assert_int_eq(state_of(da), VD_OWNER_NONE);
    return da;
}

void end_two(struct rig *a, struct rig *b, struct vd_disk *da)
{
    rig_close(a, da);
    rig_umount(b);
    rig_free(a);
}

/* The next read of HELD_OFF in the backing waits while HOLD is set. */
atomic_bool hold_backing;

ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
    if (off == HELD_OFF && atomic_exchange(&hold_backing, false)) {
        atomic_store(&held, true);
        while (atomic_load(&hold))
            nap();
    }
    return syscall(SYS_pread64, fd, buf, len, off);
}

struct vd_filter_disk *own;

int giving(const struct hook_args *a)
{
    if (a->call == HOOK_START)
        own = a->disk;
    return 0;
}

void *read_by_own(void *arg)
{
    struct own_read *o = arg;
    o->n = vd_filter_read(o->disk, o->buf, HELD_OFF, sizeof(o->buf));
    return NULL;
}

uint8_t at_attach[sizeof(secret)];
int64_t at_attach_n;

/* Reads what it is put before, after a while. */
int slow_to_attach(const struct hook_args *a)
{
    if (a->call != HOOK_ATTACH || a->info->fresh)
        return 0;
    if (atomic_load(&hold))
        atomic_store(&held, true);
    while (atomic_load(&hold))
        nap();
    at_attach_n = vd_filter_read(a->disk, at_attach, 0, sizeof(at_attach));
    return 0;
}

void one_answered(void *user, ssize_t result, const void *data)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

void await_one(atomic_int *answered)
{
    for (int i = 0; !*answered && i < 10000; i++)
        nap();
    ck_assert_int_eq(*answered, 1);
}
