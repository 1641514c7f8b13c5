// SPDX-License-Identifier: Apache-2.0
/*
 * vdisk: the command line of vdiskfs. It reads metadata and caches itself and asks a daemon only
 * for what that alone knows, so most commands work whether or not a mount runs.
 */
#include <locale.h>
#include <signal.h>
#include <string.h>

#include "cli.h"
#include "vd_log.h"

struct command {
    const char *words; /* one or two */
    const char *usage;
    const char *what;
    int (*run)(struct cli *cli); /* NULL: not in this version */
};

static const struct command commands[] = {
    {"ls", "[PATH]", "list disks", cmd_ls},
    {"info", "PATH", "tell about a disk", cmd_info},
    {"tree", "[PATH]", "show disks with their snapshots and clones", cmd_tree},
    {"map", "PATH", "show its extents", cmd_map},
    {"explain", "PATH OFFSET", "show the way of one byte", cmd_explain},
    {"snapshot", "PATH NAME", "keep a disk as it is now", cmd_snapshot},
    {"snapshots", "PATH", "list its snapshots", cmd_snapshots},
    {"revert", "PATH NAME", "make it again what it was at a snapshot", cmd_revert},
    {"snapshot-rm", "PATH NAME", "remove a snapshot", cmd_snapshot_rm},
    {"clone", "PARENT CHILD [--snapshot NAME]", "make a linked clone", cmd_clone},
    {"flatten", "PATH", "copy in what lies below it", cmd_flatten},
    {"resize", "PATH SIZE [--shrink]", "change its size", cmd_resize},
    {"rm", "PATH", "remove a disk and what only it needs", cmd_rm},
    {"owner", "PATH", "show who owns it", cmd_owner},
    {"adopt", "PATH --as-plain", "take a file as it is, as a plain disk", cmd_adopt},
    {"cache stats", "[PATH]", "count what the cache did", cmd_cache_stats},
    {"cache flush", "[PATH]", "forget everything cached for a mount", cmd_cache_flush},
    {"cache drop", "PATH", "forget what is cached of a disk's live layer", cmd_cache_drop},
    {"filter ls", "[PATH]", "list filters, or those of a disk", cmd_filter_ls},
    {"filter attach", "PATH NAME [KEY=VALUE...]", "put a filter before a disk", cmd_filter_attach},
    {"filter detach", "PATH NAME", "take it away", cmd_filter_detach},
    {"check", "[PATH] [--repair]", "verify metadata, layers and cache", cmd_check},
    {"doctor", "[PATH]", "verify this host's set-up", cmd_doctor},
    {"dump", "PATH", "print every record of a disk's metadata", cmd_dump},
    {"release", "PATH", NULL, NULL},
    {"cache warm", "PATH", NULL, NULL},
    {"cache pin", "PATH", NULL, NULL},
    {"cache unpin", "PATH", NULL, NULL},
    {"cache resize", "SIZE", NULL, NULL},
    {"top", "", NULL, NULL},
    {"metrics", "[PATH]", NULL, NULL},
};

static void print_help(FILE *out)
{
    fputs("usage: vdisk [OPTIONS] COMMAND ARGS\n"
          "\n"
          "A PATH names a disk or a directory, in a mount or in its source.\n"
          "\n"
          "commands:\n",
          out);
    for (size_t i = 0; i < VD_ARRAY_SIZE(commands); i++) {
        char head[64];
        if (!commands[i].run)
            continue;
        snprintf(head, sizeof(head), "%s %s", commands[i].words, commands[i].usage);
        fprintf(out, "  %-36s %s\n", head, commands[i].what);
    }
    fputs("\n"
          "options:\n"
          "  --json                 print one JSON document\n"
          "  --bytes                print sizes exactly\n"
          "  --meta=DIR             where the metadata is, if not in SOURCE/.vdiskfs\n"
          "  --source=DIR           where the source begins, if that cannot be seen\n"
          "  --cache=DIR            where the cache is, if not in the default place\n"
          "  --filter-dir=DIR       where filters are, if not in the default place\n"
          "  --help, --version\n"
          "  --                     what follows is no option\n",
          out);
}

/* How many of ARGS the words of C take, 0 if they are others. */
static int match(const struct command *c, char **args, int nargs)
{
    const char *second = strchr(c->words, ' ');
    size_t len = second ? (size_t)(second - c->words) : strlen(c->words);
    if (nargs < 1 || strlen(args[0]) != len || strncmp(args[0], c->words, len) != 0)
        return 0;
    if (!second)
        return 1;
    return nargs >= 2 && strcmp(args[1], second + 1) == 0 ? 2 : 0;
}

