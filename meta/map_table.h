// SPDX-License-Identifier: Apache-2.0
/*
 * The table of a map: a head, pages of extents, a list of layers, an index of pages. Written once,
 * in that order but for the head, and never changed. The file has exactly the length that its head
 * says.
 *
 * A page's checksum covers its number, the map's ID and the table's salt, so a page of another
 * place, map or table does not verify. Extents are sorted, do not overlap, and name a layer by its
 * place in the list or are VD_MAP_ZERO; one that is longer than a u32 can say is several.
 */
#ifndef VD__MAP_TABLE_H
#define VD__MAP_TABLE_H

#include <stdatomic.h>

#include "vd_map.h"

#define VD__MAPTAB_PAGE_LEN 4096u
#define VD__MAPTAB_PAGE_WORDS (VD__MAPTAB_PAGE_LEN / 8)
#define VD__MAPTAB_PAGE_EXTENTS 255u
#define VD__MAPTAB_FROZEN 1u /* flag: baked or merged; the others are a live map's */
#define VD__MAPTAB_LAYERS_MAX (VD_MAP_ZERO - 1u)

struct vd__extent {
    uint64_t first;
    uint64_t nblocks;
    uint32_t layer; /* or VD_MAP_ZERO */
};

struct vd__maptab_head {
    struct vd_id id;
    uint64_t salt;
    uint32_t flags, nlayers;
    uint64_t nextents, npages;
    uint64_t first_log; /* logs with smaller numbers are in the table */
    uint64_t size_bytes;
    uint32_t layers_crc, index_crc;
};

/* ---- codecs: pure ---- */

void vd__maptab_head_encode(const struct vd__maptab_head *h, uint8_t ret_buf[VD__MAPTAB_PAGE_LEN]);
/* The head of a file of FILE_LEN bytes; what it says fits in the file. 0, -EUCLEAN with RET_WHY (a
 * constant string). */
int vd__maptab_head_decode(const uint8_t buf[VD__MAPTAB_PAGE_LEN], uint64_t file_len,
                           struct vd__maptab_head *ret_h, const char **ret_why);
uint64_t vd__maptab_layers_off(const struct vd__maptab_head *h);
uint64_t vd__maptab_index_off(const struct vd__maptab_head *h);
uint64_t vd__maptab_file_len(const struct vd__maptab_head *h);

/* N is 1 to VD__MAPTAB_PAGE_EXTENTS. */
void vd__maptab_page_encode(const struct vd__maptab_head *h, uint64_t page,
                            const struct vd__extent *extents, unsigned n,
                            uint8_t ret_buf[VD__MAPTAB_PAGE_LEN]);
/* Everything that a lookup relies on: checksum, place, order, layers' numbers. 0, -EUCLEAN with
 * RET_WHY. */
int vd__maptab_page_verify(const struct vd__maptab_head *h, uint64_t page, const uint8_t *buf,
                           const char **ret_why);
unsigned vd__maptab_page_count(const uint8_t *buf);
struct vd__extent vd__maptab_page_extent(const uint8_t *buf, unsigned i);

/*
 * The extent that holds BLOCK in the WORDS of a page that was verified, else the gap: layer
 * VD_MAP_NONE up to the next extent, or up to LIMIT. Words that change meanwhile give a wrong
 * answer and no harm.
 */
struct vd__extent vd__maptab_page_search(const _Atomic uint64_t *words, uint64_t block,
                                         uint64_t limit);

/* ---- a table that is read ---- */

struct vd__maptab {
    int fd;
    struct vd__maptab_head head;
    struct vd_id *layers;
    uint64_t *index; /* first block of each page */
};

/* Reads head, layers and index of the table FD, which it takes over when it succeeds; it must be
 * ID's. 0; -EUCLEAN with RET_WHY (without the file's name); -ENOMEM; -errno. */
int vd__maptab_open(int fd, const struct vd_id *id, struct vd__maptab **ret_t,
                    char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
void vd__maptab_close(struct vd__maptab *t); /* NULL is allowed */
VD_DEFINE_CLEANUP(struct vd__maptab, vd__maptab_close)

/* Reads and verifies N pages from number PAGE on, also against the index. 0, -EUCLEAN with RET_WHY
 * (page and cause), -errno. */
int vd__maptab_read(const struct vd__maptab *t, uint64_t page, unsigned n, uint8_t *ret_buf,
                    char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
/* The page in which BLOCK would stand. False: it is before all extents; RET_LIMIT is the first
 * block of the page after. */
bool vd__maptab_locate(const struct vd__maptab *t, uint64_t block, uint64_t *ret_page,
                       uint64_t *ret_limit);

/* Extents in order, read in large pieces. */
struct vd__maptab_cursor {
    const struct vd__maptab *t;
    uint8_t *buf;
    uint64_t page; /* the next to be read */
    unsigned npages, at, i;
};
int vd__maptab_cursor_open(const struct vd__maptab *t,
                           struct vd__maptab_cursor *ret_c) VD_WARN_UNUSED;
/* 1: RET_E; 0: there are no more; -EUCLEAN with RET_WHY, -errno. */
int vd__maptab_cursor_next(struct vd__maptab_cursor *c, struct vd__extent *ret_e,
                           char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
void vd__maptab_cursor_close(struct vd__maptab_cursor *c); /* also one that is all zero */

/* ---- a table that is written ---- */

struct vd__maptab_writer;

/* Writes a table into the empty file FD (borrowed) with ID, flags, first log and size of HEAD. 0,
 * -ENOMEM, -errno. */
int vd__maptab_writer_new(int fd, const struct vd__maptab_head *head,
                          struct vd__maptab_writer **ret_w) VD_WARN_UNUSED;
/* In order, without overlap; what touches the one before and is of its layer is joined to it. 0,
 * -errno. */
int vd__maptab_add(struct vd__maptab_writer *w, uint64_t first, uint64_t nblocks,
                   uint32_t layer) VD_WARN_UNUSED;
/* Writes what is left and the head; not synced. LAYERS is the list that the extents' numbers mean.
 * */
int vd__maptab_finish(struct vd__maptab_writer *w, const struct vd_id *layers,
                      uint32_t nlayers) VD_WARN_UNUSED;
uint64_t vd__maptab_written(const struct vd__maptab_writer *w); /* extents so far */
void vd__maptab_writer_free(struct vd__maptab_writer *w);
VD_DEFINE_CLEANUP(struct vd__maptab_writer, vd__maptab_writer_free)

#endif
