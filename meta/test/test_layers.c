// SPDX-License-Identifier: Apache-2.0
/* Files of layers, their records, the mark of disks with layers, and which of their files bind. */
#include "meta_test.h"

#include <signal.h>
#include <sys/xattr.h>

#include "vd_view.h"

static struct vd_id new_id(void)
{
    struct vd_id id;
    ck_assert_int_eq(vd_id_new(&id), 0);
    return id;
}

static int file_make(struct place *p, const char *name)
{
    int fd = openat(p->fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
    return fd;
}

static void layer_path(struct place *p, const struct vd_id *id, const char *suffix, char path[256])
{
    char rel[128];
    vd_layer_rel(id, rel, sizeof(rel));
    snprintf(path, 256, "%s/%s%s", p->dir, rel, suffix);
}

/* ---- the mark ---- */

START_TEST(mark)
{
    struct place p;
    place_make(&p);
    int fd = file_make(&p, "a"), path_fd = openat(p.fd, "a", O_PATH | O_CLOEXEC);
    struct vd_id id = new_id(), got;
    const int fds[] = {fd, path_fd};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(vd_layered_get(fds[i], &got), -ENODATA);
        ck_assert_int_eq(vd_layered_mark(fds[i], &id), 0);
        ck_assert_int_eq(vd_layered_get(fds[1 - i], &got), 0);
        ck_assert(vd_id_eq(&id, &got));
        ck_assert_int_eq(vd_layered_mark(fds[i], NULL), 0);
        ck_assert_int_eq(vd_layered_get(fds[1 - i], &got), 0);
        ck_assert(vd_id_is_zero(&got));
        ck_assert_int_eq(vd_layered_unmark(fds[i]), 0);
        ck_assert_int_eq(vd_layered_unmark(fds[i]), 0);
    }
    static const char *const bad[] = {
        "",
        "1",
        "1:",
        "1:ow",
        "1:owner",
        "2:own",
        "own",
        "1:0123456789abcdef0123456789abcde",
        "1:0123456789abcdef0123456789abcdef0",
        "1:0123456789ABCDEF0123456789ABCDEF",
        "1:00000000000000000000000000000000",
        "1:01234567-89ab-cdef-0123-456789abcd",
        "2:0123456789abcdef0123456789abcdef",
        "1:0123456789abcdef0123456789abcdefxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++) {
        ck_assert_int_eq(fsetxattr(fd, VD_META_XATTR_LAYERED, bad[i], strlen(bad[i]), 0), 0);
        ck_assert_msg(vd_layered_get(path_fd, &got) == -EUCLEAN, "%s", bad[i]);
    }
    ck_assert_int_eq(fsetxattr(fd, VD_META_XATTR_LAYERED, "1:own\0", 6, 0), 0);
    ck_assert_int_eq(vd_layered_get(path_fd, &got), -EUCLEAN);
    close(fd);
    close(path_fd);
    place_drop(&p);
}
END_TEST

/* ---- files ---- */

