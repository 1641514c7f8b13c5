// SPDX-License-Identifier: Apache-2.0
/*
 * Filters as files. A filter is code in this process, so whoever may write its file may be us: the file and the folder must be
 * nobody's to write but root's and ours. The file is opened once, looked at, and loaded through that descriptor, so what
 * was looked at is what is loaded. The descriptor stays open: the linker knows libraries by the name under which they were
 * opened, here /proc/self/fd/N. A library stays loaded: threads, or code of libc, may hold pointers into it.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <string.h>
#include <sys/stat.h>

#include "filter.h"

#define SUFFIX ".so"
/* Of the first header of ABI 1; later ones are larger. */
#define OPS_MIN_BYTES (offsetof(struct vd_filter_ops, status) + sizeof(void *))

static bool name_is_good(const char *name)
{
    size_t n = strnlen(name, VD_FILTER_NAME_MAX + 1);
    return n > 0 && n <= VD_FILTER_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static int refuse(int r, char why[VD_FILTER_WHY], const char *path, const char *what)
{
    snprintf(why, VD_FILTER_WHY, "%.200s: %.250s", path, what);
    return r;
}

/* Whose is it, and who may write it? */
static int check_owner(const struct stat *st, const char *path, char why[VD_FILTER_WHY])
{
    if (st->st_mode & S_IWOTH)
        return refuse(-EPERM, why, path, "everybody may write it; chmod o-w it");
    if (st->st_uid != 0 && st->st_uid != geteuid())
        return refuse(-EPERM, why, path, "it belongs to another user; chown it to root");
    return 0;
}

static int open_checked(const char *dir, const char *path, int *ret_fd, char why[VD_FILTER_WHY])
{
    struct stat st;
    if (stat(dir, &st) == 0 && check_owner(&st, dir, why) < 0)
        return -EPERM;
    vd_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT ? refuse(-ENOENT, why, path, "there is no such filter")
                               : refuse(-errno, why, path, strerror(errno));
    if (fstat(fd, &st) < 0)
        return refuse(-errno, why, path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return refuse(-EPERM, why, path, "it is no regular file");
    int r = check_owner(&st, path, why);
    if (r == 0)
        *ret_fd = vd_steal_fd(&fd);
    return r;
}

/* What dlerror says, without the name under which we opened it. */
static int refuse_dl(char why[VD_FILTER_WHY], const char *path)
{
    const char *e = dlerror(), *colon = e ? strstr(e, ": ") : NULL;
    if (e && strncmp(e, "/proc/self/fd/", 14) == 0 && colon)
        e = colon + 2;
    return refuse(-ENOEXEC, why, path, e ? e : "it cannot be loaded");
}

struct text_search {
    uintptr_t base;
    struct vd_upcall_text text;
};

static int find_text(struct dl_phdr_info *info, size_t size, void *user)
{
    struct text_search *s = user;
    if (info->dlpi_addr != s->base)
        return 0;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && p->p_flags & PF_X) {
            s->text.start = info->dlpi_addr + p->p_vaddr;
            s->text.end = s->text.start + p->p_memsz;
        }
    }
    return 1;
}

static int check_options(const struct vd_filter_ops *ops, unsigned *ret_n)
{
    unsigned n = 0;
    while (ops->options && n < VD__OPTIONS_MAX && ops->options[n].key) {
        if (!name_is_good(ops->options[n].key) || ops->options[n].type > VD_FILTER_CHOICE ||
            (ops->options[n].type == VD_FILTER_CHOICE && !ops->options[n].choices))
            return -EINVAL;
        n++;
    }
    *ret_n = n;
    return n == VD__OPTIONS_MAX ? -EINVAL : 0;
}

