// SPDX-License-Identifier: Apache-2.0
/* vdisk doctor: what of this host, and of the mounts that run on it, stands in the way, and the
 * remedy. */
#include <dirent.h>
#include <dlfcn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "cli.h"
#include "doctor.h"
#include "vd_ctl.h"

static void look_at_fuse(struct doctor *doc)
{
    if (access("/dev/fuse", R_OK | W_OK) == 0)
        doctor_say(doc, DOCTOR_OK, NULL, "/dev/fuse can be opened");
    else if (errno == ENOENT)
        doctor_say(doc, DOCTOR_ERROR, "load the module: modprobe fuse",
                   "there is no /dev/fuse: nothing can be mounted");
    else
        doctor_say(doc, DOCTOR_ERROR, "let this user read and write /dev/fuse",
                   "/dev/fuse cannot be opened: %s", strerror(errno));
}

static void look_at_kernel(struct doctor *doc)
{
    struct utsname u;
    unsigned major_no = 0, minor_no = 0;
    if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major_no, &minor_no) != 2)
        return;
    if (major_no > 6 || (major_no == 6 && minor_no >= 2))
        doctor_say(doc, DOCTOR_OK, NULL, "kernel %s writes to one disk in parallel", u.release);
    else
        doctor_say(doc, DOCTOR_WARNING, "use kernel 6.2 or newer",
                   "kernel %s has one write to a disk under way at a time", u.release);
}

static void look_at_libfuse(struct doctor *doc)
{
    void *lib = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_LOCAL);
    if (!lib)
        lib = dlopen("libfuse3.so.4", RTLD_LAZY | RTLD_LOCAL);
    if (!lib) {
        doctor_say(doc, DOCTOR_ERROR, "install libfuse3", "libfuse 3 is not there");
        return;
    }
    /* POSIX lets a symbol's address be a function's; ISO C has no cast for it. */
    const char *(*version)(void) = NULL;
    *(void **)&version = dlsym(lib, "fuse_pkgversion");
    unsigned major_no = 0, minor_no = 0;
    const char *text = version ? version() : "unknown";
    if (sscanf(text, "%u.%u", &major_no, &minor_no) == 2 && major_no == 3 && minor_no < 10)
        doctor_say(doc, DOCTOR_ERROR, "install libfuse 3.10 or newer", "libfuse %s is too old",
                   text);
    else
        doctor_say(doc, DOCTOR_OK, NULL, "libfuse %s", text);
    dlclose(lib);
}

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char dirs[4096], full[4096 + 64];
    snprintf(dirs, sizeof(dirs), "%s", path ? path : "/usr/bin:/bin");
    for (char *save = NULL, *dir = strtok_r(dirs, ":", &save); dir;
         dir = strtok_r(NULL, ":", &save)) {
        snprintf(full, sizeof(full), "%s/%s", dir, program);
        if (access(full, X_OK) == 0)
            return true;
    }
    return false;
}

static bool fuse_conf_allows_other(void)
{
    vd_cleanup_fclose FILE *f = fopen("/etc/fuse.conf", "re");
    char line[256], word[64];
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, " %63s", word) == 1 && strcmp(word, "user_allow_other") == 0)
            return true;
    return false;
}

/* What only users other than root need. */
static void look_at_user(struct doctor *doc)
{
    if (geteuid() == 0)
        return;
    if (in_path("fusermount3"))
        doctor_say(doc, DOCTOR_OK, NULL, "fusermount3 is there: users may mount");
    else
        doctor_say(doc, DOCTOR_ERROR, "install the package fuse3",
                   "fusermount3 is not in PATH: only root may mount");
    if (fuse_conf_allows_other())
        doctor_say(doc, DOCTOR_OK, NULL, "mounts may be opened to other users (-o allow_other)");
    else
        doctor_say(doc, DOCTOR_NOTE, "put the line user_allow_other into /etc/fuse.conf",
                   "a QEMU that runs as another user cannot open your mounts");
}

