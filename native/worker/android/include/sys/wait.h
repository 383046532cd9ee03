#pragma once

typedef int pid_t;

pid_t waitpid(pid_t, int *, int);
