// SPDX-License-Identifier: Apache-2.0
/*
 * Mounts a world and serves it, with many threads, until it is unmounted or told to stop.
 *
 * What a process stores into a shared mapping comes as WRITE when the kernel writes the pages back:
 * at an msync, when it likes, and whenever anybody closes the file. So a thread opens and closes
 * the mapped files ("poke") all the time, and unsynced states of them are in the history too, page
 * by page, at most some milliseconds apart.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

#include "powercut.h"
#include "powercut_fs.h"

#define POKE_EVERY_MS 3

struct poker {
    const struct served *s;
    const char *mountpoint;
    atomic_bool stop;
};

/* Of a path that is below another mount by now, or not there yet, the open fails. */
static void *poke(void *user)
{
    struct poker *p = user;
    while (!atomic_load(&p->stop)) {
        for (unsigned i = 0; i < p->s->npoke; i++) {
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", p->mountpoint, p->s->poke[i]);
            int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
            if (fd >= 0)
                close(fd);
        }
        usleep(POKE_EVERY_MS * 1000);
    }
    return NULL;
}

static int loop(struct served *s, struct fuse_session *se, const char *mountpoint, int ready_fd)
{
    struct poker p = {.s = s, .mountpoint = mountpoint};
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    pthread_t thread;
    bool poking = s->npoke && pthread_create(&thread, NULL, poke, &p) == 0;
    if (ready_fd >= 0 && write(ready_fd, "1", 1) != 1)
        fprintf(stderr, "powercut: nobody waits for the mount\n");
    vd_close_p(&ready_fd);
    int r = fuse_session_loop_mt(se, config);
    fuse_loop_cfg_destroy(config);
    atomic_store(&p.stop, true);
    fuse_session_unmount(se);
    if (poking)
        pthread_join(thread, NULL);
    return r < 0;
}

int fs_serve(struct served *s, const char *mountpoint, int ready_fd)
{
    char *argv[] = {"powercut", "-o", "fsname=powercut,subtype=powercut,allow_other,suid,dev"};
    struct fuse_args args = FUSE_ARGS_INIT((int)VD_ARRAY_SIZE(argv), argv);
    struct fuse_session *se = fuse_session_new(&args, &fs_ops, sizeof(fs_ops), s);
    int r = 1;
    if (se && fuse_set_signal_handlers(se) == 0) {
        if (fuse_session_mount(se, mountpoint) == 0)
            r = loop(s, se, mountpoint, ready_fd);
        fuse_remove_signal_handlers(se);
    }
    if (se)
        fuse_session_destroy(se);
    fuse_opt_free_args(&args);
    return r;
}
