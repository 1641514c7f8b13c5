// SPDX-License-Identifier: Apache-2.0
/* What refers to what, and that only what nothing refers to goes, also when cut at any step. */
#include "meta_test.h"

#include <dirent.h>
#include <signal.h>
#include <sys/xattr.h>

#include "vd_time.h"
#include "vd_view.h"

#define NBLOCKS 256u
#define SIZE (NBLOCKS * 4096u)

static struct vd_id new_id(void)
{
    struct vd_id id;
    ck_assert_int_eq(vd_id_new(&id), 0);
    return id;
}

static struct vd_maps *open_maps(struct place *p)
{
    struct vd_maps *maps = NULL;
    ck_assert_int_eq(vd_maps_open(p->store, 0, &maps), 0);
    return maps;
}

static struct vd_id make_layer(struct place *p)
{
    struct vd_id id = new_id();
    int fd;
    ck_assert_int_eq(vd_layer_make(p->store, &id, SIZE, &fd), 0);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    close(fd);
    struct vd_layer_file l = {.disk_id = id, .size_bytes = SIZE};
    ck_assert_int_eq(vd_layer_put(p->store, &l), 0);
    return id;
}

static struct vd_id make_map(struct vd_maps *maps, const struct vd_id *layer)
{
    struct vd_id id = new_id();
    ck_assert_int_eq(vd_map_make_whole(maps, &id, layer, NBLOCKS), 0);
    return id;
}

static struct vd_id make_live_map(struct vd_maps *maps, const struct vd_id *layer)
{
    struct vd_id id = new_id();
    ck_assert_int_eq(vd_live_map_make(maps, &id, layer, SIZE), 0);
    return id;
}

/* ---- disks ---- */

struct sample {
    struct vd_id uuid;
    enum vd_home home;
    bool moving;
    uint64_t file_ino;
    struct vd_id live, live_map, map, snapshot_map, parent;
    struct vd_id layer, snapshot_layer; /* that the maps name */
};

static void put_disk(struct place *p, const struct sample *s)
{
    struct vd_meta *m = must_open(p, &s->uuid, VD_META_MAKE);
    struct vd_disk_record d = sample_disk(&s->uuid, 1);
    struct vd_layer_record l = sample_layer(0, 1);
    struct vd_view_record v = {.home = s->home,
                               .moving = s->moving,
                               .file_ino = s->file_ino,
                               .live_map = s->live_map,
                               .parent = s->parent};
    d.nlayers = 1;
    d.live_disk_id = l.disk_id = s->live;
    if (!vd_id_is_zero(&s->map))
        v.maps[v.nmaps++] = s->map;
    ck_assert_int_eq(vd_meta_put_disk(m, &d), 0);
    ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), 0);
    ck_assert_int_eq(vd_meta_put_view(m, &v), 0);
    if (!vd_id_is_zero(&s->snapshot_map)) {
        struct vd_snapshot_record sn = {
            .name = "monday", .disk_id = s->snapshot_layer, .nmaps = 1, .maps = {s->snapshot_map}};
        ck_assert_int_eq(vd_meta_put_snapshot(m, &sn), 0);
    }
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
}

/* A disk that needs everything it has. */
static struct sample make_sample(struct place *p, struct vd_maps *maps)
{
    struct sample s = {.uuid = new_id(), .home = VD_HOME_LAYERS, .file_ino = 99};
    s.live = make_layer(p);
    s.layer = make_layer(p);
    s.snapshot_layer = make_layer(p);
    s.live_map = make_live_map(maps, &s.live);
    s.map = make_map(maps, &s.layer);
    s.snapshot_map = make_map(maps, &s.snapshot_layer);
    put_disk(p, &s);
    return s;
}

static bool has_layer(struct place *p, const struct vd_id *id)
{
    struct stat st;
    return vd_layer_stat(p->store, id, &st) == 0;
}

struct search {
    const struct vd_id *id;
    bool found;
};

static int match(void *user, const struct vd_id *id)
{
    struct search *s = user;
    s->found |= vd_id_eq(s->id, id);
    return 0;
}

static bool has_map(struct vd_maps *maps, const struct vd_id *id)
{
    struct search s = {.id = id};
    ck_assert_int_eq(vd_maps_each(maps, false, match, &s), 0);
    return s.found;
}

