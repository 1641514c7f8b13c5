// SPDX-License-Identifier: Apache-2.0
/* Fixed-width numbers in explicit byte order, for everything on disk and on the wire. */
#ifndef VD_ENDIAN_H
#define VD_ENDIAN_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define VD_DEFINE_CODEC(bits, order, to, from)                                                     \
    static inline void vd_put_##order##bits(void *p, uint##bits##_t v)                             \
    {                                                                                              \
        v = to(v);                                                                                 \
        memcpy(p, &v, sizeof(v));                                                                  \
    }                                                                                              \
    static inline uint##bits##_t vd_get_##order##bits(const void *p)                               \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return from(v);                                                                            \
    }

VD_DEFINE_CODEC(16, le, htole16, le16toh)
VD_DEFINE_CODEC(32, le, htole32, le32toh)
VD_DEFINE_CODEC(64, le, htole64, le64toh)
VD_DEFINE_CODEC(64, be, htobe64, be64toh)

#undef VD_DEFINE_CODEC

#endif
