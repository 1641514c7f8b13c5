// SPDX-License-Identifier: Apache-2.0
/* Filters that must be refused: BAD says how each is wrong. */
#include <vdiskfs/filter.h>

static int attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                  void **ret_self)
{
    return 0;
}
static void detach(void *self)
{
}

#if BAD == 2 /* a symbol that nobody has */
extern int vd_nobody_has_this(void);
static int submit(void *self, struct vd_filter_request *rq)
{
    return vd_nobody_has_this();
}
#endif

static const struct vd_filter_ops ops = {
    .abi = VD_FILTER_ABI,
    .size = BAD == 5 ? 16 : sizeof(ops),
    .name = NAME,
    .description = "must be refused",
    .filter_class = BAD == 4 ? (enum vd_filter_class)9 : VD_FILTER_CLASS_QUOTA,
    .attach = attach,
    .detach = BAD == 6 ? NULL : detach,
#if BAD == 2
    .submit = submit,
#endif
};

#if BAD == 1 /* another version */
__attribute__((visibility("default"))) extern const uint32_t vd_filter_abi;
__attribute__((visibility("default"))) extern const struct vd_filter_ops *const vd_filter_entry;
const uint32_t vd_filter_abi = VD_FILTER_ABI + 6;
const struct vd_filter_ops *const vd_filter_entry = &ops;
#elif BAD == 3 /* no filter */
__attribute__((visibility("default"))) extern const struct vd_filter_ops *const not_a_filter;
const struct vd_filter_ops *const not_a_filter = &ops;
#else
VD_FILTER_EXPORT(ops);
#endif
