// SPDX-License-Identifier: Apache-2.0
/* Results: one JSON document, or a table as lsblk's. Failures: a sentence that says what to do. */
#include <libsmartcols.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_size.h"

static void say(const char *path, const char *what)
{
    fflush(stdout);
    if (path)
        fprintf(stderr, "vdisk: %s: %s\n", path, what);
    else
        fprintf(stderr, "vdisk: %s\n", what);
}

static void say_failure(const struct cli *cli, const char *path, const char *what)
{
    say(path, what);
    if (cli->json)
        cli_print_json(json_pack("{s:{s:o, s:o}}", "error", "path", cli_text_json(path), "what",
                                 vd_ctl_text(what)));
}

int cli_fail(const struct cli *cli, const char *path, const char *fmt, ...)
{
    char what[VD_META_WHY + 512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    say_failure(cli, path, what);
    return CLI_FAILED;
}

int cli_wrong(const struct cli *cli, const char *fmt, ...)
{
    char what[VD_META_WHY + 512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    say_failure(cli, NULL, what);
    return CLI_USAGE;
}

const char *cli_cause(const char *path, const char *why)
{
    static const size_t cut[] = {SIZE_MAX, 300, 150}; /* where the library cuts a name */
    for (size_t i = 0; i < VD_ARRAY_SIZE(cut); i++) {
        size_t n = strnlen(path, vd_min(cut[i], (size_t)PATH_MAX));
        if (n && strncmp(why, path, n) == 0 && strncmp(why + n, ": ", 2) == 0)
            return why + n + 2;
    }
    const char *at = *why == '/' && *path ? strstr(why, path) : NULL;
    if (at && at > why && at[-1] == '/' && strncmp(at + strlen(path), ": ", 2) == 0)
        return at + strlen(path) + 2;
    return why;
}

void cli_warn(const char *path, const char *fmt, ...)
{
    char what[VD_META_WHY + 512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    say(path, what);
}

int cli_usage_error(const struct cli *cli)
{
    return cli_wrong(cli, "usage: vdisk [--json] [--bytes] %s%s%s", cli->command,
                     *cli->usage ? " " : "", cli->usage);
}

static int stdout_failed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_DONE;
    say(NULL, "the result cannot be written to standard output");
    return CLI_FAILED;
}

int cli_print_json(json_t *doc)
{
    if (!doc || json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) < 0) {
        json_decref(doc);
        say(NULL, "the result cannot be written to standard output");
        return CLI_FAILED;
    }
    json_decref(doc);
    putchar('\n');
    return stdout_failed();
}

const char *cli_size(const struct cli *cli, uint64_t bytes, char buf[32])
{
    if (cli->bytes)
        snprintf(buf, 32, "%llu", (unsigned long long)bytes);
    else
        vd_size_print(bytes, buf, 32);
    return buf;
}

json_t *cli_text_json(const char *value)
{
    return value ? vd_ctl_text(value) : json_null();
}

json_t *cli_id_json(const struct vd_id *id, bool known)
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    return known && !vd_id_is_zero(id) ? json_string(hex) : json_null();
}

const char *cli_time(uint64_t unix_s, char buf[32])
{
    time_t t = (time_t)unix_s;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || !strftime(buf, 32, "%Y-%m-%dT%H:%M:%SZ", &tm))
        buf[0] = '\0';
    return buf;
}

/* ---- tables ---- */

struct cli_table {
    struct libscols_table *table;
    struct libscols_line *line;
};

static struct cli_table *table_new(const struct cli_column *columns, size_t ncolumns, bool tree)
{
    struct cli_table *t = calloc(1, sizeof(*t));
    scols_init_debug(0);
    if (!t || !(t->table = scols_new_table()))
        abort();
    for (size_t i = 0; i < ncolumns; i++) {
        int flags = columns[i].right ? SCOLS_FL_RIGHT : 0;
        if (tree && i == 0)
            flags |= SCOLS_FL_TREE;
        if (!scols_table_new_column(t->table, columns[i].name, 0, flags))
            abort();
    }
    return t;
}

struct cli_table *cli_table_new(const struct cli_column *columns, size_t ncolumns)
{
    return table_new(columns, ncolumns, false);
}

struct cli_table *cli_table_new_tree(const struct cli_column *columns, size_t ncolumns)
{
    return table_new(columns, ncolumns, true);
}

void cli_table_row(struct cli_table *t)
{
    t->line = scols_table_new_line(t->table, NULL);
    if (!t->line)
        abort();
}

struct cli_row *cli_table_row_below(struct cli_table *t, struct cli_row *parent)
{
    t->line = scols_table_new_line(t->table, (struct libscols_line *)parent);
    if (!t->line)
        abort();
    return (struct cli_row *)t->line;
}

void cli_table_set(struct cli_table *t, size_t col, const char *text)
{
    if (scols_line_set_data(t->line, col, text && *text ? text : "-") < 0)
        abort();
}

int cli_table_print(struct cli_table *t)
{
    scols_print_table(t->table);
    scols_unref_table(t->table);
    free(t);
    return stdout_failed();
}
