#include "numbers.h"

static bool is_digit(char letter) {
    return letter >= '0' && letter <= '9';
}

bool parse_whole(const char *text, size_t length, uint64_t limit, uint64_t *value) {
    uint64_t found = 0;
    if (length == 0) return false;
    for (size_t i = 0; i < length; i++) {
        if (!is_digit(text[i])) return false;
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (digit > limit || found > (limit - digit) / 10) return false;
        found = found * 10 + digit;
    }
    *value = found;
    return true;
}

bool parse_decimal(const char *text, size_t length, double limit, double *value) {
    double found = 0, place = 1;
    bool behind_point = false;
    if (length == 0 || length > 32 || !is_digit(text[0]) || !is_digit(text[length - 1])) return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '.' && !behind_point) {
            behind_point = true;
        } else if (!is_digit(text[i])) {
            return false;
        } else {
            found = found * 10 + (text[i] - '0');
            if (behind_point) place *= 10;
        }
    }
    *value = found / place;
    return *value <= limit;
}