START_TEST(make_open_link_remove)
{
    struct place p;
    place_make(&p);
    struct vd_id id = new_id(), other = new_id();
    struct stat st, dir;
    int fd = -1, fd2 = -1;
    char path[256];
    ck_assert_int_eq(vd_layer_open(p.store, &id, false, &fd), -ENOENT);
    ck_assert_int_eq(vd_layer_stat(p.store, &id, &st), -ENOENT);
    ck_assert_int_eq(vd_layer_remove(p.store, &id), 0);
    ck_assert_int_eq(vd_layer_make(p.store, &id, 5u << 20, &fd), 0);
    ck_assert_int_eq(vd_layer_make(p.store, &id, 5u << 20, &fd2), -EEXIST);
    ck_assert_int_eq(fd2, -1);
    ck_assert_int_eq(vd_layer_stat(p.store, &id, &st), 0);
    ck_assert_int_eq(st.st_size, 5 << 20);
    ck_assert_int_eq(st.st_blocks, 0);
    ck_assert_int_eq(st.st_mode & 07777, 0600);
    ck_assert_int_eq(fstatat(p.fd, ".vdiskfs/layers", &dir, AT_SYMLINK_NOFOLLOW), 0);
    ck_assert_int_eq(dir.st_mode & 07777, 0700);
    ck_assert_int_eq(pwrite(fd, "x", 1, 0), 1);
    ck_assert_int_eq(vd_layer_open(p.store, &id, false, &fd2), 0);
    ck_assert_int_eq(pwrite(fd2, "x", 1, 0), -1);
    close(fd2);
    ck_assert_int_eq(vd_layer_open(p.store, &id, true, &fd2), 0);
    ck_assert_int_eq(pwrite(fd2, "x", 1, 0), 1);
    close(fd2);
    close(fd);

    fd = file_make(&p, "a.img");
    fd2 = openat(p.fd, "a.img", O_PATH | O_CLOEXEC);
    ck_assert_int_eq(vd_layer_link(p.store, &id, fd), -EEXIST);
    ck_assert_int_eq(vd_layer_link(p.store, &other, fd), 0);
    ck_assert_int_eq(vd_layer_link(p.store, &other, fd2), 0);
    ck_assert_int_eq(vd_layer_stat(p.store, &other, &st), 0);
    ck_assert_int_eq(st.st_nlink, 2);
    ck_assert_int_eq(vd_layer_remove(p.store, &other), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_nlink, 1);
    close(fd);
    close(fd2);

    layer_path(&p, &other, "", path);
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    ck_assert_int_eq(vd_layer_open(p.store, &other, false, &fd), -ELOOP);
    ck_assert_int_eq(vd_layer_stat(p.store, &other, &st), -ELOOP);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(vd_layer_open(p.store, &other, false, &fd), -EINVAL);
    ck_assert_int_eq(vd_layer_stat(p.store, &other, &st), -EINVAL);
    place_drop(&p);
}
END_TEST

/* The store elsewhere: the layers are in the source all the same. */
START_TEST(with_the_store_elsewhere)
{
    struct place p;
    place_make(&p);
    char dir[160], path[256];
    snprintf(dir, sizeof(dir), "%s/src", p.dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    int source_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct vd_meta_store *s;
    snprintf(path, sizeof(path), "%s/meta", p.dir);
    ck_assert_int_eq(vd_meta_store_open(source_fd, path, true, &s), 0);
    close(source_fd);
    snprintf(path, sizeof(path), "%s/.vdiskfs", dir);
    ck_assert_int_eq(access(path, F_OK), -1); /* made when it is needed */
    struct vd_id id = new_id();
    int fd;
    ck_assert_int_eq(vd_layer_make(s, &id, 4096, &fd), 0);
    close(fd);
    snprintf(path, sizeof(path), "%s/.vdiskfs/layers", dir);
    ck_assert_int_eq(access(path, F_OK), 0);
    /* Another one, through a source that may only be read. */
    vd_meta_store_close(s);
    source_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof(path), "%s/meta", p.dir);
    ck_assert_int_eq(vd_meta_store_open(source_fd, path, false, &s), 0);
    close(source_fd);
    ck_assert_int_eq(vd_layer_open(s, &id, false, &fd), 0);
    close(fd);
    vd_meta_store_close(s);
    place_drop(&p);
}
END_TEST

struct seen {
    struct vd_id ids[64];
    unsigned n;
    struct vd_meta_store *remove_from;
};

static int note(void *user, const struct vd_id *id)
{
    struct seen *s = user;
    s->ids[s->n++] = *id;
    return s->remove_from ? vd_layer_remove(s->remove_from, id) : 0;
}

static struct vd_layer_file sample_layer_file(const struct vd_id *id, const struct stat *st)
{
    return (struct vd_layer_file){
        .disk_id = *id,
        .token = {.b = {7, 8, 9}},
        .size_bytes = (uint64_t)st->st_size,
        .mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec,
        .created_s = 1700000000,
        .owner = {.b = {1, 2, 3}},
    };
}

