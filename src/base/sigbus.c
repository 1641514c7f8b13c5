// SPDX-License-Identifier: Apache-2.0
/*
 * The table is walked by a signal handler, so it has a fixed size and is changed only by atomic
 * stores: a slot is claimed (USED), filled, and then published by its length; withdrawn by length
 * 0. The handler calls mmap(2) and memcpy, which are safe in practice though POSIX does not list
 * mmap.
 */
#include "vd_sigbus.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_REGIONS 1024
#define PAGE 4096u

struct vd_sigbus_region {
    atomic_bool used;
    atomic_bool dead;
    _Atomic uintptr_t addr;
    _Atomic size_t len;
    const void *_Atomic page;
};

static struct vd_sigbus_region regions[MAX_REGIONS];
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static struct sigaction before; /* who else looks for faults (vd_upcall.h, sanitizers) */

static bool replace_page(uintptr_t at)
{
    for (size_t i = 0; i < MAX_REGIONS; i++) {
        struct vd_sigbus_region *r = &regions[i];
        size_t len = atomic_load(&r->len);
        uintptr_t addr = atomic_load(&r->addr);
        if (!len || at < addr || at - addr >= len)
            continue;
        const void *image = atomic_load(&r->page);
        void *page = (void *)(at & ~(uintptr_t)(PAGE - 1));
        atomic_store(&r->dead, true);
        if (mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
            return false;
        if (image)
            memcpy(page, image, PAGE);
        return true;
    }
    return false;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    if (replace_page((uintptr_t)info->si_addr))
        ;
    else if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(sig, info, context);
    else
        signal(sig, SIG_DFL); /* the faulting instruction runs again, and kills */
    errno = saved_errno;
}

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, &before);
}

int vd_sigbus_add(const void *addr, size_t len, const void *page, struct vd_sigbus_region **ret_region)
{
    pthread_once(&installed, install);
    void *copy = NULL;
    if (page) {
        copy = malloc(PAGE);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, page, PAGE);
    }
    for (size_t i = 0; i < MAX_REGIONS; i++) {
        struct vd_sigbus_region *r = &regions[i];
        if (atomic_exchange(&r->used, true))
            continue;
        atomic_store(&r->dead, false);
        atomic_store(&r->addr, (uintptr_t)addr);
        atomic_store(&r->page, copy);
        atomic_store(&r->len, len);
        *ret_region = r;
        return 0;
    }
    free(copy);
    return -ENOSPC;
}

void vd_sigbus_del(struct vd_sigbus_region *r)
{
    if (!r)
        return;
    atomic_store(&r->len, 0);
    free((void *)(uintptr_t)atomic_exchange(&r->page, NULL));
    atomic_store(&r->used, false);
}

bool vd_sigbus_dead(const struct vd_sigbus_region *r)
{
    return atomic_load_explicit(&r->dead, memory_order_relaxed);
}
