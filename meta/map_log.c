// SPDX-License-Identifier: Apache-2.0
/* Reading and appending to a map's log; what to believe stands in map_log.h. */
#include "map_log.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "vd_file.h"

#define CHUNK_LEN (256u << 10)
#define ROOM_MIN 512u  /* slots: 16 KiB at first, so that a thousand small clones stay small */
#define ROOM_MAX 8192u /* 256 KiB at a time */
#define ROOM_SPARE 3u  /* for the marks after a change */

/* ---- reading ---- */

/* Where slot SLOT begins, and NSLOTS slots end. */
static uint64_t end_of(uint64_t nslots)
{
    return VD__MAPLOG_RECORDS_OFF + nslots * VD__MAPLOG_RECORD_LEN;
}

/* Calls FN for each slot of the file, what is left of the last one too (LEN < 32). */
static int each_slot(int fd, uint64_t nslots,
                     int (*fn)(void *user, uint64_t slot, const uint8_t *buf, size_t len),
                     void *user)
{
    vd_cleanup_free uint8_t *buf = malloc(CHUNK_LEN);
    if (!buf)
        return -ENOMEM;
    for (uint64_t slot = 0; slot < nslots;) {
        uint64_t left = (nslots - slot) * VD__MAPLOG_RECORD_LEN;
        ssize_t n = vd_pread_full(fd, buf, vd_min(left, (uint64_t)CHUNK_LEN), (off_t)end_of(slot));
        if (n <= 0)
            return (int)n;
        for (ssize_t at = 0; at < n; at += VD__MAPLOG_RECORD_LEN, slot++) {
            int r =
                fn(user, slot, buf + at, (size_t)vd_min(n - at, (ssize_t)VD__MAPLOG_RECORD_LEN));
            if (r != 0)
                return r;
        }
        if ((size_t)n < CHUNK_LEN)
            return 0;
    }
    return 0;
}

struct scanning {
    struct vd__maplog_scan s;
    enum vd_map_trust trust;
    bool torn;         /* there is a slot that is neither sound nor empty */
    uint64_t nsound;   /* every slot below verifies */
    uint64_t nchanges; /* behind the last record that is no mark */
    char *why;
};

static bool is_empty(const uint8_t *buf, size_t len)
{
    static const uint8_t zero[VD__MAPLOG_RECORD_LEN];
    return memcmp(buf, zero, len) == 0;
}

static int damaged(struct scanning *c, uint64_t slot, const char *what)
{
    snprintf(c->why, VD_META_WHY, "record %llu %s", (unsigned long long)slot, what);
    return -EUCLEAN;
}

static int scan_mark(struct scanning *c, uint64_t slot, const struct vd__maplog_record *m)
{
    if (m->b > c->nsound)
        return damaged(c, c->nsound, "is damaged, and was durable");
    if (m->a <= c->nsound) {
        c->s.nbelieved = vd_max(c->s.nbelieved, m->a);
        c->s.ended = m->type == VD__MAPLOG_END;
    }
    c->s.nknown = vd_max(c->s.nknown, m->b);
    c->s.nmarks++;
    return 0;
}

static int scan_slot(void *user, uint64_t slot, const uint8_t *buf, size_t len)
{
    struct scanning *c = user;
    struct vd__maplog_record rec;
    int r = len < VD__MAPLOG_RECORD_LEN ? -ENODATA
                                        : vd__maplog_record_decode(buf, slot, c->s.head.salt, &rec);
    if (r == -EUCLEAN)
        return damaged(c, slot, "makes no sense");
    if (r < 0) {
        c->torn |= !is_empty(buf, len);
        return 0;
    }
    if (c->s.ended)
        return damaged(c, slot, "stands behind the log's end");
    if (c->trust == VD_MAP_TRUST_ALL && c->nsound < slot)
        return damaged(c, c->nsound, "is damaged, with a sound one behind it");
    if (c->nsound == slot)
        c->nsound = slot + 1;
    c->s.nslots = slot + 1;
    if (rec.type == VD__MAPLOG_MARK || rec.type == VD__MAPLOG_END)
        return scan_mark(c, slot, &rec);
    c->nchanges = slot + 1;
    return 0;
}

/* The head, read again where it does not verify: the log's owner may have been writing it. */
static int read_head(int fd, struct vd__maplog_head *ret_head, const char **ret_what)
{
    uint8_t buf[VD__MAPLOG_HEAD_LEN];
    for (int i = 0; i < 3; i++) {
        ssize_t n = vd_pread_full(fd, buf, sizeof(buf), 0);
        if (n < 0)
            return (int)n;
        *ret_what = "shorter than its head";
        if (n == sizeof(buf) && vd__maplog_head_decode(buf, ret_head, ret_what) == 0)
            return 0;
    }
    return -EUCLEAN;
}

static int scan_head(int fd, struct vd__maplog_scan *s, char *why)
{
    struct stat st;
    const char *what;
    int r = read_head(fd, &s->head, &what);
    if (r == 0 && fstat(fd, &st) < 0)
        r = -errno;
    if (r == 0) {
        s->len_bytes = (uint64_t)st.st_size;
        what = "longer than a log can be";
        if (s->len_bytes > end_of(VD__MAPLOG_SLOTS_MAX + ROOM_MAX))
            r = -EUCLEAN;
    }
    if (r == 0) {
        what = "it has been cut short";
        if (s->head.room > VD__MAPLOG_SLOTS_MAX + ROOM_MAX || s->len_bytes < end_of(s->head.room))
            r = -EUCLEAN;
    }
    if (r == -EUCLEAN)
        snprintf(why, VD_META_WHY, "%s", what);
    return r;
}

