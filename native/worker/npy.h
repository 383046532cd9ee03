/* NumPy's .npy files, version 1.0, of little-endian float32 in C order: the only arrays that jobs hold. */
#ifndef EDGEKIT_WORKER_NPY_H
#define EDGEKIT_WORKER_NPY_H

#include <stdbool.h>
#include <stddef.h>

#define NPY_RANK_LIMIT 8
#define NPY_HEADER_CAPACITY 256

struct npy {
    size_t shape[NPY_RANK_LIMIT];
    size_t rank;
    size_t count;
    /* Where the numbers begin; they need not be aligned. */
    size_t offset;
};

/* False with what is wrong, if the bytes are no such file or not exactly as long as its shape says. */
bool npy_parse(const char *bytes, size_t length, struct npy *array, const char **problem);

/* Writes the header of an array of this shape; the number of its bytes, a multiple of 64. */
size_t npy_header(const size_t *shape, size_t rank, char header[NPY_HEADER_CAPACITY]);

#endif
