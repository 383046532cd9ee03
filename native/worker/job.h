/* What a job file says (docs/jobs.md). It is checked whole before anything of it is carried out. */
#ifndef EDGEKIT_WORKER_JOB_H
#define EDGEKIT_WORKER_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOB_LIMIT_BYTES (1u << 20)

enum task_kind { TASK_TIME, TASK_KERNELS, TASK_RUN, TASK_STATE };

struct time_settings {
    uint64_t rounds;
    uint64_t runs;
    uint64_t warmup;
    uint64_t repetitions;
    uint64_t min_runs;
    uint64_t cold;
    double min_seconds;
};

struct task {
    enum task_kind kind;
    struct time_settings time;
    const char **models;
    size_t model_count;
    const char *input;
    const char *output;
};

struct job {
    const char *runtime;
    const char *provider;
    const char *library;
    uint64_t threads;
    struct task *tasks;
    size_t task_count;
    /* What the pointers above point into. */
    char *text;
    const char **names;
};

struct job_error {
    size_t line;
    char message[256];
};

/* False with the number of the line, from 1, and what is wrong with it. Names are of files in the job's folder. */
bool job_parse(const char *text, size_t length, struct job *job, struct job_error *error);
void job_free(struct job *job);

#endif
