/* Loaded into a node beside its own libraries: a disk that takes its time to sync, while there is a file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int after_a_while(const char *name, int fd) {
    const char *file = getenv("SLOW_SYNC");
    if (file && access(file, F_OK) == 0) sleep(2);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}

int fdatasync(int fd) { return after_a_while("fdatasync", fd); }
int fsync(int fd) { return after_a_while("fsync", fd); }
