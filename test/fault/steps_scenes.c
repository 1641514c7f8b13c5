// SPDX-License-Identifier: Apache-2.0
/* What is there, and what is cut. `p` is a disk that nothing is done to; `c` most often a clone. */
#include "steps.h"

#define BYTES ((1u << 20) + (100u << 10) + SECTOR)
#define K 4096u

static void plain(struct tale *t)
{
    tale_make(t, "p", BYTES);
    tale_write(t, "p", 0, 20 * K, 1);
    tale_make(t, "g", BYTES);
    tale_write(t, "g", 0, 100 * K, 2);
    tale_write(t, "g", 200 * K, 30 * K, 3);
    tale_write(t, "g", BYTES - 3 * SECTOR, 3 * SECTOR, 4);
}

static void cloned(struct tale *t)
{
    plain(t);
    tale_clone(t, "g", NULL, "c");
    tale_write(t, "c", 3 * K + SECTOR, 2 * K, 5);
    tale_write(t, "g", 4 * K, 3 * K, 6);
}

static void layered(struct tale *t)
{
    plain(t);
    tale_snapshot(t, "g", "s1");
    tale_write(t, "g", 2 * K, 9 * K, 7);
    tale_clone(t, "g", "s1", "c");
    tale_write(t, "c", 3 * K + SECTOR, 2 * K, 8);
}

static void deep(struct tale *t)
{
    layered(t);
    tale_snapshot(t, "g", "s2");
    tale_write(t, "g", 3 * K, 9 * K, 9);
    tale_snapshot(t, "g", "s3");
    tale_write(t, "g", 4 * K, 9 * K, 10);
    tale_open(t, "c");
    tale_truncate(t, "c", BYTES + 20 * K);
    tale_close(t, "c");
}

static void alone(struct tale *t) /* home LAYERS, and nobody stands on it */
{
    plain(t);
    tale_snapshot(t, "g", "s1");
    tale_write(t, "g", 2 * K, 9 * K, 7);
    tale_snapshot_rm(t, "g", "s1");
}

static void parent(struct tale *t) /* home LAYERS, no snapshot, c stands on it */
{
    cloned(t);
}

static void unchanged(struct tale *t)
{
    plain(t);
    tale_snapshot(t, "g", "s1");
}

/* ---- acts ---- */

static bool snapshot_one(struct tale *t, const char *name, const char *snap, unsigned i)
{
    switch (i) {
    case 0:
        tale_open(t, name);
        tale_write(t, name, 10 * K, K, 20);
        return true;
    case 1:
        tale_snapshot(t, name, snap);
        return true;
    case 2:
        tale_write(t, name, 10 * K, K, 21);
        return true;
    case 3:
        tale_close(t, name);
        return true;
    default:
        return false;
    }
}

static bool snap_g(struct tale *t, unsigned i)
{
    return snapshot_one(t, "g", "new", i);
}

static bool snap_c(struct tale *t, unsigned i)
{
    return snapshot_one(t, "c", "new", i);
}

static bool snap_closed(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_snapshot(t, "g", "new");
    return i == 0;
}

static bool snap_many(struct tale *t, unsigned i)
{
    static const char *const names[] = {"m1", "m2", "m3", "m4", "m5"};
    if (i == 0)
        tale_open(t, "g");
    else if (i <= 10 && i % 2)
        tale_write(t, "g", (i + 3ull) * K, K, 20 + i);
    else if (i <= 10)
        tale_snapshot(t, "g", names[i / 2 - 1]);
    else if (i == 11)
        tale_close(t, "g");
    return i <= 11;
}

static bool clone_g(struct tale *t, unsigned i)
{
    switch (i) {
    case 0:
        tale_open(t, "g");
        tale_write(t, "g", 10 * K, K, 20);
        return true;
    case 1:
        tale_clone(t, "g", NULL, "n");
        return true;
    case 2:
        tale_write(t, "n", 11 * K, K, 22);
        return true;
    case 3:
        tale_write(t, "g", 12 * K, K, 23);
        return true;
    case 4:
        tale_close(t, "g");
        return true;
    default:
        return false;
    }
}

static bool clone_same(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_clone(t, "g", NULL, "n");
    return i == 0;
}

static bool clone_snap(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_clone(t, "g", "s1", "n");
    if (i == 1)
        tale_write(t, "n", 10 * K, K, 20);
    return i < 2;
}

static bool revert_s1(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_revert(t, "g", "s1");
    if (i == 1)
        tale_write(t, "g", 10 * K, K, 20);
    return i < 2;
}

static bool remove_snaps(struct tale *t, unsigned i)
{
    static const char *const names[] = {"s2", "s1", "s3"};
    if (i < 3)
        tale_snapshot_rm(t, "g", names[i]);
    return i < 3;
}