static bool has_disk(struct place *p, const struct vd_id *uuid)
{
    struct search s = {.id = uuid};
    ck_assert_int_eq(vd_meta_each_disk(p->store, match, &s), 0);
    return s.found;
}

static void expect_whole(struct place *p, struct vd_maps *maps, const struct sample *s)
{
    ck_assert(has_disk(p, &s->uuid));
    ck_assert(has_layer(p, &s->live) && has_layer(p, &s->layer) &&
              has_layer(p, &s->snapshot_layer));
    ck_assert(has_map(maps, &s->live_map) && has_map(maps, &s->map) &&
              has_map(maps, &s->snapshot_map));
}

/* ---- sweeping ---- */

struct told {
    int n, stop_at;
    char what[64][64];
};

static int tell(void *user, const char *what)
{
    struct told *t = user;
    snprintf(t->what[t->n % 64], 64, "%s", what);
    return ++t->n == t->stop_at ? -EINTR : 0;
}

static bool was_told(const struct told *t, const char *folder, const struct vd_id *id)
{
    char want[64], hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(want, sizeof(want), "%s/%s", folder, hex);
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->what[i], want) == 0)
            return true;
    return false;
}

static int must_sweep(struct place *p, struct vd_maps *maps, bool dry_run, struct told *t)
{
    char why[VD_META_WHY] = "";
    *t = (struct told){0};
    int r = vd_meta_sweep(p->store, maps, dry_run, tell, t, why);
    ck_assert_msg(r >= 0, "sweep: %s: %s", strerror(-r), why);
    ck_assert_int_eq(r, t->n);
    return r;
}

static void expect_refused(struct place *p, struct vd_maps *maps, const char *word)
{
    char why[VD_META_WHY] = "";
    struct told t = {0};
    for (int dry_run = 1; dry_run >= 0; dry_run--) {
        int r = vd_meta_sweep(p->store, maps, dry_run, tell, &t, why);
        ck_assert_msg(r == -EUCLEAN, "%s: %d", word, r);
        ck_assert_msg(strstr(why, word), "%s: %s", word, why);
        ck_assert_int_eq(t.n, 0);
    }
}

static int drop_file(struct place *p, const char *rel, const char *text)
{
    int fd = openat(p->fd, rel, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return close(fd);
}

struct orphans {
    struct vd_id map, live_map, layer, file, record;
};

/* Two maps, three layers, a temporary file, two pieces of trash. */
#define NORPHANS 8
static struct orphans make_orphans(struct place *p, struct vd_maps *maps)
{
    struct orphans o = {.layer = make_layer(p), .record = new_id(), .file = new_id()};
    o.map = make_map(maps, &o.layer);
    o.live_map = make_live_map(maps, &o.file);
    int fd;
    ck_assert_int_eq(vd_layer_make(p->store, &o.file, SIZE, &fd), 0);
    close(fd);
    struct vd_layer_file l = {.disk_id = o.record};
    ck_assert_int_eq(vd_layer_put(p->store, &l), 0);
    drop_file(p, ".vdiskfs/layers/.tmp-1", "x");
    ck_assert(mkdirat(p->fd, ".vdiskfs/trash/aa", 0700) == 0 || errno == EEXIST);
    drop_file(p, ".vdiskfs/trash/aa/x", "x");
    drop_file(p, ".vdiskfs/trash/bb", "x");
    return o;
}

static int count_entries(struct place *p, const char *rel)
{
    int fd = openat(p->fd, rel, O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
    if (fd < 0)
        return 0;
    DIR *d = fdopendir(fd);
    for (const struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void expect_gone(struct place *p, struct vd_maps *maps, const struct orphans *o)
{
    char why[VD_META_WHY];
    struct vd_layer_file l;
    ck_assert(!has_map(maps, &o->map) && !has_map(maps, &o->live_map));
    ck_assert(!has_layer(p, &o->layer) && !has_layer(p, &o->file));
    ck_assert_int_eq(vd_layer_get(p->store, &o->record, &l, why), -ENOENT);
    ck_assert_int_eq(faccessat(p->fd, ".vdiskfs/layers/.tmp-1", F_OK, 0), -1);
    ck_assert_int_eq(count_entries(p, ".vdiskfs/trash"), 0);
}

START_TEST(what_is_referred_to_stays)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct told t;
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0); /* of nothing */
    struct sample a = make_sample(&p, maps), b = make_sample(&p, maps);
    struct vd_id plain = make_disk(&p, 3); /* and one that knows nothing of layers */
    /* A third that shares a map. */
    struct sample c = {.uuid = new_id(), .home = VD_HOME_FILE, .live = new_id(), .map = a.map};
    c.live_map = make_live_map(maps, &c.live);
    put_disk(&p, &c);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0);
    struct orphans o = make_orphans(&p, maps);
    ck_assert_int_eq(must_sweep(&p, maps, true, &t), NORPHANS);
    ck_assert_int_eq(must_sweep(&p, maps, true, &t), NORPHANS); /* nothing had gone */
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), NORPHANS);
    ck_assert(was_told(&t, "maps", &o.map) && was_told(&t, "maps", &o.live_map));
    ck_assert(was_told(&t, "layers", &o.layer) && was_told(&t, "layers", &o.record));
    expect_gone(&p, maps, &o);
    expect_whole(&p, maps, &a);
    expect_whole(&p, maps, &b);
    ck_assert(has_disk(&p, &plain) && has_map(maps, &c.live_map));
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0);
    /* A disk goes: what it shared stays. */
    ck_assert_int_eq(vd_meta_remove(p.store, &a.uuid), 0);
    must_sweep(&p, maps, false, &t);
    ck_assert(has_map(maps, &a.map) && has_layer(&p, &a.layer));
    ck_assert(!has_map(maps, &a.snapshot_map) && !has_layer(&p, &a.snapshot_layer));
    ck_assert(!has_map(maps, &a.live_map) && !has_layer(&p, &a.live));
    expect_whole(&p, maps, &b);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

