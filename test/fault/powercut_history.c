// SPDX-License-Identifier: Apache-2.0
/*
 * A history: its events in memory, and the file that they are appended to. The file is of this
 * machine and this build: a struct event as it lies in memory, names and data after it.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "powercut.h"

#define FILE_BUFFER (1u << 20)

static const char *const names[EV_TYPES] = {
    [EV_CREATE] = "create",     [EV_LINK] = "link",         [EV_UNLINK] = "unlink",
    [EV_RENAME] = "rename",     [EV_WRITE] = "write",       [EV_TRUNCATE] = "truncate",
    [EV_ALLOCATE] = "allocate", [EV_SETXATTR] = "setxattr", [EV_REMOVEXATTR] = "removexattr",
    [EV_ATTR] = "attr",         [EV_SYNC] = "sync",         [EV_SETTLE] = "settle",
    [EV_BASE] = "base",
};

const char *event_name(uint32_t type)
{
    return type < EV_TYPES && names[type] ? names[type] : "?";
}

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "powercut: no memory\n");
        abort();
    }
    return p;
}

static struct event *next(struct history *h)
{
    if (h->n == h->room) {
        h->room = h->room ? 2 * h->room : 1024;
        h->events = must(reallocarray(h->events, h->room, sizeof(*h->events)));
    }
    return &h->events[h->n++];
}

int history_new(const char *path, struct history **ret_h)
{
    struct history *h = must(calloc(1, sizeof(*h)));
    if (path) {
        h->out = fopen(path, "we");
        if (!h->out) {
            int err = errno;
            history_free(h);
            return -err;
        }
        setvbuf(h->out, NULL, _IOFBF, FILE_BUFFER);
    }
    *ret_h = h;
    return 0;
}

const struct event *history_append(struct history *h, const struct event *given)
{
    struct event *e = next(h);
    *e = *given;
    e->name_len = e->name ? (uint32_t)strlen(e->name) : 0;
    e->name2_len = e->name2 ? (uint32_t)strlen(e->name2) : 0;
    size_t len = e->name_len + 1 + e->name2_len + 1 + e->data_len;
    char *tail = must(malloc(len));
    memset(tail, 0, e->name_len + e->name2_len + 2);
    if (e->name)
        memcpy(tail, e->name, e->name_len);
    if (e->name2)
        memcpy(tail + e->name_len + 1, e->name2, e->name2_len);
    if (e->data_len)
        memcpy(tail + len - e->data_len, e->data, e->data_len);
    e->name = tail;
    e->name2 = tail + e->name_len + 1;
    e->data = (uint8_t *)tail + len - e->data_len;
    if (h->out) {
        fwrite(e, sizeof(*e), 1, h->out);
        fwrite(tail, len, 1, h->out);
    }
    return e;
}

/* The event at P, of at most LEFT bytes; how many it has, or 0. */
static size_t parse(const char *p, size_t left, struct event *ret_e)
{
    struct event e;
    if (left < sizeof(e))
        return 0;
    memcpy(&e, p, sizeof(e));
    size_t len = (size_t)e.name_len + e.name2_len + e.data_len + 2;
    if (e.type == 0 || e.type >= EV_TYPES || left - sizeof(e) < len)
        return 0;
    e.name = p + sizeof(e);
    e.name2 = e.name + e.name_len + 1;
    e.data = (const uint8_t *)e.name2 + e.name2_len + 1;
    *ret_e = e;
    return sizeof(e) + len;
}

int history_load(const char *path, struct history **ret_h)
{
    vd_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size == 0)
        return -EBADMSG;
    /* never unmapped: the events point into it, and the program ends with its one history */
    const char *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    struct history *h = must(calloc(1, sizeof(*h)));
    struct event e;
    for (size_t off = 0, n; (n = parse(p + off, (size_t)st.st_size - off, &e)) > 0; off += n)
        *next(h) = e;
    *ret_h = h;
    return 0;
}

int history_free(struct history *h)
{
    int r = 0;
    if (h->out) {
        bool bad = ferror(h->out);
        r = fclose(h->out) || bad ? -EIO : 0;
    }
    /* names and data go with the process */
    free(h->events);
    free(h);
    return r;
}
