// SPDX-License-Identifier: Apache-2.0
/* KEY=VALUE lines, as a user gave them, to the values of a filter's options: each checked for its kind and range. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "filter.h"
#include "vd_size.h"

static int wrong(char why[VD_FILTER_WHY], const char *key, const char *text, const char *what)
{
    snprintf(why, VD_FILTER_WHY, "%.60s=%.200s: %.200s", key, text, what);
    return -EINVAL;
}

static int parse_number(const char *text, uint64_t *ret_n)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    *ret_n = strtoull(text, &end, 10);
    return errno || *end ? -EINVAL : 0;
}

static int parse_real(const char *text, double *ret_v, const char **ret_end)
{
    char *end;
    if ((*text < '0' || *text > '9') && *text != '.')
        return -EINVAL;
    *ret_v = strtod(text, &end);
    *ret_end = end;
    return end == text || !isfinite(*ret_v) ? -EINVAL : 0;
}

static int parse_duration(const char *text, uint64_t *ret_ns)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}, {"m", 60e9}};
    const char *end;
    double v;
    if (parse_real(text, &v, &end) < 0)
        return -EINVAL;
    for (size_t i = 0; i < VD_ARRAY_SIZE(units); i++)
        if (strcmp(end, units[i].unit) == 0 && v * units[i].ns < 1e18) {
            *ret_ns = (uint64_t)(v * units[i].ns + 0.5);
            return 0;
        }
    return -EINVAL;
}

static int parse_ratio(const char *text, double *ret_v)
{
    const char *end;
    double v;
    if (parse_real(text, &v, &end) < 0)
        return -EINVAL;
    if (strcmp(end, "%") == 0)
        v /= 100;
    else if (*end)
        return -EINVAL;
    *ret_v = v;
    return v > 1 ? -EINVAL : 0;
}

static int parse_bool(const char *text, uint64_t *ret_v)
{
    static const char *const words[][3] = {{"no", "false", "0"}, {"yes", "true", "1"}};
    for (uint64_t v = 0; v < 2; v++)
        for (int i = 0; i < 3; i++)
            if (strcasecmp(text, words[v][i]) == 0) {
                *ret_v = v;
                return 0;
            }
    return -EINVAL;
}

static int parse_choice(const char *choices, const char *text, uint64_t *ret_v)
{
    size_t n = strlen(text);
    for (uint64_t i = 0;; i++) {
        size_t len = strcspn(choices, "|");
        if (len == n && strncmp(choices, text, n) == 0) {
            *ret_v = i;
            return 0;
        }
        if (!choices[len])
            return -EINVAL;
        choices += len + 1;
    }
}

static int check_range(const struct vd_filter_option *o, uint64_t v, const char *text,
                       char why[VD_FILTER_WHY])
{
    char what[160];
    if (v >= o->min && (!o->max || v <= o->max))
        return 0;
    if (o->max)
        snprintf(what, sizeof(what), "out of range: %" PRIu64 " to %" PRIu64 "%s", o->min, o->max,
                 o->type == VD_FILTER_DURATION ? " nanoseconds" : "");
    else
        snprintf(what, sizeof(what), "out of range: at least %" PRIu64 "%s", o->min,
                 o->type == VD_FILTER_DURATION ? " nanoseconds" : "");
    return wrong(why, o->key, text, what);
}

static int parse_value(const struct vd_filter_option *o, const char *text,
                       struct vd_filter_value *v, char why[VD_FILTER_WHY])
{
    char what[200];
    v->given = true;
    v->text = text;
    switch (o->type) {
    case VD_FILTER_TEXT:
        return 0;
    case VD_FILTER_PATH:
        return *text == '/' ? 0 : wrong(why, o->key, text, "must be an absolute path");
    case VD_FILTER_NUMBER:
        if (parse_number(text, &v->number) < 0)
            return wrong(why, o->key, text, "must be a whole number");
        return check_range(o, v->number, text, why);
    case VD_FILTER_SIZE:
        if (vd_size_parse(text, &v->number) < 0)
            return wrong(why, o->key, text, "must be a size, such as 64K or 1M");
        return check_range(o, v->number, text, why);
    case VD_FILTER_DURATION:
        if (parse_duration(text, &v->number) < 0)
            return wrong(why, o->key, text, "must be a time, such as 250us, 20ms or 1.5s");
        return check_range(o, v->number, text, why);
    case VD_FILTER_RATIO:
        return parse_ratio(text, &v->ratio) == 0
                   ? 0
                   : wrong(why, o->key, text, "must be a part, from 0 to 1 or from 0% to 100%");
    case VD_FILTER_BOOL:
        return parse_bool(text, &v->number) == 0 ? 0
                                                 : wrong(why, o->key, text, "must be yes or no");
    case VD_FILTER_CHOICE:
        if (parse_choice(o->choices, text, &v->number) == 0)
            return 0;
        snprintf(what, sizeof(what), "must be one of %.150s", o->choices);
        return wrong(why, o->key, text, what);
    default:
        return wrong(why, o->key, text, "is of an unknown kind");
    }
}

static int take(const struct vd_filter_option *options, char *line, struct vd__config *c,
                char why[VD_FILTER_WHY])
{
    char *eq = strchr(line, '=');
    if (!eq) {
        snprintf(why, VD_FILTER_WHY, "%.200s: must be KEY=VALUE", line);
        return -EINVAL;
    }
    *eq = '\0';
    uint64_t yes;
    if (strcmp(line, "required") == 0) {
        if (parse_bool(eq + 1, &yes) < 0)
            return wrong(why, line, eq + 1, "must be yes or no");
        c->has_required = true;
        c->required = yes;
        return 0;
    }
    for (unsigned i = 0; options && options[i].key; i++) {
        if (strcmp(options[i].key, line) != 0)
            continue;
        if (c->values[i].given)
            return wrong(why, line, eq + 1, "is given twice");
        return parse_value(&options[i], eq + 1, &c->values[i], why);
    }
    snprintf(why, VD_FILTER_WHY, "%.60s: there is no such key; `vdisk filter ls` lists them", line);
    return -EINVAL;
}

static int add_defaults(const struct vd_filter_option *options, struct vd__config *c,
                        char why[VD_FILTER_WHY])
{
    for (unsigned i = 0; options && options[i].key; i++) {
        const struct vd_filter_option *o = &options[i];
        if (c->values[i].given)
            continue;
        if (o->must) {
            snprintf(why, VD_FILTER_WHY, "%.60s must be given: %.200s", o->key,
                     o->help ? o->help : "");
            return -EINVAL;
        }
        if (o->default_value) {
            int r = parse_value(o, o->default_value, &c->values[i], why);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int vd__config_parse(const struct vd_filter_option *options, const char *text,
                     struct vd__config *ret_c, char why[VD_FILTER_WHY])
{
    struct vd__config *c = ret_c;
    *c = (struct vd__config){.text = strdup(text)};
    if (!c->text)
        return -ENOMEM;
    int r = 0;
    char *save = NULL;
    for (char *line = strtok_r(c->text, "\n", &save); line && r == 0;
         line = strtok_r(NULL, "\n", &save))
        r = take(options, line, c, why);
    if (r == 0)
        r = add_defaults(options, c, why);
    if (r < 0)
        vd__config_clear(c);
    return r;
}

void vd__config_clear(struct vd__config *c)
{
    free(c->text);
    *c = (struct vd__config){0};
}