START_TEST(a_report_may_end_it)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    make_orphans(&p, maps);
    struct told t = {.stop_at = 3};
    char why[VD_META_WHY];
    ck_assert_int_eq(vd_meta_sweep(p.store, maps, false, tell, &t, why), -EINTR);
    ck_assert_int_eq(t.n, 3);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), NORPHANS - 3);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

static void map_path(struct place *p, const struct vd_id *id, char path[256])
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(path, 256, "%s/.vdiskfs/maps/%s.map", p->dir, hex);
}

START_TEST(what_cannot_be_read_stops_it)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct sample a = make_sample(&p, maps), b = make_sample(&p, maps);
    make_orphans(&p, maps);
    char hex[VD_ID_HEX], path[256], away[300], dir[512];
    vd_id_hex(&b.uuid, hex);
    /* Damaged metadata; then none, in a folder that had it. */
    struct bytes sound = file_load(&p, &b.uuid, "meta.mdb");
    file_store(&p, &b.uuid, "meta.mdb", "x", 1);
    expect_refused(&p, maps, hex);
    vd_meta_disk_path(p.store, &b.uuid, dir, sizeof(dir));
    strcat(dir, "/meta.mdb");
    ck_assert_int_eq(unlink(dir), 0);
    expect_refused(&p, maps, hex);
    file_store(&p, &b.uuid, "meta.mdb", sound.p, sound.len);
    free(sound.p);
    /* A map that is missing, and one that is damaged. Nobody has it open: another program's. */
    vd_maps_close(maps);
    maps = open_maps(&p);
    map_path(&p, &a.map, path);
    snprintf(away, sizeof(away), "%s.away", path);
    ck_assert_int_eq(rename(path, away), 0);
    char map_hex[VD_ID_HEX];
    vd_id_hex(&a.map, map_hex);
    expect_refused(&p, maps, map_hex);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(write(fd, "nonsense", 8), 8);
    close(fd);
    expect_refused(&p, maps, map_hex);
    ck_assert_int_eq(rename(away, path), 0);
    struct told t;
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), NORPHANS);
    expect_whole(&p, maps, &a);
    expect_whole(&p, maps, &b);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

/* A folder of a disk that was being made is no lost disk. */
START_TEST(a_disk_in_the_making_is_no_obstacle)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    int fd = openat(p.fd, "a.img", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
    struct vd_id uuid;
    bool made;
    char why[VD_META_WHY];
    ck_assert_int_eq(vd_meta_bind(p.store, fd, "a.img", true, &uuid, &made, why), 0);
    struct told t;
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0);
    vd_meta_close(must_open(&p, &uuid, VD_META_MAKE)); /* and with no record in it */
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0);
    close(fd);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

