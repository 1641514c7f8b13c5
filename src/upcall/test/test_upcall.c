// SPDX-License-Identifier: Apache-2.0
/* Upcalls by both kinds of switch: where things run, what is kept, what is contained and what is not. */
#include <check.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "faulty.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif
#define ROUNDS(n) (RUNNING_ON_VALGRIND ? (n) / 20 : (n))

static const enum vd_upcall_switch kinds[] = {VD_UPCALL_FAST, VD_UPCALL_UCONTEXT};
#define NKINDS 2

struct seen {
    struct vd_upcall *u;
    enum vd_upcall_place place;
    unsigned depth, runs;
    unsigned want; /* how deep to go */
    int result;    /* of the call that went too deep */
    bool aligned;
};

static void look(struct seen *s)
{
    s->place = vd_upcall_where(s->u, __builtin_frame_address(0), &s->depth);
    s->runs++;
}

static void look_fn(void *arg)
{
    look(arg);
}

static struct vd_upcall *enable(int i)
{
    struct vd_upcall *u = NULL;
    ck_assert_int_eq(vd_upcall_enable(kinds[i], &u), 0);
    return u;
}

START_TEST(test_call)
{
    struct vd_upcall *u = enable(_i), *other;
    struct seen s = {.u = u};
    ck_assert_int_eq(vd_upcall_enable(kinds[_i], &other), -EBUSY);
    for (int n = 1; n <= ROUNDS(1000); n++) {
        ck_assert_int_eq(vd_upcall_call(u, NULL, look_fn, &s, NULL), 0);
        ck_assert_uint_eq(s.runs, (unsigned)n);
        ck_assert_int_eq(s.place, VD_UPCALL_CALLBACK);
        ck_assert_uint_eq(s.depth, 1);
    }
    ck_assert_uint_eq(vd_upcall_depth(u), 0);
    look(&s);
    ck_assert_int_eq(s.place, VD_UPCALL_FIRST_HOST);
    vd_upcall_close(u);
    u = enable(_i);
    vd_upcall_close(u);
}
END_TEST

/* ---- services and nesting ---- */

static void nest(void *arg);

static void serve_fn(void *arg)
{
    struct seen *s = arg;
    look(s);
    ck_assert_int_eq(s->place, VD_UPCALL_SECOND_HOST);
    ck_assert_uint_eq(s->depth, vd_upcall_depth(s->u));
    ck_assert(!vd_upcall_in_callback(s->u));
    if (vd_upcall_depth(s->u) == s->want)
        return;
    int r = vd_upcall_call(s->u, NULL, nest, s, NULL);
    if (r < 0)
        s->result = r;
    errno = ERANGE; /* a callback must not see it */
}

static void nest(void *arg)
{
    struct seen *s = arg;
    unsigned depth = vd_upcall_depth(s->u);
    ck_assert(vd_upcall_in_callback(s->u));
    errno = ENOTTY;
    vd_upcall_service(s->u, serve_fn, s);
    ck_assert_int_eq(errno, ENOTTY);
    vd_upcall_service(s->u, look_fn, s);
    look(s);
    ck_assert_int_eq(s->place, VD_UPCALL_CALLBACK);
    ck_assert_uint_eq(s->depth, depth);
    errno = EDOM; /* the host must not see it */
}

START_TEST(test_nested)
{
    struct vd_upcall *u = enable(_i);
    for (unsigned want = 1; want <= VD_UPCALL_DEPTH + 1; want++) {
        struct seen s = {.u = u, .want = want};
        errno = ENOENT;
        ck_assert_int_eq(vd_upcall_call(u, NULL, nest, &s, NULL), 0);
        ck_assert_int_eq(errno, ENOENT);
        ck_assert_int_eq(s.result, want > VD_UPCALL_DEPTH ? -ELOOP : 0);
        ck_assert_uint_eq(s.runs, 3 * (want > VD_UPCALL_DEPTH ? VD_UPCALL_DEPTH : want));
    }
    vd_upcall_close(u);
}
END_TEST

/* ---- what is kept ---- */

static void round_down(void *arg)
{
    volatile double *a = arg;
    a[1] = a[0] / 10.0;
    fesetround(FE_DOWNWARD);
    a[2] = a[0] / 10.0;
}

