#pragma once

#define SIGKILL 9

typedef int pid_t;

int kill(pid_t, int);