START_TEST(each_layer_once)
{
    struct place p;
    place_make(&p);
    struct seen s = {0};
    ck_assert_int_eq(vd_layer_each(p.store, note, &s), 0);
    ck_assert_uint_eq(s.n, 0);
    struct vd_id ids[30];
    for (unsigned i = 0; i < VD_ARRAY_SIZE(ids); i++) {
        struct stat st = {.st_size = 4096};
        ids[i] = new_id();
        struct vd_layer_file l = sample_layer_file(&ids[i], &st);
        int fd;
        if (i % 3 != 1) { /* both, file alone, record alone */
            ck_assert_int_eq(vd_layer_make(p.store, &ids[i], 4096, &fd), 0);
            close(fd);
        }
        if (i % 3 != 2)
            ck_assert_int_eq(vd_layer_put(p.store, &l), 0);
    }
    close(openat(p.fd, ".vdiskfs/layers/README", O_CREAT | O_WRONLY, 0600));
    close(
        openat(p.fd, ".vdiskfs/layers/0123456789ABCDEF0123456789ABCDEF", O_CREAT | O_WRONLY, 0600));
    for (int round = 0; round < 3; round++) {
        s = (struct seen){.remove_from = round == 1 ? p.store : NULL};
        ck_assert_int_eq(vd_layer_each(p.store, note, &s), 0);
        ck_assert_uint_eq(s.n, round < 2 ? VD_ARRAY_SIZE(ids) : 0);
        for (unsigned i = 0; round < 2 && i < VD_ARRAY_SIZE(ids); i++) {
            unsigned times = 0;
            for (unsigned k = 0; k < s.n; k++)
                times += vd_id_eq(&ids[i], &s.ids[k]);
            ck_assert_uint_eq(times, 1);
        }
    }
    place_drop(&p);
}
END_TEST

/* ---- verification ---- */

static struct vd_id frozen(struct place *p, struct vd_layer_file *ret_l)
{
    struct vd_id id = new_id();
    struct stat st;
    int fd;
    ck_assert_int_eq(vd_layer_make(p->store, &id, 1 << 20, &fd), 0);
    ck_assert_int_eq(pwrite(fd, "data", 4, 0), 4);
    ck_assert_int_eq(fstat(fd, &st), 0);
    close(fd);
    *ret_l = sample_layer_file(&id, &st);
    ck_assert_int_eq(vd_layer_put(p->store, ret_l), 0);
    return id;
}

static void expect_refused(struct place *p, const struct vd_id *id, const char *word)
{
    char why[VD_META_WHY] = "", hex[VD_ID_HEX];
    struct vd_layer_file l;
    vd_id_hex(id, hex);
    int r = vd_layer_verify(p->store, id, &l, why);
    ck_assert_msg(r == -EUCLEAN, "%s: %d", word, r);
    ck_assert_msg(strstr(why, word) && strstr(why, hex) && strstr(why, p->dir), "%s", why);
    ck_assert_msg(strstr(why, "backup"), "%s", why);
}

START_TEST(verify)
{
    struct place p;
    place_make(&p);
    struct vd_layer_file want, got;
    struct vd_id id = frozen(&p, &want), none = new_id();
    char why[VD_META_WHY], path[256], record[256], copy[1024];
    ck_assert_int_eq(vd_layer_verify(p.store, &id, NULL, why), 0);
    ck_assert_int_eq(vd_layer_verify(p.store, &id, &got, why), 0);
    ck_assert_int_eq(memcmp(&got, &want, sizeof(got)), 0);
    ck_assert_int_eq(vd_layer_get(p.store, &none, &got, why), -ENOENT);
    expect_refused(&p, &none, "missing");
    layer_path(&p, &id, "", path);
    layer_path(&p, &id, ".layer", record);

    /* Touched; then restored from a backup: another inode, the same size and time. */
    struct timespec times[2];
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    times[1].tv_nsec ^= 1;
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    expect_refused(&p, &id, "changed");
    times[1] = st.st_mtim;
    snprintf(copy, sizeof(copy), "cp %s %s.bak && mv %s.bak %s", path, p.dir, p.dir, path);
    ck_assert_int_eq(system(copy), 0);
    expect_refused(&p, &id, "changed");
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    ck_assert_int_eq(vd_layer_verify(p.store, &id, NULL, why), 0);
    struct stat now;
    ck_assert_int_eq(stat(path, &now), 0);
    ck_assert(now.st_ino != st.st_ino);

    ck_assert_int_eq(truncate(path, 4096), 0);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    expect_refused(&p, &id, "4096 bytes instead of 1048576");
    ck_assert_int_eq(truncate(path, 1 << 20), 0);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    ck_assert_int_eq(vd_layer_verify(p.store, &id, NULL, why), 0);

    ck_assert_int_eq(unlink(record), 0);
    expect_refused(&p, &id, "record is missing");
    ck_assert_int_eq(vd_layer_put(p.store, &want), 0);
    ck_assert_int_eq(unlink(path), 0);
    expect_refused(&p, &id, "missing");
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    expect_refused(&p, &id, "regular");
    place_drop(&p);
}
END_TEST

