// SPDX-License-Identifier: Apache-2.0
/* Writing a map's table: pages in large pieces as extents come, then the lists, then the head. The
 * file has a temporary name meanwhile, so one that was cut off is never read. */
#include "map_table.h"

#include <sys/random.h>

#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"

#define OUT_PAGES 64u
#define NBLOCKS_MAX (1u << 31) /* of one extent in the file */

struct vd__maptab_writer {
    int fd;
    struct vd__maptab_head head;
    struct vd__extent last; /* may still be joined; nblocks 0: none */
    struct vd__extent page[VD__MAPTAB_PAGE_EXTENTS];
    unsigned npage;
    uint8_t *out; /* pages that are not written */
    unsigned nout;
    uint64_t *index; /* little-endian, as it will be written */
    uint64_t index_room;
};

int vd__maptab_writer_new(int fd, const struct vd__maptab_head *head,
                          struct vd__maptab_writer **ret_w)
{
    vd_cleanup(vd__maptab_writer_free_p) struct vd__maptab_writer *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->fd = fd;
    w->head = (struct vd__maptab_head){
        .id = head->id,
        .flags = head->flags,
        .first_log = head->first_log,
        .size_bytes = head->size_bytes,
    };
    w->out = malloc((size_t)OUT_PAGES * VD__MAPTAB_PAGE_LEN);
    if (!w->out)
        return -ENOMEM;
    if (getrandom(&w->head.salt, sizeof(w->head.salt), 0) != sizeof(w->head.salt))
        return -EIO;
    *ret_w = vd_steal_ptr(w);
    return 0;
}

void vd__maptab_writer_free(struct vd__maptab_writer *w)
{
    if (!w)
        return;
    free(w->out);
    free(w->index);
    free(w);
}

uint64_t vd__maptab_written(const struct vd__maptab_writer *w)
{
    return w->head.nextents;
}

static int flush_out(struct vd__maptab_writer *w)
{
    uint64_t page = w->head.npages - w->nout;
    int r = vd_pwrite_full(w->fd, w->out, (size_t)w->nout * VD__MAPTAB_PAGE_LEN,
                           (off_t)((1 + page) * VD__MAPTAB_PAGE_LEN));
    w->nout = 0;
    return r;
}

static int flush_page(struct vd__maptab_writer *w)
{
    struct vd__maptab_head *h = &w->head;
    if (w->npage == 0)
        return 0;
    if (h->npages == w->index_room) {
        uint64_t room = vd_max(2 * w->index_room, 64ull);
        uint64_t *index = reallocarray(w->index, room, sizeof(*index));
        if (!index)
            return -ENOMEM;
        w->index = index;
        w->index_room = room;
    }
    w->index[h->npages] = htole64(w->page[0].first);
    vd__maptab_page_encode(h, h->npages, w->page, w->npage,
                           w->out + (size_t)w->nout * VD__MAPTAB_PAGE_LEN);
    h->npages++;
    w->npage = 0;
    return ++w->nout == OUT_PAGES ? flush_out(w) : 0;
}

/* Puts the last extent into the page, in pieces that fit. */
static int flush_last(struct vd__maptab_writer *w)
{
    while (w->last.nblocks > 0) {
        uint64_t n = vd_min(w->last.nblocks, (uint64_t)NBLOCKS_MAX);
        w->page[w->npage++] = (struct vd__extent){w->last.first, n, w->last.layer};
        w->head.nextents++;
        w->last.first += n;
        w->last.nblocks -= n;
        int r = w->npage == VD__MAPTAB_PAGE_EXTENTS ? flush_page(w) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

int vd__maptab_add(struct vd__maptab_writer *w, uint64_t first, uint64_t nblocks, uint32_t layer)
{
    struct vd__extent *e = &w->last;
    if (e->nblocks > 0 && e->layer == layer && e->first + e->nblocks == first) {
        e->nblocks += nblocks;
        return 0;
    }
    int r = flush_last(w);
    w->last = (struct vd__extent){first, nblocks, layer};
    return r;
}

int vd__maptab_finish(struct vd__maptab_writer *w, const struct vd_id *layers, uint32_t nlayers)
{
    struct vd__maptab_head *h = &w->head;
    uint8_t buf[VD__MAPTAB_PAGE_LEN];
    int r = flush_last(w);
    if (r == 0)
        r = flush_page(w);
    if (r == 0)
        r = flush_out(w);
    if (r < 0)
        return r;
    size_t layers_len = (size_t)nlayers * sizeof(*layers), index_len = h->npages * 8;
    h->nlayers = nlayers;
    h->layers_crc = vd_crc32c(0, layers, layers_len);
    h->index_crc = vd_crc32c(0, w->index, index_len);
    vd__maptab_head_encode(h, buf);
    r = vd_pwrite_full(w->fd, layers, layers_len, (off_t)vd__maptab_layers_off(h));
    if (r == 0)
        r = vd_pwrite_full(w->fd, w->index, index_len, (off_t)vd__maptab_index_off(h));
    return r < 0 ? r : vd_pwrite_full(w->fd, buf, sizeof(buf), 0);
}
