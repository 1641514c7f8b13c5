// SPDX-License-Identifier: Apache-2.0
/*
 * What every module may lean on: the block, small arithmetic, cleanup attributes.
 *
 * Cleanup: locals that own something are declared with one of the vd_cleanup_* attributes and
 * initialised where they are declared (NULL, -1), so that every return path releases them; what
 * succeeds is handed out with vd_steal_ptr()/vd_steal_fd(). The habit is casync's and systemd's.
 */
#ifndef VD_BASE_H
#define VD_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The unit of maps, validity and checksums. */
#define VD_BLOCK_SIZE 4096u
#define VD_BLOCK_SHIFT 12
/* The longest request: 1 MiB, which touches 257 blocks where it is not aligned. */
#define VD_IO_MAX_BYTES (1u << 20)
#define VD_IO_MAX_BLOCKS 257u

#define vd_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define VD_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define vd_min(a, b)                                                                               \
    ({                                                                                             \
        __typeof__(a) vd_a_ = (a);                                                                 \
        __typeof__(b) vd_b_ = (b);                                                                 \
        vd_a_ < vd_b_ ? vd_a_ : vd_b_;                                                             \
    })
#define vd_max(a, b)                                                                               \
    ({                                                                                             \
        __typeof__(a) vd_a_ = (a);                                                                 \
        __typeof__(b) vd_b_ = (b);                                                                 \
        vd_a_ > vd_b_ ? vd_a_ : vd_b_;                                                             \
    })

static inline uint64_t vd_align_down(uint64_t v, uint64_t unit)
{
    return v - v % unit;
}

/* Rounds up; a value within one unit of 2^64 wraps, so callers clip offsets to INT64_MAX first. */
static inline uint64_t vd_align_up(uint64_t v, uint64_t unit)
{
    return vd_align_down(v + unit - 1, unit);
}

/* Number of blocks that [off_bytes, off_bytes + len_bytes) touches. */
static inline uint64_t vd_blocks_touched(uint64_t off_bytes, uint64_t len_bytes)
{
    return len_bytes
               ? ((off_bytes + len_bytes - 1) >> VD_BLOCK_SHIFT) - (off_bytes >> VD_BLOCK_SHIFT) + 1
               : 0;
}

static inline bool vd_is_pow2(uint64_t v)
{
    return v && !(v & (v - 1));
}

#define vd_cleanup(fn) __attribute__((cleanup(fn)))

static inline void vd_free_p(void *p)
{
    free(*(void **)p);
}
static inline void vd_close_p(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
static inline void vd_fclose_p(FILE **f)
{
    if (*f)
        fclose(*f);
}

#define vd_cleanup_free vd_cleanup(vd_free_p)
#define vd_cleanup_close vd_cleanup(vd_close_p)
#define vd_cleanup_fclose vd_cleanup(vd_fclose_p)

#define vd_steal_ptr(p)                                                                            \
    ({                                                                                             \
        __typeof__(p) vd_p_ = (p);                                                                 \
        (p) = NULL;                                                                                \
        vd_p_;                                                                                     \
    })

static inline int vd_steal_fd(int *fd)
{
    int f = *fd;
    *fd = -1;
    return f;
}

/* Declares TYPE's cleanup helper, used as vd_cleanup(NAME##_p), from its free function. */
#define VD_DEFINE_CLEANUP(type, fn)                                                                \
    static inline void fn##_p(type **p)                                                            \
    {                                                                                              \
        if (*p)                                                                                    \
            fn(*p);                                                                                \
    }

#define VD_WARN_UNUSED __attribute__((warn_unused_result))
#define VD_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#endif