static void align(void *arg)
{
    struct seen *s = arg;
    _Alignas(16) volatile char room[64];
    char text[64];
    room[0] = 1;
    /* the compiler takes the alignment from that of the frame; printf of a double saves registers by it */
    snprintf(text, sizeof(text), "%.3f", 0.5 * room[0]);
    s->aligned = (uintptr_t)room % 16 == 0 && strcmp(text, "0.500") == 0;
}

START_TEST(test_kept)
{
    struct vd_upcall *u = enable(_i);
    volatile double a[3] = {1.0};
    ck_assert_int_eq(vd_upcall_call(u, NULL, round_down, (void *)a, NULL), 0);
    ck_assert_int_eq(fegetround(), FE_TONEAREST);
    ck_assert(a[1] != a[2] || RUNNING_ON_VALGRIND); /* which rounds as it likes */
    ck_assert(a[1] == a[0] / 10.0);
    struct seen s = {.u = u};
    ck_assert_int_eq(vd_upcall_call(u, NULL, align, &s, NULL), 0);
    ck_assert(s.aligned);
    vd_upcall_close(u);
}
END_TEST

/* ---- faults ---- */

static const struct {
    void (*fn)(void *arg);
    int signal;
    bool overflow;
} faults[] = {
    {fault_null, SIGSEGV, false},         {fault_divide, SIGFPE, false},
    {fault_overflow, SIGSEGV, true},      {fault_large_frame, SIGSEGV, true},
    {fault_call_nowhere, SIGSEGV, false}, {fault_illegal, SIGILL, false},
};

START_TEST(test_contained)
{
    struct vd_upcall *u = enable(_i);
    struct vd_upcall_text text = faulty_text();
    for (int round = 0; round < ROUNDS(20); round++) {
        for (size_t i = 0; i < VD_ARRAY_SIZE(faults); i++) {
            struct vd_upcall_fault f = {0};
            struct seen s = {.u = u, .want = 3};
            errno = EXDEV;
            ck_assert_int_eq(vd_upcall_call(u, &text, faults[i].fn, NULL, &f), -EFAULT);
            ck_assert_int_eq(errno, EXDEV);
            ck_assert_int_eq(f.signal, faults[i].signal);
            ck_assert_int_eq(f.overflow, faults[i].overflow);
            ck_assert(faults[i].fn == fault_call_nowhere ||
                      (f.pc >= text.start && f.pc < text.end));
            ck_assert_int_eq(vd_upcall_call(u, NULL, nest, &s, NULL), 0);
            ck_assert_uint_eq(s.runs, 9);
        }
    }
    vd_upcall_close(u);
}
END_TEST

#if defined(__x86_64__)
START_TEST(test_fpu_after_fault)
{
    struct vd_upcall *u = enable(_i);
    struct vd_upcall_text text = faulty_text();
    volatile long double three = 3, seven = 7;
    ck_assert_int_eq(vd_upcall_call(u, &text, fault_with_full_fpu, NULL, NULL), -EFAULT);
    ck_assert(three * seven + three == 24);
    vd_upcall_close(u);
}
END_TEST
#endif

struct inner {
    struct vd_upcall *u;
    const struct vd_upcall_text *text;
    size_t i;
    int result;
};

static void inner_service(void *arg)
{
    struct inner *in = arg;
    in->result = vd_upcall_call(in->u, in->text, faults[in->i].fn, NULL, NULL);
}

static void outer(void *arg)
{
    struct inner *in = arg;
    vd_upcall_service(in->u, inner_service, in);
}

/* A callback that faults below another ends alone. */
START_TEST(test_contained_nested)
{
    struct vd_upcall *u = enable(_i);
    struct vd_upcall_text text = faulty_text();
    for (size_t i = 0; i < VD_ARRAY_SIZE(faults); i++) {
        struct inner in = {.u = u, .text = &text, .i = i};
        ck_assert_int_eq(vd_upcall_call(u, NULL, outer, &in, NULL), 0);
        ck_assert_int_eq(in.result, -EFAULT);
    }
    vd_upcall_close(u);
}
END_TEST

static struct vd_upcall *the_u; /* of the child */

static void fault_in_service(void *arg)
{
    vd_upcall_service(the_u, fault_null, NULL);
}
static void send_signal(void)
{
    raise(SIGSEGV);
}
static void abort_it(void)
{
    abort();
}
static void (*sends)(void) = send_signal;
static void (*aborts)(void) = abort_it;

static volatile int spinning, stop_it;
static volatile int *spin_flags[] = {&spinning, &stop_it};
static pthread_t spinner;

