// SPDX-License-Identifier: Apache-2.0
/* The measuring programs' side of the control socket; see ask.h. */
#include "ask.h"

#include <string.h>
#include <sys/stat.h>

#include "vd_time.h"

#define ASK_TIMEOUT_MS 600000u
#define WHY_LEN 512

struct search {
    const char *source;
    char *socket;
};

static int is_source(void *user, const char *socket_path, json_t *info)
{
    struct search *s = user;
    const char *source = json_string_value(json_object_get(info, "source"));
    if (!source || strcmp(source, s->source) != 0)
        return 0;
    snprintf(s->socket, PATH_MAX, "%s", socket_path);
    return 1;
}

static int find_socket(const char *source, char *ret_socket)
{
    char rundir[PATH_MAX];
    vd_cleanup_free char *real = realpath(source, NULL);
    if (!real)
        return -errno;
    struct search s = {.source = real, .socket = ret_socket};
    int r = vd_ctl_rundir(rundir, sizeof(rundir));
    if (r == 0)
        r = vd_ctl_each(rundir, is_source, &s);
    return r == 0 ? -ENOTCONN : vd_min(r, 0);
}

int bench_disk_find(const char *source, const char *path, struct bench_disk *ret_disk)
{
    char full[2 * PATH_MAX];
    struct stat st;
    int r = find_socket(source, ret_disk->socket);
    snprintf(full, sizeof(full), "%s/%s", source, path);
    if (r == 0 && stat(full, &st) < 0)
        r = -errno;
    if (r < 0) {
        fprintf(stderr, "%s/%s: no mount serves it: %s\n", source, path, strerror(-r));
        return r;
    }
    snprintf(ret_disk->path, sizeof(ret_disk->path), "%s", path);
    ret_disk->dev = st.st_dev;
    ret_disk->ino = st.st_ino;
    return 0;
}

int bench_ask(const struct bench_disk *disk, const char *command, const char *key,
              const char *value, uint64_t *ret_ns)
{
    char why[WHY_LEN] = "";
    json_t *ok = NULL;
    json_t *args = json_pack("{s:I, s:I, s:s}", "dev", (json_int_t)disk->dev, "ino",
                             (json_int_t)disk->ino, "path", disk->path);
    if (!args || (key && json_object_set_new(args, key, json_string(value)) < 0)) {
        json_decref(args);
        return -ENOMEM;
    }
    uint64_t start = vd_now_ns();
    int r = vd_ctl_call(disk->socket, command, args, ASK_TIMEOUT_MS, &ok, why, sizeof(why));
    if (ret_ns)
        *ret_ns = vd_now_ns() - start;
    if (r < 0)
        fprintf(stderr, "%s: %s %s: %s\n", disk->path, command, value ? value : "",
                *why ? why : strerror(-r));
    json_decref(ok);
    json_decref(args);
    return r;
}

static int by_length(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double ms(uint64_t ns)
{
    return (double)(ns / 1000) / 1000;
}

json_t *bench_spread(uint64_t *ns, size_t n)
{
    if (n == 0)
        return json_pack("{s:i}", "count", 0);
    qsort(ns, n, sizeof(*ns), by_length);
    return json_pack("{s:I, s:f, s:f, s:f}", "count", (json_int_t)n, "median", ms(ns[n / 2]), "p99",
                     ms(ns[n - 1 - (n - 1) / 100]), "worst", ms(ns[n - 1]));
}

int bench_print(json_t *o)
{
    int r = o ? json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) : -1;
    json_decref(o);
    putchar('\n');
    return r < 0 || fflush(stdout) != 0;
}
