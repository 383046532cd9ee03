/* The way from the stand-in of bionic to glibc: a library of its own, because only that one may know glibc's
   headers. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

void *real_function(const char *name) {
    static void *libraries[2];
    if (!libraries[0]) libraries[0] = dlopen("libc.so.6", RTLD_NOW);
    if (!libraries[1]) libraries[1] = dlopen("libm.so.6", RTLD_NOW);
    void *found = dlsym(libraries[0], name);
    return found ? found : dlsym(libraries[1], name);
}

int *real_errno(void) { return &errno; }

void real_abort(void) { abort(); }
