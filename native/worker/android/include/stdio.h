#pragma once
#include <stdarg.h>
#include <stddef.h>

int snprintf(char *, size_t, const char *, ...);
int vsnprintf(char *, size_t, const char *, va_list);
int rename(const char *, const char *);
