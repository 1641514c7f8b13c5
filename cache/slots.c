// SPDX-License-Identifier: Apache-2.0
#include "slots.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "vd_file.h"

uint32_t vd__slot_record_bytes(uint32_t slot_bytes)
{
    uint32_t blocks = slot_bytes / VD_BLOCK_SIZE;
    return (uint32_t)vd_align_up(sizeof(struct vd__slot) + blocks * sizeof(uint32_t), 64);
}

size_t vd__slots_file_bytes(uint32_t nslots, uint32_t record_bytes)
{
    return VD__SLOTS_HEADER_BYTES + (size_t)nslots * record_bytes;
}

bool vd__slots_header_valid(const struct vd__slots_header *h)
{
    return vd_is_pow2(h->slot_bytes) && h->slot_bytes >= VD__SLOT_MIN_BYTES &&
           h->slot_bytes <= VD__SLOT_MAX_BYTES && h->nslots > 0 && h->nslots <= VD__MAX_SLOTS &&
           h->record_bytes == vd__slot_record_bytes(h->slot_bytes);
}

static uint32_t slots_in(uint64_t size_bytes, uint32_t slot_bytes)
{
    uint64_t n = vd_max(size_bytes / slot_bytes, (uint64_t)1);
    return (uint32_t)vd_min(n, (uint64_t)VD__MAX_SLOTS);
}

static int write_header(int fd, const struct vd__slots_header *h)
{
    uint8_t buf[VD__SLOTS_HEADER_BYTES];
    vd__slots_header_encode(h, buf);
    return vd_pwrite_full(fd, buf, sizeof(buf), 0);
}

/* Makes the table under another name first, so that a cut leaves no half of one. */
static int create(int dirfd, const struct vd__slots_header *h)
{
    vd_cleanup_close int fd =
        openat(dirfd, ".tmp-slots", O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = -posix_fallocate(fd, 0, (off_t)vd__slots_file_bytes(h->nslots, h->record_bytes));
    if (r == 0)
        r = write_header(fd, h);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && renameat(dirfd, ".tmp-slots", dirfd, "slots") < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dirfd, ".tmp-slots", 0);
        return r;
    }
    return vd_fsync_dir(dirfd, ".");
}

static int read_header(int fd, struct vd__slots_header *ret_h)
{
    uint8_t buf[VD__SLOTS_HEADER_BYTES];
    ssize_t n = vd_pread_full(fd, buf, sizeof(buf), 0);
    if (n < 0)
        return (int)n;
    if (n < (ssize_t)sizeof(buf) || vd__slots_header_decode(buf, ret_h) < 0 ||
        !vd__slots_header_valid(ret_h) || buf[VD__SLOTS_SPOILED_OFF])
        return -EUCLEAN;
    return 0;
}

/* Brings the file to H's number of slots. A new header is durable before what it no longer counts
 * is cut off, and after what it newly counts is there. */
static int resize(int fd, const struct vd__slots_header *h, uint32_t old_nslots, bool *ret_changed)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    off_t want = (off_t)vd__slots_file_bytes(h->nslots, h->record_bytes);
    off_t had = (off_t)vd__slots_file_bytes(old_nslots, h->record_bytes);
    *ret_changed = h->nslots != old_nslots || st.st_size < had;
    int r = 0;
    /* Past the counted records there may be what an interrupted shrink has left. */
    if (st.st_size > had && ftruncate(fd, had) < 0)
        return -errno;
    if (want > had || st.st_size < had)
        r = -posix_fallocate(fd, 0, want);
    if (r == 0 && h->nslots != old_nslots)
        r = write_header(fd, h);
    if (r == 0 && *ret_changed && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && want < had && ftruncate(fd, want) < 0)
        r = -errno;
    return r;
}

