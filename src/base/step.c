// SPDX-License-Identifier: Apache-2.0
#include "vd_step.h"

#ifdef VD_TEST_HOOKS
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "vd_base.h"

static void note(const char *file, const char *name)
{
    char line[128];
    int n = snprintf(line, sizeof(line), "%s\n", name);
    vd_cleanup_close int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    ssize_t done = fd < 0 ? 0 : write(fd, line, (size_t)n);
    (void)done;
}

void vd_step(const char *name)
{
    static atomic_ulong count; /* the one exception to "no globals": a test's, in a test build */
    const char *at = getenv("VDISKFS_TEST_KILL_STEP");
    const char *file = getenv("VDISKFS_TEST_STEPS");
    if (file)
        note(file, name);
    if (at && atomic_fetch_add(&count, 1) + 1 == strtoul(at, NULL, 10))
        raise(SIGKILL);
}
#else
void vd_step(const char *name)
{
}
#endif
