/* Checked sizes and memory. A worker that is out of memory cannot go on: it says so on stderr and ends with 1. */
#ifndef EDGEKIT_WORKER_MEMORY_H
#define EDGEKIT_WORKER_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

bool multiply_size(size_t left, size_t right, size_t *product);
bool add_size(size_t left, size_t right, size_t *sum);

/* Zeroed memory for `count` items of `size` bytes, never NULL. */
void *allocate(size_t count, size_t size);
void *resize(void *memory, size_t count, size_t size);

#endif
