// SPDX-License-Identifier: Apache-2.0
/* Which disk is this file: by attribute, by path, copied, damaged, bound by two at once. */
#include "meta_test.h"

#include <pthread.h>
#include <sys/xattr.h>

static int file_make(struct place *p, const char *name, off_t size)
{
    int fd = openat(p->fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, size), 0);
    return fd;
}

/* Binds and, where the disk is new, makes metadata as an attach does. */
static struct vd_id attach(struct place *p, int fd, const char *path, bool *ret_made)
{
    char why[VD_META_WHY];
    struct vd_id uuid;
    int r = vd_meta_bind(p->store, fd, path, true, &uuid, ret_made, why);
    ck_assert_msg(r == 0, "bind: %s: %s", strerror(-r), why);
    struct vd_meta *m = must_open(p, &uuid, VD_META_MAKE);
    struct vd_disk_record d;
    if (vd_meta_get_disk(m, &d) == -ENOENT) {
        struct stat st;
        ck_assert_int_eq(fstat(fd, &st), 0);
        d = sample_disk(&uuid, 1);
        struct vd_layer_record l = sample_layer(0, 1);
        vd_identity_of(&st, &l.identity);
        ck_assert_int_eq(vd_meta_put_disk(m, &d), 0);
        ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), 0);
        ck_assert_int_eq(vd_meta_commit(m), 0);
    }
    vd_meta_close(m);
    return uuid;
}

static int try_bind(struct place *p, int fd, const char *path, bool make, char why[VD_META_WHY])
{
    struct vd_id uuid;
    bool made;
    return vd_meta_bind(p->store, fd, path, make, &uuid, &made, why);
}

START_TEST(by_attribute)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY];
    int fd = file_make(&p, "a.img", 1 << 20);
    ck_assert_int_eq(try_bind(&p, fd, "a.img", false, why), -ENOENT);
    bool made;
    struct vd_id uuid = attach(&p, fd, "a.img", &made);
    ck_assert(made);
    char value[64], want[64] = "1:";
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, sizeof(value));
    vd_id_hex(&uuid, want + 2);
    ck_assert_int_eq(n, 34);
    ck_assert_int_eq(memcmp(value, want, 34), 0);
    /* The name follows a rename, and growth. */
    ck_assert_int_eq(renameat(p.fd, "a.img", p.fd, "b.img"), 0);
    ck_assert_int_eq(ftruncate(fd, 2 << 20), 0);
    ck_assert_int_eq(vd_meta_rebind(p.store, fd, "b.img", &uuid), 0);
    struct vd_id again = attach(&p, fd, "b.img", &made);
    ck_assert(!made && vd_id_eq(&again, &uuid));
    close(fd);
    place_drop(&p);
}
END_TEST

START_TEST(a_copied_attribute_is_another_disk)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY], value[64];
    bool made;
    int fd = file_make(&p, "a.img", 1 << 20), copy = file_make(&p, "copy.img", 1 << 20);
    struct vd_id uuid = attach(&p, fd, "a.img", &made);
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, sizeof(value));
    ck_assert_int_eq(fsetxattr(copy, VD_META_XATTR, value, (size_t)n, 0), 0);
    ck_assert_int_eq(try_bind(&p, copy, "copy.img", false, why), -ESTALE);
    struct vd_id other = attach(&p, copy, "copy.img", &made);
    ck_assert(made && !vd_id_eq(&other, &uuid));
    struct vd_id again = attach(&p, copy, "copy.img", &made);
    ck_assert(!made && vd_id_eq(&other, &again));
    again = attach(&p, fd, "a.img", &made);
    ck_assert(!made && vd_id_eq(&uuid, &again));
    close(fd);
    close(copy);
    place_drop(&p);
}
END_TEST

START_TEST(without_its_metadata_a_name_is_not_used_again)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY];
    bool made;
    int fd = file_make(&p, "a.img", 1 << 20);
    struct vd_id uuid = attach(&p, fd, "a.img", &made);
    ck_assert_int_eq(vd_meta_remove(p.store, &uuid), 0);
    ck_assert_int_eq(try_bind(&p, fd, "a.img", false, why), -ENOENT);
    struct vd_id other = attach(&p, fd, "a.img", &made);
    ck_assert(made && !vd_id_eq(&uuid, &other));
    close(fd);
    place_drop(&p);
}
END_TEST

