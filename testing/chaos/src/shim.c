// SPDX-License-Identifier: Apache-2.0
// Stands between a program and its syncs, and follows the order in the file that SHIM_ORDER names: nothing without the file,
// `fail` (EIO each time), `once` (EIO, and the file is removed), `skip` (success without a sync), `sleep N` (N milliseconds
// longer).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int sync_or_fail(const char *name, int file)
{
    const char *path = getenv("SHIM_ORDER");
    char order[32] = {0};
    int from = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (from >= 0) {
        if (read(from, order, sizeof order - 1) < 0)
            order[0] = 0;
        close(from);
    }
    /* The thread that removes the file fails. */
    if (strcmp(order, "fail") == 0 || (strcmp(order, "once") == 0 && unlink(path) == 0)) {
        errno = EIO;
        return -1;
    }
    if (strcmp(order, "skip") == 0)
        return 0;
    if (strncmp(order, "sleep ", 6) == 0)
        usleep((useconds_t)atoi(order + 6) * 1000);
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(file);
}

int fdatasync(int file)
{
    return sync_or_fail("fdatasync", file);
}

int fsync(int file)
{
    return sync_or_fail("fsync", file);
}
