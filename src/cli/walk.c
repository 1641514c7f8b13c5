// SPDX-License-Identifier: Apache-2.0
/* The tree of a source, in order of names. Symbolic links are not followed, other mounts of ours in
 * it are not entered: what they show is listed where it is. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>

#include "cli.h"

#define FUSE_MAGIC 0x65735546
#define DEPTH_MAX 256

struct walk {
    struct cli_place *place;
    int (*fn)(void *user, const char *rel);
    void *user;
    unsigned depth;
    char rel[PATH_MAX];
};

static int walk_dir(struct walk *w, int dirfd, size_t len, bool root);

static int names_only(const struct dirent *e)
{
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int unseen(struct walk *w, const char *rel)
{
    cli_warn(rel, "%s", strerror(errno));
    w->place->unseen++;
    return 0;
}

/* Takes FD over. A file system in user space below a source is a mount of ours more often than not;
 * it may hang, and what it shows is in some source. */
static int walk_below(struct walk *w, int fd, size_t len, dev_t parent)
{
    struct stat st;
    struct statfs fs;
    int r = 0;
    if (w->depth < DEPTH_MAX && fstat(fd, &st) == 0 &&
        (st.st_dev == parent || (fstatfs(fd, &fs) == 0 && fs.f_type != FUSE_MAGIC))) {
        w->depth++;
        r = walk_dir(w, fd, len, false);
        w->depth--;
    } else {
        w->place->unseen++;
    }
    close(fd);
    return r;
}

static int visit(struct walk *w, int dirfd, const char *name, size_t len, dev_t dev)
{
    int n = snprintf(w->rel + len, sizeof(w->rel) - len, "%s%s", len ? "/" : "", name);
    struct stat st;
    if (n < 0 || (size_t)n >= sizeof(w->rel) - len) {
        w->place->unseen++;
        return 0;
    }
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : unseen(w, w->rel);
    if (S_ISREG(st.st_mode))
        return w->fn(w->user, w->rel);
    if (!S_ISDIR(st.st_mode))
        return 0;
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0)
        return walk_below(w, fd, len + (size_t)n, dev);
    return unseen(w, w->rel);
}

static int walk_dir(struct walk *w, int dirfd, size_t len, bool root)
{
    struct stat st;
    struct dirent **names;
    int n = fstat(dirfd, &st) < 0 ? -1 : scandirat(dirfd, ".", &names, names_only, by_name);
    if (n < 0)
        return unseen(w, len ? w->rel : ".");
    int r = 0;
    for (int i = 0; i < n; i++) {
        if (r == 0 && !(root && strcmp(names[i]->d_name, VD_META_FOLDER) == 0))
            r = visit(w, dirfd, names[i]->d_name, len, st.st_dev);
        free(names[i]);
    }
    free(names);
    w->rel[len] = '\0';
    return r;
}

int cli_walk(struct cli_place *p, const char *rel, int (*fn)(void *user, const char *rel),
             void *user)
{
    struct walk *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->place = p;
    w->fn = fn;
    w->user = user;
    snprintf(w->rel, sizeof(w->rel), "%s", rel);
    vd_cleanup_close int fd =
        openat(p->source_fd, *rel ? rel : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r;
    if (fd >= 0)
        r = walk_dir(w, fd, strlen(rel), !*rel);
    else
        r = errno == ENOTDIR ? fn(user, rel) : -errno;
    free(w);
    return r;
}
