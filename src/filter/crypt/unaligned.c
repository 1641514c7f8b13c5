// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that do not cover whole sectors. To read one takes the sectors around it; to change one, to read its first
 * and last sector, to decrypt, change and encrypt them, and to write them back whole. The caller holds the range of all
 * these sectors, exclusively for a change: so nobody's bytes in them are lost, and nobody reads a sector that is
 * half written.
 *
 * What lies behind the end of the disk reads as zeroes here. A write that ends within a sector behind the end so makes the
 * disk as long as that sector, with zeroes after the guest's bytes: a disk is always a number of whole sectors.
 */
#include "crypt.h"

#include <errno.h>
#include <string.h>

/* The sector at OFFSET, as it lies on the disk: zeroes behind its end. */
static int read_raw(struct crypt *c, uint64_t offset, uint8_t *sector)
{
    int64_t n = vd_filter_read(c->disk, sector, offset, c->sector);
    if (n < 0)
        return (int)n;
    if (n != 0 && (uint64_t)n != c->sector)
        return crypt_fault(c, -EIO, "the disk ends within a sector");
    if (n == 0)
        memset(sector, 0, c->sector);
    return 0;
}

static int decrypt(struct crypt *c, uint64_t offset, void *data, size_t len)
{
    int r = xts_decrypt(c->xts, offset, data, len);
    return r < 0 ? crypt_fault(c, r, "libcrypto cannot decrypt") : 0;
}

static int encrypt(struct crypt *c, uint64_t offset, void *data, size_t len)
{
    int r = xts_encrypt(c->xts, offset, data, data, len);
    return r < 0 ? crypt_fault(c, r, "libcrypto cannot encrypt") : 0;
}

static int write_all(struct crypt *c, uint64_t offset, const void *data, uint64_t len)
{
    int64_t n = vd_filter_write(c->disk, data, offset, len);
    if (n < 0)
        return (int)n;
    return (uint64_t)n == len ? 0 : -EIO;
}

static int read_around(struct crypt *c, struct vd_filter_request *rq)
{
    uint64_t first = crypt_down(c, rq->offset), head = rq->offset - first;
    uint64_t len = crypt_up(c, rq->offset + rq->length) - first;
    uint8_t *buf = vd_filter_alloc(c->disk, rq, len);
    if (!buf)
        return -ENOMEM;
    int64_t n = vd_filter_read(c->disk, buf, first, len);
    if (n < 0)
        return (int)n;
    if ((uint64_t)n % c->sector)
        return crypt_fault(c, -EIO, "the disk ends within a sector");
    int r = decrypt(c, first, buf, (size_t)n);
    if (r < 0)
        return r;
    uint64_t there = (uint64_t)n > head ? (uint64_t)n - head : 0;
    rq->data = buf + head;
    rq->result = (int64_t)(there < rq->length ? there : rq->length);
    return VD_FILTER_COMPLETE;
}

static int write_around(struct crypt *c, struct vd_filter_request *rq)
{
    uint64_t first = crypt_down(c, rq->offset), head = rq->offset - first;
    uint64_t end = rq->offset + rq->length, len = crypt_up(c, end) - first;
    uint64_t last =
        crypt_down(c, end) - first; /* of the sector with the tail; len if there is none */
    uint8_t *buf = vd_filter_alloc(c->disk, rq, len);
    int r = buf ? 0 : -ENOMEM;
    if (r == 0 && head) {
        r = read_raw(c, first, buf);
        if (r == 0)
            r = decrypt(c, first, buf, c->sector);
    }
    if (r == 0 && last != len && !(head && last == 0)) {
        r = read_raw(c, first + last, buf + last);
        if (r == 0)
            r = decrypt(c, first + last, buf + last, c->sector);
    }
    if (r < 0)
        return r;
    memcpy(buf + head, rq->data, rq->length);
    r = encrypt(c, first, buf, len);
    if (r == 0)
        r = write_all(c, first, buf, len);
    if (r < 0)
        return r;
    rq->result = (int64_t)rq->length;
    return VD_FILTER_COMPLETE;
}

/* Zeroes bytes FROM to END of the one sector that has them. A hole stays one. */
static int zero_within(struct crypt *c, uint8_t *buf, uint64_t from, uint64_t end)
{
    uint64_t first = crypt_down(c, from);
    int r = read_raw(c, first, buf);
    if (r < 0 || xts_is_hole(buf, c->sector))
        return r;
    r = decrypt(c, first, buf, c->sector);
    if (r < 0)
        return r;
    memset(buf + (from - first), 0, end - from);
    r = encrypt(c, first, buf, c->sector);
    return r < 0 ? r : write_all(c, first, buf, c->sector);
}

/* The edges are rewritten; whole sectors between them become holes. */
static int zero_around(struct crypt *c, struct vd_filter_request *rq)
{
    bool extend = rq->op == VD_FILTER_ZERO && rq->flags & VD_FILTER_EXTEND;
    uint64_t from = rq->offset, end = from + rq->length, size = vd_filter_disk_size(c->disk);
    if (!extend && end > size)
        end = size;
    rq->result = 0;
    if (end <= from)
        return VD_FILTER_COMPLETE;
    uint64_t first = crypt_up(c, from), last = crypt_down(c, end); /* whole sectors */
    uint8_t *buf = vd_filter_alloc(c->disk, rq, c->sector);
    int r = buf ? 0 : -ENOMEM;
    if (r == 0 && first != from)
        r = zero_within(c, buf, from, end < first ? end : first);
    if (r == 0 && last != end && last >= first)
        r = zero_within(c, buf, last, end);
    if (r == 0 && last > first)
        r = vd_filter_zero(c->disk, first, last - first, rq->op == VD_FILTER_DISCARD);
    /* The service does not extend: a hole that is written as its last sector does. */
    if (r == 0 && extend && vd_filter_disk_size(c->disk) < crypt_up(c, end)) {
        memset(buf, 0, c->sector);
        r = write_all(c, crypt_up(c, end) - c->sector, buf, c->sector);
    }
    return r < 0 ? r : VD_FILTER_COMPLETE;
}

int crypt_unaligned(struct crypt *c, struct vd_filter_request *rq)
{
    if (rq->op == VD_FILTER_READ) {
        atomic_fetch_add_explicit(&c->unaligned_reads, 1, memory_order_relaxed);
        return read_around(c, rq);
    }
    atomic_fetch_add_explicit(&c->unaligned_writes, 1, memory_order_relaxed);
    return rq->op == VD_FILTER_WRITE ? write_around(c, rq) : zero_around(c, rq);
}