static int map_table(struct vd__slots *s)
{
    s->map_bytes = vd__slots_file_bytes(s->nslots, s->record_bytes);
    void *map = mmap(NULL, s->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    s->map = map;
    return vd_sigbus_add(map, s->map_bytes, NULL, &s->bus);
}

static int open_or_create(int dirfd, uint64_t size_bytes, uint32_t slot_bytes)
{
    int fd = openat(dirfd, "slots", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT)
        return fd >= 0 ? fd : -errno;
    struct vd__slots_header h = {.slot_bytes = slot_bytes ? slot_bytes : VD__SLOT_DEFAULT_BYTES};
    h.nslots = slots_in(size_bytes, h.slot_bytes);
    h.record_bytes = vd__slot_record_bytes(h.slot_bytes);
    int r = vd_id_new(&h.incarnation);
    if (r == 0)
        r = create(dirfd, &h);
    if (r < 0)
        return r;
    fd = openat(dirfd, "slots", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

int vd__slots_open(int dirfd, uint64_t size_bytes, uint32_t slot_bytes, struct vd__slots *s,
                   bool *ret_changed)
{
    s->fd = open_or_create(dirfd, size_bytes, slot_bytes);
    if (s->fd < 0)
        return s->fd == -EISDIR || s->fd == -ELOOP || s->fd == -ENXIO ? -EUCLEAN : s->fd;
    struct vd__slots_header h;
    int r = read_header(s->fd, &h);
    if (r < 0)
        return r;
    s->slot_bytes = h.slot_bytes;
    if (slot_bytes && slot_bytes != h.slot_bytes)
        return -EINVAL;
    s->slot_blocks = h.slot_bytes / VD_BLOCK_SIZE;
    s->record_bytes = h.record_bytes;
    s->incarnation = h.incarnation;
    uint32_t old_nslots = h.nslots;
    h.nslots = s->nslots = slots_in(size_bytes, h.slot_bytes);
    r = resize(s->fd, &h, old_nslots, ret_changed);
    return r < 0 ? r : map_table(s);
}

void vd__slots_close(struct vd__slots *s)
{
    vd_sigbus_del(s->bus);
    if (s->map)
        munmap(s->map, s->map_bytes);
    if (s->fd >= 0)
        close(s->fd);
    *s = (struct vd__slots){.fd = -1};
}

int vd__slots_sync(struct vd__slots *s)
{
    if (msync(s->map, s->map_bytes, MS_SYNC) < 0)
        return -errno;
    return vd_sigbus_dead(s->bus) ? -EIO : 0;
}

void vd__slots_spoil(struct vd__slots *s)
{
    static const uint8_t mark[4] = {1};
    /* Whichever works: the mapping may be what failed, or the device. */
    s->map[VD__SLOTS_SPOILED_OFF] = mark[0];
    int r = vd_pwrite_full(s->fd, mark, sizeof(mark), VD__SLOTS_SPOILED_OFF);
    (void)r;
}

void vd__slot_key(struct vd__slot *r, struct vd_cache_key *ret_key, uint64_t *ret_slotno)
{
    uint64_t id[2];
    for (int i = 0; i < 2; i++)
        id[i] = atomic_load_explicit(&r->disk_id[i], memory_order_acquire);
    memcpy(ret_key->disk_id.b, id, sizeof(id));
    ret_key->generation = le64toh(atomic_load_explicit(&r->generation, memory_order_acquire));
    *ret_slotno = le64toh(atomic_load_explicit(&r->slotno, memory_order_acquire));
}

void vd__slot_set_key(struct vd__slot *r, const struct vd_cache_key *key, uint64_t slotno)
{
    uint64_t id[2];
    memcpy(id, key->disk_id.b, sizeof(id));
    for (int i = 0; i < 2; i++)
        atomic_store_explicit(&r->disk_id[i], id[i], memory_order_release);
    atomic_store_explicit(&r->generation, htole64(key->generation), memory_order_release);
    atomic_store_explicit(&r->slotno, htole64(slotno), memory_order_release);
}

bool vd__slot_is(struct vd__slot *r, const struct vd_cache_key *key, uint64_t slotno)
{
    struct vd_cache_key k;
    uint64_t n;
    vd__slot_key(r, &k, &n);
    return n == slotno && k.generation == key->generation && vd_id_eq(&k.disk_id, &key->disk_id);
}

uint32_t vd__slot_clear(struct vd__slot *r, uint32_t first, uint32_t n)
{
    uint32_t cleared = 0;
    for (uint32_t i = first; i < first + n; i++)
        if (vd__slot_word(r, i) && atomic_exchange_explicit(&r->word[i], 0, memory_order_acq_rel))
            cleared++;
    return cleared;
}

uint32_t vd__slot_wipe(const struct vd__slots *s, struct vd__slot *r)
{
    static const struct vd_cache_key none;
    uint32_t version = vd__slot_version(r) | 1;
    vd__slot_set_version(r, version);
    uint32_t cleared = vd__slot_clear(r, 0, s->slot_blocks);
    vd__slot_set_key(r, &none, 0);
    vd__slot_set_version(r, version + 1);
    return cleared;
}
