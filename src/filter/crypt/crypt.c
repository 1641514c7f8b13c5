// SPDX-License-Identifier: Apache-2.0
/*
 * crypt: the disk's bytes are encrypted before they reach the cache and the image (AES-256-XTS, xts.c).
 *
 * Requests of whole sectors cost one pass of the cipher: a write is encrypted into memory of its own and
 * passed, a read is passed and decrypted in done, zeroes and discards make holes. What begins or ends within a sector is read,
 * changed and written back on a thread that may wait (unaligned.c).
 *
 * What must hold: no change of a sector is under way below with a read or another change of it. Two reasons. A sector
 * that is read, changed and written back must not lose what another wrote to it meanwhile. And half a sector of
 * ciphertext is not half of the old and half of the new bytes, as a guest may expect of a read that
 * meets a write: it is noise, also in bytes that nobody was changing. So every request holds the range of its sectors from before it goes
 * below until it is done (range.c), reads with each other, changes alone:
 *
 *   aligned     held from submit, dropped in done; one that has to wait is deferred
 *   unaligned   held within submit, which completes or fails
 *
 * It is one short critical section each way, and waits only for those who really meet. self_data is the range; NULL where
 * none is held: in flushes, and before the first submit. A submit that finds one was deferred and holds it now.
 *
 * The key is asked for at each attach, compared with the check value in the metadata, and wiped (key.c).
 */
#include "crypt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "key.h"

#define CHECK_KEY "check"
#define OFFSET_MAX (INT64_MAX - 4096)

enum option { SECTOR_SIZE, KEY_FILE, KEY_COMMAND, EXISTING };
enum { EXISTING_NONE, EXISTING_CIPHERTEXT };

static const struct vd_filter_option options[] = {
    [SECTOR_SIZE] = {.key = "sector-size",
                     .type = VD_FILTER_CHOICE,
                     .default_value = "512",
                     .choices = "512|4096",
                     .help = "bytes that are encrypted as one"},
    [KEY_FILE] = {.key = "key-file",
                  .type = VD_FILTER_PATH,
                  .help = "file with the key: 64 bytes, or 128 hexadecimal digits"},
    [KEY_COMMAND] = {.key = "key-command",
                     .type = VD_FILTER_TEXT,
                     .help = "shell command that prints the key, instead of key-file"},
    [EXISTING] = {.key = "existing",
                  .type = VD_FILTER_CHOICE,
                  .default_value = "none",
                  .choices = "none|ciphertext",
                  .help = "what the disk holds when it is first attached"},
    {0},
};

int crypt_fault(struct crypt *c, int r, const char *what)
{
    atomic_fetch_add_explicit(&c->errors, 1, memory_order_relaxed);
    if (!atomic_exchange(&c->said, true))
        vd_filter_log(c->disk, VD_FILTER_LOG_ERROR, what);
    return r;
}

/* ---- attaching ---- */

static int say(struct vd_filter_disk *disk, int r, const char *why)
{
    vd_filter_why(disk, why);
    return r;
}

static int load_key(struct vd_filter_disk *disk, const struct vd_filter_value *v,
                    uint8_t key[XTS_KEY_BYTES])
{
    char why[KEY_WHY] = "";
    if (v[KEY_FILE].given == v[KEY_COMMAND].given)
        return say(disk, -EINVAL, "give one of key-file and key-command, not both");
    int r = v[KEY_FILE].given ? key_from_file(v[KEY_FILE].text, key, why)
                              : key_from_command(v[KEY_COMMAND].text, key, why);
    return r < 0 ? say(disk, r, why) : 0;
}

static int refuse_data(struct vd_filter_disk *disk)
{
    int empty = crypt_disk_is_empty(disk);
    if (empty < 0)
        return say(disk, empty, "the disk cannot be read to see whether it is empty");
    if (!empty)
        return say(disk, -ENOTEMPTY,
                   "the disk holds data, which would read as noise: attach it to an empty disk "
                   "and copy the data in through the mount; if the data are ciphertext under "
                   "this key already, say existing=ciphertext");
    return 0;
}

static int refuse_size(struct vd_filter_disk *disk, uint64_t size_bytes, uint32_t sector)
{
    return size_bytes % sector == 0
               ? 0
               : say(disk, -EINVAL,
                     "the disk's size is not a multiple of sector-size: resize it first");
}

