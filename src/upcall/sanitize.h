// SPDX-License-Identifier: Apache-2.0
/*
 * What AddressSanitizer, ThreadSanitizer and valgrind are told of stacks and switches; nothing in a build without
 * them, and nothing without valgrind's header.
 *
 * ASan: who leaves a stack says where it goes (start), who arrives says so (finish); the fake stack of the one that is
 * left is kept for its return. TSan: each stack is a fiber; the one that goes on is named just before the switch.
 */
#ifndef VD__UPCALL_SANITIZE_H
#define VD__UPCALL_SANITIZE_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define VD__ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define VD__TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VD__ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define VD__TSAN 1
#endif
#endif

#ifdef VD__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef VD__TSAN
#include <sanitizer/tsan_interface.h>
#define VD__NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define VD__NO_TSAN
#endif
#ifdef __has_include
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#define VD__VALGRIND 1
#endif
#endif

static inline unsigned vd__valgrind_stack(const void *low, const void *high)
{
#ifdef VD__VALGRIND
    return VALGRIND_STACK_REGISTER(low, high);
#else
    return 0;
#endif
}

static inline void vd__valgrind_no_stack(unsigned id)
{
#ifdef VD__VALGRIND
    VALGRIND_STACK_DEREGISTER(id);
#endif
}

/* What functions that are gone left poisoned. */
static inline void vd__asan_clean(void *low, size_t size)
{
#ifdef VD__ASAN
    __asan_unpoison_memory_region(low, size);
#endif
}

/* About to leave a stack, whose fake stack is kept in KEEP (NULL: it is given up), for the one at LOW. */
static inline void vd__asan_leave(void **keep, const void *low, size_t size)
{
#ifdef VD__ASAN
    __sanitizer_start_switch_fiber(keep, low, size);
#endif
}

/* Arrived; KEPT is what was kept when this stack was left (NULL: it is new). Where it came from, in LOW and SIZE. */
static inline void vd__asan_arrive(void *kept, const void **low, size_t *size)
{
#ifdef VD__ASAN
    __sanitizer_finish_switch_fiber(kept, low, size);
#endif
}

static inline void *vd__tsan_fiber(void)
{
#ifdef VD__TSAN
    return __tsan_create_fiber(0);
#else
    return NULL;
#endif
}

static inline void vd__tsan_no_fiber(void *fiber)
{
#ifdef VD__TSAN
    if (fiber)
        __tsan_destroy_fiber(fiber);
#endif
}

static inline void *vd__tsan_here(void)
{
#ifdef VD__TSAN
    return __tsan_get_current_fiber();
#else
    return NULL;
#endif
}

static inline void vd__tsan_go(void *fiber)
{
#ifdef VD__TSAN
    __tsan_switch_to_fiber(fiber, 0);
#endif
}

#endif
