// SPDX-License-Identifier: Apache-2.0
/*
 * The slot table read from outside, for commands that look at a cache no process need have open.
 * Copies of records only: of a running cache each is true of some moment, and one that was being
 * changed is skipped.
 */
#include <fcntl.h>
#include <string.h>

#include "slots.h"
#include "vd_cache.h"
#include "vd_endian.h"
#include "vd_file.h"

struct scan {
    int slots_fd, data_fd;
    struct vd__slots_header h;
    uint32_t blocks;
};

struct record {
    struct vd_cache_key key;
    uint64_t slotno;
    uint32_t version, writes;
    uint32_t word[VD__SLOT_MAX_BLOCKS];
    bool any;
};

static void scan_close(struct scan *s)
{
    vd_close_p(&s->slots_fd);
    vd_close_p(&s->data_fd);
}

static int scan_open(const char *dir, struct scan *s)
{
    vd_cleanup_close int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return -errno;
    s->slots_fd = openat(dirfd, "slots", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (s->slots_fd < 0)
        return -errno;
    s->data_fd = openat(dirfd, "data", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint8_t buf[VD__SLOTS_HEADER_BYTES];
    ssize_t n = vd_pread_full(s->slots_fd, buf, sizeof(buf), 0);
    if (n < 0)
        return (int)n;
    if (n < (ssize_t)sizeof(buf) || vd__slots_header_decode(buf, &s->h) < 0 ||
        !vd__slots_header_valid(&s->h))
        return -EUCLEAN;
    if (buf[VD__SLOTS_SPOILED_OFF])
        s->h.nslots = 0; /* the next open will start empty */
    s->blocks = s->h.slot_bytes / VD_BLOCK_SIZE;
    return 0;
}

/* 1: a record with a valid block; 0: none in it; -ENODATA past the end of the file; -errno. */
static int read_record(const struct scan *s, uint32_t slot, struct record *ret_r)
{
    uint8_t buf[sizeof(struct vd__slot) + 4 * VD__SLOT_MAX_BLOCKS + 64];
    ssize_t n = vd_pread_full(s->slots_fd, buf, s->h.record_bytes,
                              (off_t)vd__slots_file_bytes(slot, s->h.record_bytes));
    if (n < 0)
        return (int)n;
    if (n < (ssize_t)s->h.record_bytes)
        return -ENODATA;
    memcpy(ret_r->key.disk_id.b, buf, 16);
    ret_r->key.generation = vd_get_le64(buf + offsetof(struct vd__slot, generation));
    ret_r->slotno = vd_get_le64(buf + offsetof(struct vd__slot, slotno));
    ret_r->version = vd_get_le32(buf + offsetof(struct vd__slot, version));
    ret_r->writes = vd_get_le32(buf + offsetof(struct vd__slot, writes));
    bool any = false;
    for (uint32_t i = 0; i < s->blocks; i++) {
        ret_r->word[i] = vd_get_le32(buf + offsetof(struct vd__slot, word) + 4 * (size_t)i);
        any |= ret_r->word[i] != 0;
    }
    return any && !(ret_r->version & 1) && !vd_id_is_zero(&ret_r->key.disk_id);
}

int vd_cache_scan(const char *dir,
                  int (*fn)(void *user, const struct vd_cache_key *key, uint64_t first_block,
                            const uint64_t *valid, uint32_t nblocks),
                  void *user)
{
    vd_cleanup(scan_close) struct scan s = {.slots_fd = -1, .data_fd = -1};
    int r = scan_open(dir, &s);
    for (uint32_t slot = 0; r == 0 && slot < s.h.nslots; slot++) {
        struct record rec;
        r = read_record(&s, slot, &rec);
        if (r == -ENODATA)
            return 0;
        if (r <= 0)
            continue;
        uint64_t valid[VD__SLOT_MAX_BLOCKS / 64] = {0};
        for (uint32_t i = 0; i < s.blocks; i++)
            if (rec.word[i])
                valid[i / 64] |= 1ull << (i % 64);
        r = fn(user, &rec.key, rec.slotno * s.blocks, valid, s.blocks);
    }
    return r;
}

/* Whether block I is as its word says; what has changed since is not called bad. */
static bool block_good(const struct scan *s, uint32_t slot, const struct record *rec, uint32_t i)
{
    uint8_t buf[VD_BLOCK_SIZE];
    off_t off = (off_t)((uint64_t)slot * s->h.slot_bytes + (uint64_t)i * VD_BLOCK_SIZE);
    ssize_t n = vd_pread_full(s->data_fd, buf, sizeof(buf), off);
    if (n == (ssize_t)sizeof(buf) &&
        vd__block_word(vd__block_seed(&rec->key), rec->slotno * s->blocks + i, buf) == rec->word[i])
        return true;
    struct record now;
    return read_record(s, slot, &now) <= 0 || now.version != rec->version ||
           now.writes != rec->writes || now.word[i] != rec->word[i];
}

int vd_cache_scan_verify(const char *dir, int (*report)(void *user, const char *what), void *user)
{
    vd_cleanup(scan_close) struct scan s = {.slots_fd = -1, .data_fd = -1};
    int r = scan_open(dir, &s);
    int nbad = 0;
    for (uint32_t slot = 0; r == 0 && slot < s.h.nslots; slot++) {
        struct record rec;
        r = read_record(&s, slot, &rec);
        if (r == -ENODATA)
            return nbad;
        if (r < 0)
            return r;
        bool any = r > 0;
        r = 0;
        for (uint32_t i = 0; any && r == 0 && i < s.blocks; i++) {
            if (!rec.word[i] || block_good(&s, slot, &rec, i))
                continue;
            char id[VD_ID_HEX], what[200];
            vd_id_hex(&rec.key.disk_id, id);
            snprintf(what, sizeof(what),
                     "slot %u: bad checksum: disk %s generation %llu block %llu", slot, id,
                     (unsigned long long)rec.key.generation,
                     (unsigned long long)(rec.slotno * s.blocks + i));
            nbad++;
            r = report ? report(user, what) : 0;
        }
    }
    return r < 0 ? r : nbad;
}

int vd_cache_scan_blocks(const char *dir, const struct vd_cache_key *key,
                         int (*fn)(void *user, uint64_t block, const void *bytes), void *user)
{
    vd_cleanup(scan_close) struct scan s = {.slots_fd = -1, .data_fd = -1};
    int r = scan_open(dir, &s);
    for (uint32_t slot = 0; r == 0 && slot < s.h.nslots; slot++) {
        struct record rec;
        r = read_record(&s, slot, &rec);
        if (r == -ENODATA)
            return 0;
        if (r < 0)
            return r;
        bool wanted = r > 0 && vd_id_eq(&rec.key.disk_id, &key->disk_id) &&
                      rec.key.generation == key->generation;
        r = 0;
        for (uint32_t i = 0; wanted && r == 0 && i < s.blocks; i++) {
            uint8_t buf[VD_BLOCK_SIZE];
            uint64_t block = rec.slotno * s.blocks + i;
            off_t off = (off_t)((uint64_t)slot * s.h.slot_bytes + (uint64_t)i * VD_BLOCK_SIZE);
            /* The word covers key, number and bytes: what verifies is that block's, whatever
             * became of the slot since its record was read. */
            if (rec.word[i] &&
                vd_pread_full(s.data_fd, buf, sizeof(buf), off) == (ssize_t)sizeof(buf) &&
                vd__block_word(vd__block_seed(key), block, buf) == rec.word[i])
                r = fn(user, block, buf);
        }
    }
    return r;
}