static int fail_unknown(const struct cli *cli, char **args, int nargs)
{
    if (!nargs && !cli->json) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (!nargs)
        return cli_wrong(cli, "no command is given; see vdisk --help");
    size_t len = strlen(args[0]);
    for (size_t i = 0; i < VD_ARRAY_SIZE(commands); i++) {
        const char *words = commands[i].words;
        if (strncmp(words, args[0], len) != 0 || words[len] != ' ')
            continue;
        return nargs > 1
                   ? cli_wrong(cli, "%s %s: no such command; see vdisk --help", args[0], args[1])
                   : cli_wrong(cli,
                               "%s: a second word is missing, such as \"%s\"; see vdisk --help",
                               args[0], words);
    }
    return cli_wrong(cli, "%s: no such command; see vdisk --help", args[0]);
}

static int run(struct cli *cli, char **args, int nargs)
{
    for (size_t i = 0; i < VD_ARRAY_SIZE(commands); i++) {
        const struct command *c = &commands[i];
        int words = match(c, args, nargs);
        if (!words)
            continue;
        cli->command = c->words;
        cli->usage = c->usage;
        cli->args = args + words;
        cli->nargs = nargs - words;
        if (!c->run)
            return cli_fail(cli, c->words, "not available in this version");
        /* who has options of its own looks at them itself */
        if (!strstr(c->usage, "--") && !cli_args_fit(cli, 0, INT_MAX))
            return cli_usage_error(cli);
        return c->run(cli);
    }
    return fail_unknown(cli, args, nargs);
}

/* Also of an option that comes first and is wrong. */
static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

/* Our options may stand anywhere before --; what else begins with a dash is for the command. Moves what is
 * not ours to the front of ARGV and returns how much that is, or -1 - status to end with. */
static int parse(struct cli *cli, int argc, char **argv)
{
    int n = 0;
    bool plain = false;
    cli->json = wants_json(argc, argv);
    for (int i = 1; i < argc; i++) {
        char *a = argv[i];
        const char **dir = NULL;
        if (plain) {
            argv[n++] = a;
            cli->nplain++;
        } else if (strcmp(a, "--") == 0) {
            plain = true;
        } else if (a[0] != '-') {
            argv[n++] = a;
        } else if (strcmp(a, "--json") == 0) {
            continue;
        } else if (strcmp(a, "--bytes") == 0) {
            cli->bytes = true;
        } else if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
            print_help(stdout);
            return -1 - CLI_DONE;
        } else if (strcmp(a, "--version") == 0) {
            printf("vdisk %s\n", VD_VERSION);
            return -1 - CLI_DONE;
        } else if (strncmp(a, "--meta", 6) == 0 && (a[6] == '=' || !a[6])) {
            dir = &cli->meta_dir;
        } else if (strncmp(a, "--cache", 7) == 0 && (a[7] == '=' || !a[7])) {
            dir = &cli->cache_dir;
        } else if (strncmp(a, "--source", 8) == 0 && (a[8] == '=' || !a[8])) {
            dir = &cli->source_dir;
        } else if (strncmp(a, "--filter-dir", 12) == 0 && (a[12] == '=' || !a[12])) {
            dir = &cli->filter_dir;
        } else if (n > 0) {
            argv[n++] = a; /* the command says what it thinks of it */
        } else {
            return -1 - cli_wrong(cli, "%s: no such option; see vdisk --help", a);
        }
        if (!dir)
            continue;
        const char *eq = strchr(a, '=');
        *dir = eq ? eq + 1 : i + 1 < argc ? argv[++i] : "";
        if (!**dir) {
            return -1 - cli_wrong(cli, "%s: needs a directory", a);
        }
    }
    return n;
}

int main(int argc, char **argv)
{
    struct cli cli = {.command = "COMMAND", .usage = "ARGS"};
    vd_log_init("vdisk", VD_LOG_WARNING);
    signal(SIGPIPE, SIG_DFL);
    setlocale(LC_CTYPE, ""); /* tables print names as they are; order and numbers stay C's */
    int n = parse(&cli, argc, argv);
    return n < 0 ? -1 - n : run(&cli, argv, n);
}
