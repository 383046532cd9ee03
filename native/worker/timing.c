#include "timing.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

/* A slow model needs no more runs in a round than it takes to be sure of its fastest: this bounds a round's length. */
#define ROUND_NS 20000000
#define FEWEST_RUNS 3
#define QUIET 1.05
/* More than the first two levels of any core; the last level, shared by all cores, is left as it is. */
#define COLD_BYTES (8u << 20)
#define COLD_NUMBERS (COLD_BYTES / sizeof(double))

struct trials {
    const struct timing *timing;
    const struct time_settings *settings;
    /* The model that runs: after a failure, the one that failed. */
    size_t *current;
    uint64_t *runs_per_round;
    uint64_t *warmup_runs;
    uint64_t *runs;
    int64_t *total_ns;
    /* Of the round in hand. */
    int64_t *round_total_ns;
    /* Of all rounds, shape (rounds, models). */
    int64_t *fastest_ns;
    size_t rounds;
};

static uint64_t least(uint64_t left, uint64_t right) {
    return left < right ? left : right;
}

static uint64_t most(uint64_t left, uint64_t right) {
    return left > right ? left : right;
}

static int compare(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static double at_least_1(int64_t ns) {
    return ns < 1 ? 1.0 : (double)ns;
}

/* How much longer than its own fastest round the median model took, per round. */
static void slowness(const int64_t *fastest_ns, size_t count, size_t models, double *slow) {
    double *ratios = allocate(models, sizeof *ratios), *quickest = allocate(models, sizeof *quickest);
    for (size_t m = 0; m < models; m++) {
        quickest[m] = at_least_1(fastest_ns[m]);
        for (size_t r = 1; r < count; r++) {
            double ns = at_least_1(fastest_ns[r * models + m]);
            if (ns < quickest[m]) quickest[m] = ns;
        }
    }
    for (size_t r = 0; r < count; r++) {
        for (size_t m = 0; m < models; m++) ratios[m] = at_least_1(fastest_ns[r * models + m]) / quickest[m];
        slow[r] = median(ratios, models);
    }
    free(ratios);
    free(quickest);
}

size_t timing_quiet_count(const int64_t *fastest_ns, size_t count, size_t models) {
    if (count == 0 || models == 0) return 0;
    double *slow = allocate(count, sizeof *slow);
    slowness(fastest_ns, count, models, slow);
    double quietest = slow[0];
    for (size_t r = 1; r < count; r++)
        if (slow[r] < quietest) quietest = slow[r];
    size_t quiet = 0;
    for (size_t r = 0; r < count; r++) quiet += slow[r] <= QUIET * quietest;
    free(slow);
    return quiet;
}

static bool run_timed(const struct timing *timing, size_t model, int64_t *elapsed_ns) {
    int64_t start = timing->now_ns(timing->context);
    bool ran = timing->invoke(timing->context, model);
    *elapsed_ns = timing->now_ns(timing->context) - start;
    return ran;
}

static bool prepare_trial(struct trials *trials, size_t model) {
    const struct time_settings *settings = trials->settings;
    int64_t elapsed = 0;
    *trials->current = model;
    if (!trials->timing->invoke(trials->timing->context, model)) return false;
    if (!run_timed(trials->timing, model, &elapsed)) return false;
    uint64_t affordable = ROUND_NS / (uint64_t)(elapsed < 1 ? 1 : elapsed);
    trials->runs_per_round[model] = most(least(settings->runs, FEWEST_RUNS), least(settings->runs, affordable));
    trials->warmup_runs[model] = least(settings->warmup, most(1, affordable / 4));
    return true;
}

/* One model's part of a round: runs that fetch weights and code back into the caches, then timed ones. */
static bool run_trial(struct trials *trials, size_t model, int64_t *fastest_ns) {
    const struct timing *timing = trials->timing;
    int64_t total = 0, elapsed = 0;
    *fastest_ns = 0;
    *trials->current = model;
    for (uint64_t i = 0; i < trials->warmup_runs[model]; i++)
        if (!timing->invoke(timing->context, model)) return false;
    for (uint64_t i = 0; i < trials->runs_per_round[model]; i++) {
        if (!run_timed(timing, model, &elapsed)) return false;
        total += elapsed;
        if (*fastest_ns == 0 || elapsed < *fastest_ns) *fastest_ns = elapsed;
    }
    trials->round_total_ns[model] = total;
    trials->runs[model] += trials->runs_per_round[model];
    trials->total_ns[model] += total;
    return true;
}

static bool run_round(struct trials *trials) {
    size_t models = trials->timing->models;
    size_t count = 0;
    if (!multiply_size(trials->rounds + 1, models, &count)) return false;
    trials->fastest_ns = resize(trials->fastest_ns, count, sizeof *trials->fastest_ns);
    int64_t *fastest = trials->fastest_ns + trials->rounds * models;
    for (size_t m = 0; m < models; m++)
        if (!run_trial(trials, m, &fastest[m])) return false;
    trials->timing->round(trials->timing->context, fastest, trials->round_total_ns);
    trials->rounds++;
    return true;
}

static bool wants_more(const struct trials *trials) {
    const struct time_settings *settings = trials->settings;
    for (size_t m = 0; m < trials->timing->models; m++) {
        double seconds = (double)trials->total_ns[m] / 1e9;
        if (trials->runs[m] < settings->min_runs || seconds < settings->min_seconds) return true;
    }
    return false;
}

static bool run_until_enough(struct trials *trials) {
    do {
        /* Only who looks for quiet rounds needs those before: here each takes the place of the last. */
        trials->rounds = 0;
        if (!run_round(trials)) return false;
    } while (wants_more(trials));
    return true;
}

static bool run_until_quiet(struct trials *trials) {
    const struct time_settings *settings = trials->settings;
    while (trials->rounds < settings->rounds * settings->repetitions) {
        if (!run_round(trials)) return false;
        if (trials->rounds < settings->rounds) continue;
        if (timing_quiet_count(trials->fastest_ns, trials->rounds, trials->timing->models) >= settings->rounds) break;
    }
    return true;
}

static void walk(volatile double *numbers) {
    for (size_t i = 0; i < COLD_NUMBERS; i++) numbers[i] += 1.0;
}

static bool run_cold(const struct trials *trials, uint64_t rounds) {
    const struct timing *timing = trials->timing;
    double *numbers = allocate(rounds ? COLD_NUMBERS : 1, sizeof *numbers);
    int64_t *elapsed = allocate(timing->models, sizeof *elapsed);
    bool ran = true;
    for (uint64_t r = 0; r < rounds && ran; r++) {
        for (size_t m = 0; m < timing->models && ran; m++) {
            *trials->current = m;
            walk(numbers);
            ran = run_timed(timing, m, &elapsed[m]);
        }
        if (ran) timing->cold(timing->context, elapsed);
    }
    free(numbers);
    free(elapsed);
    return ran;
}

static bool run_all(struct trials *trials) {
    const struct time_settings *settings = trials->settings;
    for (size_t m = 0; m < trials->timing->models; m++)
        if (!prepare_trial(trials, m)) return false;
    trials->timing->begin(trials->timing->context, trials->runs_per_round);
    bool until_quiet = settings->min_runs == 0 && settings->min_seconds <= 0;
    if (!(until_quiet ? run_until_quiet(trials) : run_until_enough(trials))) return false;
    return run_cold(trials, settings->cold);
}

bool timing_carry_out(const struct timing *timing, const struct time_settings *settings, size_t *failed) {
    struct trials trials = {.timing = timing, .settings = settings, .current = failed};
    trials.runs_per_round = allocate(timing->models, sizeof *trials.runs_per_round);
    trials.warmup_runs = allocate(timing->models, sizeof *trials.warmup_runs);
    trials.runs = allocate(timing->models, sizeof *trials.runs);
    trials.total_ns = allocate(timing->models, sizeof *trials.total_ns);
    trials.round_total_ns = allocate(timing->models, sizeof *trials.round_total_ns);
    bool ran = run_all(&trials);
    free(trials.runs_per_round);
    free(trials.warmup_runs);
    free(trials.runs);
    free(trials.total_ns);
    free(trials.round_total_ns);
    free(trials.fastest_ns);
    return ran;
}