static int disk_file(struct place *p, const char *name, const struct vd_id *uuid)
{
    int fd = openat(p->fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(ftruncate(fd, SIZE), 0);
    char value[64] = "1:";
    vd_id_hex(uuid, value + 2);
    ck_assert_int_eq(fsetxattr(fd, VD_META_XATTR, value, strlen(value), 0), 0);
    return fd;
}

/* The folder of a disk is gone with all that said it was there: its file says it. */
START_TEST(a_disk_that_lost_its_metadata_keeps_its_layers)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct vd_id uuid = new_id(), id = new_id(), more = make_layer(&p);
    int fd = disk_file(&p, "a.img", &uuid);
    ck_assert_int_eq(vd_layered_mark(fd, &more), 0);
    ck_assert_int_eq(vd_layer_link(p.store, &id, fd), 0);
    expect_refused(&p, maps, "metadata is missing");
    ck_assert(has_layer(&p, &id) && has_layer(&p, &more));
    /* No disk's any more, by its mark: only the name here goes. */
    ck_assert_int_eq(vd_layered_mark(fd, &vd_layered_moved), 0);
    struct told t;
    ck_assert_int_eq(must_sweep(&p, maps, true, &t), 2);
    ck_assert_int_eq(vd_layered_mark(fd, &more), 0);
    /* Nor where all its names are here. */
    struct vd_id again = new_id();
    ck_assert_int_eq(vd_layer_link(p.store, &again, fd), 0);
    expect_refused(&p, maps, "metadata is missing");
    ck_assert_int_eq(unlinkat(p.fd, "a.img", 0), 0);
    ck_assert_int_eq(must_sweep(&p, maps, true, &t), 3);
    ck_assert_int_eq(vd_layer_remove(p.store, &again), 0);
    ck_assert_int_eq(must_sweep(&p, maps, true, &t), 2);
    close(fd);
    fd = disk_file(&p, "a.img", &uuid);
    ck_assert_int_eq(vd_layered_mark(fd, &more), 0);
    ck_assert_int_eq(vd_layer_remove(p.store, &id), 0);
    ck_assert_int_eq(vd_layer_link(p.store, &id, fd), 0);
    expect_refused(&p, maps, "metadata is missing");
    /* Removed as it should be, file first, it does not hold anything up. */
    ck_assert_int_eq(unlinkat(p.fd, "a.img", 0), 0);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 2);
    close(fd);
    /* A first snapshot that was cut: the second name goes, the disk stays. */
    uuid = make_disk(&p, 3);
    fd = disk_file(&p, "b.img", &uuid);
    ck_assert_int_eq(vd_layered_mark(fd, &more), 0);
    ck_assert_int_eq(vd_layer_link(p.store, &id, fd), 0);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 1);
    ck_assert(has_disk(&p, &uuid) && !has_layer(&p, &id));
    ck_assert_int_eq(faccessat(p.fd, "b.img", F_OK, 0), 0);
    close(fd);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

/* As a clone is made: the file in layers/, the metadata. */
static struct sample begin_clone(struct place *p, struct vd_maps *maps, const struct sample *parent)
{
    struct sample s = {.uuid = new_id(), .home = VD_HOME_FILE, .live = new_id()};
    int fd;
    struct stat st;
    ck_assert_int_eq(vd_layer_make(p->store, &s.live, SIZE, &fd), 0);
    ck_assert_int_eq(vd_layered_mark(fd, NULL), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    close(fd);
    s.file_ino = st.st_ino;
    s.live_map = make_live_map(maps, &s.live);
    s.map = parent->map;
    s.parent = parent->uuid;
    put_disk(p, &s);
    return s;
}

static void bear(struct place *p, const struct sample *s, const char *name)
{
    char rel[128];
    vd_layer_rel(&s->live, rel, sizeof(rel));
    ck_assert_int_eq(linkat(p->fd, rel, p->fd, name, 0), 0);
}

START_TEST(clones_unborn_and_born)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct sample parent = make_sample(&p, maps);
    struct sample unborn = begin_clone(&p, maps, &parent), born = begin_clone(&p, maps, &parent);
    struct sample other = begin_clone(&p, maps, &parent), done = begin_clone(&p, maps, &parent);
    bear(&p, &born, "born.img");
    bear(&p, &done, "done.img");
    ck_assert_int_eq(vd_layer_remove(p.store, &done.live), 0);
    /* Three that look much like an unborn one and are not. */
    other.file_ino++;
    put_disk(&p, &other);
    struct sample moving = begin_clone(&p, maps, &parent);
    moving.moving = true;
    put_disk(&p, &moving);
    struct sample with = begin_clone(&p, maps, &parent);
    with.snapshot_map = parent.snapshot_map;
    with.snapshot_layer = parent.snapshot_layer;
    put_disk(&p, &with);

