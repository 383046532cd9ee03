#pragma once
#include <stddef.h>

#define F_OK 0
#define X_OK 1
#define STDIN_FILENO 0
#define STDOUT_FILENO 1
#define STDERR_FILENO 2

typedef long ssize_t;
typedef int pid_t;

int access(const char *, int);
int close(int);
int dup2(int, int);
int execv(const char *, char *const *);
void _exit(int) __attribute__((noreturn));
pid_t fork(void);
pid_t getpid(void);
int pipe(int *);
ssize_t read(int, void *, size_t);
int unlink(const char *);
ssize_t write(int, const void *, size_t);
