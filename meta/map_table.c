// SPDX-License-Identifier: Apache-2.0
/* Reading a map's table. Head, layers and index are in memory; pages are read when they are asked
 * for, and verified each time. */
#include "map_table.h"

#include <sys/stat.h>

#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"

#define CURSOR_PAGES 64u

static int damaged(char *why, const char *what)
{
    snprintf(why, VD_META_WHY, "%s", what);
    return -EUCLEAN;
}

/* LEN bytes at OFF, which the file's length says are there. */
static int read_part(int fd, void *buf, size_t len, uint64_t off)
{
    ssize_t n = vd_pread_full(fd, buf, len, (off_t)off);
    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : -EUCLEAN;
}

static int read_head(struct vd__maptab *t, const struct vd_id *id, char *why)
{
    struct stat st;
    uint8_t buf[VD__MAPTAB_PAGE_LEN];
    const char *what;
    if (fstat(t->fd, &st) < 0)
        return -errno;
    int r = read_part(t->fd, buf, sizeof(buf), 0);
    if (r == -EUCLEAN)
        return damaged(why, "shorter than its head");
    if (r < 0)
        return r;
    if (vd__maptab_head_decode(buf, (uint64_t)st.st_size, &t->head, &what) < 0)
        return damaged(why, what);
    return vd_id_eq(&t->head.id, id) ? 0 : damaged(why, "it is another map's");
}

static int read_layers(struct vd__maptab *t, char *why)
{
    size_t len = (size_t)t->head.nlayers * sizeof(*t->layers);
    t->layers = malloc(len + 1);
    if (!t->layers)
        return -ENOMEM;
    int r = read_part(t->fd, t->layers, len, vd__maptab_layers_off(&t->head));
    if (r == 0 && vd_crc32c(0, t->layers, len) != t->head.layers_crc)
        r = -EUCLEAN;
    return r == -EUCLEAN ? damaged(why, "its list of layers is damaged") : r;
}

static int read_index(struct vd__maptab *t, char *why)
{
    size_t len = t->head.npages * sizeof(*t->index);
    t->index = malloc(len + 1);
    if (!t->index)
        return -ENOMEM;
    int r = read_part(t->fd, t->index, len, vd__maptab_index_off(&t->head));
    if (r == 0 && vd_crc32c(0, t->index, len) != t->head.index_crc)
        r = -EUCLEAN;
    for (uint64_t i = 0; r == 0 && i < t->head.npages; i++) {
        t->index[i] = le64toh(t->index[i]);
        if (i > 0 && t->index[i] <= t->index[i - 1])
            r = -EUCLEAN;
    }
    return r == -EUCLEAN ? damaged(why, "its index of pages is damaged") : r;
}

int vd__maptab_open(int fd, const struct vd_id *id, struct vd__maptab **ret_t,
                    char ret_why[VD_META_WHY])
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->fd = fd;
    int r = read_head(t, id, ret_why);
    if (r == 0)
        r = read_layers(t, ret_why);
    if (r == 0)
        r = read_index(t, ret_why);
    if (r < 0) {
        t->fd = -1; /* the caller's */
        return r;
    }
    *ret_t = vd_steal_ptr(t);
    return 0;
}

void vd__maptab_close(struct vd__maptab *t)
{
    if (!t)
        return;
    vd_close_p(&t->fd);
    free(t->layers);
    free(t->index);
    free(t);
}

bool vd__maptab_locate(const struct vd__maptab *t, uint64_t block, uint64_t *ret_page,
                       uint64_t *ret_limit)
{
    const uint64_t *base = t->index;
    uint64_t n = t->head.npages;
    if (n == 0 || block < base[0]) {
        *ret_limit = n ? base[0] : VD_MAP_BLOCKS_MAX;
        return false;
    }
    while (n > 1) { /* base[0] <= BLOCK; without a branch to guess wrong */
        uint64_t half = n / 2;
        base = base[half] <= block ? base + half : base;
        n -= half;
    }
    *ret_page = (uint64_t)(base - t->index);
    *ret_limit = *ret_page + 1 < t->head.npages ? base[1] : VD_MAP_BLOCKS_MAX;
    return true;
}

/* A page that verifies alone must also stand where the index says. */
static int check_page(const struct vd__maptab *t, uint64_t page, const uint8_t *buf, char *why)
{
    const char *what;
    int r = vd__maptab_page_verify(&t->head, page, buf, &what);
    if (r == 0) {
        unsigned n = vd__maptab_page_count(buf);
        struct vd__extent a = vd__maptab_page_extent(buf, 0);
        struct vd__extent z = vd__maptab_page_extent(buf, n - 1);
        bool last = page + 1 == t->head.npages;
        what = "not what the index says";
        if (a.first != t->index[page] || (!last && z.first + z.nblocks > t->index[page + 1]))
            r = -EUCLEAN;
    }
    if (r < 0)
        snprintf(why, VD_META_WHY, "page %llu: %s", (unsigned long long)page, what);
    return r;
}

int vd__maptab_read(const struct vd__maptab *t, uint64_t page, unsigned n, uint8_t *ret_buf,
                    char ret_why[VD_META_WHY])
{
    int r = read_part(t->fd, ret_buf, (size_t)n * VD__MAPTAB_PAGE_LEN,
                      (1 + page) * VD__MAPTAB_PAGE_LEN);
    if (r == -EUCLEAN)
        return damaged(ret_why, "it has been cut short");
    for (unsigned i = 0; r == 0 && i < n; i++)
        r = check_page(t, page + i, ret_buf + (size_t)i * VD__MAPTAB_PAGE_LEN, ret_why);
    return r;
}

/* ---- cursor ---- */

int vd__maptab_cursor_open(const struct vd__maptab *t, struct vd__maptab_cursor *ret_c)
{
    uint8_t *buf = malloc((size_t)CURSOR_PAGES * VD__MAPTAB_PAGE_LEN);
    if (!buf)
        return -ENOMEM;
    *ret_c = (struct vd__maptab_cursor){.t = t, .buf = buf};
    return 0;
}

void vd__maptab_cursor_close(struct vd__maptab_cursor *c)
{
    free(c->buf);
    c->buf = NULL;
}

int vd__maptab_cursor_next(struct vd__maptab_cursor *c, struct vd__extent *ret_e,
                           char ret_why[VD_META_WHY])
{
    if (c->at == c->npages) {
        uint64_t left = c->t->head.npages - c->page;
        if (left == 0)
            return 0;
        c->npages = (unsigned)vd_min(left, (uint64_t)CURSOR_PAGES);
        c->at = c->i = 0;
        int r = vd__maptab_read(c->t, c->page, c->npages, c->buf, ret_why);
        if (r < 0) {
            c->npages = 0;
            return r;
        }
        c->page += c->npages;
    }
    const uint8_t *page = c->buf + (size_t)c->at * VD__MAPTAB_PAGE_LEN;
    *ret_e = vd__maptab_page_extent(page, c->i);
    if (++c->i == vd__maptab_page_count(page)) {
        c->i = 0;
        c->at++;
    }
    return 1;
}
