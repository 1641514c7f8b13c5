// SPDX-License-Identifier: Apache-2.0
/*
 * Logging: one line a call, to stderr until vd_log_to_syslog(). The layer that handles an error
 * logs it, once; libraries return errors and stay silent but for what happens behind every caller's
 * back. The sink is the one piece of process-wide state outside the daemon object: it must serve
 * before that exists, and from threads that know no daemon.
 */
#ifndef VD_LOG_H
#define VD_LOG_H

#include "vd_base.h"

enum vd_log_level { VD_LOG_ERROR, VD_LOG_WARNING, VD_LOG_NOTE, VD_LOG_DEBUG };

/* Prefix of each line; the string must live as long as the process. Call before threads start. */
void vd_log_init(const char *program, enum vd_log_level highest);

/* From now on to syslog(3) (a daemon that has gone to the background). */
void vd_log_to_syslog(void);

/* Any thread; keeps errno. */
void vd_log(enum vd_log_level level, const char *fmt, ...) VD_PRINTF(2, 3);

#define vd_log_error(...) vd_log(VD_LOG_ERROR, __VA_ARGS__)
#define vd_log_warning(...) vd_log(VD_LOG_WARNING, __VA_ARGS__)
#define vd_log_note(...) vd_log(VD_LOG_NOTE, __VA_ARGS__)
#define vd_log_debug(...) vd_log(VD_LOG_DEBUG, __VA_ARGS__)

#endif