START_TEST(every_byte_of_the_record_counts)
{
    struct place p;
    place_make(&p);
    struct vd_layer_file want, got, other;
    struct vd_id id = frozen(&p, &want), id2 = frozen(&p, &other);
    char record[256], why[VD_META_WHY];
    layer_path(&p, &id, ".layer", record);
    uint8_t sound[200], bad[200];
    int fd = open(record, O_RDWR | O_CLOEXEC);
    ssize_t len = pread(fd, sound, sizeof(sound), 0);
    ck_assert_int_eq(len, 92);
    for (ssize_t i = 0; i < len; i++) {
        memcpy(bad, sound, (size_t)len);
        bad[i] ^= 0x10;
        ck_assert_int_eq(pwrite(fd, bad, (size_t)len, 0), len);
        ck_assert_int_eq(vd_layer_get(p.store, &id, &got, why), -EUCLEAN);
        ck_assert_msg(strstr(why, ".layer: checksum differs"), "%s", why);
        expect_refused(&p, &id, "checksum");
    }
    for (ssize_t i = 0; i <= len + 1; i++) {
        memcpy(bad, sound, (size_t)len);
        bad[len] = 0;
        ck_assert_int_eq(ftruncate(fd, 0), 0);
        ck_assert_int_eq(pwrite(fd, bad, (size_t)i, 0), i);
        ck_assert_int_eq(vd_layer_get(p.store, &id, &got, why), i == len ? 0 : -EUCLEAN);
    }
    close(fd);
    /* A sound record under another layer's name. */
    char from[256], command[600];
    layer_path(&p, &id2, ".layer", from);
    snprintf(command, sizeof(command), "cp %s %s", from, record);
    ck_assert_int_eq(system(command), 0);
    expect_refused(&p, &id, "another layer");
    place_drop(&p);
}
END_TEST

/* ---- binding ---- */

/* A disk with layers at NAME: its metadata, and both attributes. */
static struct vd_id layered_disk(struct place *p, int fd, const char *name, bool mark_it)
{
    char why[VD_META_WHY];
    struct vd_id uuid, live = new_id();
    bool made;
    struct stat st;
    ck_assert_int_eq(vd_meta_bind(p->store, fd, name, true, &uuid, &made, why), 0);
    struct vd_meta *m = must_open(p, &uuid, VD_META_MAKE);
    ck_assert_int_eq(fstat(fd, &st), 0);
    struct vd_disk_record d = sample_disk(&uuid, 1);
    struct vd_layer_record l = sample_layer(0, 1);
    struct vd_view_record v = {
        .home = VD_HOME_LAYERS, .file_ino = st.st_ino, .live_map = new_id(), .nmaps = 1};
    v.maps[0] = new_id();
    d.live_disk_id = l.disk_id = live;
    l.identity.ino = st.st_ino + 12345; /* the live layer's */
    ck_assert_int_eq(vd_meta_put_disk(m, &d), 0);
    ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), 0);
    ck_assert_int_eq(vd_meta_put_view(m, &v), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    if (mark_it)
        ck_assert_int_eq(vd_layered_mark(fd, &live), 0);
    return uuid;
}

static void expect_bound(struct place *p, int fd, const char *name, const struct vd_id *want)
{
    for (int make = 0; make < 2; make++) {
        char why[VD_META_WHY];
        struct vd_id uuid;
        bool made;
        int r = vd_meta_bind(p->store, fd, name, make, &uuid, &made, why);
        ck_assert_msg(r == 0, "%s: %s", strerror(-r), why);
        ck_assert(!made && vd_id_eq(&uuid, want));
    }
}