static bool flatten_c(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_flatten(t, "c");
    if (i == 1)
        tale_write(t, "c", 10 * K, K, 20);
    return i < 2;
}

static bool flatten_g(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_flatten(t, "g");
    if (i == 1)
        tale_write(t, "g", 10 * K, K, 20);
    return i < 2;
}

static bool flatten_open(struct tale *t, unsigned i)
{
    switch (i) {
    case 0:
        tale_open(t, "g");
        tale_write(t, "g", 10 * K, K, 20);
        return true;
    case 1:
        tale_flatten(t, "g");
        return true;
    case 2:
        tale_write(t, "g", 12 * K, K, 21);
        return true;
    case 3:
        tale_close(t, "g"); /* the file moves home */
        return true;
    case 4:
        tale_write(t, "g", 13 * K, K, 22);
        return true;
    default:
        return false;
    }
}

static bool remove_g(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_remove(t, "g");
    return i == 0;
}

static bool remove_c(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_remove(t, "c");
    return i == 0;
}

static bool adopt_s1(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_adopt(t, "g", "s1");
    if (i == 1)
        tale_write(t, "g", 10 * K, K, 20);
    return i < 2;
}

static bool adopt_plain(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_adopt(t, "g", NULL);
    return i == 0;
}

static bool resize_g(struct tale *t, unsigned i)
{
    switch (i) {
    case 0:
        tale_resize(t, "g", BYTES + 300 * K);
        return true;
    case 1:
        tale_write(t, "g", BYTES + 200 * K - SECTOR, K, 20);
        return true;
    case 2:
        tale_resize(t, "g", BYTES - 25 * SECTOR);
        return true;
    case 3:
        tale_resize(t, "g", BYTES + 50 * K);
        return true;
    default:
        return false;
    }
}

static bool resize_c(struct tale *t, unsigned i)
{
    if (i == 0)
        tale_resize(t, "c", BYTES - 25 * SECTOR);
    if (i == 1)
        tale_resize(t, "c", BYTES + 50 * K);
    return i < 2;
}

/* ---- a long log, and one of a writer that died ---- */

#define WIDE (288ull << 20)

static void wide(struct tale *t)
{
    plain(t);
    tale_make(t, "w", WIDE);
    tale_write(t, "w", 7 * K, 500 * K, 30);
    tale_snapshot(t, "w", "s1");
}

static bool fold(struct tale *t, unsigned i)
{
    if (i == 0) {
        tale_open(t, "w");
        for (uint64_t b = 0; b < 66000; b++)
            tale_zero(t, "w", b * K, K);
        tale_write(t, "w", 8 * K, 3 * K, 31);
    }
    if (i == 1)
        tale_flush(t, "w"); /* the fold begins */
    if (i == 2)
        tale_write(t, "w", 16 * K, K, 32);
    if (i == 3)
        tale_close(t, "w");
    return i < 4;
}

const struct scene scenes[] = {
    {"snapshot-plain", plain, snap_g, 1, false, NULL},
    {"snapshot-closed", plain, snap_closed, 0, false, NULL},
    {"snapshot-clone", cloned, snap_c, 0, false, NULL},
    {"snapshot-layers", layered, snap_g, 0, false, NULL},
    {"snapshot-many", deep, snap_many, 0, false, NULL},
    {"clone-plain", plain, clone_g, 0, false, NULL},
    {"clone-layers", layered, clone_g, 0, false, NULL},
    {"clone-same", unchanged, clone_same, 0, false, NULL},
    {"clone-snapshot", layered, clone_snap, 0, false, NULL},
    {"revert", deep, revert_s1, 0, false, NULL},
    {"revert-only", layered, revert_s1, 0, false, NULL},
    {"snapshot-rm", deep, remove_snaps, 0, false, NULL},
    {"flatten-file", cloned, flatten_c, 0, false, NULL},
    {"flatten-layers", alone, flatten_g, 0, false, NULL},
    {"flatten-parent", parent, flatten_g, 0, false, NULL},
    {"flatten-open", parent, flatten_open, 0, false, NULL},
    {"remove", unchanged, remove_g, 0, false, NULL},
    {"remove-clone", deep, remove_c, 0, false, NULL},
    {"adopt", layered, adopt_s1, 0, false, "g"},
    {"adopt-alone", unchanged, adopt_s1, 0, false, "g"},
    {"adopt-plain", plain, adopt_plain, 0, false, "g"},
    {"resize-layers", layered, resize_g, 0, false, NULL},
    {"resize-clone", cloned, resize_c, 0, false, NULL},
    {"fold", wide, fold, 1, true, NULL},
};
const unsigned nscenes = VD_ARRAY_SIZE(scenes);
