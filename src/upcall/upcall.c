// SPDX-License-Identifier: Apache-2.0
/*
 * Calling, serving, coming back.
 *
 * Each stack is a loop that is entered once and then only switched to: the callback stack runs what level->fn says and
 * switches back to the host, the service stack runs level->service_fn and switches back to the callback. So an
 * upcall prepares nothing; it is two switches, and a service two more.
 *
 *     host:      fn = ...; switch to callback                      -> goes on
 *     callback:  loop: fn(arg): { service: switch to service -> goes on }; switch to host
 *     service:   loop: service_fn(arg); switch to callback
 *
 * A callback that faulted never comes to its switch: the handler makes the thread go on where the host was
 * left (fault.c), and the callback's loop is entered anew.
 */
#include "upcall.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "sanitize.h"

#define SIGNAL_STACK (64u << 10) /* sanitizers' reports want more than SIGSTKSZ */

VD__NO_TSAN static void callback_loop(void *arg)
{
    struct vd__level *l = arg;
    vd__asan_arrive(NULL, &l->host_low, &l->host_size);
    for (;;) {
        l->fn(l->arg);
        vd__asan_leave(&l->callback_fake, l->host_low, l->host_size);
        vd__tsan_go(l->host_fiber);
        vd__context_switch(&l->callback, &l->host);
        vd__asan_arrive(l->callback_fake, &l->host_low, &l->host_size);
    }
}

VD__NO_TSAN static void service_loop(void *arg)
{
    struct vd__level *l = arg;
    vd__asan_arrive(NULL, NULL, NULL);
    for (;;) {
        l->service_fn(l->service_arg);
        vd__asan_leave(&l->service_fake, l->callback_stack.low, l->callback_stack.size_bytes);
        vd__tsan_go(l->callback_fiber);
        vd__context_switch(&l->service, &l->callback);
        vd__asan_arrive(l->service_fake, NULL, NULL);
    }
}

/* The callback's stack begins anew. */
static int restart_callback(struct vd__level *l)
{
    vd__asan_clean(l->callback_stack.low, l->callback_stack.size_bytes);
    vd__tsan_no_fiber(l->callback_fiber);
    l->callback_fiber = vd__tsan_fiber();
    l->callback_fake = NULL;
    return vd__context_make(&l->callback, l->u->how, &l->callback_stack, callback_loop, l);
}

static void level_free(struct vd__level *l)
{
    vd__context_free(&l->host);
    vd__context_free(&l->callback);
    vd__context_free(&l->service);
    vd__tsan_no_fiber(l->callback_fiber);
    vd__tsan_no_fiber(l->service_fiber);
    vd__stack_free(&l->callback_stack);
    vd__stack_free(&l->service_stack);
    memset(l, 0, sizeof(*l));
}

static int level_make(struct vd_upcall *u, struct vd__level *l)
{
    l->u = u;
    int r = vd__stack_make(&l->callback_stack, VD_UPCALL_CALLBACK_STACK);
    if (r == 0)
        r = vd__stack_make(&l->service_stack, VD_UPCALL_SERVICE_STACK);
    if (r == 0)
        r = vd__context_init(&l->host, u->how);
    if (r == 0)
        r = restart_callback(l);
    if (r == 0) {
        l->service_fiber = vd__tsan_fiber();
        r = vd__context_make(&l->service, u->how, &l->service_stack, service_loop, l);
    }
    if (r < 0)
        level_free(l);
    return r;
}

/* A fault by a stack that overflowed leaves no room on it for the handler. */
static int give_signal_stack(struct vd_upcall *u)
{
    stack_t old, ours = {.ss_size = SIGNAL_STACK};
    if (sigaltstack(NULL, &old) < 0)
        return -errno;
    if (!(old.ss_flags & SS_DISABLE))
        return 0;
    ours.ss_sp =
        mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ours.ss_sp == MAP_FAILED)
        return -errno;
    if (sigaltstack(&ours, NULL) < 0) {
        int r = -errno;
        munmap(ours.ss_sp, SIGNAL_STACK);
        return r;
    }
    u->signal_stack = ours.ss_sp;
    return 0;
}

int vd_upcall_enable(enum vd_upcall_switch how, struct vd_upcall **ret_u)
{
    if (vd__fault_watched())
        return -EBUSY;
    struct vd_upcall *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->how = how;
    int r = give_signal_stack(u);
    if (r == 0)
        r = level_make(u, &u->levels[0]);
    if (r < 0) {
        vd_upcall_close(u);
        return r;
    }
    vd__fault_install();
    vd__fault_watch(u);
    *ret_u = u;
    return 0;
}