    struct told t;
    /* The unborn one's metadata, live map and layer; the born one's second name. */
    ck_assert_int_eq(must_sweep(&p, maps, true, &t), 4);
    ck_assert_int_ge(must_sweep(&p, maps, false, &t), 4);
    ck_assert(was_told(&t, "disks", &unborn.uuid));
    ck_assert(!has_disk(&p, &unborn.uuid) && !has_map(maps, &unborn.live_map) &&
              !has_layer(&p, &unborn.live));
    ck_assert(has_disk(&p, &born.uuid) && has_map(maps, &born.live_map) &&
              !has_layer(&p, &born.live));
    struct stat st;
    ck_assert_int_eq(fstatat(p.fd, "born.img", &st, 0), 0);
    ck_assert(st.st_nlink == 1 && st.st_ino == born.file_ino);
    const struct sample *kept[] = {&other, &moving, &with};
    for (size_t i = 0; i < VD_ARRAY_SIZE(kept); i++)
        ck_assert(has_disk(&p, &kept[i]->uuid) && has_layer(&p, &kept[i]->live) &&
                  has_map(maps, &kept[i]->live_map));
    ck_assert(has_disk(&p, &done.uuid) && has_map(maps, &done.live_map));
    /* The file of a disk deleted behind our back: it refers all the same. */
    ck_assert_int_eq(unlinkat(p.fd, "done.img", 0), 0);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0);
    ck_assert(has_disk(&p, &done.uuid));
    expect_whole(&p, maps, &parent);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

START_TEST(a_map_in_use_stays_with_its_layers)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct orphans o = make_orphans(&p, maps);
    struct vd_map *map;
    char why[VD_META_WHY];
    ck_assert_int_eq(vd_map_get(maps, &o.map, &map, why), 0);
    struct told t;
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), NORPHANS - 2);
    ck_assert(has_map(maps, &o.map) && has_layer(&p, &o.layer));
    vd_map_unref(map);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 2);
    expect_gone(&p, maps, &o);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

/* ---- the lock ---- */

START_TEST(nobody_sweeps_while_a_reference_is_made)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    make_orphans(&p, maps);
    struct told t = {0};
    char why[VD_META_WHY];
    int a, b;
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        ck_assert_int_eq(vd_refs_lock(p.store, exclusive, &a), 0);
        if (!exclusive) {
            ck_assert_int_eq(vd_refs_lock(p.store, false, &b), 0);
            close(b);
        }
        ck_assert_int_eq(vd_meta_sweep(p.store, maps, false, tell, &t, why), -EBUSY);
        ck_assert_int_eq(vd_meta_sweep(p.store, maps, true, tell, &t, why), -EBUSY);
        ck_assert_int_eq(t.n, 0);
        close(a);
    }
    /* A holder that dies lets go. */
    int ready[2];
    char byte;
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (vd_refs_lock(p.store, false, &a) < 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    ck_assert_int_eq(vd_meta_sweep(p.store, maps, false, tell, &t, why), -EBUSY);
    ck_assert_int_gt(pid, 0);
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), NORPHANS);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

/* ---- children ---- */

struct kids {
    struct vd_id uuid[8];
    int n, stop;
};

static int note_kid(void *user, const struct vd_id *uuid, const char *path)
{
    struct kids *k = user;
    ck_assert_str_eq(path, "guests/1.img");
    k->uuid[k->n++] = *uuid;
    return k->stop;
}