/* The first attach: there is no check value yet. */
static int begin_disk(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                      const uint8_t key[XTS_KEY_BYTES], uint32_t sector)
{
    uint8_t check[KEY_CHECK_BYTES];
    if (!info->fresh)
        return say(disk, -EKEYREJECTED,
                   "the check value of its key is missing in the metadata, so no key can be known "
                   "to be right: detach it, and attach it with existing=ciphertext");
    int r = info->values[EXISTING].number == EXISTING_CIPHERTEXT ? 0 : refuse_data(disk);
    if (r < 0)
        return r;
    r = key_check_make(key, sector, check);
    if (r < 0)
        return say(disk, r, "libcrypto cannot compute HMAC-SHA256");
    r = vd_filter_put_data(disk, CHECK_KEY, check, sizeof(check));
    return r < 0 ? say(disk, r, "the check value of the key cannot be kept in the metadata") : 0;
}

/* KEY is the disk's, or becomes it. */
static int check_key(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                     const uint8_t key[XTS_KEY_BYTES], uint32_t sector)
{
    uint8_t check[KEY_CHECK_BYTES];
    char why[KEY_WHY] = "";
    int64_t n = vd_filter_get_data(disk, CHECK_KEY, check, sizeof(check));
    if (n == -ENOENT)
        return begin_disk(disk, info, key, sector);
    if (n < 0)
        return say(disk, (int)n, "the check value of its key cannot be read from the metadata");
    int r = key_check_compare(key, sector, check, (size_t)n, why);
    return r < 0 ? say(disk, r, why) : 0;
}

static void range_failed(struct range *r)
{
    free(r);
}

static int make(struct crypt *c, const uint8_t key[XTS_KEY_BYTES])
{
    int r = xts_new(key, (uint32_t)c->sector, &c->xts);
    if (r < 0)
        return say(c->disk, r, "libcrypto has no AES-256-XTS for this key");
    return range_lock_init(&c->ranges, c->disk, range_failed);
}

static int crypt_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                        void **ret_self)
{
    const struct vd_filter_value *v = info->values;
    uint8_t key[XTS_KEY_BYTES];
    uint32_t sector = v[SECTOR_SIZE].number ? 4096 : 512;
    int r = refuse_size(disk, info->size_bytes, sector);
    struct crypt *c = r == 0 ? calloc(1, sizeof(*c)) : NULL;
    if (!c)
        return r < 0 ? r : -ENOMEM;
    c->disk = disk;
    c->sector = sector;
    c->from_command = v[KEY_COMMAND].given;
    c->must_be_empty = v[EXISTING].number != EXISTING_CIPHERTEXT;
    r = load_key(disk, v, key);
    if (r == 0)
        r = check_key(disk, info, key, sector);
    if (r == 0)
        r = make(c, key);
    explicit_bzero(key, sizeof(key));
    if (r < 0) {
        xts_free(c->xts);
        free(c);
        return r;
    }
    *ret_self = c;
    return 0;
}

/* Clients went on writing while it was attached. */
static int crypt_ready(void *self)
{
    struct crypt *c = self;
    int r = refuse_size(c->disk, vd_filter_disk_size(c->disk), (uint32_t)c->sector);
    return r == 0 && c->must_be_empty ? refuse_data(c->disk) : r;
}

static void crypt_detach(void *self)
{
    struct crypt *c = self;
    range_lock_destroy(&c->ranges);
    xts_free(c->xts);
    free(c);
}

/* ---- requests ---- */

/* RQ's sectors are held. */
static int do_unaligned(struct crypt *c, struct vd_filter_request *rq, struct range *held)
{
    int verdict = crypt_unaligned(c, rq);
    rq->self_data = NULL;
    range_drop(&c->ranges, held);
    free(held);
    return verdict;
}

/* A write's bytes, encrypted, in RET_DATA. */
static int encrypt(struct crypt *c, struct vd_filter_request *rq, void **ret_data)
{
    void *data = vd_filter_alloc(c->disk, rq, rq->length);
    if (!data)
        return -ENOMEM;
    int r = xts_encrypt(c->xts, rq->offset, rq->data, data, rq->length);
    if (r < 0)
        return crypt_fault(c, r, "libcrypto cannot encrypt");
    *ret_data = data;
    return 0;
}

