#include "profile.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

#define DEPTH_LIMIT 32

/* A reader of JSON that keeps nothing but what it is asked for. */
struct reader {
    const char *at;
    const char *end;
    unsigned depth;
};

static char peek(struct reader *reader) {
    while (reader->at < reader->end && strchr(" \t\r\n", *reader->at) && *reader->at) reader->at++;
    return reader->at < reader->end ? *reader->at : '\0';
}

static bool take(struct reader *reader, char letter) {
    if (letter == '\0' || peek(reader) != letter) return false;
    reader->at++;
    return true;
}

/* Escapes are kept as they are but for those of one character: names of nodes hold no others. */
static char unescaped(char letter) {
    return letter == 'n' ? '\n' : letter == 't' ? '\t' : letter;
}

/* What fits of a string, cut at the end of `capacity`. */
static bool take_string(struct reader *reader, char *text, size_t capacity) {
    size_t used = 0;
    if (!take(reader, '"')) return false;
    while (reader->at < reader->end && *reader->at != '"') {
        char letter = *reader->at++;
        if (letter == '\\') {
            if (reader->at == reader->end) return false;
            letter = unescaped(*reader->at++);
        }
        if (used + 1 < capacity) text[used++] = letter;
    }
    if (capacity) text[used] = '\0';
    return take(reader, '"');
}

static bool skip_value(struct reader *reader);

/* Steps into an object or a list: false at its end, which is taken, or where it is damaged. */
static bool next_item(struct reader *reader, char end, bool *first, bool *intact) {
    if (take(reader, end)) return false;
    *intact = *first || take(reader, ',');
    *first = false;
    return *intact;
}

static bool skip_items(struct reader *reader, char end) {
    bool first = true, intact = true;
    while (next_item(reader, end, &first, &intact)) {
        if (end == '}' && !(take_string(reader, NULL, 0) && take(reader, ':'))) return false;
        if (!skip_value(reader)) return false;
    }
    return intact;
}

static bool skip_word(struct reader *reader) {
    const char *start = reader->at;
    while (reader->at < reader->end && !strchr(",]} \t\r\n", *reader->at)) reader->at++;
    return reader->at > start;
}

static bool skip_value(struct reader *reader) {
    char first = peek(reader);
    if (first == '"') return take_string(reader, NULL, 0);
    if (first != '{' && first != '[') return skip_word(reader);
    if (reader->depth == DEPTH_LIMIT) return false;
    reader->depth++;
    reader->at++;
    bool intact = skip_items(reader, first == '{' ? '}' : ']');
    reader->depth--;
    return intact;
}

/* [{"float":[1,4]},{"int64":[2]}]: the first key of the first object. */
static bool take_first_type(struct reader *reader, char *type, size_t capacity) {
    struct reader ahead = *reader;
    bool is_given = take(&ahead, '[') && take(&ahead, '{') && peek(&ahead) == '"';
    if (is_given && !take_string(&ahead, type, capacity)) return false;
    return skip_value(reader);
}

static bool take_text(struct reader *reader, char *text, size_t capacity) {
    return peek(reader) == '"' ? take_string(reader, text, capacity) : skip_value(reader);
}

static bool take_arguments(struct reader *reader, struct profile_node *node) {
    bool first = true, intact = true;
    char key[32];
    if (!take(reader, '{')) return skip_value(reader);
    while (next_item(reader, '}', &first, &intact)) {
        bool read = take_string(reader, key, sizeof key) && take(reader, ':');
        if (!read) return false;
        if (strcmp(key, "op_name") == 0)
            read = take_text(reader, node->operator, sizeof node->operator);
        else if (strcmp(key, "provider") == 0)
            read = take_text(reader, node->provider, sizeof node->provider);
        else if (strcmp(key, "input_type_shape") == 0)
            read = take_first_type(reader, node->type, sizeof node->type);
        else
            read = skip_value(reader);
        if (!read) return false;
    }
    return intact;
}

static bool take_event(struct reader *reader, struct profile_node *node) {
    bool first = true, intact = true;
    char key[32];
    if (!take(reader, '{')) return false;
    while (next_item(reader, '}', &first, &intact)) {
        bool read = take_string(reader, key, sizeof key) && take(reader, ':');
        if (!read) return false;
        if (strcmp(key, "name") == 0)
            read = take_text(reader, node->name, sizeof node->name);
        else if (strcmp(key, "args") == 0)
            read = take_arguments(reader, node);
        else
            read = skip_value(reader);
        if (!read) return false;
    }
    return intact;
}

/* Events of kernels are named after their nodes: the ending is cut off. */
static bool is_kernel(struct profile_node *node) {
    static const char ending[] = "_kernel_time";
    size_t length = strlen(node->name);
    if (length < sizeof ending - 1 || strcmp(node->name + length - (sizeof ending - 1), ending) != 0) return false;
    node->name[length - (sizeof ending - 1)] = '\0';
    return true;
}

bool profile_parse(const char *text, size_t length, struct profile *profile) {
    struct reader reader = {.at = text, .end = text + length};
    bool first = true, intact = true;
    *profile = (struct profile){0};
    if (!take(&reader, '[')) return false;
    while (next_item(&reader, ']', &first, &intact)) {
        profile->nodes = resize(profile->nodes, profile->count + 1, sizeof *profile->nodes);
        struct profile_node *node = &profile->nodes[profile->count];
        *node = (struct profile_node){0};
        if (!take_event(&reader, node)) return false;
        profile->count += is_kernel(node);
    }
    return intact;
}

void profile_free(struct profile *profile) {
    free(profile->nodes);
    *profile = (struct profile){0};
}
