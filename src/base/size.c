// SPDX-License-Identifier: Apache-2.0
#include "vd_size.h"

#include <ctype.h>
#include <string.h>

static const char units[] = "BKMGTPE";

int vd_size_parse(const char *text, uint64_t *ret_bytes)
{
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    char *end = NULL;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno)
        return -errno;
    unsigned shift = 0;
    if (*end) {
        const char *u = strchr(units, toupper((unsigned char)*end));
        if (!u || u - units > 4)
            return -EINVAL;
        shift = 10u * (unsigned)(u - units);
        end++;
        if (shift && (strcmp(end, "iB") == 0 || strcmp(end, "B") == 0))
            end = "";
    }
    if (*end)
        return -EINVAL;
    if (v > ((uint64_t)INT64_MAX >> shift))
        return -ERANGE;
    *ret_bytes = (uint64_t)v << shift;
    return 0;
}

void vd_size_print(uint64_t bytes, char *ret_text, size_t len)
{
    unsigned u = 0;
    double v = (double)bytes;
    while (v >= 1024 && u + 2 < sizeof(units)) {
        v /= 1024;
        u++;
    }
    if (v < 10 && u > 0 && (bytes & ((1ull << (10 * u)) - 1)))
        snprintf(ret_text, len, "%.1f%c", v, units[u]);
    else
        snprintf(ret_text, len, "%.0f%c", v, units[u]);
}
