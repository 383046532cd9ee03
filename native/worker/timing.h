/* How models are timed beside each other: the rounds of edgekit/profile/measure.py. Clock and models are handed in. */
#ifndef EDGEKIT_WORKER_TIMING_H
#define EDGEKIT_WORKER_TIMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "job.h"

/* What is timed and who is told. `invoke` runs a model once and says false if that failed, which ends the timing. */
struct timing {
    void *context;
    size_t models;
    bool (*invoke)(void *context, size_t model);
    int64_t (*now_ns)(void *context);
    void (*begin)(void *context, const uint64_t *runs_per_round);
    void (*round)(void *context, const int64_t *fastest_ns, const int64_t *total_ns);
    void (*cold)(void *context, const int64_t *ns);
};

/* False if a run failed, and of which model. */
bool timing_carry_out(const struct timing *timing, const struct time_settings *settings, size_t *failed);

/* Rounds, of `count`, in which the models together took at most 5 % longer than in the quietest. `fastest_ns` has the
   shape (count, models). */
size_t timing_quiet_count(const int64_t *fastest_ns, size_t count, size_t models);

#endif
