/* Writing JSON, one line of it at a time; what an event says is known by those who write it. */
#ifndef EDGEKIT_WORKER_JSON_H
#define EDGEKIT_WORKER_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
    char *text;
    size_t length;
    size_t capacity;
};

void json_open(struct json *json, char bracket);
void json_close(struct json *json, char bracket);
void json_key(struct json *json, const char *key);

/* NULL becomes null; what is no UTF-8 becomes U+FFFD. */
void json_string(struct json *json, const char *text);
void json_whole(struct json *json, int64_t value);

/* Three decimals; what JSON cannot say (NaN, infinities) becomes null. */
void json_decimal(struct json *json, double value);
void json_null(struct json *json);

/* The line with its end, to `descriptor`; empties `json` for the next. */
bool json_flush(struct json *json, int descriptor);
void json_free(struct json *json);

#endif
