// SPDX-License-Identifier: Apache-2.0
#include "vd_id.h"

#include <fcntl.h>
#include <sys/random.h>

int vd_id_new(struct vd_id *ret_id)
{
    struct vd_id id = {0};
    while (vd_id_is_zero(&id)) {
        ssize_t n = getrandom(id.b, sizeof(id.b), 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n != (ssize_t)sizeof(id.b))
            id = (struct vd_id){0};
    }
    *ret_id = id;
    return 0;
}

void vd_id_hex(const struct vd_id *id, char ret_hex[VD_ID_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof(id->b); i++) {
        ret_hex[2 * i] = digits[id->b[i] >> 4];
        ret_hex[2 * i + 1] = digits[id->b[i] & 15];
    }
    ret_hex[2 * sizeof(id->b)] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int vd_id_parse(const char *hex, struct vd_id *ret_id)
{
    struct vd_id id = {0};
    size_t n = 0;
    for (; *hex && *hex != '\n'; hex++) {
        if (*hex == '-')
            continue;
        int v = hex_value(*hex);
        if (v < 0 || n == 2 * sizeof(id.b))
            return -EINVAL;
        id.b[n / 2] |= (uint8_t)(n % 2 ? v : v << 4);
        n++;
    }
    if (n != 2 * sizeof(id.b))
        return -EINVAL;
    *ret_id = id;
    return 0;
}

int vd_boot_id(struct vd_id *ret_id)
{
#ifdef VD_TEST_HOOKS
    const char *fake = getenv("VDISKFS_TEST_BOOT_ID");
    if (fake)
        return vd_id_parse(fake, ret_id);
#endif
    vd_cleanup_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char text[64] = {0};
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return -errno;
    return vd_id_parse(text, ret_id);
}
