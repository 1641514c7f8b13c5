// SPDX-License-Identifier: Apache-2.0
/*
 * Faults on order: an LD_PRELOAD library that fails, delays, tears, records or kills at the Nth
 * call.
 *
 *   LD_PRELOAD=libvd_fault.so VD_FAULT=RULE[;RULE...] program
 *
 *   RULE    OPS:PATH:N:ACTION[,ACTION...]
 *   OPS     comma-separated of write writev pwrite pwritev fsync fdatasync msync rename unlink mmap
 *           ftruncate fallocate create mkdir xattr, or a group: writes (write, writev, pwrite,
 *           pwritev), syncs (fsync, fdatasync, msync), names (rename, unlink, create, mkdir), any
 *           (all of them)
 *   PATH    matches a call whose file (or either name of a rename) contains it; empty matches all.
 *           Of a descriptor it is what /proc/self/fd says. It cannot contain a colon
 *   N       counts the calls that match, from 1: N is that one, N+ that and all later, N-M a range,
 *           0 none (only count)
 *   ACTION  errno=NAME  do not make the call, fail with that error (a name such as ENOSPC, or a
 *                       number)
 *           tear=BYTES  of a write make only the first BYTES; alone, it is a short write; with
 *                       errno or kill, that follows
 *           kill        SIGKILL this process, without the call
 *           delay=MS    sleep, then go on
 *           after=MS    of a sync: make it, then sleep, so that much happens between the sync and what its
 *                       caller does about it
 *           record      append "NUMBER OP OFFSET LENGTH PATH" to the file $VD_FAULT_RECORD
 *
 *   VD_FAULT_COUNT=FILE  after each matching call FILE holds how many there were, one line a rule,
 *                        so a fail-the-Nth sweep ends when N is greater than the count
 *   VD_FAULT_ARM=FILE    nothing matches or counts until FILE exists: to let a start-up pass
 *
 * For example, a full disk from the third write of the slot table on:
 *   VD_FAULT='writes:/slots:3+:errno=ENOSPC'
 *
 * What it cannot see: stdio's own writes, io_uring and libaio, and calls that libc makes inside
 * itself. Programs built with ASan want ASAN_OPTIONS=verify_asan_link_order=0.
 *
 * The hooks make system calls directly, so they need no dlsym and never allocate: they work before
 * the constructor ran (as if there were no rules), in signal handlers, and after fork. Counters are
 * in shared memory, so that a forked child goes on counting where its parent is; an exec starts
 * anew. Rules are written by the constructor only; the counters are atomic, and `text_busy` orders
 * the count file.
 */
#undef _FORTIFY_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"

#define PATH_ROOM 4096

/* Of the process; the constructor is its only writer. */
static struct fault_rule rules[FAULT_RULES_MAX];
static unsigned nrules;
static int count_fd = -1;
static int record_fd = -1;
static const char *arm_path;
static struct shared {
    _Atomic uint64_t calls[FAULT_RULES_MAX];
    atomic_bool armed;
    atomic_flag text_busy;
} * shared;

static __attribute__((noreturn)) void refuse(const char *what, const char *text)
{
    dprintf(STDERR_FILENO, "fault: %s: '%s'\n", what, text);
    _exit(127);
}

/* High, so that closing all low descriptors, as daemons do, does not close it; absolute, so a chdir
 * of the program does not matter later. */
static int open_high(const char *path, int flags)
{
    int low =
        (int)syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_CLOEXEC | flags, 0644);
    int high = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 900);

    if (high < 0)
        refuse("cannot open", path);
    syscall(SYS_close, low);
    return high;
}

static __attribute__((constructor)) void fault_init(void)
{
    const char *text = getenv("VD_FAULT"), *file;

    if (!text || !*text)
        return;
    int n = fault_rules_parse(text, rules);
    if (n < 0)
        refuse("bad rule in VD_FAULT", text);
    if ((file = getenv("VD_FAULT_COUNT")))
        count_fd = open_high(file, O_TRUNC);
    if ((file = getenv("VD_FAULT_RECORD")))
        record_fd = open_high(file, O_APPEND);
    arm_path = getenv("VD_FAULT_ARM");
    void *p = (void *)syscall(SYS_mmap, NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        refuse("no memory", text);
    shared = p;
    nrules = (unsigned)n;
}

/* The path of a descriptor, or "" where there is none. */
static void fd_path(int fd, char *ret_path)
{
    char link[64];

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, ret_path, PATH_ROOM - 1);
    ret_path[n < 0 ? 0 : n] = 0;
}

