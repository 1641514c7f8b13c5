// SPDX-License-Identifier: Apache-2.0
#ifndef VD_CLI_DOCTOR_H
#define VD_CLI_DOCTOR_H

#include <jansson.h>
#include <stdarg.h>

#include "vd_base.h"

enum doctor_level { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_WARNING, DOCTOR_ERROR };

struct doctor {
    json_t *findings;
    unsigned errors;
};

/* MEND: what to do about it, NULL where there is nothing. */
void doctor_say(struct doctor *doc, enum doctor_level level, const char *mend, const char *fmt, ...)
    VD_PRINTF(4, 5);

/* The daemons that run, and mounts that have lost theirs. */
void doctor_mounts(struct doctor *doc, json_t *daemons);
/* A source and its cache folder (NULL or "": none; it need not be there). */
void doctor_place(struct doctor *doc, const char *source, const char *cache);

#endif