static void look_at_rundir(struct doctor *doc)
{
    char dir[PATH_MAX];
    struct stat st;
    if (vd_ctl_rundir(dir, sizeof(dir)) < 0)
        doctor_say(doc, DOCTOR_ERROR, "set XDG_RUNTIME_DIR or VDISKFS_RUNDIR",
                   "there is no run directory for this user");
    else if (stat(dir, &st) < 0 && errno == ENOENT)
        doctor_say(doc, DOCTOR_OK, NULL, "run directory %s: the first mount makes it", dir);
    else if (stat(dir, &st) < 0)
        doctor_say(doc, DOCTOR_ERROR, "make it accessible", "run directory %s: %s", dir,
                   strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        doctor_say(doc, DOCTOR_ERROR, "move it away", "run directory %s is no directory", dir);
    else if (st.st_uid != geteuid())
        doctor_say(doc, DOCTOR_ERROR, "set VDISKFS_RUNDIR to a directory of your own",
                   "run directory %s belongs to another user", dir);
    else if (st.st_mode & (S_IWGRP | S_IWOTH))
        doctor_say(doc, DOCTOR_ERROR, "chmod 0700 it: no daemon starts there",
                   "run directory %s can be written by others", dir);
    else
        doctor_say(doc, DOCTOR_OK, NULL, "run directory %s", dir);
}

static void look_at_limits(struct doctor *doc)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    if (lim.rlim_max >= 65536)
        doctor_say(doc, DOCTOR_OK, NULL, "a process may open %llu files",
                   (unsigned long long)lim.rlim_max);
    else
        doctor_say(doc, DOCTOR_WARNING,
                   "raise the hard limit of open files (ulimit -Hn, LimitNOFILE=) to 65536",
                   "a process may open %llu files; a mount needs several for each open disk",
                   (unsigned long long)lim.rlim_max);
}

/* Folders in the run directory that no living daemon locks. */
static void look_at_dead(struct doctor *doc, size_t nliving)
{
    char dir[PATH_MAX];
    size_t n = 0;
    DIR *d = vd_ctl_rundir(dir, sizeof(dir)) == 0 ? opendir(dir) : NULL;
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        struct vd_id id;
        n += strlen(e->d_name) == VD_ID_HEX - 1 && vd_id_parse(e->d_name, &id) == 0;
    }
    closedir(d);
    if (n > nliving)
        doctor_say(doc, DOCTOR_NOTE, "nothing to do: the next mount clears up",
                   "%zu daemons died without cleaning up in %s", n - nliving, dir);
}

static int print_findings(const struct doctor *doc)
{
    static const struct cli_column columns[] = {{"LEVEL", false}, {"WHAT", false}, {"MEND", false}};
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    size_t i;
    json_t *f;
    json_array_foreach(doc->findings, i, f)
    {
        cli_table_row(t);
        cli_table_set(t, 0, json_string_value(json_object_get(f, "level")));
        cli_table_set(t, 1, json_string_value(json_object_get(f, "what")));
        cli_table_set(t, 2, json_string_value(json_object_get(f, "mend")));
    }
    return cli_table_print(t);
}

void doctor_say(struct doctor *doc, enum doctor_level level, const char *mend, const char *fmt, ...)
{
    static const char *const levels[] = {"ok", "note", "warning", "error"};
    char what[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    doc->errors += level == DOCTOR_ERROR;
    json_array_append_new(doc->findings,
                          json_pack("{s:s, s:o, s:o}", "level", levels[level], "what",
                                    vd_ctl_text(what), "mend", cli_text_json(mend)));
}

int cmd_doctor(struct cli *cli)
{
    if (cli->nargs > 1)
        return cli_usage_error(cli);
    struct doctor doc = {.findings = json_array()};
    struct cli_target t;
    if (cli->nargs == 1 && cli_resolve(cli, cli->args[0], &t) != 0)
        return CLI_FAILED;
    json_t *daemons = cli_daemons();
    look_at_fuse(&doc);
    look_at_kernel(&doc);
    look_at_libfuse(&doc);
    look_at_user(&doc);
    look_at_rundir(&doc);
    look_at_limits(&doc);
    look_at_dead(&doc, json_array_size(daemons));
    doctor_mounts(&doc, daemons);
    if (cli->nargs == 1) {
        doctor_place(&doc, t.place.source, t.place.cache_dir);
        cli_target_free(&t);
    } else {
        size_t i;
        json_t *info;
        json_array_foreach(daemons, i, info)
            doctor_place(&doc, json_string_value(json_object_get(info, "source")),
                         json_string_value(json_object_get(info, "cache")));
    }
    json_decref(daemons);
    int r = cli->json ? cli_print_json(json_pack("{s:o}", "findings", json_incref(doc.findings)))
                      : print_findings(&doc);
    json_decref(doc.findings);
    return r || doc.errors ? CLI_FAILED : CLI_DONE;
}
