/* Fixed pseudo-random values for a model's inputs: always the same, and no model takes another time for them. */
#ifndef EDGEKIT_WORKER_FILL_H
#define EDGEKIT_WORKER_FILL_H

#include <stddef.h>
#include <stdint.h>

struct fill {
    uint64_t seed;
};

#define FILL_START {UINT64_C(0x9E3779B97F4A7C15)}

/* Bytes of an element of a type of ort_table.h; 0 for types that cannot be filled. */
size_t type_size(int type);

/* Normal numbers for floating point, the whole range for 8-bit integers, 0 or 1 for wider ones (they may be
   indices). */
void fill_values(struct fill *fill, int type, void *data, size_t count);

#endif
