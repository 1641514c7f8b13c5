// SPDX-License-Identifier: Apache-2.0
#include "meta_test.h"

#include <ftw.h>
#include <sched.h>
#include <sys/mount.h>

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    return remove(path);
}

void place_make(struct place *p)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(p->dir, sizeof(p->dir), "%.60s/vd-meta-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(p->dir));
    p->fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(p->fd, 0);
    ck_assert_int_eq(vd_meta_store_open(p->fd, NULL, true, &p->store), 0);
}

void place_drop(struct place *p)
{
    vd_meta_store_close(p->store);
    close(p->fd);
    nftw(p->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

bool ramfs_mount(struct place *p, const char *dir)
{
    /* In a namespace of its own, the mount goes with the process, however that ends. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("vd-test", dir, "ramfs", MS_NODEV | MS_NOSUID, NULL) < 0)
        return false;
    close(p->fd); /* of the other namespace, where nothing is mounted */
    p->fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return p->fd >= 0;
}

void ramfs_remount_ro(const char *dir)
{
    ck_assert_int_eq(mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
}

void ramfs_umount(const char *dir)
{
    umount2(dir, MNT_DETACH);
}

static struct vd_id id_of(uint64_t a, uint64_t b)
{
    struct vd_id id;
    memcpy(id.b, &a, 8);
    memcpy(id.b + 8, &b, 8);
    return id;
}

struct vd_disk_record sample_disk(const struct vd_id *uuid, uint64_t stamp)
{
    struct vd_disk_record r = {
        .uuid = *uuid,
        .live_disk_id = id_of(stamp, 1),
        .size_bytes = stamp,
        .nlayers = SAMPLE_LAYERS,
        .clean = stamp % 2,
        .boot_id = id_of(2, stamp),
    };
    snprintf(r.path, sizeof(r.path), "guests/%llu.img", (unsigned long long)stamp);
    return r;
}

struct vd_layer_record sample_layer(uint32_t index, uint64_t stamp)
{
    struct vd_layer_record r = {
        .disk_id = id_of(stamp, index),
        .state = index ? VD_LAYER_FROZEN : VD_LAYER_LIVE,
        .generation = stamp,
        .token = id_of(index, stamp),
        .identity = {.ino = 1000 + index,
                     .size_bytes = stamp * 4096,
                     .mtime_ns = -5 - (int64_t)stamp,
                     .ctime_ns = (int64_t)stamp},
        .created_s = 1700000000 + index,
    };
    if (index)
        snprintf(r.snapshot, sizeof(r.snapshot), "monday-%u", index);
    return r;
}

struct vd_owner_record sample_owner(uint32_t index, uint64_t stamp)
{
    struct vd_owner_record r = {
        .id = id_of(index, 77),
        .state = VD_OWNER_SHARED,
        .epoch = stamp,
        .boot_id = id_of(stamp, index),
        .pid = index,
        .host = "host",
    };
    snprintf(r.endpoint, sizeof(r.endpoint), "/run/vdiskfs/%u/sock", index);
    return r;
}

bool disk_eq(const struct vd_disk_record *a, const struct vd_disk_record *b)
{
    return vd_id_eq(&a->uuid, &b->uuid) && vd_id_eq(&a->live_disk_id, &b->live_disk_id) &&
           a->size_bytes == b->size_bytes && a->nlayers == b->nlayers && a->clean == b->clean &&
           vd_id_eq(&a->boot_id, &b->boot_id) && strcmp(a->path, b->path) == 0;
}

bool layer_eq(const struct vd_layer_record *a, const struct vd_layer_record *b)
{
    return vd_id_eq(&a->disk_id, &b->disk_id) && a->state == b->state &&
           a->generation == b->generation && vd_id_eq(&a->token, &b->token) &&
           vd_identity_eq(&a->identity, &b->identity) && a->created_s == b->created_s &&
           strcmp(a->path, b->path) == 0 && strcmp(a->snapshot, b->snapshot) == 0;
}

bool owner_eq(const struct vd_owner_record *a, const struct vd_owner_record *b)
{
    return vd_id_eq(&a->id, &b->id) && a->state == b->state && a->epoch == b->epoch &&
           vd_id_eq(&a->boot_id, &b->boot_id) && a->pid == b->pid &&
           strcmp(a->host, b->host) == 0 && strcmp(a->endpoint, b->endpoint) == 0;
}

struct vd_meta *must_open(struct place *p, const struct vd_id *uuid, enum vd_meta_mode mode)
{
    char why[VD_META_WHY];
    struct vd_meta *m = NULL;
    int r = vd_meta_open(p->store, uuid, mode, &m, why);
    ck_assert_msg(r == 0, "open: %s: %s", strerror(-r), why);
    return m;
}

int try_put_samples(struct vd_meta *m, const struct vd_id *uuid, uint64_t stamp)
{
    struct vd_disk_record d = sample_disk(uuid, stamp);
    int r = vd_meta_put_disk(m, &d);
    for (uint32_t i = 0; r == 0 && i < SAMPLE_LAYERS; i++) {
        struct vd_layer_record l = sample_layer(i, stamp);
        r = vd_meta_put_layer(m, i, &l);
    }
    for (uint32_t i = 0; r == 0 && i < SAMPLE_OWNERS; i++) {
        struct vd_owner_record o = sample_owner(i, stamp);
        r = vd_meta_put_owner(m, &o);
    }
    return r;
}

void put_samples(struct vd_meta *m, const struct vd_id *uuid, uint64_t stamp)
{
    int r = try_put_samples(m, uuid, stamp);
    ck_assert_msg(r == 0, "put: %s: %s", strerror(-r), vd_meta_why(m));
}

struct vd_id make_disk(struct place *p, uint64_t stamp)
{
    struct vd_id uuid;
    ck_assert_int_eq(vd_id_new(&uuid), 0);
    struct vd_meta *m = must_open(p, &uuid, VD_META_MAKE);
    put_samples(m, &uuid, stamp);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    return uuid;
}

struct owners {
    uint64_t stamp;
    uint32_t n;
};

static int check_owner(void *user, const struct vd_owner_record *r)
{
    struct owners *o = user;
    struct vd_owner_record want = sample_owner(r->pid, o->stamp);
    ck_assert(owner_eq(r, &want));
    o->n++;
    return 0;
}

uint64_t whole_stamp(struct vd_meta *m, const struct vd_id *uuid)
{
    struct vd_disk_record d;
    int r = vd_meta_get_disk(m, &d);
    ck_assert_msg(r == 0, "get: %s: %s", strerror(-r), vd_meta_why(m));
    struct vd_disk_record want = sample_disk(uuid, d.size_bytes);
    ck_assert(disk_eq(&d, &want));
    for (uint32_t i = 0; i < SAMPLE_LAYERS; i++) {
        struct vd_layer_record l, want_l = sample_layer(i, d.size_bytes);
        ck_assert_int_eq(vd_meta_get_layer(m, i, &l), 0);
        ck_assert(layer_eq(&l, &want_l));
    }
    struct owners o = {.stamp = d.size_bytes};
    ck_assert_int_eq(vd_meta_each_owner(m, check_owner, &o), 0);
    ck_assert_uint_eq(o.n, SAMPLE_OWNERS);
    return d.size_bytes;
}

int file_fd(struct place *p, const struct vd_id *uuid, const char *name, int flags)
{
    char path[512];
    vd_meta_disk_path(p->store, uuid, path, sizeof(path));
    strcat(path, "/");
    strcat(path, name);
    return open(path, flags | O_CLOEXEC, 0600);
}

struct bytes file_load(struct place *p, const struct vd_id *uuid, const char *name)
{
    int fd = file_fd(p, uuid, name, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    struct bytes b = {.p = malloc((size_t)st.st_size), .len = (size_t)st.st_size};
    ck_assert_int_eq(pread(fd, b.p, b.len, 0), (ssize_t)b.len);
    close(fd);
    return b;
}

void file_store(struct place *p, const struct vd_id *uuid, const char *name, const void *buf,
                size_t len)
{
    int fd = file_fd(p, uuid, name, O_WRONLY | O_CREAT | O_TRUNC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, buf, len), (ssize_t)len);
    close(fd);
}

void leave_open(struct place *p, const struct vd_id *uuid, uint64_t stamp)
{
    pid_t pid = fork();
    if (pid == 0) {
        char why[VD_META_WHY];
        struct vd_meta *m;
        if (vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why) < 0)
            _exit(1);
        if (try_put_samples(m, uuid, stamp) < 0)
            _exit(2);
        _exit(vd_meta_commit(m) < 0 ? 3 : 0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

struct rng rng_make(uint64_t seed)
{
    printf("seed %llu\n", (unsigned long long)seed);
    return (struct rng){seed};
}

/* splitmix64 (Steele, Lea, Flood 2014) */
uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

int run_suite(const char *name, const TTest *const *tests, size_t n, int timeout_s)
{
    /* Failed tests leave their folders; all are in one. */
    const char *tmp = getenv("TMPDIR");
    char dir[64];
    snprintf(dir, sizeof(dir), "%.40s/vd-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir) || setenv("TMPDIR", dir, 1) < 0)
        return EXIT_FAILURE;
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, timeout_s);
    for (size_t i = 0; i < n; i++)
        tcase_add_test(tc, tests[i]);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
