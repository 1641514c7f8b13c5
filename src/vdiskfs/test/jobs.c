// SPDX-License-Identifier: Apache-2.0
/* Jobs of the control socket, and the paths that its clients name. */
#include "jobs.h"

#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "beneath.h"

#define WAIT_MS 10000

/* Runs until it is let go or cancelled; ends with RESULT. */
struct work {
    struct vd_jobs_work work;
    atomic_bool go;
    atomic_bool freed;
    int result;
};

static void short_wait(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int work_run(struct vd_jobs_work *w, struct vd_jobs_running *j, char why[VD_META_WHY])
{
    struct work *k = vd_container_of(w, struct work, work);
    int r = vd_jobs_progress(j, 3, 10);
    while (r == 0 && !atomic_load(&k->go)) {
        short_wait();
        r = vd_jobs_progress(j, 5, 10);
    }
    if (r == 0)
        r = k->result;
    if (r < 0)
        snprintf(why, VD_META_WHY, "because of %d", r);
    return r;
}

static void work_free(struct vd_jobs_work *w)
{
    atomic_store(&vd_container_of(w, struct work, work)->freed, true);
}

static struct work new_work(ino_t ino, int result)
{
    return (struct work){.work = {.what = "test", .ino = ino, .run = work_run, .free = work_free},
                         .result = result};
}

/* The status of job ID once it has ended. */
static struct vd_jobs_status ended(struct vd_jobs *jobs, uint64_t id)
{
    struct vd_jobs_status s = {.state = VD_JOBS_RUNNING};
    for (int i = 0; i < WAIT_MS && s.state == VD_JOBS_RUNNING; i++) {
        ck_assert_int_eq(vd_jobs_get(jobs, id, &s), 0);
        short_wait();
    }
    ck_assert_int_ne(s.state, VD_JOBS_RUNNING);
    return s;
}

START_TEST(ends)
{
    struct vd_jobs *jobs;
    struct vd_jobs_status s;
    struct work good = new_work(1, 0), bad = new_work(2, -ENOSPC), same = new_work(1, 0);
    uint64_t id, bad_id, other;

    ck_assert_int_eq(vd_jobs_new(&jobs), 0);
    ck_assert_int_eq(vd_jobs_start(jobs, &good.work, &id), 0);
    ck_assert_int_eq(vd_jobs_start(jobs, &same.work, &other), -EBUSY);
    ck_assert_uint_eq(other, id);
    ck_assert(!atomic_load(&same.freed));
    ck_assert_int_eq(vd_jobs_get(jobs, id, &s), 0);
    ck_assert_int_eq(s.state, VD_JOBS_RUNNING);
    ck_assert_int_eq(vd_jobs_start(jobs, &bad.work, &bad_id), 0);
    atomic_store(&good.go, true);
    atomic_store(&bad.go, true);
    s = ended(jobs, id);
    ck_assert_int_eq(s.state, VD_JOBS_DONE);
    ck_assert_uint_eq(s.total, 10);
    s = ended(jobs, bad_id);
    ck_assert_int_eq(s.state, VD_JOBS_FAILED);
    ck_assert_int_eq(s.error, -ENOSPC);
    ck_assert_str_eq(s.why, "because of -28");
    ck_assert_str_eq(s.what, "test");
    /* that file's turn has come */
    ck_assert_int_eq(vd_jobs_start(jobs, &same.work, &other), 0);
    ck_assert_int_eq(vd_jobs_get(jobs, other + 1, &s), -ENOENT);
    ck_assert_int_eq(vd_jobs_cancel(jobs, other + 1), -ENOENT);
    ck_assert_int_eq(vd_jobs_cancel(jobs, other), 0);
    s = ended(jobs, other);
    ck_assert_int_eq(s.error, -ECANCELED);
    ck_assert_int_eq(vd_jobs_cancel(jobs, other), 0);
    vd_jobs_free(jobs);
    ck_assert(atomic_load(&good.freed) && atomic_load(&bad.freed) && atomic_load(&same.freed));
}
END_TEST

START_TEST(stop_cancels)
{
    struct vd_jobs *jobs;
    struct work w[40];
    uint64_t id;
    unsigned n = 0;

    ck_assert_int_eq(vd_jobs_new(&jobs), 0);
    for (; n < VD_ARRAY_SIZE(w); n++) {
        w[n] = new_work(n + 1, 0);
        int r = vd_jobs_start(jobs, &w[n].work, &id);
        if (r == -EAGAIN)
            break;
        ck_assert_int_eq(r, 0);
    }
    ck_assert_uint_lt(n, VD_ARRAY_SIZE(w)); /* not without bound */
    ck_assert_uint_gt(n, 1);
    vd_jobs_stop(jobs);
    ck_assert_int_eq(vd_jobs_start(jobs, &w[n].work, &id), -ESHUTDOWN);
    vd_jobs_free(jobs);
    for (unsigned i = 0; i < n; i++)
        ck_assert(atomic_load(&w[i].freed));
}
END_TEST

/* Those that ended are forgotten at last, oldest first, however many clients never ask. */
START_TEST(forgets)
{
    enum { MANY = 1000 };
    struct vd_jobs *jobs;
    struct vd_jobs_status s;
    uint64_t first = 0, id = 0;
    struct work w;

    ck_assert_int_eq(vd_jobs_new(&jobs), 0);
    for (int i = 0; i < MANY; i++) {
        w = new_work(1, 0);
        atomic_store(&w.go, true);
        ck_assert_int_eq(vd_jobs_start(jobs, &w.work, &id), 0);
        if (i == 0)
            first = id;
        ended(jobs, id);
        while (!atomic_load(&w.freed))
            short_wait();
    }
    ck_assert_int_eq(vd_jobs_get(jobs, first, &s), -ENOENT);
    ck_assert_int_eq(vd_jobs_get(jobs, id, &s), 0);
    vd_jobs_free(jobs);
}
END_TEST

/* ---- paths ---- */

static int path_of(int source, const char *path, struct vd_beneath *b)
{
    int r = vd_beneath_dir(source, path, b);
    if (r == 0)
        vd_beneath_close(b);
    return r;
}

START_TEST(paths)
{
    char dir[] = "/tmp/vd-beneath.XXXXXX", cmd[64], longest[VD_BENEATH_MAX + 2];
    struct vd_beneath b = VD_BENEATH_INIT;
    struct stat st, other;

    ck_assert_ptr_nonnull(mkdtemp(dir));
    int source = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_eq(mkdirat(source, "a", 0700), 0);
    ck_assert_int_eq(mkdirat(source, ".vdiskfs", 0700), 0);
    ck_assert_int_eq(mkdirat(source, "a/.vdiskfs", 0700), 0);
    ck_assert_int_eq(symlinkat(".", source, "link"), 0);
    ck_assert_int_eq(symlinkat("f", source, "a/linked"), 0);
    close(openat(source, "a/f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    close(openat(source, "g", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    ck_assert_int_eq(fstatat(source, "a/f", &st, 0), 0);
    ck_assert_int_eq(fstatat(source, "g", &other, 0), 0);

    ck_assert_int_eq(vd_beneath_file(source, "a/f", st.st_dev, st.st_ino, &b), 0);
    ck_assert_str_eq(b.name, "f");
    ck_assert_str_eq(b.path, "a/f");
    ck_assert_int_eq(faccessat(b.dir_fd, "f", F_OK, 0), 0);
    vd_beneath_close(&b);
    ck_assert_int_eq(vd_beneath_file(source, "a/f", st.st_dev, other.st_ino, &b), -ESTALE);
    ck_assert_int_eq(vd_beneath_file(source, "g", st.st_dev, st.st_ino, &b), -ESTALE);
    ck_assert_int_eq(vd_beneath_file(source, "a/none", st.st_dev, st.st_ino, &b), -ENOENT);
    ck_assert_int_eq(vd_beneath_file(source, "a/linked", st.st_dev, st.st_ino, &b), -ESTALE);
    ck_assert_int_eq(path_of(source, "a/new", &b), 0);
    ck_assert_int_eq(path_of(source, "a/.vdiskfs/x", &b), 0); /* only the one at the top is ours */
    ck_assert_int_eq(path_of(source, ".vdiskfs/x", &b), -EPERM);
    ck_assert_int_eq(path_of(source, ".vdiskfs", &b), -EPERM);
    ck_assert_int_lt(path_of(source, "link/g", &b), 0);
    ck_assert_int_eq(path_of(source, "g/x", &b), -ENOTDIR);
    static const char *const odd[] = {"",       "/",   "/etc", "..", "../x", "a/..",
                                      "a/../g", "./g", "a//f", "a/", "a/.",  "."};
    for (size_t i = 0; i < VD_ARRAY_SIZE(odd); i++)
        ck_assert_msg(path_of(source, odd[i], &b) == -EINVAL, "%s", odd[i]);
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    ck_assert_int_eq(path_of(source, longest, &b), -ENAMETOOLONG);

    close(source);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("jobs");
    TCase *t = tcase_create("jobs");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, ends);
    tcase_add_test(t, stop_cancels);
    tcase_add_test(t, forgets);
    tcase_add_test(t, paths);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
