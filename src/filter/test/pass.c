// SPDX-License-Identifier: Apache-2.0
/* The least that a filter can do: for the bench. */
#include <vdiskfs/filter.h>

static int attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                  void **ret_self)
{
    return 0;
}
static void detach(void *self)
{
}
static int submit(void *self, struct vd_filter_request *rq)
{
    return VD_FILTER_PASS;
}
static void done(void *self, struct vd_filter_request *rq)
{
}

static const struct vd_filter_ops ops = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(ops),
    .name = NAME,
    .description = "passes",
    .filter_class = VD_FILTER_CLASS_INSPECTION,
    .flags = VD_FILTER_ONLY_LOOKS,
    .attach = attach,
    .detach = detach,
    .submit = submit,
    .done = done,
};
VD_FILTER_EXPORT(ops);
