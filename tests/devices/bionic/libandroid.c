/* Stand-in for Android's libandroid.so: the one function of it that NNAPI's users need. */
#include <stddef.h>

extern void *real_function(const char *name);

int ASharedMemory_create(const char *name, size_t bytes) {
    int descriptor = ((int (*)(const char *, unsigned))real_function("memfd_create"))(name ? name : "shared", 0);
    ((int (*)(int, long))real_function("ftruncate"))(descriptor, (long)bytes);
    return descriptor;
}
