/* The names that the worker needs of bionic's libdl.so, to link against: never run, never shipped. */
void dlopen(void) {}
void dlsym(void) {}
void dlerror(void) {}
