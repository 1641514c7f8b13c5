// SPDX-License-Identifier: Apache-2.0
/*
 * vdiskfs SOURCE MOUNTPOINT.
 *
 * The order of a start: options and paths (errors on the terminal), to the background, metadata,
 * cache, disks, mount, control socket, loop; INIT from the kernel is when the waiting parent
 * returns. The order of an end: the loop has ended, say so to those who wait for cache and disks,
 * let the requests under way finish, unmount, detach, close.
 */
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "background.h"
#include "start.h"
#include "vd_fs.h"
#include "vd_log.h"
#include "vd_size.h"

#define NOFILE_WANTED (1u << 20) /* each inode that the kernel remembers holds a descriptor */

struct program {
    struct vd_daemon daemon;
    struct vd_background background;
};

static void log_fuse(enum fuse_log_level level, const char *fmt, va_list args)
{
    char line[512];
    vsnprintf(line, sizeof(line), fmt, args);
    line[strcspn(line, "\n")] = '\0';
    enum vd_log_level ours = VD_LOG_DEBUG;
    if (level <= FUSE_LOG_ERR)
        ours = VD_LOG_ERROR;
    else if (level == FUSE_LOG_WARNING)
        ours = VD_LOG_WARNING;
    vd_log(ours, "%s", line);
}

static void raise_limits(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    rlim_t hard = lim.rlim_max;
    lim.rlim_cur = lim.rlim_max = vd_max(hard, (rlim_t)NOFILE_WANTED);
    if (setrlimit(RLIMIT_NOFILE, &lim) == 0)
        return;
    lim.rlim_cur = lim.rlim_max = hard;
    (void)setrlimit(RLIMIT_NOFILE, &lim);
}

/* Others of our uid shall not read guests' data from our memory; sanitizers must. */
static void hide_memory(void)
{
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if !defined(SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    (void)prctl(PR_SET_DUMPABLE, 0);
#endif
}

/* Only the main thread takes the signals that stop us, and only in its loop. */
static void signals_that_stop(int how)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(how, &set, NULL);
}

/* Ours stand before the user's, so that those win. */
static int add_fuse_options(struct fuse_args *args, const struct vd_daemon *d)
{
    char *opts = NULL, *name = NULL;
    int r = -1;

    if (asprintf(&name, "fsname=%s", d->source) >= 0 &&
        fuse_opt_add_opt_escaped(&opts, name) == 0 &&
        fuse_opt_add_opt(&opts, "subtype=vdiskfs,default_permissions") == 0 &&
        (geteuid() != 0 || fuse_opt_add_opt(&opts, "allow_other") == 0) &&
        (!d->opt.read_only || fuse_opt_add_opt(&opts, "ro") == 0) &&
        fuse_opt_insert_arg(args, 1, "-o") == 0)
        r = fuse_opt_insert_arg(args, 2, opts);
    free(opts);
    free(name);
    return r;
}

static void mount_answers(void *user)
{
    struct program *p = user;
    const struct vd_daemon *d = &p->daemon;
    char size[32];

    vd_background_ready(&p->background);
    vd_log_note("%s is mounted at %s (pid %d)", d->source, d->mountpoint, (int)getpid());
    if (d->cache) {
        vd_size_print(d->cache_size_bytes, size, sizeof(size));
        vd_log_note("cache: %s, %s", d->cache_dir, size);
    }
}

/* Opens everything and serves until the end. 0 after a clean stop. */
static int serve(struct program *p, struct fuse_args *args)
{
    struct vd_daemon *d = &p->daemon;
    struct vd_session *session = NULL;

    if (vd_daemon_open(d) < 0)
        return -1;
    struct vd_fs_config fs_config = {
        .source_fd = d->source_fd,
        .disks = d->disks,
        .lanes = d->lanes,
        .direct_io = d->opt.direct_io,
        .read_only = d->opt.read_only,
        .ready = mount_answers,
        .user = p,
    };
    int r = vd_fs_new(&fs_config, &d->fs);
    if (r == 0) {
        struct vd_session_config config = {.mountpoint = d->mountpoint,
                                           .ops = vd_fs_ops(),
                                           .user = d->fs,
                                           .args = args,
                                           .threads = d->opt.threads};
        r = vd_session_new(&config, &session);
        if (r == 0)
            vd_fs_set_session(d->fs, vd_session_fuse(session));
    }
    if (r < 0) {
        vd_log_error("cannot start: %s", strerror(-r));
        return -1;
    }
    r = vd_session_mount(session);
    if (r == 0)
        r = vd_daemon_listen(d);
    if (r == 0) {
        signals_that_stop(SIG_UNBLOCK);
        r = vd_session_loop(session);
        signals_that_stop(SIG_BLOCK);
        if (r < 0)
            vd_log_error("the FUSE session ended: %s", strerror(-r));
    }
    vd_daemon_stopping(d);
    vd_fs_drain(d->fs);
    vd_session_free(session);
    return r;
}

int main(int argc, char **argv)
{
    struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
    struct program p = {.daemon.source_fd = -1, .background.pipe_fd = -1};
    struct vd_daemon *d = &p.daemon;
    int r = 0;

    vd_log_init("vdiskfs", VD_LOG_NOTE);
    /* One for each connection there can be (src/ctl/conn.h): commands that take long may not keep
     * another mount's request waiting. */
    setenv("UV_THREADPOOL_SIZE", "64", 0);
    fuse_set_log_func(log_fuse);
    enum vd_options_result parsed = vd_options_parse(&args, &d->opt);
    if (parsed == VD_OPTIONS_RUN) {
        if (d->opt.debug)
            vd_log_init("vdiskfs", VD_LOG_DEBUG);
        signals_that_stop(SIG_BLOCK);
        r = vd_daemon_resolve(d);
        if (r == 0)
            r = add_fuse_options(&args, d);
        if (r == 0)
            r = vd_session_check_args(&args);
        if (r == 0 && !d->opt.foreground)
            r = vd_background_start(&p.background);
        if (r == 0) {
            raise_limits();
            hide_memory();
            r = serve(&p, &args);
        }
        if (r == 0)
            vd_log_note("%s: unmounted", d->mountpoint);
    }
    vd_daemon_close(d);
    fuse_opt_free_args(&args);
    return parsed == VD_OPTIONS_WRONG || r != 0 ? 1 : 0;
}