static int check_ops(const struct vd_filter_ops *ops, const char *name, const char *path,
                     unsigned *ret_noptions, char why[VD_FILTER_WHY])
{
    char text[VD_FILTER_WHY];
    if (ops->abi != VD_FILTER_ABI || ops->size < OPS_MIN_BYTES)
        return refuse(-ENOEXEC, why, path, "its struct vd_filter_ops is of another version");
    if (!ops->name || strcmp(ops->name, name) != 0) {
        snprintf(text, sizeof(text), "it calls itself \"%.40s\"; a filter has the name of its file",
                 ops->name ? ops->name : "");
        return refuse(-ENOEXEC, why, path, text);
    }
    if (ops->filter_class < VD_FILTER_CLASS_INSPECTION || ops->filter_class > VD_FILTER_CLASS_QUOTA)
        return refuse(-ENOEXEC, why, path, "it is of no known class");
    if (!ops->attach || !ops->detach || !ops->description)
        return refuse(-ENOEXEC, why, path, "it lacks attach, detach or a description");
    if (check_options(ops, ret_noptions) < 0)
        return refuse(-ENOEXEC, why, path, "its list of options is wrong");
    return 0;
}

static int load(const char *name, const char *path, int fd, struct vd__library *lib,
                char why[VD_FILTER_WHY])
{
    char proc[32], text[VD_FILTER_WHY];
    struct link_map *map;
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    void *dl = dlopen(proc, RTLD_NOW | RTLD_LOCAL);
    if (!dl)
        return refuse_dl(why, path);
    const uint32_t *abi = dlsym(dl, "vd_filter_abi");
    const struct vd_filter_ops *const *entry = dlsym(dl, "vd_filter_entry");
    int r = 0;
    if (!abi || !entry) {
        snprintf(text, sizeof(text), "it is no filter: it has no symbol %s",
                 abi ? "vd_filter_entry" : "vd_filter_abi");
        r = refuse(-ENOEXEC, why, path, text);
    } else if (*abi != VD_FILTER_ABI) {
        snprintf(
            text, sizeof(text),
            "it was built for version %u of the filter ABI; this program has %u: build it anew",
            *abi, VD_FILTER_ABI);
        r = refuse(-ENOEXEC, why, path, text);
    } else if (!*entry || dlinfo(dl, RTLD_DI_LINKMAP, &map) != 0) {
        r = refuse(-ENOEXEC, why, path, "it exports no filter");
    }
    if (r == 0)
        r = check_ops(*entry, name, path, &lib->noptions, why);
    if (r < 0) {
        dlclose(dl);
        return r;
    }
    struct text_search s = {.base = map->l_addr};
    dl_iterate_phdr(find_text, &s);
    lib->fd = fd;
    lib->ops = *entry;
    lib->text = s.text;
    snprintf(lib->name, sizeof(lib->name), "%s", name);
    return 0;
}

/* With fs->mu held. */
static struct vd__library *find(struct vd_filters *fs, const char *name)
{
    struct vd_list *it;
    vd_list_for_each (it, &fs->libraries) {
        struct vd__library *lib = vd_list_entry(it, struct vd__library, link);
        if (strcmp(lib->name, name) == 0)
            return lib;
    }
    return NULL;
}

int vd__library_get(struct vd_filters *fs, const char *name, struct vd__library **ret_lib,
                    char why[VD_FILTER_WHY])
{
    if (!name_is_good(name)) {
        snprintf(why, VD_FILTER_WHY,
                 "a filter's name has 1 to 31 lower-case letters, digits and dashes");
        return -EINVAL;
    }
    pthread_mutex_lock(&fs->mu); /* held while it is loaded: its constructors run once */
    struct vd__library *lib = find(fs, name);
    int r = 0;
    if (!lib) {
        char path[PATH_MAX];
        vd_cleanup_close int fd = -1;
        snprintf(path, sizeof(path), "%s/%s" SUFFIX, fs->dir, name);
        lib = calloc(1, sizeof(*lib));
        r = lib ? open_checked(fs->dir, path, &fd, why) : -ENOMEM;
        if (r == 0)
            r = load(name, path, fd, lib, why);
        if (r == 0) {
            (void)vd_steal_fd(&fd);
            vd_list_add_tail(&fs->libraries, &lib->link);
        } else {
            free(lib);
        }
    }
    pthread_mutex_unlock(&fs->mu);
    if (r == 0)
        *ret_lib = lib;
    return r;
}

