// SPDX-License-Identifier: Apache-2.0
/*
 * A cipher context of libcrypto serves one thread at a time, and to make one costs a key schedule. So there are a
 * prototype for each direction, copies of which are made as they are needed, and a pool of those copies: places that
 * threads empty and fill by atomic exchange, each thread beginning at its own, so that a context mostly stays on
 * one processor. A context in the pool has its key and no state that matters: each sector sets its tweak.
 */
#include "xts.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#define PLACES 32u

enum direction { DECRYPT = 0, ENCRYPT = 1 };

struct xts {
    uint32_t sector;
    EVP_CIPHER_CTX *prototype[2]; /* only read once it is made */
    EVP_CIPHER_CTX *_Atomic pool[2][PLACES];
};

static int make_prototype(struct xts *x, enum direction dir, const uint8_t *key)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (!c)
        return -ENOMEM;
    x->prototype[dir] = c;
    if (EVP_CipherInit_ex(c, EVP_aes_256_xts(), NULL, key, NULL, dir) == 1)
        return 0;
    ERR_clear_error();
    return -EIO;
}

int xts_new(const uint8_t key[XTS_KEY_BYTES], uint32_t sector, struct xts **ret_x)
{
    if (sector != 512 && sector != 4096)
        return -EINVAL;
    if (memcmp(key, key + XTS_KEY_BYTES / 2, XTS_KEY_BYTES / 2) == 0)
        return -EINVAL;
    struct xts *x = calloc(1, sizeof(*x));
    if (!x)
        return -ENOMEM;
    x->sector = sector;
    int r = make_prototype(x, DECRYPT, key);
    if (r == 0)
        r = make_prototype(x, ENCRYPT, key);
    if (r < 0) {
        xts_free(x);
        return r;
    }
    *ret_x = x;
    return 0;
}

void xts_free(struct xts *x)
{
    if (!x)
        return;
    for (int dir = 0; dir < 2; dir++) {
        for (unsigned i = 0; i < PLACES; i++)
            EVP_CIPHER_CTX_free(atomic_load(&x->pool[dir][i]));
        EVP_CIPHER_CTX_free(x->prototype[dir]);
    }
    free(x);
}

uint32_t xts_sector(const struct xts *x)
{
    return x->sector;
}

/* ---- contexts ---- */

/* Where the calling thread begins to look. */
static unsigned own_place(void)
{
    return (unsigned)(((uint64_t)pthread_self() * 0x9e3779b97f4a7c15u) >> 32) % PLACES;
}

static EVP_CIPHER_CTX *context_get(struct xts *x, enum direction dir)
{
    for (unsigned i = 0, at = own_place(); i < PLACES; i++, at = (at + 1) % PLACES) {
        EVP_CIPHER_CTX *_Atomic *place = &x->pool[dir][at];
        if (!atomic_load_explicit(place, memory_order_relaxed))
            continue;
        EVP_CIPHER_CTX *c = atomic_exchange_explicit(place, NULL, memory_order_acquire);
        if (c)
            return c;
    }
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (c && EVP_CIPHER_CTX_copy(c, x->prototype[dir]) == 1)
        return c;
    EVP_CIPHER_CTX_free(c);
    ERR_clear_error();
    return NULL;
}

static void context_put(struct xts *x, enum direction dir, EVP_CIPHER_CTX *c)
{
    for (unsigned i = 0, at = own_place(); i < PLACES; i++, at = (at + 1) % PLACES) {
        EVP_CIPHER_CTX *_Atomic *place = &x->pool[dir][at], *none = NULL;
        if (!atomic_load_explicit(place, memory_order_relaxed) &&
            atomic_compare_exchange_strong_explicit(place, &none, c, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    EVP_CIPHER_CTX_free(c);
}

/* ---- sectors ---- */

static bool one_sector(EVP_CIPHER_CTX *c, uint64_t offset, const uint8_t *in, uint8_t *out,
                       uint32_t len)
{
    uint64_t tweak[2] = {htole64(offset / XTS_UNIT), 0};
    int n = 0;
    return EVP_CipherInit_ex(c, NULL, NULL, NULL, (const uint8_t *)tweak, -1) == 1 &&
           EVP_CipherUpdate(c, out, &n, in, (int)len) == 1 && n == (int)len;
}

static int all_sectors(struct xts *x, enum direction dir, uint64_t offset, const uint8_t *in,
                       uint8_t *out, size_t len)
{
    if (offset % x->sector || len % x->sector)
        return -EINVAL;
    EVP_CIPHER_CTX *c = context_get(x, dir);
    if (!c)
        return -ENOMEM;
    bool ok = true;
    for (size_t i = 0; i < len && ok; i += x->sector)
        if (dir == ENCRYPT || !xts_is_hole(in + i, x->sector))
            ok = one_sector(c, offset + i, in + i, out + i, x->sector);
    if (ok) {
        context_put(x, dir, c);
        return 0;
    }
    EVP_CIPHER_CTX_free(c);
    ERR_clear_error();
    return -EIO;
}

int xts_encrypt(struct xts *x, uint64_t offset, const void *in, void *out, size_t len)
{
    return all_sectors(x, ENCRYPT, offset, in, out, len);
}

int xts_decrypt(struct xts *x, uint64_t offset, void *data, size_t len)
{
    return all_sectors(x, DECRYPT, offset, data, data, len);
}

bool xts_is_hole(const void *data, size_t len)
{
    const uint8_t *p = data;
    return len == 0 || (*p == 0 && memcmp(p, p + 1, len - 1) == 0);
}