static void expect_no_bind(struct place *p, int fd, const char *name, bool only_make,
                           const char *word)
{
    char before[64], after[64];
    ssize_t n = fgetxattr(fd, VD_META_XATTR, before, sizeof(before));
    for (int make = only_make; make < 2; make++) {
        char why[VD_META_WHY] = "";
        struct vd_id uuid;
        bool made;
        int r = vd_meta_bind(p->store, fd, name, make, &uuid, &made, why);
        ck_assert_msg(r == -EUCLEAN, "%s, make %d: %d", word, make, r);
        ck_assert_msg(strstr(why, name) && strstr(why, word), "%s", why);
        ck_assert_msg(strstr(why, "adopt PATH --as-plain") || strstr(why, "copy of the file"), "%s",
                      why);
        ck_assert_msg(strlen(why) + 1 < VD_META_WHY, "%s", why);
    }
    ck_assert_int_eq(fgetxattr(fd, VD_META_XATTR, after, sizeof(after)), n);
    ck_assert(n < 0 || memcmp(before, after, (size_t)n) == 0);
}

START_TEST(binds_by_the_inode_of_its_file)
{
    struct place p;
    place_make(&p);
    int fd = file_make(&p, "a.img"), live = file_make(&p, "live");
    struct vd_id uuid = layered_disk(&p, fd, "a.img", true);
    expect_bound(&p, fd, "a.img", &uuid);
    ck_assert_int_eq(renameat(p.fd, "a.img", p.fd, "b.img"), 0);
    expect_bound(&p, fd, "b.img", &uuid);
    /* The live layer's file takes the place of the disk's: it counts while it does. */
    char value[64];
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, sizeof(value));
    ck_assert_int_eq(fsetxattr(live, VD_META_XATTR, value, (size_t)n, 0), 0);
    struct stat st;
    ck_assert_int_eq(fstat(live, &st), 0);
    for (int moving = 0; moving < 3; moving++) {
        struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
        struct vd_view_record v;
        struct vd_layer_record l;
        ck_assert_int_eq(vd_meta_get_view(m, &v), 0);
        ck_assert_int_eq(vd_meta_get_layer(m, 0, &l), 0);
        l.identity.ino = st.st_ino;
        v.moving = moving > 0;
        ck_assert_int_eq(vd_meta_put_view(m, &v), 0);
        ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), 0);
        ck_assert_int_eq(vd_meta_commit(m), 0);
        vd_meta_close(m);
        expect_bound(&p, fd, "b.img", &uuid);
        if (moving == 2)
            ck_assert_int_eq(vd_layered_mark(live, NULL), 0);
        if (moving)
            expect_bound(&p, live, "b.img", &uuid);
        else
            expect_no_bind(&p, live, "b.img", false, "copy");
    }
    close(fd);
    close(live);
    place_drop(&p);
}
END_TEST

START_TEST(a_copy_is_refused)
{
    struct place p;
    place_make(&p);
    int fd = file_make(&p, "a.img");
    struct vd_id uuid = layered_disk(&p, fd, "a.img", true);
    char command[400];
    snprintf(command, sizeof(command), "cp -a %s/a.img %s/copy.img", p.dir, p.dir);
    ck_assert_int_eq(system(command), 0);
    int copy = openat(p.fd, "copy.img", O_RDWR | O_CLOEXEC);
    expect_no_bind(&p, copy, "copy.img", false, "copy");
    /* Its name alone, without the mark, says as much. */
    ck_assert_int_eq(vd_layered_unmark(copy), 0);
    expect_no_bind(&p, copy, "copy.img", false, "copy");
    /* Without both it is a plain file. */
    ck_assert_int_eq(fremovexattr(copy, VD_META_XATTR), 0);
    char why[VD_META_WHY];
    struct vd_id other;
    bool made;
    ck_assert_int_eq(vd_meta_bind(p.store, copy, "copy.img", true, &other, &made, why), 0);
    ck_assert(made && !vd_id_eq(&other, &uuid));
    expect_bound(&p, fd, "a.img", &uuid);
    close(fd);
    close(copy);
    place_drop(&p);
}
END_TEST

