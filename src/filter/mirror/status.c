// SPDX-License-Identifier: Apache-2.0
#include "mirror.h"

#include <inttypes.h>
#include <stdio.h>

/* The length of the UTF-8 character at P; 0: it is none. */
static unsigned utf8(const unsigned char *p)
{
    static const struct {
        unsigned char mask, lead;
        unsigned len, least;
    } kinds[] = {
        {0x80, 0, 1, 0}, {0xe0, 0xc0, 2, 0x80}, {0xf0, 0xe0, 3, 0x800}, {0xf8, 0xf0, 4, 0x10000}};
    for (unsigned k = 0; k < 4; k++) {
        if ((*p & kinds[k].mask) != kinds[k].lead)
            continue;
        uint32_t c = *p & (unsigned char)~kinds[k].mask;
        for (unsigned i = 1; i < kinds[k].len; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
            c = c << 6 | (p[i] & 0x3f);
        }
        return c >= kinds[k].least && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff) ? kinds[k].len
                                                                                  : 0;
    }
    return 0;
}

/* TEXT as a JSON string without its quotes. What is no UTF-8 becomes question marks. */
static void json_text(const char *text, char *ret, size_t len)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p && n + 8 < len;) {
        unsigned k = utf8(p);
        if (*p == '"' || *p == '\\')
            n += (size_t)snprintf(ret + n, len - n, "\\%c", *p);
        else if (*p < ' ' || *p == 0x7f)
            n += (size_t)snprintf(ret + n, len - n, "\\u%04x", *p);
        else
            n += (size_t)snprintf(ret + n, len - n, "%.*s", k ? (int)k : 1,
                                  k ? (const char *)p : "?");
        p += k ? k : 1;
    }
    ret[n] = '\0';
}

int mirror_status(void *self, char *ret_json, size_t len)
{
    static const char *const states[] = {
        [MIRRORED] = "mirrored", [RESYNC] = "resync", [BROKEN] = "broken"};
    struct mirror *m = self;
    char error[TARGET_WHY], error_json[4 * TARGET_WHY], since[32], path[8192];
    uint64_t size = vd_filter_disk_size(m->disk);
    struct tm tm;
    pthread_mutex_lock(&m->mu);
    const char *state = states[m->state];
    uint64_t dirty = regions_bytes(&m->dirty, size), copied = m->copied_bytes, breaks = m->breaks;
    time_t when = m->since;
    snprintf(error, sizeof(error), "%s", m->last_error);
    pthread_mutex_unlock(&m->mu);
    gmtime_r(&when, &tm);
    strftime(since, sizeof(since), "%Y-%m-%dT%H:%M:%SZ", &tm);
    json_text(m->path, path, sizeof(path));
    json_text(error, error_json, sizeof(error_json));
    snprintf(ret_json, len,
             "{\"state\":\"%s\",\"target\":\"%s\",\"dirty_bytes\":%" PRIu64
             ",\"copied_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64 ",\"breaks\":%" PRIu64
             ",\"last_error\":%s%s%s,\"since\":\"%s\"}",
             state, path, dirty, copied, size, breaks, error[0] ? "\"" : "",
             error[0] ? error_json : "null", error[0] ? "\"" : "", since);
    return 0;
}
