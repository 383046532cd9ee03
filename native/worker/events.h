/* The lines that the worker answers with (docs/jobs.md), each complete when it is written. */
#ifndef EDGEKIT_WORKER_EVENTS_H
#define EDGEKIT_WORKER_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "job.h"
#include "json.h"
#include "ort.h"

#define NO_TASK (-1)

struct events {
    struct json line;
    int descriptor;
    size_t errors;
};

void tell_hello(struct events *events, const struct job *job, const struct ort *ort);
void tell_state(struct events *events);
void tell_begin(struct events *events, int64_t task, const struct task *models, const uint64_t *runs_per_round);
void tell_round(struct events *events, int64_t task, size_t models, const int64_t *fastest_ns, const int64_t *total_ns);
void tell_cold(struct events *events, int64_t task, size_t models, const int64_t *ns);
void tell_end(struct events *events, int64_t task);
void tell_kernels(struct events *events, int64_t task, const char *model, const struct profile *profile);
void tell_output(struct events *events, int64_t task, const struct task *run, size_t samples);
void tell_error(struct events *events, int64_t task, const char *code, const char *model, const char *message);
void tell_done(struct events *events);

#endif
