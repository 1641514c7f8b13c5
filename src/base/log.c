// SPDX-License-Identifier: Apache-2.0
#include "vd_log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <syslog.h>

static const char *log_program = "vdiskfs";
static enum vd_log_level log_highest = VD_LOG_NOTE;
static atomic_bool log_syslog;

void vd_log_init(const char *program, enum vd_log_level highest)
{
    log_program = program;
    log_highest = highest;
}

void vd_log_to_syslog(void)
{
    openlog(log_program, LOG_PID, LOG_DAEMON);
    atomic_store(&log_syslog, true);
}

void vd_log(enum vd_log_level level, const char *fmt, ...)
{
    static const int priority[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_DEBUG};
    static const char *const word[] = {"error: ", "warning: ", "", "debug: "};
    if (level > log_highest)
        return;
    int saved_errno = errno;
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (atomic_load(&log_syslog)) {
        syslog(priority[level], "%s%s", word[level], line);
    } else {
        /* One write a line, so that lines of several threads do not mix. */
        char whole[1200];
        int n = snprintf(whole, sizeof(whole), "%s: %s%s\n", log_program, word[level], line);
        size_t left = vd_min((size_t)n, sizeof(whole) - 1);
        ssize_t n_written = write(STDERR_FILENO, whole, left);
        (void)n_written; /* nowhere left to say so */
    }
    errno = saved_errno;
}
