#include "fill.h"

#include <string.h>

#include "ort_table.h"

/* xorshift64* (Vigna 2016). */
static uint64_t next(struct fill *fill) {
    fill->seed ^= fill->seed >> 12;
    fill->seed ^= fill->seed << 25;
    fill->seed ^= fill->seed >> 27;
    return fill->seed * UINT64_C(0x2545F4914F6CDD1D);
}

/* The sum of twelve uniform numbers less six has mean 0 and variance 1: near enough to normal, without logarithms. */
static double normal(struct fill *fill) {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += (double)(next(fill) >> 11) * 0x1p-53;
    return sum;
}

/* Half precision by its bits: sign, and a value in [0.5, 2), whose exponents 14 and 15 are followed by ten bits. */
static uint16_t half(struct fill *fill) {
    uint64_t bits = next(fill) >> 20;
    return (uint16_t)((bits & 0x8000) | (14 + (bits >> 16 & 1)) << 10 | (bits & 0x3FF));
}

size_t type_size(int type) {
    switch (type) {
    case ORT_UINT8:
    case ORT_INT8:
    case ORT_BOOL:
        return 1;
    case ORT_UINT16:
    case ORT_INT16:
    case ORT_FLOAT16:
        return 2;
    case ORT_FLOAT:
    case ORT_INT32:
    case ORT_UINT32:
        return 4;
    case ORT_INT64:
    case ORT_DOUBLE:
    case ORT_UINT64:
        return 8;
    default:
        return 0;
    }
}

static void fill_one(struct fill *fill, int type, unsigned char *place, size_t size) {
    float single = (float)normal(fill);
    double twice = single;
    uint16_t bits = half(fill);
    uint64_t whole = type == ORT_UINT8 || type == ORT_INT8 ? next(fill) >> 56 : next(fill) >> 63;
    unsigned char least = (unsigned char)whole;
    memset(place, 0, size);
    if (type == ORT_FLOAT)
        memcpy(place, &single, size);
    else if (type == ORT_DOUBLE)
        memcpy(place, &twice, size);
    else if (type == ORT_FLOAT16)
        memcpy(place, &bits, size);
    else
        *place = least; /* Little-endian, as every processor that the worker is built for. */
}

void fill_values(struct fill *fill, int type, void *data, size_t count) {
    size_t size = type_size(type);
    unsigned char *place = data;
    for (size_t i = 0; i < count; i++) fill_one(fill, type, place + i * size, size);
}
