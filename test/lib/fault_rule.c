// SPDX-License-Identifier: Apache-2.0
/* Parses the rules of the fault interposer. Strict: a rule that is not understood would test
 * nothing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fault_rule.h"

#define BIT(op) (1u << FAULT_##op)
#define WRITES (BIT(WRITE) | BIT(WRITEV) | BIT(PWRITE) | BIT(PWRITEV))
#define SYNCS (BIT(FSYNC) | BIT(FDATASYNC) | BIT(MSYNC))
#define NAMES (BIT(RENAME) | BIT(UNLINK) | BIT(CREATE) | BIT(MKDIR))
#define ITEM_MAX 64

static const char *const op_names[FAULT_NOPS] = {
    [FAULT_WRITE] = "write",     [FAULT_WRITEV] = "writev",       [FAULT_PWRITE] = "pwrite",
    [FAULT_PWRITEV] = "pwritev", [FAULT_FSYNC] = "fsync",         [FAULT_FDATASYNC] = "fdatasync",
    [FAULT_MSYNC] = "msync",     [FAULT_RENAME] = "rename",       [FAULT_UNLINK] = "unlink",
    [FAULT_MMAP] = "mmap",       [FAULT_FTRUNCATE] = "ftruncate", [FAULT_FALLOCATE] = "fallocate",
    [FAULT_CREATE] = "create",   [FAULT_MKDIR] = "mkdir",         [FAULT_XATTR] = "xattr",
};

static const struct {
    const char *name;
    uint32_t ops;
} groups[] = {
    {"writes", WRITES}, {"syncs", SYNCS}, {"names", NAMES}, {"any", (1u << FAULT_NOPS) - 1}};

static const struct {
    const char *name;
    int err;
} errors[] = {
    {"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"ENOMEM", ENOMEM},
    {"EACCES", EACCES}, {"EPERM", EPERM},   {"EROFS", EROFS},   {"EINTR", EINTR},
    {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE}, {"ENFILE", ENFILE}, {"ESTALE", ESTALE},
    {"EINVAL", EINVAL}, {"EBADF", EBADF},   {"EFBIG", EFBIG},   {"EOPNOTSUPP", EOPNOTSUPP},
    {"ENXIO", ENXIO},   {"ENODEV", ENODEV}, {"ENOENT", ENOENT}, {"EEXIST", EEXIST},
};

const char *fault_op_name(enum fault_op op)
{
    return op < FAULT_NOPS ? op_names[op] : "?";
}

static int parse_ops(const char *item, struct fault_rule *rule)
{
    for (unsigned i = 0; i < FAULT_NOPS; i++) {
        if (strcmp(item, op_names[i]) == 0) {
            rule->ops |= 1u << i;
            return 0;
        }
    }
    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (strcmp(item, groups[i].name) == 0) {
            rule->ops |= groups[i].ops;
            return 0;
        }
    }
    return -EINVAL;
}

/* Digits at *TEXT, which is moved behind them. */
static int parse_number(const char **text, uint64_t *ret_value)
{
    char *end;

    if (**text < '0' || **text > '9')
        return -EINVAL;
    errno = 0;
    *ret_value = strtoull(*text, &end, 10);
    *text = end;
    return errno ? -EINVAL : 0;
}

static int parse_range(const char *item, struct fault_rule *rule)
{
    if (parse_number(&item, &rule->from) < 0)
        return -EINVAL;
    rule->to = rule->from;
    if (rule->from == 0) {
        rule->from = 1; /* to is 0: the empty range */
        return *item ? -EINVAL : 0;
    }
    if (strcmp(item, "+") == 0) {
        rule->to = UINT64_MAX;
        return 0;
    }
    if (*item == '-') {
        item++;
        if (parse_number(&item, &rule->to) < 0 || rule->to < rule->from)
            return -EINVAL;
    }
    return *item ? -EINVAL : 0;
}

static int parse_error(const char *name, int *ret_err)
{
    uint64_t n;

    for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (strcmp(name, errors[i].name) == 0) {
            *ret_err = errors[i].err;
            return 0;
        }
    }
    if (parse_number(&name, &n) < 0 || *name || n == 0 || n > 4095)
        return -EINVAL;
    *ret_err = (int)n;
    return 0;
}

static int parse_action(const char *item, struct fault_rule *rule)
{
    uint64_t n;
    const char *value = strchr(item, '=');

    if (strcmp(item, "kill") == 0)
        rule->kill = true;
    else if (strcmp(item, "record") == 0)
        rule->record = true;
    else if (!value)
        return -EINVAL;
    else if (strncmp(item, "errno=", 6) == 0)
        return parse_error(value + 1, &rule->err);
    else {
        value++;
        if (parse_number(&value, &n) < 0 || *value || n > INT32_MAX)
            return -EINVAL;
        if (strncmp(item, "tear=", 5) == 0)
            rule->tear_bytes = (long)n;
        else if (strncmp(item, "delay=", 6) == 0)
            rule->delay_ms = (unsigned)n;
        else if (strncmp(item, "after=", 6) == 0)
            rule->after_ms = (unsigned)n;
        else
            return -EINVAL;
    }
    return 0;
}

/* Copies what is before the first of END or the end of the text; *TEXT is moved behind it. */
static int take(const char **text, const char *end, char *ret_item, size_t room)
{
    size_t n = strcspn(*text, end);

    if (n >= room)
        return -EINVAL;
    memcpy(ret_item, *text, n);
    ret_item[n] = 0;
    *text += n;
    return 0;
}

/* Items between commas, up to the END character; *TEXT is moved to it. */
static int parse_list(const char **text, const char *end, struct fault_rule *rule,
                      int (*parse)(const char *, struct fault_rule *))
{
    char item[ITEM_MAX];

    for (;;) {
        if (take(text, end, item, sizeof(item)) < 0 || parse(item, rule) < 0)
            return -EINVAL;
        if (**text != ',')
            return 0;
        ++*text;
    }
}

static int parse_rule(const char **text, struct fault_rule *rule)
{
    char range[ITEM_MAX];

    *rule = (struct fault_rule){.tear_bytes = -1};
    if (parse_list(text, ",:;", rule, parse_ops) < 0 || *(*text)++ != ':')
        return -EINVAL;
    if (take(text, ":;", rule->path, sizeof(rule->path)) < 0 || *(*text)++ != ':')
        return -EINVAL;
    if (take(text, ":;", range, sizeof(range)) < 0 || parse_range(range, rule) < 0)
        return -EINVAL;
    if (**text != ':') /* only a rule that never acts needs no action */
        return rule->to == 0 ? 0 : -EINVAL;
    ++*text;
    return parse_list(text, ",;", rule, parse_action);
}

int fault_rules_parse(const char *text, struct fault_rule ret_rules[FAULT_RULES_MAX])
{
    int n = 0;

    while (*text) {
        if (n == FAULT_RULES_MAX || parse_rule(&text, &ret_rules[n]) < 0)
            return -EINVAL;
        n++;
        if (*text && *text++ != ';')
            return -EINVAL;
    }
    return n;
}