static struct range *range_of(const struct crypt *c, const struct vd_filter_request *rq)
{
    struct range *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->first = crypt_down(c, rq->offset);
    r->end = crypt_up(c, rq->offset + rq->length);
    r->exclusive = rq->op != VD_FILTER_READ;
    return r;
}

static int crypt_submit(void *self, struct vd_filter_request *rq)
{
    struct crypt *c = self;
    void *data = NULL;
    if (rq->self_data)
        return do_unaligned(c, rq, rq->self_data);
    if (rq->op == VD_FILTER_FLUSH || rq->length == 0)
        return VD_FILTER_PASS;
    if (rq->offset > OFFSET_MAX || rq->length > OFFSET_MAX - rq->offset)
        return -EFBIG;
    bool aligned = ((rq->offset | rq->length) & (c->sector - 1)) == 0;
    if (!aligned && !(rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    /* Before the range is taken, so that it is held the shorter. */
    if (aligned && rq->op == VD_FILTER_WRITE) {
        int r = encrypt(c, rq, &data);
        if (r < 0)
            return r;
    }
    struct range *range = range_of(c, rq);
    if (!range)
        return -ENOMEM;
    rq->self_data = range;
    int verdict =
        range_enter(&c->ranges, range, rq, aligned ? VD_FILTER_PASS : VD_FILTER_WAIT, data);
    if (verdict == VD_FILTER_DEFER)
        return verdict;
    if (verdict != VD_FILTER_PASS) {
        rq->self_data = NULL;
        free(range);
        return verdict;
    }
    if (!aligned)
        return do_unaligned(c, rq, range);
    if (data)
        rq->data = data;
    return VD_FILTER_PASS;
}

static void crypt_done(void *self, struct vd_filter_request *rq)
{
    struct crypt *c = self;
    struct range *held = rq->self_data;
    if (!held)
        return;
    rq->self_data = NULL;
    range_drop(&c->ranges, held);
    free(held);
    if (rq->op != VD_FILTER_READ || rq->result <= 0)
        return;
    int r = 0;
    if ((uint64_t)rq->result & (c->sector - 1))
        r = crypt_fault(c, -EIO, "the disk ends within a sector");
    if (r == 0) {
        r = xts_decrypt(c->xts, rq->offset, rq->data, (size_t)rq->result);
        if (r < 0)
            r = crypt_fault(c, r, "libcrypto cannot decrypt");
    }
    if (r < 0)
        rq->result = r;
}

/* ---- the rest ---- */

static int crypt_event(void *self, const struct vd_filter_event *e)
{
    struct crypt *c = self;
    if (e->type != VD_FILTER_EVENT_GROW && e->type != VD_FILTER_EVENT_SHRINK)
        return 0;
    if (e->new_bytes % c->sector == 0)
        return 0;
    char why[128];
    snprintf(why, sizeof(why), "an encrypted disk's size must be a multiple of %" PRIu64 " bytes",
             c->sector);
    return say(c->disk, -EINVAL, why);
}

static int crypt_status(void *self, char *ret_json, size_t len)
{
    struct crypt *c = self;
    snprintf(ret_json, len,
             "{\"cipher\":\"aes-xts-plain64\",\"key_bits\":512,\"sector_size\":%" PRIu64
             ",\"key_from\":\"%s\",\"unaligned_reads\":%" PRIu64 ",\"unaligned_writes\":%" PRIu64
             ",\"waited\":%" PRIu64 ",\"errors\":%" PRIu64 "}",
             c->sector, c->from_command ? "command" : "file", atomic_load(&c->unaligned_reads),
             atomic_load(&c->unaligned_writes), range_waited(&c->ranges), atomic_load(&c->errors));
    return 0;
}

static const struct vd_filter_ops ops = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "crypt",
    .description = "encrypts the disk (AES-256-XTS)",
    .filter_class = VD_FILTER_CLASS_ENCRYPTION,
    .flags = VD_FILTER_REQUIRED | VD_FILTER_CLONED,
    .options = options,
    .attach = crypt_attach,
    .detach = crypt_detach,
    .submit = crypt_submit,
    .done = crypt_done,
    .event = crypt_event,
    .status = crypt_status,
    .ready = crypt_ready,
};
VD_FILTER_EXPORT(ops);