void vd_upcall_close(struct vd_upcall *u)
{
    if (!u)
        return;
    assert(u->depth == 0);
    if (vd__fault_watched() == u)
        vd__fault_watch(NULL);
    for (unsigned i = 0; i < VD_UPCALL_DEPTH; i++)
        if (u->levels[i].u)
            level_free(&u->levels[i]);
    if (u->signal_stack) {
        stack_t none = {.ss_flags = SS_DISABLE};
        sigaltstack(&none, NULL);
        munmap(u->signal_stack, SIGNAL_STACK);
    }
    free(u);
}

/* ---- one a thread ---- */

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

static void close_at_end(void *u)
{
    vd_upcall_close(u);
}

static void make_key(void)
{
    have_key = pthread_key_create(&key, close_at_end) == 0;
}

struct vd_upcall *vd_upcall_self(void)
{
    struct vd_upcall *u = vd__fault_watched();
    if (u)
        return u;
    pthread_once(&key_once, make_key);
    if (!have_key || vd_upcall_enable(VD_UPCALL_FAST, &u) < 0)
        return NULL;
    if (pthread_setspecific(key, u) != 0) {
        vd_upcall_close(u);
        return NULL;
    }
    return u;
}

/* ---- upcalls ---- */

VD__NO_TSAN static void go_to_callback(struct vd__level *l)
{
    l->host_fiber = vd__tsan_here();
    vd__asan_leave(&l->host_fake, l->callback_stack.low, l->callback_stack.size_bytes);
    vd__tsan_go(l->callback_fiber);
    vd__context_switch(&l->host, &l->callback);
    if (l->u->fault)
        vd__tsan_go(l->host_fiber); /* nobody said so */
    vd__asan_arrive(l->host_fake, NULL, NULL);
}

static int came_back(struct vd__level *l, struct vd_upcall_fault *ret_fault)
{
    if (!l->u->fault)
        return 0;
    l->u->fault = 0;
    if (ret_fault)
        *ret_fault = l->fault;
    if (restart_callback(l) < 0)
        abort(); /* with the memory that it had before */
    return -EFAULT;
}

int vd_upcall_call(struct vd_upcall *u, const struct vd_upcall_text *text, void (*fn)(void *arg),
                   void *arg, struct vd_upcall_fault *ret_fault)
{
    if (u->depth == VD_UPCALL_DEPTH)
        return -ELOOP;
    assert(!u->in_callback);
    struct vd__level *l = &u->levels[u->depth];
    int saved = errno;
    if (!l->u && level_make(u, l) < 0)
        return -ENOMEM;
    l->text = text;
    l->fn = fn;
    l->arg = arg;
    u->depth++;
    u->in_callback = true;
    go_to_callback(l);
    u->in_callback = false;
    u->depth--;
    errno = saved;
    return came_back(l, ret_fault);
}

void vd_upcall_text(struct vd_upcall *u, const struct vd_upcall_text *text)
{
    assert(u->in_callback);
    u->levels[u->depth - 1].text = text;
}

VD__NO_TSAN void vd_upcall_service(struct vd_upcall *u, void (*fn)(void *arg), void *arg)
{
    assert(u->in_callback);
    struct vd__level *l = &u->levels[u->depth - 1];
    int saved = errno;
    l->service_fn = fn;
    l->service_arg = arg;
    u->in_callback = false;
    vd__asan_leave(&l->callback_fake, l->service_stack.low, l->service_stack.size_bytes);
    vd__tsan_go(l->service_fiber);
    vd__context_switch(&l->callback, &l->service);
    vd__asan_arrive(l->callback_fake, NULL, NULL);
    u->in_callback = true;
    errno = saved;
}

bool vd_upcall_in_callback(const struct vd_upcall *u)
{
    return u && u->in_callback;
}

unsigned vd_upcall_depth(const struct vd_upcall *u)
{
    return u->depth;
}

enum vd_upcall_place vd_upcall_where(const struct vd_upcall *u, const void *addr,
                                     unsigned *ret_depth)
{
    for (unsigned i = 0; i < VD_UPCALL_DEPTH; i++) {
        *ret_depth = i + 1;
        if (vd__stack_has(&u->levels[i].callback_stack, (uintptr_t)addr))
            return VD_UPCALL_CALLBACK;
        if (vd__stack_has(&u->levels[i].service_stack, (uintptr_t)addr))
            return VD_UPCALL_SECOND_HOST;
    }
    *ret_depth = 0;
    return VD_UPCALL_FIRST_HOST;
}