int vd__maplog_scan(int fd, enum vd_map_trust trust, struct vd__maplog_scan *ret_scan,
                    char ret_why[VD_META_WHY])
{
    struct scanning c = {.trust = trust, .why = ret_why};
    int r = scan_head(fd, &c.s, ret_why);
    if (r == 0)
        r = each_slot(fd, UINT64_MAX / VD__MAPLOG_RECORDS_OFF, scan_slot, &c);
    if (r < 0)
        return r;
    c.s.clean = !c.torn && c.nsound == c.s.nslots && c.nchanges <= c.s.nbelieved;
    if (trust == VD_MAP_TRUST_ALL)
        c.s.nbelieved = c.s.nslots;
    *ret_scan = c.s;
    return 0;
}

struct applying {
    const struct vd__maplog_scan *s;
    struct vd__bits *bits;
    uint64_t *size_bytes;
    uint64_t next;
};

static int apply_slot(void *user, uint64_t slot, const uint8_t *buf, size_t len)
{
    struct applying *a = user;
    struct vd__maplog_record rec;
    if (len < VD__MAPLOG_RECORD_LEN ||
        vd__maplog_record_decode(buf, slot, a->s->head.salt, &rec) < 0)
        return -EUCLEAN;
    a->next = slot + 1;
    if (rec.type == VD__MAPLOG_SIZE)
        *a->size_bytes = rec.a;
    if (rec.type != VD__MAPLOG_OWN && rec.type != VD__MAPLOG_ZERO)
        return 0;
    int r = vd__bits_prepare(a->bits, rec.a, rec.b, (enum vd_block_state)rec.type);
    if (r == 0)
        vd__bits_put(a->bits, rec.a, rec.b, (enum vd_block_state)rec.type);
    return r;
}

int vd__maplog_apply(int fd, const struct vd__maplog_scan *scan, struct vd__bits *bits,
                     uint64_t *size_bytes)
{
    struct applying a = {.s = scan, .bits = bits, .size_bytes = size_bytes};
    int r = each_slot(fd, scan->nbelieved, apply_slot, &a);
    return r == 0 && a.next < scan->nbelieved ? -EUCLEAN : r;
}

/* ---- writing ---- */

struct vd__maplog *vd__maplog_resume(int fd, const struct vd__maplog_scan *scan)
{
    struct vd__maplog *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->fd = fd;
    l->head = scan->head;
    l->nslots = scan->nslots;
    l->room = (scan->len_bytes - VD__MAPLOG_RECORDS_OFF) / VD__MAPLOG_RECORD_LEN;
    l->known = l->noted = scan->nknown;
    return l;
}

void vd__maplog_close(struct vd__maplog *l)
{
    if (!l)
        return;
    close(l->fd);
    free(l);
}

/* Makes space for slots [FROM, FROM + N), ahead of the records, so that a sync of them has no size
 * to write. Where the file system cannot reserve it, zeroes do. */
static int make_room(int fd, uint64_t from, uint64_t n)
{
    static const uint8_t zero[4096];
    off_t off = (off_t)end_of(from), end = (off_t)end_of(from + n);
    int r;
    do
        r = fallocate(fd, 0, off, end - off) < 0 ? -errno : 0;
    while (r == -EINTR);
    if (r != -EOPNOTSUPP)
        return r;
    for (r = 0; r == 0 && off < end; off += sizeof(zero))
        r = vd_pwrite_full(fd, zero, vd_min(sizeof(zero), (size_t)(end - off)), off);
    return r;
}

static int grow(struct vd__maplog *l)
{
    uint64_t n = vd_min(l->room, (uint64_t)ROOM_MAX);
    n = vd_max(n, (uint64_t)ROOM_MIN);
    int r = make_room(l->fd, l->room, n);
    if (r == 0)
        l->room += n;
    return r;
}

static int write_head(int fd, const struct vd__maplog_head *head)
{
    uint8_t buf[VD__MAPLOG_HEAD_LEN];
    vd__maplog_head_encode(head, buf);
    return vd_pwrite_full(fd, buf, sizeof(buf), 0);
}

int vd__maplog_init(int fd, struct vd__maplog_head *head)
{
    if (getrandom(&head->salt, sizeof(head->salt), 0) != sizeof(head->salt))
        return -EIO;
    head->room = ROOM_MIN;
    int r = make_room(fd, 0, ROOM_MIN);
    return r < 0 ? r : write_head(fd, head);
}

int vd__maplog_note_room(struct vd__maplog *l, uint64_t room)
{
    if (room <= l->head.room)
        return 0;
    l->head.room = room;
    return write_head(l->fd, &l->head);
}

int vd__maplog_append(struct vd__maplog *l, const struct vd__maplog_record *r, bool *ret_broken)
{
    bool is_mark = r->type == VD__MAPLOG_MARK || r->type == VD__MAPLOG_END;
    int err = 0;
    *ret_broken = false;
    if (!is_mark && l->nslots >= VD__MAPLOG_SLOTS_MAX)
        return -ENOSPC;
    while (err == 0 && l->room < l->nslots + (is_mark ? 1 : 1 + ROOM_SPARE))
        err = grow(l);
    if (err < 0)
        return err;
    uint8_t buf[VD__MAPLOG_RECORD_LEN];
    vd__maplog_record_encode(r, l->nslots, l->head.salt, buf);
    err = vd_pwrite_full(l->fd, buf, sizeof(buf), (off_t)end_of(l->nslots));
    *ret_broken = err < 0 && err != -ENOSPC && err != -EDQUOT;
    if (err == 0)
        l->nslots++;
    return err;
}
