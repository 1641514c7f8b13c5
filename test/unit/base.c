// SPDX-License-Identifier: Apache-2.0
#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"
#include "vd_id.h"
#include "vd_sigbus.h"
#include "vd_size.h"

START_TEST(crc_vectors)
{
    /* RFC 3720, B.4 */
    uint8_t b[32] = {0};
    ck_assert_uint_eq(vd_crc32c(0, b, 32), 0x8a9136aa);
    memset(b, 0xff, 32);
    ck_assert_uint_eq(vd_crc32c(0, b, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    ck_assert_uint_eq(vd_crc32c(0, b, 32), 0x46dd794e);
    ck_assert_uint_eq(vd_crc32c(vd_crc32c(0, b, 7), b + 7, 25), 0x46dd794e);
}
END_TEST

START_TEST(sizes)
{
    static const struct {
        const char *text;
        int r;
        uint64_t bytes;
    } cases[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"64K", 0, 65536},
        {"64k", 0, 65536},
        {"10GiB", 0, 10ull << 30},
        {"1TB", 0, 1ull << 40},
        {"", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
        {"10X", -EINVAL, 0},
        {"K", -EINVAL, 0},
        {"1Ki", -EINVAL, 0},
        {"9999999T", -ERANGE, 0},
        {" 1", -EINVAL, 0},
        {"1 K", -EINVAL, 0},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        uint64_t v = 0;
        ck_assert_msg(vd_size_parse(cases[i].text, &v) == cases[i].r, "%s", cases[i].text);
        ck_assert_uint_eq(v, cases[i].bytes);
    }
    static const struct {
        uint64_t bytes;
        const char *text;
    } prints[] = {{0, "0B"},      {512, "512B"},      {65536, "64K"},
                  {1536, "1.5K"}, {1ull << 30, "1G"}, {10ull << 40, "10T"}};
    for (size_t i = 0; i < VD_ARRAY_SIZE(prints); i++) {
        char text[16];
        vd_size_print(prints[i].bytes, text, sizeof(text));
        ck_assert_str_eq(text, prints[i].text);
    }
}
END_TEST

START_TEST(ids)
{
    struct vd_id a, b;
    char hex[VD_ID_HEX];
    ck_assert_int_eq(vd_id_new(&a), 0);
    vd_id_hex(&a, hex);
    ck_assert_uint_eq(strlen(hex), 32);
    ck_assert_int_eq(vd_id_parse(hex, &b), 0);
    ck_assert(vd_id_eq(&a, &b));
    ck_assert_int_eq(vd_id_parse("00112233-4455-6677-8899-aabbccddeeff\n", &b), 0);
    ck_assert_int_eq(b.b[15], 0xff);
    ck_assert_int_eq(vd_id_parse("0011", &b), -EINVAL);
    ck_assert_int_eq(vd_id_parse("00112233445566778899aabbccddeeff0", &b), -EINVAL);
    ck_assert_int_eq(vd_id_parse("0011223344556677g899aabbccddeeff", &b), -EINVAL);
}
END_TEST

START_TEST(byte_order)
{
    uint8_t p[8];
    vd_put_le64(p, 0x0102030405060708);
    ck_assert_int_eq(p[0], 8);
    vd_put_be64(p, 0x0102030405060708);
    ck_assert_int_eq(p[0], 1);
    ck_assert_uint_eq(vd_get_be64(p), 0x0102030405060708);
}
END_TEST

static int temp_dir(char path[64])
{
    snprintf(path, 64, "/tmp/vd-base-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(path));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

START_TEST(replace_is_whole)
{
    char path[64], got[8] = "";
    int dir = temp_dir(path);
    ck_assert_int_eq(vd_file_replace(dir, "f", "one", 3, 0600), 0);
    ck_assert_int_eq(vd_file_replace(dir, "f", "two!", 4, 0600), 0);
    int fd = openat(dir, "f", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(vd_pread_full(fd, got, sizeof(got), 0), 4);
    ck_assert_mem_eq(got, "two!", 4);
    close(fd);
    ck_assert_int_eq(vd_file_replace(dir, "no/such", "x", 1, 0600), -ENOENT);
    unlinkat(dir, "f", 0);
    ck_assert_int_eq(rmdir(path), 0); /* nothing temporary was left */
    close(dir);
}
END_TEST

START_TEST(locks_exclude)
{
    char path[64];
    int dir = temp_dir(path);
    int a = openat(dir, "l", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int b = openat(dir, "l", O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(vd_lock_try(a, VD_LOCK_SHARED, 100, 1), 0);
    ck_assert_int_eq(vd_lock_try(b, VD_LOCK_SHARED, 100, 1), 0);
    ck_assert_int_eq(vd_lock_try(b, VD_LOCK_EXCLUSIVE, 100, 1), -EAGAIN);
    ck_assert_int_eq(vd_lock_try(b, VD_LOCK_EXCLUSIVE, 101, 1), 0);
    ck_assert_int_eq(vd_lock_wait(b, VD_LOCK_EXCLUSIVE, 100, 1, 20), -ETIMEDOUT);
    close(a); /* the kernel lets go with the last copy */
    ck_assert_int_eq(vd_lock_wait(b, VD_LOCK_EXCLUSIVE, 100, 1, 1000), 0);
    close(b);
    unlinkat(dir, "l", 0);
    rmdir(path);
    close(dir);
}
END_TEST

START_TEST(sigbus_is_survived)
{
    char path[64], image[4096];
    int dir = temp_dir(path);
    int fd = openat(dir, "m", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(ftruncate(fd, 8192), 0);
    volatile char *p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    memset(image, 7, sizeof(image));
    struct vd_sigbus_region *r;
    ck_assert_int_eq(vd_sigbus_add((void *)(uintptr_t)p, 8192, image, &r), 0);
    ck_assert_int_eq(p[5000], 0);
    ck_assert(!vd_sigbus_dead(r));
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(p[5000], 7);
    ck_assert(vd_sigbus_dead(r));
    vd_sigbus_del(r);
    /* Outside a region it kills. */
    pid_t pid = fork();
    if (pid == 0) {
        _exit(p[0]);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    munmap((void *)(uintptr_t)p, 8192);
    close(fd);
    unlinkat(dir, "m", 0);
    rmdir(path);
    close(dir);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base");
    TCase *t = tcase_create("base");
    tcase_add_test(t, crc_vectors);
    tcase_add_test(t, sizes);
    tcase_add_test(t, ids);
    tcase_add_test(t, byte_order);
    tcase_add_test(t, replace_is_whole);
    tcase_add_test(t, locks_exclude);
    tcase_add_test(t, sigbus_is_survived);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