static void *shoots(void *arg)
{
    while (!spinning)
        sched_yield();
    pthread_kill(spinner, SIGSEGV); /* the thread is in its text, but it was not its fault */
    return NULL;
}

static void get_shot(void)
{
    pthread_t t;
    spinner = pthread_self();
    if (pthread_create(&t, NULL, shoots, NULL) != 0)
        _exit(1);
}

/* In a child: what must not be contained. Never returns. */
static void child(int what, int kind)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (int s = 1; s < 32; s++)
        signal(s, SIG_DFL); /* sanitizers' too */
    struct vd_upcall_text text = faulty_text(), elsewhere = {16, 32};
    if (vd_upcall_enable(kinds[kind], &the_u) < 0)
        _exit(1);
    int r = 0;
    switch (what) {
    case 0: /* text of another */
        r = vd_upcall_call(the_u, &elsewhere, fault_null, NULL, NULL);
        break;
    case 1: /* in a service */
        r = vd_upcall_call(the_u, &text, fault_in_service, NULL, NULL);
        break;
    case 2: /* outside of an upcall */
        fault_null(NULL);
        break;
    case 3: /* sent by somebody, while its text runs */
        r = vd_upcall_call(the_u, &text, fault_not, &sends, NULL);
        break;
    case 4: /* no fault */
        r = vd_upcall_call(the_u, &text, fault_not, &aborts, NULL);
        break;
    case 5: /* sent by another thread, while it runs its own text */
        get_shot();
        r = vd_upcall_call(the_u, &text, fault_spin, spin_flags, NULL);
        break;
    case 6: /* its own text, on a stack of somebody's */
        r = vd_upcall_call(the_u, &text, fault_on_other_stack, NULL, NULL);
        break;
    default: /* nobody's to contain */
        r = vd_upcall_call(the_u, NULL, fault_null, NULL, NULL);
        break;
    }
    _exit(r == -EFAULT ? 2 : 3);
}

START_TEST(test_not_contained)
{
    for (int what = 0; what < 8; what++) {
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0)
            child(what, _i);
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_msg(WIFSIGNALED(status), "%d ended with %x", what, status);
        ck_assert_int_eq(WTERMSIG(status), what == 4 ? SIGABRT : SIGSEGV);
    }
}
END_TEST

/* ---- threads ---- */

static unsigned mappings(void)
{
    unsigned n = 0;
    char line[512];
    vd_cleanup_fclose FILE *f = fopen("/proc/self/maps", "re");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, "---p") != NULL; /* guards */
    return n;
}

static atomic_uint ended;

static void *many(void *arg)
{
    struct vd_upcall *u = vd_upcall_self();
    struct vd_upcall_text text = faulty_text();
    struct seen s = {.u = u, .want = 2};
    if (!u || vd_upcall_self() != u)
        return NULL;
    for (int i = 0; i < ROUNDS(2000); i++) {
        if (vd_upcall_call(u, NULL, nest, &s, NULL) != 0 ||
            (i % 100 == 0 && vd_upcall_call(u, &text, fault_divide, NULL, NULL) != -EFAULT))
            return NULL;
    }
    ended += s.runs == 6 * (unsigned)ROUNDS(2000);
    return NULL;
}

START_TEST(test_threads)
{
    unsigned before = 0;
    for (int round = 0; round < 3; round++) {
        pthread_t t[8];
        ended = 0;
        for (int i = 0; i < 8; i++)
            ck_assert_int_eq(pthread_create(&t[i], NULL, many, NULL), 0);
        for (int i = 0; i < 8; i++)
            pthread_join(t[i], NULL);
        ck_assert_uint_eq(ended, 8);
        if (round == 0)
            before = mappings(); /* libc keeps stacks of threads, with guards */
    }
    ck_assert_uint_le(mappings(), before + 4);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("upcall");
    TCase *t = tcase_create("upcall");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_call, 0, NKINDS);
    tcase_add_loop_test(t, test_nested, 0, NKINDS);
    tcase_add_loop_test(t, test_kept, 0, NKINDS);
    tcase_add_loop_test(t, test_contained, 0, NKINDS);
    tcase_add_loop_test(t, test_contained_nested, 0, NKINDS);
#if defined(__x86_64__)
    tcase_add_loop_test(t, test_fpu_after_fault, 0, NKINDS);
#endif
    tcase_add_loop_test(t, test_not_contained, 0, NKINDS);
    tcase_add_test(t, test_threads);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
