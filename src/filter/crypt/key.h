// SPDX-License-Identifier: Apache-2.0
/*
 * The key: where it comes from, and how a later one is known to be the same.
 *
 * It is kept nowhere: on the disk there is only a *check value*, a code of authentication under the key over the
 * sector size, which tells another key without telling anything of this one. Whoever gets a key wipes it.
 */
#ifndef VDISKFS_CRYPT_KEY_H
#define VDISKFS_CRYPT_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "xts.h"

#define KEY_TEXT_MAX 256u   /* of what is read; more is no key */
#define KEY_CHECK_BYTES 40u /* of a check value */
#define KEY_WHY 400u

/* TEXT is a key as 64 bytes, or as 128 hexadecimal digits and perhaps a newline. 0; -EINVAL with WHY. */
int key_parse(const void *text, size_t len, uint8_t ret_key[XTS_KEY_BYTES], char why[KEY_WHY])
    __attribute__((warn_unused_result));

/* The key that is in the file PATH, or that COMMAND prints. 0; -errno with WHY. Wait. */
int key_from_file(const char *path, uint8_t ret_key[XTS_KEY_BYTES], char why[KEY_WHY])
    __attribute__((warn_unused_result));
int key_from_command(const char *command, uint8_t ret_key[XTS_KEY_BYTES], char why[KEY_WHY])
    __attribute__((warn_unused_result));

/* The check value. 0, -EIO: libcrypto fails. */
int key_check_make(const uint8_t key[XTS_KEY_BYTES], uint32_t sector,
                   uint8_t ret_check[KEY_CHECK_BYTES]) __attribute__((warn_unused_result));
/* CHECK, LEN bytes, was made of this key and sector size: 0. Else with WHY: -EUCLEAN: it is no check value; -EINVAL: the
 * sector size is another; -EKEYREJECTED: the key is another; -EIO. */
int key_check_compare(const uint8_t key[XTS_KEY_BYTES], uint32_t sector, const uint8_t *check,
                      size_t len, char why[KEY_WHY]) __attribute__((warn_unused_result));

#endif
