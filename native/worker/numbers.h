/* Numbers in text, read strictly: digits only, bounded above, nothing before and nothing behind. */
#ifndef EDGEKIT_WORKER_NUMBERS_H
#define EDGEKIT_WORKER_NUMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool parse_whole(const char *text, size_t length, uint64_t limit, uint64_t *value);

/* Digits with at most one decimal point between them, as "0.25"; no sign and no exponent. */
bool parse_decimal(const char *text, size_t length, double limit, double *value);

#endif