/* ---- the folder ---- */

/* The program's own folder has `filters` where it stands in a build tree. */
static char *default_dir(void)
{
    char exe[PATH_MAX], *dir = NULL;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    if (n > 0) {
        exe[n] = '\0';
        char *slash = strrchr(exe, '/');
        if (slash)
            *slash = '\0';
        if (asprintf(&dir, "%s/build.ninja", exe) < 0)
            return NULL;
        bool build_tree = access(dir, F_OK) == 0;
        free(dir);
        dir = NULL;
        if (build_tree)
            return asprintf(&dir, "%s/filters", exe) < 0 ? NULL : dir;
    }
    return strdup(VD_FILTER_DIR);
}

int vd_filters_open(const char *dir, struct vd_filters **ret_fs)
{
    struct vd_filters *fs = aligned_alloc(64, vd_align_up(sizeof(*fs), 64));
    if (!fs)
        return -ENOMEM;
    memset(fs, 0, sizeof(*fs));
    vd_list_init(&fs->libraries);
    vd_list_init(&fs->disks);
    vd_list_init(&fs->left);
    pthread_mutex_init(&fs->mu, NULL);
    pthread_mutex_init(&fs->hold_mu, NULL);
    fs->dir = dir ? realpath(dir, NULL) : default_dir();
    if (!fs->dir && dir)
        fs->dir = strdup(dir);
    int r = fs->dir ? vd__timer_new(fs, &fs->timer) : -ENOMEM;
    if (r < 0)
        vd_filters_close(fs);
    else
        *ret_fs = fs;
    return r;
}

const char *vd_filters_dir(const struct vd_filters *fs)
{
    return fs->dir;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_library(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > strlen(SUFFIX) && strcmp(e->d_name + n - strlen(SUFFIX), SUFFIX) == 0;
}

static int tell(struct vd_filters *fs, const char *file,
                int (*fn)(void *user, const struct vd_filter_available *a), void *user)
{
    char name[NAME_MAX + 1], why[VD_FILTER_WHY] = "";
    struct vd__library *lib = NULL;
    snprintf(name, sizeof(name), "%.*s", (int)(strlen(file) - strlen(SUFFIX)), file);
    struct vd_filter_available a = {.name = name, .why = why};
    if (vd__library_get(fs, name, &lib, why) == 0)
        a.ops = lib->ops;
    return fn(user, &a);
}

int vd_filters_each(struct vd_filters *fs,
                    int (*fn)(void *user, const struct vd_filter_available *a), void *user)
{
    struct dirent **list;
    int n = scandir(fs->dir, &list, is_library, by_name), r = 0;
    if (n < 0)
        return errno == ENOENT ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        if (r == 0)
            r = tell(fs, list[i]->d_name, fn, user);
        free(list[i]);
    }
    free(list);
    return r;
}

int vd_filter_spec_complete(struct vd_filters *fs, struct vd_filter_spec *spec,
                            char why[VD_FILTER_WHY])
{
    struct vd__library *lib;
    struct vd__config *c = calloc(1, sizeof(*c));
    int r = c ? vd__library_get(fs, spec->name, &lib, why) : -ENOMEM;
    if (r == 0)
        r = vd__config_parse(lib->ops->options, spec->config, c, why);
    if (r == 0) {
        spec->filter_class = lib->ops->filter_class;
        spec->cloned = lib->ops->flags & VD_FILTER_CLONED;
        spec->required = c->has_required ? c->required : lib->ops->flags & VD_FILTER_REQUIRED;
        vd__config_clear(c);
    }
    free(c);
    return r;
}
