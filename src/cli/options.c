// SPDX-License-Identifier: Apache-2.0
/* The options of single commands: each takes its own out of the arguments, then counts the rest. */
#include <string.h>

#include "cli.h"

/* So many arguments come before those that are no options. */
static int noptions(const struct cli *cli)
{
    return vd_max(cli->nargs - cli->nplain, 0);
}

static void remove_args(struct cli *cli, int at, int n)
{
    memmove(&cli->args[at], &cli->args[at + n],
            (size_t)(cli->nargs - at - n) * sizeof(cli->args[0]));
    cli->nargs -= n;
}

bool cli_take_flag(struct cli *cli, const char *name)
{
    bool found = false;
    for (int i = noptions(cli) - 1; i >= 0; i--) {
        if (strcmp(cli->args[i], name) != 0)
            continue;
        remove_args(cli, i, 1);
        found = true;
    }
    return found;
}

const char *cli_take_value(struct cli *cli, const char *name)
{
    size_t len = strlen(name);
    for (int i = 0; i < noptions(cli); i++) {
        const char *a = cli->args[i], *value = NULL;
        int n = 1;
        if (strncmp(a, name, len) != 0)
            continue;
        if (a[len] == '=') {
            value = a + len + 1;
        } else if (!a[len] && i + 1 < noptions(cli)) {
            value = cli->args[i + 1];
            n = 2;
        }
        if (!value || !*value)
            continue;
        remove_args(cli, i, n);
        return value;
    }
    return NULL;
}

/* A path that begins with a dash is written ./-..., or behind -- */
bool cli_args_fit(const struct cli *cli, int min, int max)
{
    for (int i = 0; i < noptions(cli); i++)
        if (cli->args[i][0] == '-')
            return false;
    return cli->nargs >= min && cli->nargs <= max;
}
