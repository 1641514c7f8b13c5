// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
#include <stdarg.h>
#include <string.h>

#include "vd_session.h"
#include "vd_size.h"

enum key { KEY_HELP, KEY_VERSION, KEY_READ_ONLY };

/* What the parser stores: texts, checked afterwards. */
struct raw {
    struct vd_options *opt;
    char *cache_size, *cache_slot, *cache_mode, *own, *backing_direct;
    int direct_io, foreground, debug;
    bool read_only, help, version, wrong;
};

#define TEXT(name, field)                                                                          \
    {"--" name "=%s", offsetof(struct raw, field), 0},                                             \
    {                                                                                              \
        name "=%s", offsetof(struct raw, field), 0                                                 \
    }
#define FLAG(name, field)                                                                          \
    {"--" name, offsetof(struct raw, field), 1},                                                   \
    {                                                                                              \
        name, offsetof(struct raw, field), 1                                                       \
    }
/* These are stored by take_option, since they belong to the options that are handed out. */
#define OWN_TEXTS                                                                                  \
    X("cache", cache)                                                                              \
    X("cache-daemon", cache_daemon)                                                                \
    X("meta", meta)                                                                                \
    X("coordinator", coordinator)                                                                  \
    X("filter-dir", filter_dir)                                                                    \
    X("host-name", host_name)

