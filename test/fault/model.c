// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sweep.h"

void model_init(struct model *m)
{
    m->size[0] = m->size[1] = DISK_BYTES;
}

uint8_t model_byte(uint8_t pattern, uint64_t off)
{
    return pattern ? (uint8_t)(pattern * 37 + off * 7 + off / 4096 * 13) : 0;
}

void model_begin(struct model *m, uint64_t off, size_t len, uint8_t pattern)
{
    for (uint64_t i = off; i < off + len; i++) {
        /* Full: the least likely goes. Only a request that fails time after time gets here. */
        unsigned last = m->last[i] < VALUES_MAX - 1 ? m->last[i] + 1 : VALUES_MAX - 1;
        m->value[last][i] = model_byte(pattern, i);
        m->last[i] = (uint8_t)last;
    }
}

void model_end(struct model *m, uint64_t off, size_t len, bool done)
{
    for (uint64_t i = off; done && i < off + len; i++) {
        m->value[0][i] = m->value[m->last[i]][i];
        m->last[i] = 0;
    }
}

bool model_lie(struct model *m, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (!m->lie[0])
        vsnprintf(m->lie, sizeof(m->lie), fmt, args);
    va_end(args);
    return false;
}

static bool may_be(const struct model *m, uint64_t off, uint8_t byte)
{
    for (unsigned v = 0; v <= m->last[off]; v++)
        if (m->value[v][off] == byte)
            return true;
    return false;
}

bool model_saw(struct model *m, const char *where, uint64_t off, const uint8_t *buf, size_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        if (!may_be(m, off + i, buf[i]))
            return model_lie(m, "%s: byte %llu is %u, not %u%s", where,
                             (unsigned long long)(off + i), buf[i], m->value[0][off + i],
                             m->last[off + i] ? " or what else it may be" : "");
        if (m->last[off + i] == 0)
            continue;
        m->value[0][off + i] = buf[i];
        m->last[off + i] = 0;
    }
    return true;
}