static void name_path(int dirfd, const char *name, char *ret_path)
{
    if (name[0] == '/' || dirfd == AT_FDCWD) {
        snprintf(ret_path, PATH_ROOM, "%s", name);
        return;
    }
    fd_path(dirfd, ret_path);
    size_t n = strlen(ret_path);
    snprintf(ret_path + n, PATH_ROOM - n, "/%s", name);
}

/* The file that is mapped at ADDR: a line of /proc/self/maps is "from-to perms off dev inode path".
 */
static void mapping_path(const void *addr, char *ret_path)
{
    char line[PATH_ROOM];
    size_t len = 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);

    ret_path[0] = 0;
    while (fd >= 0 && syscall(SYS_read, fd, line + len, 1) == 1) {
        if (line[len] != '\n' && len < sizeof(line) - 2) {
            len++;
            continue;
        }
        char *end;
        line[len] = 0;
        len = 0;
        unsigned long from = strtoul(line, &end, 16), to = strtoul(end + 1, NULL, 16);
        const char *path = strchr(line, '/');
        if (path && (unsigned long)addr >= from && (unsigned long)addr < to) {
            snprintf(ret_path, PATH_ROOM, "%s", path);
            break;
        }
    }
    if (fd >= 0)
        syscall(SYS_close, fd);
}

static void call_path(const struct fault_call *c, char *ret_path)
{
    if (c->op == FAULT_MSYNC)
        mapping_path(c->addr, ret_path);
    else if (c->name)
        name_path(c->fd, c->name, ret_path);
    else
        fd_path(c->fd, ret_path);
}

static bool path_matches(const struct fault_rule *rule, const struct fault_call *c)
{
    char path[PATH_ROOM];

    if (!rule->path[0])
        return true;
    call_path(c, path);
    if (strstr(path, rule->path))
        return true;
    if (!c->name2)
        return false;
    name_path(c->fd2, c->name2, path);
    return strstr(path, rule->path);
}

static bool is_armed(void)
{
    if (!arm_path || atomic_load(&shared->armed))
        return true;
    if (syscall(SYS_faccessat, AT_FDCWD, arm_path, F_OK) < 0)
        return false;
    atomic_store(&shared->armed, true);
    return true;
}

static void write_counts(void)
{
    char text[FAULT_RULES_MAX * 21 + 1];
    size_t len = 0;

    while (atomic_flag_test_and_set(&shared->text_busy))
        ;
    for (unsigned i = 0; i < nrules; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%llu\n",
                                (unsigned long long)atomic_load(&shared->calls[i]));
    syscall(SYS_pwrite64, count_fd, text, len, 0);
    atomic_flag_clear(&shared->text_busy);
}

static void record(const struct fault_call *c, uint64_t number)
{
    char line[PATH_ROOM + 128], path[PATH_ROOM];

    call_path(c, path);
    int n = snprintf(line, sizeof(line), "%llu %s %lld %zu %s\n", (unsigned long long)number,
                     fault_op_name(c->op), (long long)c->off, c->len, path);
    syscall(SYS_write, record_fd, line, (size_t)n);
}

void fault_kill_self(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

void fault_sleep(unsigned ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    int saved = errno;

    syscall(SYS_nanosleep, &ts, NULL);
    errno = saved;
}

struct fault_verdict fault_judge(const struct fault_call *c)
{
    struct fault_verdict v = {.tear = -1};
    int saved = errno;

    for (unsigned i = 0; i < nrules && is_armed(); i++) {
        const struct fault_rule *rule = &rules[i];
        if (!(rule->ops & 1u << c->op) || !path_matches(rule, c))
            continue;
        uint64_t number = atomic_fetch_add(&shared->calls[i], 1) + 1;
        if (count_fd >= 0)
            write_counts();
        if (number < rule->from || number > rule->to)
            continue;
        if (rule->record && record_fd >= 0)
            record(c, number);
        if (rule->delay_ms)
            fault_sleep(rule->delay_ms);
        v.err = v.err ? v.err : rule->err;
        v.tear = v.tear >= 0 ? v.tear : rule->tear_bytes;
        v.kill |= rule->kill;
        v.after_ms = v.after_ms ? v.after_ms : rule->after_ms;
    }
    /* a torn write does its part first */
    if (v.kill && v.tear < 0)
        fault_kill_self();
    errno = saved;
    return v;
}
