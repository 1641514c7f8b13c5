// SPDX-License-Identifier: Apache-2.0
/* A key from its text, and check values. */
#include "key.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

/* A check value: magic, sector size (little-endian), HMAC-SHA256 of the constant and the first 8 bytes. */
#define CHECK_MAGIC "VDC1"
#define CHECK_HEAD 8u
#define CHECK_CONSTANT "vdiskfs filter crypt: check value of a key for aes-xts-plain64"

static int digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int parse_hex(const uint8_t *text, uint8_t key[XTS_KEY_BYTES])
{
    for (size_t i = 0; i < XTS_KEY_BYTES; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

int key_parse(const void *text, size_t len, uint8_t ret_key[XTS_KEY_BYTES], char why[KEY_WHY])
{
    const uint8_t *t = text;
    uint8_t key[XTS_KEY_BYTES];
    int r = -EINVAL;
    if (len == 2 * XTS_KEY_BYTES + 1 && t[len - 1] == '\n')
        len--;
    if (len == XTS_KEY_BYTES) {
        memcpy(key, t, sizeof(key));
        r = 0;
    } else if (len == 2 * XTS_KEY_BYTES) {
        r = parse_hex(t, key);
    }
    if (r < 0) {
        snprintf(why, KEY_WHY,
                 "a key is 64 bytes, or 128 hexadecimal digits and a newline; this is neither");
    } else if (memcmp(key, key + XTS_KEY_BYTES / 2, XTS_KEY_BYTES / 2) == 0) {
        snprintf(why, KEY_WHY,
                 "the halves of the key are the same, which AES-XTS does not allow: make 64 bytes "
                 "at random");
        r = -EINVAL;
    } else {
        memcpy(ret_key, key, sizeof(key));
    }
    explicit_bzero(key, sizeof(key));
    return r;
}

int key_check_make(const uint8_t key[XTS_KEY_BYTES], uint32_t sector,
                   uint8_t ret_check[KEY_CHECK_BYTES])
{
    uint8_t message[sizeof(CHECK_CONSTANT) + CHECK_HEAD], check[KEY_CHECK_BYTES] = CHECK_MAGIC;
    uint32_t le = htole32(sector);
    unsigned n = 0;
    memcpy(check + 4, &le, sizeof(le));
    memcpy(message, CHECK_CONSTANT, sizeof(CHECK_CONSTANT));
    memcpy(message + sizeof(CHECK_CONSTANT), check, CHECK_HEAD);
    if (!HMAC(EVP_sha256(), key, XTS_KEY_BYTES, message, sizeof(message), check + CHECK_HEAD, &n) ||
        n != KEY_CHECK_BYTES - CHECK_HEAD) {
        ERR_clear_error();
        return -EIO;
    }
    memcpy(ret_check, check, sizeof(check));
    return 0;
}

int key_check_compare(const uint8_t key[XTS_KEY_BYTES], uint32_t sector, const uint8_t *check,
                      size_t len, char why[KEY_WHY])
{
    uint8_t mine[KEY_CHECK_BYTES];
    uint32_t le;
    if (len != KEY_CHECK_BYTES || memcmp(check, CHECK_MAGIC, 4) != 0) {
        snprintf(why, KEY_WHY, "the check value of its key in the metadata is damaged");
        return -EUCLEAN;
    }
    memcpy(&le, check + 4, sizeof(le));
    if (le32toh(le) != sector) {
        snprintf(why, KEY_WHY, "the disk is encrypted with sector-size=%u, not %u", le32toh(le),
                 sector);
        return -EINVAL;
    }
    int r = key_check_make(key, sector, mine);
    if (r < 0) {
        snprintf(why, KEY_WHY, "libcrypto cannot compute HMAC-SHA256");
        return r;
    }
    if (CRYPTO_memcmp(mine, check, sizeof(mine)) == 0)
        return 0;
    snprintf(why, KEY_WHY,
             "this is not the key that the disk is encrypted with: give the key that it was "
             "attached with");
    return -EKEYREJECTED;
}
