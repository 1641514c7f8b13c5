// SPDX-License-Identifier: Apache-2.0
/*
 * Millions of extents in seconds: every second block of a clone becomes its live layer's own, in the
 * map only. The layer's file stays sparse there and reads as zeroes, which is all that a measurement
 * of maps needs. The daemon folds a long log now and then; here it is done once, at the end, so the
 * disk is left as one that was written to for hours and detached.
 */
#include "layers.h"

#include <fcntl.h>
#include <string.h>

#include "vd_time.h"
#include "vd_view.h"

static int nothing_to_sync(void *user)
{
    return 0;
}

static int fill(struct vd_live_map *lm, uint64_t count)
{
    if (count * 2 * VD_BLOCK_SIZE > vd_live_map_size(lm))
        return -ERANGE;
    int r = vd_live_map_begin(lm);
    for (uint64_t i = 0; i < count && r == 0; i++)
        r = vd_live_map_set(lm, i * 2, 1, VD_BLOCK_OWN);
    if (r == 0)
        r = vd_live_map_mark(lm, vd_live_map_pending(lm));
    return r < 0 ? r : vd_live_map_fold(lm, nothing_to_sync, NULL);
}

static int live_map_of(struct vd_meta_store *s, int source_fd, const char *path,
                       struct vd_id *ret_map, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    vd_cleanup_close int fd = openat(source_fd, path, O_RDONLY | O_CLOEXEC);
    struct vd_view_record view;
    struct vd_id uuid;
    bool made;
    if (fd < 0)
        return -errno;
    int r = vd_meta_bind(s, fd, path, false, &uuid, &made, why);
    if (r == 0)
        r = vd_meta_open(s, &uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_view(m, &view);
    if (r == 0)
        *ret_map = view.live_map;
    return r;
}

int layers_extents(const char *source, const char *path, uint64_t count)
{
    vd_cleanup(vd_meta_store_close_p) struct vd_meta_store *s = NULL;
    struct vd_maps *maps = NULL;
    struct vd_live_map *lm = NULL;
    struct vd_id id;
    char why[VD_META_WHY] = "";
    uint64_t start = vd_now_ns();
    vd_cleanup_close int source_fd = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = source_fd < 0 ? -errno : vd_meta_store_open(source_fd, NULL, false, &s);
    if (r == 0)
        r = live_map_of(s, source_fd, path, &id, why);
    if (r == 0)
        r = vd_maps_open(s, 0, &maps);
    if (r == 0)
        r = vd_live_map_open(maps, &id, VD_MAP_TRUST_ALL, &lm, why);
    if (r == 0)
        r = fill(lm, count);
    vd_live_map_close(lm);
    vd_maps_close(maps);
    if (r < 0) {
        fprintf(stderr, "%s/%s: %s\n", source, path, *why ? why : strerror(-r));
        return 1;
    }
    return bench_print(json_pack("{s:I, s:f}", "extents", (json_int_t)count, "seconds",
                                 (double)(vd_now_ns() - start) / 1e9));
}
