// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "vd_ctl.h"

/* Length of the UTF-8 sequence that begins at S, 0 if it is none (RFC 3629). */
static unsigned sequence(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    unsigned len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    for (unsigned i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xed && s[1] > 0x9f;
    bool past = s[0] == 0xf4 && s[1] > 0x8f;
    return overlong || surrogate || past ? 0 : len;
}

json_t *vd_ctl_text(const char *text)
{
    json_t *v = json_string(text);
    if (v)
        return v;
    /* Each bad byte becomes three. */
    vd_cleanup_free char *clean = malloc(3 * strlen(text) + 1);
    if (!clean)
        return NULL;
    char *to = clean;
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        unsigned len = sequence(s);
        memcpy(to, len ? (const void *)s : "\xef\xbf\xbd", len ? len : 3);
        to += len ? len : 3;
        s += len ? len : 1;
    }
    *to = '\0';
    return json_string(clean);
}
