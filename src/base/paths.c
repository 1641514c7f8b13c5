// SPDX-License-Identifier: Apache-2.0
#include "vd_paths.h"

#include <string.h>

/* FNV-1a (Fowler, Noll, Vo), 64 bits: it only has to tell apart folders that people name. */
static uint64_t hash_text(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

static const char *set_variable(const char *name)
{
    const char *v = getenv(name);
    return v && v[0] == '/' ? v : NULL;
}

int vd_default_cache_dir(const char *source, char *ret_path, size_t len)
{
    if (source[0] != '/')
        return -EINVAL;
    const char *root = "/var/cache", *below = "";
    if (geteuid() != 0) {
        root = set_variable("XDG_CACHE_HOME");
        if (!root) {
            root = set_variable("HOME");
            below = "/.cache";
        }
        if (!root)
            return -ENOENT;
    }
    /* A name may be 255 bytes long; the digits must still fit behind it. */
    const char *base = strrchr(source, '/') + 1;
    int base_len = (int)strnlen(base, 200);
    if (!base_len) {
        base = "root";
        base_len = 4;
    }
    char path[4096];
    int n = snprintf(path, sizeof(path), "%s%s/vdiskfs/%.*s-%016llx", root, below, base_len, base,
                     (unsigned long long)hash_text(source));
    if (n < 0 || (size_t)n >= sizeof(path) || (size_t)n >= len)
        return -ENAMETOOLONG;
    memcpy(ret_path, path, (size_t)n + 1);
    return 0;
}
