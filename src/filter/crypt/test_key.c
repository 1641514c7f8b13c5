// SPDX-License-Identifier: Apache-2.0
/* Keys: every form that is accepted, those that are not, files, commands, and check values. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "key.h"

static uint8_t key[XTS_KEY_BYTES];
static char hex[2 * XTS_KEY_BYTES + 2], why[KEY_WHY];

static void set_up(void)
{
    for (unsigned i = 0; i < XTS_KEY_BYTES; i++) {
        key[i] = (uint8_t)(i * 7 + 1);
        snprintf(hex + 2 * i, 3, i % 2 ? "%02x" : "%02X", key[i]);
    }
    why[0] = '\0';
}

static int parse(const void *text, size_t len)
{
    uint8_t got[XTS_KEY_BYTES] = {0}, none[XTS_KEY_BYTES] = {0};
    int r = key_parse(text, len, got, why);
    ck_assert_mem_eq(got, r == 0 ? key : none, sizeof(got));
    ck_assert_int_eq(r < 0, why[0] != '\0');
    return r;
}

START_TEST(forms)
{
    char text[2 * XTS_KEY_BYTES + 8];
    ck_assert_int_eq(parse(key, XTS_KEY_BYTES), 0);
    ck_assert_int_eq(parse(hex, 128), 0);
    snprintf(text, sizeof(text), "%s\n", hex);
    ck_assert_int_eq(parse(text, 129), 0);
    ck_assert_int_eq(parse(text, 127), -EINVAL);
    snprintf(text, sizeof(text), "%s\n\n", hex);
    ck_assert_int_eq(parse(text, 130), -EINVAL);
    snprintf(text, sizeof(text), "%s ", hex);
    ck_assert_int_eq(parse(text, 129), -EINVAL);
    text[77] = 'g';
    ck_assert_int_eq(parse(text, 128), -EINVAL);
    for (size_t len = 0; len < 64; len++)
        ck_assert_int_eq(parse(key, len), -EINVAL);
}
END_TEST

START_TEST(equal_halves)
{
    uint8_t twice[XTS_KEY_BYTES];
    memcpy(twice, key, 32);
    memcpy(twice + 32, key, 32);
    ck_assert_int_eq(parse(twice, sizeof(twice)), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why, "halves"));
}
END_TEST

START_TEST(files)
{
    char dir[] = "/tmp/test_key.XXXXXX", path[64];
    uint8_t got[XTS_KEY_BYTES];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/key", dir);
    ck_assert_int_eq(key_from_file(path, got, why), -ENOENT);
    ck_assert_ptr_nonnull(strstr(why, path));
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(key, 1, sizeof(key), f), sizeof(key));
    fclose(f);
    ck_assert_int_eq(key_from_file(path, got, why), 0);
    ck_assert_mem_eq(got, key, sizeof(key));
    ck_assert_int_eq(truncate(path, 1 << 20), 0);
    ck_assert_int_eq(key_from_file(path, got, why), -EINVAL);
    unlink(path);
    ck_assert_int_eq(key_from_file(dir, got, why), -EISDIR);
    ck_assert_int_eq(mkfifo(path, 0600), 0); /* that nobody writes to */
    ck_assert_int_eq(key_from_file(path, got, why), -EINVAL);
    unlink(path);
    rmdir(dir);
}
END_TEST

START_TEST(commands)
{
    char text[256];
    uint8_t got[XTS_KEY_BYTES] = {0};
    snprintf(text, sizeof(text), "printf %%s %.64s; echo %s", hex, hex + 64);
    ck_assert_int_eq(key_from_command(text, got, why), 0);
    ck_assert_mem_eq(got, key, sizeof(key));
    snprintf(text, sizeof(text), "echo %s; exit 3", hex);
    ck_assert_int_eq(key_from_command(text, got, why), -ENOKEY);
    ck_assert_ptr_nonnull(strstr(why, "exit code 3"));
    snprintf(text, sizeof(text), "echo %s; kill -9 $$", hex);
    ck_assert_int_eq(key_from_command(text, got, why), -ENOKEY);
    ck_assert_ptr_nonnull(strstr(why, "signal 9"));
    ck_assert_int_eq(key_from_command("true", got, why), -EINVAL);
    ck_assert_int_eq(key_from_command("/nowhere", got, why), -ENOKEY);
    ck_assert_int_lt(key_from_command("cat /dev/zero", got, why), 0);     /* more than is read */
    ck_assert_int_eq(key_from_command("cat; exit 1", got, why), -ENOKEY); /* no input */
}
END_TEST

START_TEST(check_values)
{
    uint8_t check[KEY_CHECK_BYTES], other[XTS_KEY_BYTES];
    memcpy(other, key, sizeof(key));
    other[63] ^= 1;
    ck_assert_int_eq(key_check_make(key, 512, check), 0);
    ck_assert_int_eq(key_check_compare(key, 512, check, sizeof(check), why), 0);
    ck_assert_int_eq(key_check_compare(other, 512, check, sizeof(check), why), -EKEYREJECTED);
    ck_assert_int_eq(key_check_compare(key, 4096, check, sizeof(check), why), -EINVAL);
    ck_assert_ptr_nonnull(strstr(why, "sector-size=512"));
    ck_assert_int_eq(key_check_compare(key, 512, check, sizeof(check) - 1, why), -EUCLEAN);
    for (size_t i = 0; i < sizeof(check); i++) {
        check[i] ^= 0x40;
        ck_assert_int_lt(key_check_compare(key, 512, check, sizeof(check), why), 0);
        check[i] ^= 0x40;
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("key");
    TCase *c = tcase_create("key");
    tcase_add_unchecked_fixture(c, set_up, NULL);
    tcase_add_test(c, forms);
    tcase_add_test(c, equal_halves);
    tcase_add_test(c, files);
    tcase_add_test(c, commands);
    tcase_add_test(c, check_values);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
