// SPDX-License-Identifier: Apache-2.0
#include "context.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "sanitize.h"

#if defined(__x86_64__)
#define HAVE_FAST 1

/* fast.S */
void vd__switch_fast(void **from, void *to);
extern const char vd__switch_begin[], vd__switch_land[];

/* What vd__switch_fast finds on a new stack: control words, registers, and where to return to. */
struct frame {
    uint32_t mxcsr;
    uint16_t fpucw, pad;
    uint64_t r15, r14, r13, r12, rbx, rbp;
    uint64_t ret;
    uint64_t none; /* rsp is 8 mod 16 when a function begins */
};

static void make_fast(struct vd__context *c, const struct vd__stack *s, void (*fn)(void *arg),
                      void *arg)
{
    struct frame *f = (struct frame *)(s->low + s->size_bytes - 64 - sizeof(struct frame));
    static_assert(sizeof(struct frame) % 16 == 8, "so that rsp is 8 mod 16 behind ret");
    f = (struct frame *)((uintptr_t)f - 8);
    *f = (struct frame){.r12 = (uintptr_t)fn, .r13 = (uintptr_t)arg};
    f->ret = (uintptr_t)vd__switch_begin;
    __asm__ volatile("stmxcsr %0" : "=m"(f->mxcsr));
    __asm__ volatile("fnstcw %0" : "=m"(f->fpucw));
    c->sp = f;
}
#endif

static bool is_fast(enum vd_upcall_switch how)
{
#ifdef HAVE_FAST
    return how == VD_UPCALL_FAST;
#else
    return false;
#endif
}

int vd__context_init(struct vd__context *c, enum vd_upcall_switch how)
{
    if (is_fast(how) || c->uc)
        return 0;
    c->uc = calloc(1, sizeof(*c->uc));
    return c->uc ? 0 : -ENOMEM;
}

void vd__context_free(struct vd__context *c)
{
    free(c->uc);
    *c = (struct vd__context){0};
}

/* makecontext hands on ints only. */
static void begin_ucontext(unsigned fn_high, unsigned fn_low, unsigned arg_high, unsigned arg_low)
{
    void (*fn)(void *) = (void (*)(void *))((uintptr_t)fn_high << 32 | fn_low);
    fn((void *)((uintptr_t)arg_high << 32 | arg_low));
}

int vd__context_make(struct vd__context *c, enum vd_upcall_switch how, const struct vd__stack *s,
                     void (*fn)(void *arg), void *arg)
{
#ifdef HAVE_FAST
    if (is_fast(how)) {
        make_fast(c, s, fn, arg);
        return 0;
    }
#endif
    int r = vd__context_init(c, how);
    if (r < 0)
        return r;
    if (getcontext(c->uc) < 0)
        return -errno;
    c->uc->uc_stack.ss_sp = s->low;
    c->uc->uc_stack.ss_size = s->size_bytes;
    c->uc->uc_link = NULL;
    uint64_t f = (uintptr_t)fn, a = (uintptr_t)arg;
    makecontext(c->uc, (void (*)(void))begin_ucontext, 4, (unsigned)(f >> 32), (unsigned)f,
                (unsigned)(a >> 32), (unsigned)a);
    return 0;
}

VD__NO_TSAN void vd__context_switch(struct vd__context *from, struct vd__context *to)
{
#ifdef HAVE_FAST
    if (!from->uc) {
        vd__switch_fast(&from->sp, to->sp);
        return;
    }
#endif
    if (swapcontext(from->uc, to->uc) < 0)
        abort();
}

void vd__context_land(ucontext_t *uc, struct vd__context *to)
{
#ifdef HAVE_FAST
    if (!to->uc) {
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)vd__switch_land;
        uc->uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)to->sp;
        uc->uc_mcontext.gregs[REG_EFL] &= ~0x400; /* direction */
        return;
    }
#endif
    setcontext(to->uc);
    abort();
}