START_TEST(without_metadata_it_is_refused)
{
    struct place p;
    place_make(&p);
    int fd = file_make(&p, "a.img"), fd2 = file_make(&p, "b.img");
    struct vd_id uuid = layered_disk(&p, fd, "a.img", true);
    struct vd_id uuid2 = layered_disk(&p, fd2, "b.img", true);
    char hex[VD_ID_HEX], path[512];
    vd_id_hex(&uuid, hex);
    ck_assert_int_eq(vd_meta_remove(p.store, &uuid), 0);
    expect_no_bind(&p, fd, "a.img", false, "missing");
    expect_no_bind(&p, fd, "a.img", false, hex);
    /* The environment gone, the claim of its folder still there. */
    vd_meta_disk_path(p.store, &uuid2, path, sizeof(path));
    strcat(path, "/meta.mdb");
    ck_assert_int_eq(unlink(path), 0);
    expect_no_bind(&p, fd2, "b.img", false, "missing");
    ck_assert_int_eq(fremovexattr(fd2, VD_META_XATTR), 0);
    expect_no_bind(&p, fd2, "b.img", false, "lost its attribute");
    close(fd);
    close(fd2);
    place_drop(&p);
}
END_TEST

START_TEST(a_mark_of_nobodys_making_is_refused)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY];
    struct vd_id uuid;
    bool made;
    int fd = file_make(&p, "a.img"), plain = file_make(&p, "plain.img");
    uuid = layered_disk(&p, fd, "a.img", true);
    ck_assert_int_eq(fsetxattr(fd, VD_META_XATTR_LAYERED, "hello", 5, 0), 0);
    expect_no_bind(&p, fd, "a.img", false, VD_META_XATTR_LAYERED);
    ck_assert_int_eq(fsetxattr(plain, VD_META_XATTR_LAYERED, "hello", 5, 0), 0);
    expect_no_bind(&p, plain, "plain.img", false, VD_META_XATTR_LAYERED);
    ck_assert_int_eq(vd_layered_mark(fd, NULL), 0);
    expect_bound(&p, fd, "a.img", &uuid);
    /* Marked, and its metadata says plain: a first snapshot that was cut off. It is its own. */
    ck_assert_int_eq(vd_layered_unmark(plain), 0);
    ck_assert_int_eq(vd_meta_bind(p.store, plain, "plain.img", true, &uuid, &made, why), 0);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_MAKE);
    struct vd_disk_record d = sample_disk(&uuid, 1);
    struct vd_layer_record l = sample_layer(0, 1);
    struct stat st;
    ck_assert_int_eq(fstat(plain, &st), 0);
    vd_identity_of(&st, &l.identity);
    ck_assert_int_eq(vd_meta_put_disk(m, &d), 0);
    ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    ck_assert_int_eq(vd_layered_mark(plain, NULL), 0);
    expect_bound(&p, plain, "plain.img", &uuid);
    close(fd);
    close(plain);
    place_drop(&p);
}
END_TEST

/* Attributes taken off by somebody, metadata gone: its second name tells. */
START_TEST(a_frozen_layer_never_becomes_a_disk)
{
    struct place p;
    place_make(&p);
    char why[VD_META_WHY], path[512];
    int fd = file_make(&p, "a.img"), linked = file_make(&p, "linked.img"), other;
    struct vd_id uuid = layered_disk(&p, fd, "a.img", true), id = new_id(), more = new_id();
    ck_assert_int_eq(vd_layer_link(p.store, &id, fd), 0);
    ck_assert_int_eq(vd_layer_make(p.store, &more, 4096, &other), 0);
    close(other);
    expect_bound(&p, fd, "a.img", &uuid);
    char hex[VD_ID_HEX];
    vd_id_hex(&id, hex);
    ck_assert_int_eq(fremovexattr(fd, VD_META_XATTR_LAYERED), 0);
    expect_bound(&p, fd, "a.img", &uuid);
    /* Only the environment gone: the claim would have it made anew. */
    vd_meta_disk_path(p.store, &uuid, path, sizeof(path));
    strcat(path, "/meta.mdb");
    ck_assert_int_eq(unlink(path), 0);
    expect_no_bind(&p, fd, "a.img", true, hex);
    ck_assert_int_eq(fremovexattr(fd, VD_META_XATTR), 0);
    expect_no_bind(&p, fd, "a.img", true, hex);
    /* Any other file of two names is a disk like any other. */
    ck_assert_int_eq(linkat(p.fd, "linked.img", p.fd, "second.img", 0), 0);
    bool made;
    ck_assert_int_eq(vd_meta_bind(p.store, linked, "linked.img", true, &uuid, &made, why), 0);
    ck_assert(made);
    ck_assert_int_eq(vd_meta_bind(p.store, linked, "second.img", true, &id, &made, why), 0);
    ck_assert(made && vd_id_eq(&uuid, &id));
    close(fd);
    close(linked);
    place_drop(&p);
}
END_TEST

