#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "memory.h"

static void append(struct json *json, const char *text, size_t length) {
    if (json->capacity - json->length < length) {
        json->capacity = (json->length + length) * 2;
        json->text = resize(json->text, json->capacity, 1);
    }
    memcpy(json->text + json->length, text, length);
    json->length += length;
}

static void separate(struct json *json) {
    char last = json->length ? json->text[json->length - 1] : '{';
    if (!strchr("{[:", last)) append(json, ",", 1);
}

void json_open(struct json *json, char bracket) {
    separate(json);
    append(json, &bracket, 1);
}

void json_close(struct json *json, char bracket) {
    append(json, &bracket, 1);
}

void json_key(struct json *json, const char *key) {
    json_string(json, key);
    append(json, ":", 1);
}

/* Bytes of the UTF-8 character that begins here (Unicode 15, table 3-7); 0 if none does. */
static size_t character_length(const unsigned char *text) {
    unsigned char first = text[0];
    if (first < 0x80) return 1;
    size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4) return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    bool overlong = (first == 0xE0 && text[1] < 0xA0) || (first == 0xF0 && text[1] < 0x90);
    bool surrogate = first == 0xED && text[1] > 0x9F;
    bool beyond = first == 0xF4 && text[1] > 0x8F;
    return overlong || surrogate || beyond ? 0 : length;
}

static void append_character(struct json *json, const char *text, size_t length) {
    char escape[8];
    if (length == 0) {
        append(json, "\\ufffd", 6);
    } else if (*text == '"' || *text == '\\') {
        append(json, "\\", 1);
        append(json, text, 1);
    } else if ((unsigned char)*text < 0x20 || *text == 0x7F) {
        snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(*text & 0x7F));
        append(json, escape, 6);
    } else {
        append(json, text, length);
    }
}

void json_string(struct json *json, const char *text) {
    if (!text) {
        json_null(json);
        return;
    }
    separate(json);
    append(json, "\"", 1);
    while (*text) {
        size_t length = character_length((const unsigned char *)text);
        append_character(json, text, length);
        text += length ? length : 1;
    }
    append(json, "\"", 1);
}

void json_whole(struct json *json, int64_t value) {
    char digits[24];
    separate(json);
    append(json, digits, (size_t)snprintf(digits, sizeof digits, "%lld", (long long)value));
}

void json_decimal(struct json *json, double value) {
    char digits[40];
    if (!(value > -1e15 && value < 1e15)) {
        json_null(json);
        return;
    }
    separate(json);
    append(json, digits, (size_t)snprintf(digits, sizeof digits, "%.3f", value));
}

void json_null(struct json *json) {
    separate(json);
    append(json, "null", 4);
}

bool json_flush(struct json *json, int descriptor) {
    append(json, "\n", 1);
    struct piece line = {json->text, json->length};
    json->length = 0;
    return write_all(descriptor, line);
}

void json_free(struct json *json) {
    free(json->text);
    *json = (struct json){0};
}
