#pragma once

#define EINTR 4
#define errno (*__errno())

int *__errno(void);
