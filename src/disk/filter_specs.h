// SPDX-License-Identifier: Apache-2.0
/* Which filters a disk has by its records (filter_specs.c). Any thread; each call blocks on the metadata or the disk's file, but for those
 * on lists in memory. */
#ifndef VD_FILTER_SPECS_H
#define VD_FILTER_SPECS_H

#include "disk.h"
#include "vd_meta_filter.h"

struct specs {
    struct vd_filter_spec *v;
    size_t n;
    uint32_t sum;
    bool gone; /* the disk's metadata are: what the filters were is not known any more */
};

void vd__specs_clear(struct specs *s);
int vd__specs_add(struct specs *s, const struct vd_filter_spec *spec); /* 0, -ENOMEM */
/* Adds what is recorded to S, with the sum. 0 (`gone` where the disk has no metadata); -errno with WHY where they are damaged. */
int vd__specs_read(struct vd_disk *d, struct specs *s, char why[VD_META_WHY]);
size_t vd__specs_find(const struct specs *s, const char *name); /* n: it is not there */
/* In the order of requests, which is that in which records are read; sum: of S in that order. */
void vd__specs_sort(struct specs *s);
uint32_t vd__specs_sum(const struct specs *s);
void vd__spec_record(const struct vd_filter_spec *s, struct vd_filter_record *ret_r);

/* Before a record of a required filter comes or goes: durable. 0 or -errno with WHY. */
int vd__mark_changing(struct vd_disk *d, const struct vd_filter_spec *spec, char why[VD_META_WHY]);
/* After it, where S are the disk's filters. A failure is logged: CHANGING is as safe, but where the metadata are lost. */
void vd__mark_settled(struct vd_disk *d, const struct vd_filter_spec *spec, const struct specs *s);
/* May the disk be served with S (NULL: its metadata cannot be used)? 0; -EUCLEAN, logged; -errno. */
int vd__mark_look(struct vd_disk *d, const struct specs *s);

#endif
