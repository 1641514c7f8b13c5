// SPDX-License-Identifier: Apache-2.0
/*
 * Going to the background: the parent stays on the terminal until the child says that the mount
 * answers, or dies. So errors reach the terminal, and the exit status tells.
 */
#ifndef VD_BACKGROUND_H
#define VD_BACKGROUND_H

#include "vd_base.h"

struct vd_background {
    int pipe_fd; /* to the waiting parent; -1: none */
};

/* Forks, before there are threads. In the child it returns 0 (or -errno, still in the parent); the
 * parent waits for the child's word and exits, 0 after vd_background_ready, else 1. */
int vd_background_start(struct vd_background *b) VD_WARN_UNUSED;

/* In the child: lets the parent exit, and goes over to syslog and /dev/null. Nothing where there is
 * no parent. */
void vd_background_ready(struct vd_background *b);

#endif
