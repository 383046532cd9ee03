/* Whole files in and out, bounded; nothing is known here of what they hold. */
#ifndef EDGEKIT_WORKER_FILES_H
#define EDGEKIT_WORKER_FILES_H

#include <stdbool.h>
#include <stddef.h>

struct bytes {
    char *data;
    size_t length;
};

struct piece {
    const void *data;
    size_t length;
};

/* The file's content with a NUL behind it, to be freed; false if it cannot be read or is larger than `limit`. */
bool read_file(const char *path, size_t limit, struct bytes *content);

/* What fits of a file of one line, without white space at its end; an empty text if there is none. */
void read_line(const char *path, char *text, size_t capacity);

/* Every byte of the piece into `descriptor`, which may take less at a time. */
bool write_all(int descriptor, struct piece piece);

/* The pieces as one file: under a temporary name first, so that a reader sees a whole file or none. */
bool write_file(const char *path, const struct piece *pieces, size_t count);

#endif