START_TEST(cut_between_bind_and_metadata)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY];
    struct vd_id first, second, third;
    bool made;
    int fd = file_make(&p, "a.img", 1 << 20), copy = file_make(&p, "c.img", 1 << 20);
    ck_assert_int_eq(vd_meta_bind(p.store, fd, "a.img", true, &first, &made, why), 0);
    ck_assert(made);
    /* Another mount, or we again: the same name, still to be made. */
    ck_assert_int_eq(try_bind(&p, fd, "a.img", false, why), -ENOENT);
    ck_assert_int_eq(vd_meta_bind(p.store, fd, "a.img", true, &second, &made, why), 0);
    ck_assert(made && vd_id_eq(&first, &second));
    /* A copy made in this instant does not share it. */
    char value[64];
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, sizeof(value));
    ck_assert_int_eq(fsetxattr(copy, VD_META_XATTR, value, (size_t)n, 0), 0);
    ck_assert_int_eq(vd_meta_bind(p.store, copy, "c.img", true, &third, &made, why), 0);
    ck_assert(made && !vd_id_eq(&first, &third));
    /* An environment was made, no record committed. */
    vd_meta_close(must_open(&p, &first, VD_META_MAKE));
    ck_assert_int_eq(vd_meta_bind(p.store, fd, "a.img", true, &second, &made, why), 0);
    ck_assert(made && vd_id_eq(&first, &second));
    close(fd);
    close(copy);
    place_drop(&p);
}
END_TEST

START_TEST(foreign_attributes_are_refused_by_name)
{
    static const struct {
        const char *value, *word;
    } cases[] = {
        {"hello", "not of this program"},
        {"", "not of this program"},
        {"1:", "damaged"},
        {"1:0123", "damaged"},
        {"1:0123456789abcdef0123456789abcdeg", "damaged"},
        {"1:01234567-9abc-ef01-2345-789abcdef012", "damaged"},
        {"2:0123456789abcdef0123456789abcdef", "another version"},
        {"01234567890123456789012345678901234567890123456789012345678901234567890", "making"},
    };
    struct place p;
    place_make(&p);
    int fd = file_make(&p, "a.img", 1 << 20);
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        char why[VD_META_WHY];
        ck_assert_int_eq(fsetxattr(fd, VD_META_XATTR, cases[i].value, strlen(cases[i].value), 0),
                         0);
        for (int make = 0; make < 2; make++) {
            ck_assert_int_eq(try_bind(&p, fd, "dir/a.img", make, why), -EUCLEAN);
            ck_assert_ptr_nonnull(strstr(why, "dir/a.img"));
            ck_assert_msg(strstr(why, cases[i].word), "%s", why);
        }
    }
    close(fd);
    place_drop(&p);
}
END_TEST

START_TEST(damaged_metadata_is_named)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY];
    bool made;
    int fd = file_make(&p, "a.img", 1 << 20);
    struct vd_id uuid = attach(&p, fd, "a.img", &made);
    file_store(&p, &uuid, "meta.mdb", "x", 1);
    for (int make = 0; make < 2; make++) {
        ck_assert_int_eq(try_bind(&p, fd, "a.img", make, why), -EUCLEAN);
        ck_assert_ptr_nonnull(strstr(why, "meta.mdb: "));
    }
    close(fd);
    place_drop(&p);
}
END_TEST