static const struct fuse_opt specs[] = {
    TEXT("cache-size", cache_size),
    TEXT("cache-slot", cache_slot),
    TEXT("cache-mode", cache_mode),
    TEXT("own", own),
    TEXT("backing-direct", backing_direct),
    FLAG("direct-io", direct_io),
    {"-f", offsetof(struct raw, foreground), 1},
    {"-d", offsetof(struct raw, debug), 1},
    FUSE_OPT_KEY("--read-only", KEY_READ_ONLY),
    FUSE_OPT_KEY("read-only", KEY_READ_ONLY),
    FUSE_OPT_KEY("ro", KEY_READ_ONLY),
    FUSE_OPT_KEY("--help", KEY_HELP),
    FUSE_OPT_KEY("-h", KEY_HELP),
    FUSE_OPT_KEY("--version", KEY_VERSION),
    FUSE_OPT_KEY("-V", KEY_VERSION),
    /* What fstab says to mount(8) and not to us. */
    FUSE_OPT_KEY("rw", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("defaults", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("auto", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("noauto", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("user", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("nouser", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("users", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("owner", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("group", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("nofail", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("_netdev", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_END,
};

static void print_help(void)
{
    printf("usage: vdiskfs SOURCE MOUNTPOINT [options]\n\n"
           "Mounts the disks in the folder SOURCE at MOUNTPOINT, with a cache on local storage.\n\n"
           "  --cache=DIR             cache folder (default: one for this source below\n"
           "                          /var/cache/vdiskfs, or $XDG_CACHE_HOME/vdiskfs)\n"
           "  --cache-size=SIZE       its capacity (default: 10 %% of its file system)\n"
           "  --cache-slot=SIZE       4K to 1M, fixed when a cache is made (default: 64K)\n"
           "  --cache-mode=MODE       writethrough (default), writearound, off\n"
           "  --cache-daemon=SOCKET   use vdisk-cached (not in this version)\n"
           "  --meta=DIR              metadata elsewhere than SOURCE/.vdiskfs\n"
           "  --coordinator=URL       local (default), or etcd://... (not in this version)\n"
           "  --own=WHEN              own a disk at its first write (default) or at open\n"
           "  --filter-dir=DIR        where filters are\n"
           "  --threads=N             FUSE workers (default: %u here)\n"
           "  --direct-io             never use the kernel's page cache of the mount\n"
           "  --backing-direct=WHEN   yes, no, auto (default): O_DIRECT to the source\n"
           "  --host-name=NAME        this host in owner records\n"
           "  --read-only, -o ro      the mount refuses writes\n"
           "  -f                      stay in the foreground, log to stderr\n"
           "  -d                      log more\n"
           "  -o OPT[,OPT...]         any of the above without --, and options of FUSE\n"
           "  -h, --help  -V, --version\n",
           vd_session_default_threads());
}

static bool take_text(char **text, const char *value)
{
    free(*text);
    *text = strdup(value);
    return *text;
}

/* Options whose value is a text of ours: 1 taken, 0 not one of them, -1 no memory. */
static int take_own_text(struct vd_options *o, const char *arg)
{
    if (strncmp(arg, "--", 2) == 0)
        arg += 2;
    const char *value = strchr(arg, '=');
    if (!value)
        return 0;
    size_t n = (size_t)(value++ - arg);
#define X(name, field)                                                                             \
    if (n == strlen(name) && strncmp(arg, name, n) == 0)                                           \
        return take_text(&o->field, value) ? 1 : -1;
    OWN_TEXTS
#undef X
    return 0;
}

static int take_option(struct raw *raw, const char *arg)
{
    int r = take_own_text(raw->opt, arg);
    if (r != 0)
        return r < 0 ? -1 : 0;
    if (strncmp(arg, "threads=", 8) == 0 || strncmp(arg, "--threads=", 10) == 0) {
        char *end;
        unsigned long n = strtoul(strchr(arg, '=') + 1, &end, 10);
        raw->opt->threads = (unsigned)n;
        if (*end || n < 1 || n > 1024) {
            fprintf(stderr, "vdiskfs: %s: must be a number from 1 to 1024\n", arg);
            raw->wrong = true;
        }
        return 0;
    }
    if (strncmp(arg, "x-", 2) == 0 || strncmp(arg, "comment=", 8) == 0)
        return 0; /* for others who read fstab */
    if (strncmp(arg, "--", 2) == 0) {
        fprintf(stderr, "vdiskfs: %s: unknown option; vdiskfs --help lists them\n", arg);
        raw->wrong = true;
        return 0;
    }
    return 1; /* FUSE's */
}

static int take_arg(void *data, const char *arg, int key, struct fuse_args *out)
{
    struct raw *raw = data;

    switch (key) {
    case KEY_HELP:
        raw->help = true;
        return 0;
    case KEY_VERSION:
        raw->version = true;
        return 0;
    case KEY_READ_ONLY:
        raw->read_only = true;
        return 0;
    case FUSE_OPT_KEY_OPT:
        return take_option(raw, arg);
    case FUSE_OPT_KEY_NONOPT:
        if (!raw->opt->source)
            return take_text(&raw->opt->source, arg) ? 0 : -1;
        if (!raw->opt->mountpoint)
            return take_text(&raw->opt->mountpoint, arg) ? 0 : -1;
        fprintf(stderr, "vdiskfs: %s: more than a source and a mount point\n", arg);
        raw->wrong = true;
        return 0;
    default:
        return 1;
    }
}

/* Index of TEXT in NAMES, 0 where it was not given; what is not there is said. */
static int choose(struct raw *raw, const char *option, const char *text, const char *const *names)
{
    for (int i = 0; text && names[i]; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    if (text) {
        fprintf(stderr, "vdiskfs: --%s=%s: must be one of", option, text);
        for (int i = 0; names[i]; i++)
            fprintf(stderr, "%s %s", i ? "," : "", names[i]);
        fputc('\n', stderr);
        raw->wrong = true;
    }
    return 0;
}

static uint64_t size_of(struct raw *raw, const char *option, const char *text, uint64_t min,
                        uint64_t max)
{
    uint64_t bytes = 0;
    if (text && (vd_size_parse(text, &bytes) < 0 || bytes < min || bytes > max)) {
        char low[32], high[32];
        vd_size_print(min, low, sizeof(low));
        vd_size_print(max, high, sizeof(high));
        fprintf(stderr, "vdiskfs: --%s=%s: must be a size from %s to %s\n", option, text, low,
                high);
        raw->wrong = true;
    }
    return bytes;
}

static void check(struct raw *raw)
{
    static const char *const modes[] = {"writethrough", "writearound", "off", NULL};
    static const char *const owns[] = {"write", "open", NULL};
    static const char *const directs[] = {"auto", "yes", "no", NULL};
    struct vd_options *o = raw->opt;

    o->cache_mode = (enum vd_cache_mode)choose(raw, "cache-mode", raw->cache_mode, modes);
    o->own_at_open = choose(raw, "own", raw->own, owns) == 1;
    o->backing_direct = choose(raw, "backing-direct", raw->backing_direct, directs);
    o->cache_size_bytes = size_of(raw, "cache-size", raw->cache_size, 1u << 20, (uint64_t)1 << 60);
    o->cache_slot_bytes =
        (uint32_t)size_of(raw, "cache-slot", raw->cache_slot, VD_BLOCK_SIZE, VD_IO_MAX_BYTES);
    if (o->cache_slot_bytes && !vd_is_pow2(o->cache_slot_bytes)) {
        fprintf(stderr, "vdiskfs: --cache-slot=%s: must be a power of two\n", raw->cache_slot);
        raw->wrong = true;
    }
    if (o->cache_daemon) {
        fprintf(stderr, "vdiskfs: --cache-daemon: vdisk-cached is not available in this version; "
                        "leave the option out to cache in this process\n");
        raw->wrong = true;
    }
    if (o->coordinator && strcmp(o->coordinator, "local") != 0) {
        fprintf(stderr,
                strncmp(o->coordinator, "etcd://", 7) == 0
                    ? "vdiskfs: --coordinator=%s: etcd is not available in this version; `local` "
                      "serves any number of mounts on one host\n"
                    : "vdiskfs: --coordinator=%s: must be `local` or etcd://HOST:PORT/PREFIX\n",
                o->coordinator);
        raw->wrong = true;
    }
    if (!o->source || !o->mountpoint) {
        fprintf(stderr, "usage: vdiskfs SOURCE MOUNTPOINT [options]; vdiskfs --help lists them\n");
        raw->wrong = true;
    }
    o->direct_io = raw->direct_io;
    o->foreground = raw->foreground;
    o->debug = raw->debug;
    o->read_only = raw->read_only;
}

enum vd_options_result vd_options_parse(struct fuse_args *args, struct vd_options *ret_opt)
{
    struct raw raw = {.opt = ret_opt};
    enum vd_options_result result = VD_OPTIONS_RUN;

    *ret_opt = (struct vd_options){0};
    if (fuse_opt_parse(args, &raw, specs, take_arg) < 0) {
        result = VD_OPTIONS_WRONG;
    } else if (raw.help) {
        print_help();
        result = VD_OPTIONS_DONE;
    } else if (raw.version) {
        printf("vdiskfs %s\n", VD_VERSION);
        result = VD_OPTIONS_DONE;
    } else {
        if (!raw.wrong)
            check(&raw);
        if (raw.wrong)
            result = VD_OPTIONS_WRONG;
    }
    free(raw.cache_size);
    free(raw.cache_slot);
    free(raw.cache_mode);
    free(raw.own);
    free(raw.backing_direct);
    return result;
}

void vd_options_clear(struct vd_options *opt)
{
#define X(name, field) free(opt->field);
    OWN_TEXTS
#undef X
    free(opt->source);
    free(opt->mountpoint);
    *opt = (struct vd_options){0};
}