START_TEST(children)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct sample a = make_sample(&p, maps), b = make_sample(&p, maps);
    make_disk(&p, 2);
    struct kids k = {0};
    char why[VD_META_WHY], hex[VD_ID_HEX];
    ck_assert_int_eq(vd_meta_each_child(p.store, &a.uuid, note_kid, &k, why), 0);
    ck_assert_int_eq(k.n, 0);
    struct sample c = begin_clone(&p, maps, &a), d = begin_clone(&p, maps, &a);
    ck_assert_int_eq(vd_meta_each_child(p.store, &a.uuid, note_kid, &k, why), 0);
    ck_assert_int_eq(k.n, 2);
    ck_assert((vd_id_eq(&k.uuid[0], &c.uuid) && vd_id_eq(&k.uuid[1], &d.uuid)) ||
              (vd_id_eq(&k.uuid[1], &c.uuid) && vd_id_eq(&k.uuid[0], &d.uuid)));
    k = (struct kids){.stop = 5};
    ck_assert_int_eq(vd_meta_each_child(p.store, &a.uuid, note_kid, &k, why), 5);
    ck_assert_int_eq(k.n, 1);
    /* Whose child is a disk that cannot be read? */
    file_store(&p, &b.uuid, "meta.mdb", "x", 1);
    vd_id_hex(&b.uuid, hex);
    k = (struct kids){0};
    ck_assert_int_eq(vd_meta_each_child(p.store, &c.uuid, note_kid, &k, why), -EUCLEAN);
    ck_assert_msg(strstr(why, hex), "%s", why);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

/* ---- cuts ---- */

START_TEST(cut_at_each_step)
{
    int step = 0;
    for (bool more = true; more;) {
        struct place p;
        place_make(&p);
        struct vd_maps *maps = open_maps(&p);
        struct sample a = make_sample(&p, maps), born = begin_clone(&p, maps, &a);
        bear(&p, &born, "born.img");
        struct sample unborn = begin_clone(&p, maps, &a);
        struct orphans o = make_orphans(&p, maps);
        vd_maps_close(maps);
        step++;
        pid_t pid = fork();
        if (pid == 0) {
            char text[16], why[VD_META_WHY];
            snprintf(text, sizeof(text), "%d", step);
            setenv("VDISKFS_TEST_KILL_STEP", text, 1);
            if (vd_maps_open(p.store, 0, &maps) < 0)
                _exit(1);
            _exit(vd_meta_sweep(p.store, maps, false, NULL, NULL, why) < 0 ? 2 : 0);
        }
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        more = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        ck_assert_msg(more || status == 0, "step %d: %x", step, status);
        maps = open_maps(&p);
        struct told t;
        for (int i = 0; i < 2; i++) {
            expect_whole(&p, maps, &a);
            ck_assert(has_disk(&p, &born.uuid) && has_map(maps, &born.live_map));
            ck_assert_int_eq(faccessat(p.fd, "born.img", F_OK, 0), 0);
            must_sweep(&p, maps, false, &t);
        }
        ck_assert_int_eq(t.n, 0);
        expect_gone(&p, maps, &o);
        ck_assert(!has_disk(&p, &unborn.uuid) && !has_layer(&p, &unborn.live) &&
                  !has_map(maps, &unborn.live_map) && !has_layer(&p, &born.live));
        vd_maps_close(maps);
        place_drop(&p);
    }
    printf("%d steps\n", step - 1);
    ck_assert_int_ge(step, 10);
}
END_TEST

/* Not asserted: how long a sweep of many clones of one image takes. */
START_TEST(many_clones)
{
    struct place p;
    place_make(&p);
    struct vd_maps *maps = open_maps(&p);
    struct sample a = make_sample(&p, maps);
    for (int i = 0; i < 300; i++) {
        struct sample s = {.uuid = new_id(), .home = VD_HOME_FILE, .live = new_id()};
        s.live_map = new_id();
        s.map = a.map;
        put_disk(&p, &s);
    }
    struct told t;
    uint64_t begin = vd_now_ns();
    ck_assert_int_eq(must_sweep(&p, maps, false, &t), 0);
    printf("300 clones: %llu ms\n", (unsigned long long)(vd_now_ns() - begin) / 1000000);
    expect_whole(&p, maps, &a);
    vd_maps_close(maps);
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        what_is_referred_to_stays,
        a_report_may_end_it,
        what_cannot_be_read_stops_it,
        a_disk_in_the_making_is_no_obstacle,
        a_disk_that_lost_its_metadata_keeps_its_layers,
        clones_unborn_and_born,
        a_map_in_use_stays_with_its_layers,
        nobody_sweeps_while_a_reference_is_made,
        children,
        cut_at_each_step,
        many_clones,
    };
    return run_suite("meta-sweep", tests, VD_ARRAY_SIZE(tests), 120);
}
