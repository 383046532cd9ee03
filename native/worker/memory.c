#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool multiply_size(size_t left, size_t right, size_t *product) {
    if (right != 0 && left > SIZE_MAX / right) return false;
    *product = left * right;
    return true;
}

bool add_size(size_t left, size_t right, size_t *sum) {
    if (left > SIZE_MAX - right) return false;
    *sum = left + right;
    return true;
}

static void *checked(void *memory) {
    static const char message[] = "error: out of memory\n";
    if (memory) return memory;
    ssize_t written = write(STDERR_FILENO, message, sizeof message - 1);
    (void)written;
    _exit(1);
}

void *allocate(size_t count, size_t size) {
    return checked(calloc(count ? count : 1, size ? size : 1));
}

void *resize(void *memory, size_t count, size_t size) {
    size_t bytes = 0;
    if (!multiply_size(count, size, &bytes) || bytes == 0) return checked(NULL);
    return checked(realloc(memory, bytes));
}