/* A store in one folder, the files on a file system that takes no attributes. */
START_TEST(by_path)
{
    struct place p;
    place_make(&p);
    char dir[160], why[VD_META_WHY];
    snprintf(dir, sizeof(dir), "%s/plain", p.dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    if (!ramfs_mount(&p, dir)) {
        printf("SKIP: may not mount\n");
        place_drop(&p);
        return;
    }
    bool made;
    int fd = file_make(&p, "plain/a.img", 1 << 20);
    ck_assert_int_eq(try_bind(&p, fd, "a.img", false, why), -ENOENT);
    struct vd_id uuid = attach(&p, fd, "a.img", &made), again;
    ck_assert(made);
    again = attach(&p, fd, "a.img", &made);
    ck_assert(!made && vd_id_eq(&uuid, &again));
    /* Grown through us: bound anew. Grown behind our back: another disk. */
    ck_assert_int_eq(ftruncate(fd, 2 << 20), 0);
    ck_assert_int_eq(vd_meta_rebind(p.store, fd, "a.img", &uuid), 0);
    again = attach(&p, fd, "a.img", &made);
    ck_assert(!made && vd_id_eq(&uuid, &again));
    ck_assert_int_eq(ftruncate(fd, 3 << 20), 0);
    ck_assert_int_eq(try_bind(&p, fd, "a.img", false, why), -ENOENT);
    again = attach(&p, fd, "a.img", &made);
    ck_assert(made && !vd_id_eq(&uuid, &again));
    uuid = again;
    /* Another path, and another file at the path. */
    ck_assert_int_eq(try_bind(&p, fd, "b.img", false, why), -ENOENT);
    int other = file_make(&p, "plain/b.img", 3 << 20);
    ck_assert_int_eq(try_bind(&p, other, "a.img", false, why), -ENOENT);
    close(other);
    /* Read-only, with its attribute impossible to set: still by path. */
    close(fd);
    ramfs_remount_ro(dir);
    fd = openat(p.fd, "plain/a.img", O_RDONLY | O_CLOEXEC);
    again = attach(&p, fd, "a.img", &made);
    ck_assert(!made && vd_id_eq(&uuid, &again));
    close(fd);
    ramfs_umount(dir);
    place_drop(&p);
}
END_TEST

START_TEST(damaged_bound_record_is_named)
{
    struct place p;
    place_make(&p);
    char dir[160], name[256], why[VD_META_WHY];
    snprintf(dir, sizeof(dir), "%s/plain", p.dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    if (!ramfs_mount(&p, dir)) {
        printf("SKIP: may not mount\n");
        place_drop(&p);
        return;
    }
    bool made;
    int fd = file_make(&p, "plain/a.img", 1 << 20);
    attach(&p, fd, "a.img", &made);
    snprintf(name, sizeof(name), "f=$(ls %s/.vdiskfs/bound/*) && printf x >>$f", p.dir);
    ck_assert_int_eq(system(name), 0);
    ck_assert_int_eq(try_bind(&p, fd, "a.img", true, why), -EUCLEAN);
    ck_assert_ptr_nonnull(strstr(why, "/bound/"));
    close(fd);
    ramfs_umount(dir);
    place_drop(&p);
}
END_TEST

struct racer {
    struct place *p;
    pthread_barrier_t *start;
    const char *name;
    struct vd_id uuid;
    int r;
};

static void *race(void *arg)
{
    struct racer *w = arg;
    char why[VD_META_WHY];
    bool made;
    int fd = openat(w->p->fd, w->name, O_RDWR | O_CLOEXEC);
    pthread_barrier_wait(w->start);
    w->r = vd_meta_bind(w->p->store, fd, w->name, true, &w->uuid, &made, why);
    close(fd);
    return NULL;
}

START_TEST(two_bind_one_new_file)
{
    struct place p;
    place_make(&p);
    for (int round = 0; round < 30; round++) {
        char name[32];
        snprintf(name, sizeof(name), "%d.img", round);
        close(file_make(&p, name, 1 << 20));
        pthread_barrier_t start;
        pthread_barrier_init(&start, NULL, 4);
        struct racer w[4];
        pthread_t t[4];
        for (int i = 0; i < 4; i++) {
            w[i] = (struct racer){.p = &p, .start = &start, .name = name};
            ck_assert_int_eq(pthread_create(&t[i], NULL, race, &w[i]), 0);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(t[i], NULL);
            ck_assert_int_eq(w[i].r, 0);
            ck_assert(vd_id_eq(&w[i].uuid, &w[0].uuid));
        }
        pthread_barrier_destroy(&start);
    }
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        by_attribute,
        a_copied_attribute_is_another_disk,
        without_its_metadata_a_name_is_not_used_again,
        cut_between_bind_and_metadata,
        foreign_attributes_are_refused_by_name,
        damaged_metadata_is_named,
        by_path,
        damaged_bound_record_is_named,
        two_bind_one_new_file,
    };
    return run_suite("meta-bind", tests, VD_ARRAY_SIZE(tests), 30);
}
