#include "npy.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"
#include "numbers.h"

#define PREFIX_BYTES 10
#define ALIGNMENT 64

static const char magic[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', '\x01', '\x00'};

struct cursor {
    const char *at;
    const char *end;
};

static void skip_spaces(struct cursor *cursor) {
    while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\n')) cursor->at++;
}

static bool take(struct cursor *cursor, const char *text) {
    size_t length = strlen(text);
    skip_spaces(cursor);
    if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, text, length) != 0) return false;
    cursor->at += length;
    return true;
}

static bool take_size(struct cursor *cursor, size_t *value) {
    uint64_t found = 0;
    skip_spaces(cursor);
    const char *start = cursor->at;
    while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9') cursor->at++;
    if (!parse_whole(start, (size_t)(cursor->at - start), SIZE_MAX, &found)) return false;
    *value = (size_t)found;
    return true;
}

static bool take_shape(struct cursor *cursor, struct npy *array) {
    if (!take(cursor, "(")) return false;
    while (!take(cursor, ")")) {
        if (array->rank == NPY_RANK_LIMIT || !take_size(cursor, &array->shape[array->rank])) return false;
        array->rank++;
        if (take(cursor, ",")) continue;
        return array->rank > 1 && take(cursor, ")");
    }
    return true;
}

static const char *take_entry(struct cursor *cursor, struct npy *array, unsigned *seen) {
    unsigned entry = take(cursor, "'descr'") ? 1 : take(cursor, "'fortran_order'") ? 2 : 0;
    if (entry == 0 && take(cursor, "'shape'")) entry = 4;
    if (entry == 0 || (*seen & entry) || !take(cursor, ":")) return "its header is damaged";
    *seen |= entry;
    if (entry == 1 && !take(cursor, "'<f4'")) return "it must hold little-endian float32 ('<f4')";
    if (entry == 2 && !take(cursor, "False")) return "it must be in C order";
    if (entry == 4 && !take_shape(cursor, array)) return "its shape is damaged or has more than 8 dimensions";
    return NULL;
}

static const char *take_header(struct cursor cursor, struct npy *array) {
    unsigned seen = 0;
    if (!take(&cursor, "{")) return "its header is damaged";
    while (!take(&cursor, "}")) {
        const char *problem = take_entry(&cursor, array, &seen);
        if (problem) return problem;
        if (!take(&cursor, ",") && !(cursor.at < cursor.end && *cursor.at == '}')) return "its header is damaged";
    }
    skip_spaces(&cursor);
    return seen == 7 && cursor.at == cursor.end ? NULL : "its header is damaged";
}

static const char *check_length(struct npy *array, size_t length) {
    size_t bytes = sizeof(float);
    for (size_t i = 0; i < array->rank; i++)
        if (!multiply_size(bytes, array->shape[i], &bytes)) return "its shape is larger than any memory";
    array->count = bytes / sizeof(float);
    return length - array->offset == bytes ? NULL : "its length does not fit its shape";
}

bool npy_parse(const char *bytes, size_t length, struct npy *array, const char **problem) {
    *array = (struct npy){0};
    *problem = "it is no .npy file of version 1.0";
    if (length < PREFIX_BYTES || memcmp(bytes, magic, sizeof magic) != 0) return false;
    size_t header = (size_t)(unsigned char)bytes[8] | (size_t)(unsigned char)bytes[9] << 8;
    *problem = "it is cut off in its header";
    if (length - PREFIX_BYTES < header) return false;
    array->offset = PREFIX_BYTES + header;
    *problem = take_header((struct cursor){bytes + PREFIX_BYTES, bytes + array->offset}, array);
    if (!*problem) *problem = check_length(array, length);
    return !*problem;
}

/* At most 8 sizes of 20 digits with comma and space stay below the capacity, padding included. */
size_t npy_header(const size_t *shape, size_t rank, char header[NPY_HEADER_CAPACITY]) {
    char sizes[NPY_RANK_LIMIT * 22 + 1] = "";
    size_t used = 0;
    for (size_t i = 0; i < rank && i < NPY_RANK_LIMIT; i++)
        used += (size_t)snprintf(sizes + used, sizeof sizes - used, rank == 1 ? "%zu," : i ? ", %zu" : "%zu", shape[i]);
    memset(header, ' ', NPY_HEADER_CAPACITY);
    memcpy(header, magic, sizeof magic);
    int length = snprintf(header + PREFIX_BYTES, NPY_HEADER_CAPACITY - PREFIX_BYTES,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", sizes);
    size_t total = (PREFIX_BYTES + (size_t)length + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    header[PREFIX_BYTES + length] = ' ';
    header[total - 1] = '\n';
    header[8] = (char)((total - PREFIX_BYTES) & 0xFF);
    header[9] = (char)((total - PREFIX_BYTES) >> 8);
    return total;
}
