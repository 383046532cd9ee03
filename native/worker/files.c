#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"

#define FIRST_CAPACITY 65536
#define PATH_CAPACITY 512

static int open_to_read(const char *path) {
    /* Without O_NONBLOCK, opening a named pipe would wait for a writer. */
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static ssize_t read_some(int descriptor, char *data, size_t capacity) {
    ssize_t got;
    do got = read(descriptor, data, capacity);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Up to `limit` + 1 bytes, so that a file that is too large shows. */
static bool read_up_to(int descriptor, size_t limit, struct bytes *content) {
    size_t capacity = FIRST_CAPACITY;
    content->data = allocate(capacity, 1);
    content->length = 0;
    while (content->length <= limit) {
        if (capacity - content->length < 2) content->data = resize(content->data, capacity *= 2, 1);
        ssize_t got = read_some(descriptor, content->data + content->length, capacity - content->length - 1);
        if (got < 0) return false;
        if (got == 0) break;
        content->length += (size_t)got;
    }
    content->data[content->length] = '\0';
    return content->length <= limit;
}

bool read_file(const char *path, size_t limit, struct bytes *content) {
    int descriptor = open_to_read(path);
    if (descriptor < 0) return false;
    bool complete = read_up_to(descriptor, limit, content);
    close(descriptor);
    if (!complete) {
        free(content->data);
        content->data = NULL;
    }
    return complete;
}

void read_line(const char *path, char *text, size_t capacity) {
    int descriptor = open_to_read(path);
    ssize_t got = descriptor < 0 ? 0 : read_some(descriptor, text, capacity - 1);
    size_t length = got > 0 ? (size_t)got : 0;
    if (descriptor >= 0) close(descriptor);
    while (length > 0 && (unsigned char)text[length - 1] <= ' ') length--;
    text[length] = '\0';
}

bool write_all(int descriptor, struct piece piece) {
    const char *data = piece.data;
    while (piece.length > 0) {
        ssize_t written = write(descriptor, data, piece.length);
        if (written < 0 && errno != EINTR) return false;
        if (written <= 0) continue;
        data += written;
        piece.length -= (size_t)written;
    }
    return true;
}

static bool write_pieces(int descriptor, const struct piece *pieces, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!write_all(descriptor, pieces[i])) return false;
    return true;
}

bool write_file(const char *path, const struct piece *pieces, size_t count) {
    char temporary[PATH_CAPACITY];
    int length = snprintf(temporary, sizeof temporary, ".%s.part", path);
    if (length < 0 || (size_t)length >= sizeof temporary) return false;
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor < 0) return false;
    bool written = write_pieces(descriptor, pieces, count);
    written = close(descriptor) == 0 && written;
    if (written && rename(temporary, path) == 0) return true;
    unlink(temporary);
    return false;
}