/* ---- cuts ---- */

/* Runs FN in a child that dies at its STEPth step; false when it came to its end before. */
static bool killed_at(struct place *p, int step, int (*fn)(struct place *p, const struct vd_id *id),
                      const struct vd_id *id)
{
    pid_t pid = fork();
    if (pid == 0) {
        char text[16];
        snprintf(text, sizeof(text), "%d", step);
        setenv("VDISKFS_TEST_KILL_STEP", text, 1);
        _exit(fn(p, id) < 0 ? 1 : 0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        ck_assert_int_eq(WTERMSIG(status), SIGKILL);
        return true;
    }
    ck_assert_int_eq(status, 0);
    return false;
}

static int try_make(struct place *p, const struct vd_id *id)
{
    int fd;
    return vd_layer_make(p->store, id, 4096, &fd);
}

static int try_link(struct place *p, const struct vd_id *id)
{
    int fd = openat(p->fd, "a.img", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : vd_layer_link(p->store, id, fd);
}

static int try_put_layer(struct place *p, const struct vd_id *id)
{
    struct stat st = {.st_size = 8192};
    struct vd_layer_file l = sample_layer_file(id, &st);
    return vd_layer_put(p->store, &l);
}

static int try_remove(struct place *p, const struct vd_id *id)
{
    return vd_layer_remove(p->store, id);
}

START_TEST(cut_at_each_step)
{
    struct place p;
    place_make(&p);
    close(file_make(&p, "a.img"));
    int steps[4] = {0};
    for (int step = 1, more = 1; more; step++) {
        char why[VD_META_WHY];
        struct vd_layer_file l, want;
        struct vd_id id = new_id(), linked = new_id(), old = frozen(&p, &want), gone = new_id();
        struct stat st;
        int cut[4];
        cut[0] = killed_at(&p, step, try_make, &id);
        int r = vd_layer_stat(p.store, &id, &st);
        ck_assert(r == 0 && (st.st_size == 0 || st.st_size == 4096));
        ck_assert_int_eq(vd_layer_remove(p.store, &id), 0);
        cut[1] = killed_at(&p, step, try_link, &linked);
        ck_assert_int_eq(try_link(&p, &linked), 0); /* again, whatever was there */
        ck_assert_int_eq(vd_layer_remove(p.store, &linked), 0);
        /* The record is the old one or the new one. */
        cut[2] = killed_at(&p, step, try_put_layer, &old);
        ck_assert_int_eq(vd_layer_get(p.store, &old, &l, why), 0);
        ck_assert(l.size_bytes == 8192 || l.size_bytes == want.size_bytes);
        gone = frozen(&p, &want);
        cut[3] = killed_at(&p, step, try_remove, &gone);
        struct seen s = {0};
        ck_assert_int_eq(vd_layer_each(p.store, note, &s), 0);
        for (unsigned i = 0; i < s.n; i++)
            ck_assert_int_eq(vd_layer_remove(p.store, &s.ids[i]), 0);
        ck_assert_int_eq(vd_layer_stat(p.store, &gone, &st), -ENOENT);
        more = 0;
        for (int i = 0; i < 4; i++) {
            steps[i] += cut[i];
            more |= cut[i];
        }
    }
    printf("steps: make %d, link %d, put %d, remove %d\n", steps[0], steps[1], steps[2], steps[3]);
    for (int i = 0; i < 4; i++)
        ck_assert_int_ge(steps[i], 2);
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        mark,
        make_open_link_remove,
        with_the_store_elsewhere,
        each_layer_once,
        verify,
        every_byte_of_the_record_counts,
        binds_by_the_inode_of_its_file,
        a_copy_is_refused,
        without_metadata_it_is_refused,
        a_mark_of_nobodys_making_is_refused,
        a_frozen_layer_never_becomes_a_disk,
        cut_at_each_step,
    };
    return run_suite("meta-layers", tests, VD_ARRAY_SIZE(tests), 60);
}
