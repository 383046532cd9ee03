#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "memory.h"
#include "npy.h"
#include "state.h"
#include "timing.h"

#define SAMPLES_LIMIT_BYTES ((size_t)1 << 30)

struct worker {
    struct events *events;
    struct ort *ort;
    int64_t index;
    const struct task *task;
    struct ort_session *sessions;
};

static bool fail_task(struct worker *worker, const char *code, const char *model) {
    tell_error(worker->events, worker->index, code, model, worker->ort->message);
    return false;
}

static bool fail_with(struct worker *worker, const char *code, const char *model, const char *message) {
    tell_error(worker->events, worker->index, code, model, message);
    return false;
}

static bool invoke(void *context, size_t model) {
    struct worker *worker = context;
    return ort_run(&worker->sessions[model]);
}

static int64_t now_ns(void *context) {
    (void)context;
    return monotonic_ns();
}

static void on_begin(void *context, const uint64_t *runs_per_round) {
    struct worker *worker = context;
    tell_begin(worker->events, worker->index, worker->task, runs_per_round);
}

static void on_round(void *context, const int64_t *fastest_ns, const int64_t *total_ns) {
    struct worker *worker = context;
    tell_round(worker->events, worker->index, worker->task->model_count, fastest_ns, total_ns);
}

static void on_cold(void *context, const int64_t *ns) {
    struct worker *worker = context;
    tell_cold(worker->events, worker->index, worker->task->model_count, ns);
}

/* Whether a model that NNAPI refused is fit to run without it. */
static bool loads_on_cpu(struct worker *worker, const char *model) {
    struct ort_session session;
    char message[ORT_MESSAGE_CAPACITY];
    memcpy(message, worker->ort->message, sizeof message);
    worker->ort->nnapi = false;
    bool loaded = ort_load(worker->ort, model, NULL, &session);
    worker->ort->nnapi = true;
    memcpy(worker->ort->message, message, sizeof message);
    if (loaded) ort_unload(&session);
    return loaded;
}

static bool load(struct worker *worker, const char *model, struct ort_session *session) {
    if (ort_load(worker->ort, model, NULL, session)) return true;
    bool refused = worker->ort->nnapi && loads_on_cpu(worker, model);
    return fail_task(worker, refused ? "not_delegated" : "load_failed", model);
}

static bool load_all(struct worker *worker) {
    for (size_t i = 0; i < worker->task->model_count; i++)
        if (!load(worker, worker->task->models[i], &worker->sessions[i])) return false;
    return true;
}

static bool prepare_all(struct worker *worker) {
    for (size_t i = 0; i < worker->task->model_count; i++)
        if (!ort_prepare(&worker->sessions[i])) return fail_task(worker, "run_failed", worker->task->models[i]);
    return true;
}

static bool time_loaded(struct worker *worker, const struct timing *timing) {
    size_t failed = 0;
    if (!prepare_all(worker)) return false;
    if (timing_carry_out(timing, &worker->task->time, &failed)) return true;
    return fail_task(worker, "run_failed", worker->task->models[failed]);
}

static void time_models(struct worker *worker) {
    const struct timing timing = {
        .context = worker,
        .models = worker->task->model_count,
        .invoke = invoke,
        .now_ns = now_ns,
        .begin = on_begin,
        .round = on_round,
        .cold = on_cold,
    };
    worker->sessions = allocate(timing.models, sizeof *worker->sessions);
    for (size_t i = 0; i < timing.models; i++) worker->sessions[i].ort = worker->ort;
    bool loaded = load_all(worker);
    if (loaded) tell_state(worker->events);
    if (loaded && time_loaded(worker, &timing)) {
        tell_end(worker->events, worker->index);
        tell_state(worker->events);
    }
    for (size_t i = 0; i < timing.models; i++) ort_unload(&worker->sessions[i]);
    free(worker->sessions);
}

static bool has_provider(const struct profile *profile, const char *provider) {
    for (size_t i = 0; i < profile->count; i++)
        if (strcmp(profile->nodes[i].provider, provider) == 0) return true;
    return false;
}

static bool name_kernels(struct worker *worker) {
    const char *model = worker->task->models[0];
    struct ort_session session;
    struct profile profile;
    if (!load(worker, model, &session)) return false;
    ort_unload(&session);
    bool profiled = ort_profile(worker->ort, model, &profile);
    if (!profiled) {
        fail_task(worker, "run_failed", model);
    } else {
        tell_kernels(worker->events, worker->index, model, &profile);
        if (worker->ort->nnapi && !has_provider(&profile, ORT_NNAPI))
            fail_with(worker, "not_delegated", model, ORT_NNAPI " took over none of the model's nodes");
    }
    profile_free(&profile);
    return profiled;
}

/* A "run" in hand: samples that come in, and results that go out, both of `samples` samples. */
struct samples {
    struct bytes file;
    struct npy array;
    size_t batch_size;
    size_t sample_bytes;
    char *results;
    size_t result_bytes;
    size_t result_shape[NPY_RANK_LIMIT];
    size_t result_rank;
};

static const char *read_samples(struct samples *samples, const char *name, const struct ort_input *input) {
    const char *problem = NULL;
    if (!read_file(name, SAMPLES_LIMIT_BYTES, &samples->file)) return "it cannot be read, or is larger than 1 GiB";
    if (!npy_parse(samples->file.data, samples->file.length, &samples->array, &problem)) return problem;
    if (samples->array.rank != input->rank) return "it has another number of dimensions than the model's input";
    for (size_t i = 1; i < input->rank; i++)
        if (samples->array.shape[i] != (size_t)input->shape[i]) return "its samples are not of the shape of the input";
    if (samples->array.shape[0] == 0 || input->count == 0) return "there are no samples to run";
    samples->batch_size = (size_t)input->shape[0];
    samples->sample_bytes = input->count / samples->batch_size * sizeof(float);
    return NULL;
}

/* A last batch that is not full is filled up with its last sample. */
static void fill_batch(const struct samples *samples, size_t start, char *batch) {
    const char *data = samples->file.data + samples->array.offset;
    size_t last = samples->array.shape[0] - 1;
    for (size_t i = 0; i < samples->batch_size; i++) {
        size_t sample = start + i < last ? start + i : last;
        memcpy(batch + i * samples->sample_bytes, data + sample * samples->sample_bytes, samples->sample_bytes);
    }
}

static bool has_first_shape(const struct samples *samples, const struct ort_output *output) {
    if (output->rank != samples->result_rank) return false;
    for (size_t i = 1; i < output->rank; i++)
        if ((size_t)output->shape[i] != samples->result_shape[i]) return false;
    return true;
}

/* The first batch tells the shape of the results: room for all of them is made then. */
static const char *make_room(struct samples *samples, const struct ort_output *output) {
    size_t total = 0;
    if (output->rank == 0 || output->rank > NPY_RANK_LIMIT || (size_t)output->shape[0] != samples->batch_size)
        return "the output has not one result for each sample";
    samples->result_rank = output->rank;
    for (size_t i = 0; i < output->rank; i++) samples->result_shape[i] = (size_t)output->shape[i];
    samples->result_shape[0] = samples->array.shape[0];
    if (!multiply_size(output->count / samples->batch_size, sizeof(float), &samples->result_bytes) ||
        !multiply_size(samples->result_bytes, samples->array.shape[0], &total) || total > SAMPLES_LIMIT_BYTES)
        return "the results are larger than 1 GiB";
    samples->results = allocate(total, 1);
    return NULL;
}

static const char *keep_results(struct samples *samples, size_t start, const struct ort_output *output) {
    const char *problem = samples->results ? NULL : make_room(samples, output);
    if (problem) return problem;
    if (!has_first_shape(samples, output) || (size_t)output->shape[0] != samples->batch_size)
        return "the output changes its shape from batch to batch";
    size_t left = samples->array.shape[0] - start;
    size_t count = left < samples->batch_size ? left : samples->batch_size;
    memcpy(samples->results + start * samples->result_bytes, output->data, count * samples->result_bytes);
    return NULL;
}

static bool run_batches(struct worker *worker, struct ort_session *session, struct samples *samples, float *batch) {
    const char *model = worker->task->models[0], *problem = NULL;
    struct ort_output output;
    for (size_t start = 0; start < samples->array.shape[0]; start += samples->batch_size) {
        fill_batch(samples, start, (char *)batch);
        if (!ort_run(session) || !ort_first_output(session, &output)) return fail_task(worker, "run_failed", model);
        problem = keep_results(samples, start, &output);
        ort_release_output(worker->ort, &output);
        if (problem) return fail_with(worker, "run_failed", model, problem);
    }
    return true;
}

static bool write_results(struct worker *worker, const struct samples *samples) {
    char header[NPY_HEADER_CAPACITY];
    const struct piece pieces[] = {
        {header, npy_header(samples->result_shape, samples->result_rank, header)},
        {samples->results, samples->result_bytes * samples->array.shape[0]},
    };
    if (write_file(worker->task->output, pieces, 2)) return true;
    return fail_with(worker, "run_failed", worker->task->models[0], "the output cannot be written");
}

static bool run_session(struct worker *worker, struct ort_session *session, struct samples *samples) {
    const char *model = worker->task->models[0];
    char message[ORT_MESSAGE_CAPACITY];
    float *batch = NULL;
    if (!ort_single_input(session, &batch)) return fail_task(worker, "run_failed", model);
    const char *problem = read_samples(samples, worker->task->input, &session->inputs[0]);
    if (problem) {
        snprintf(message, sizeof message, "%s: %s", worker->task->input, problem);
        return fail_with(worker, "run_failed", model, message);
    }
    return run_batches(worker, session, samples, batch) && write_results(worker, samples);
}

static bool run_samples(struct worker *worker) {
    const char *model = worker->task->models[0];
    struct ort_session session;
    struct samples samples = {0};
    if (!load(worker, model, &session)) return false;
    bool ran = run_session(worker, &session, &samples);
    if (ran) tell_output(worker->events, worker->index, worker->task, samples.array.shape[0]);
    ort_unload(&session);
    free(samples.file.data);
    free(samples.results);
    return ran;
}

void carry_out(struct events *events, struct ort *ort, const struct job *job) {
    struct worker worker = {.events = events, .ort = ort};
    for (size_t i = 0; i < job->task_count; i++) {
        worker.index = (int64_t)i;
        worker.task = &job->tasks[i];
        if (worker.task->kind == TASK_TIME) time_models(&worker);
        if (worker.task->kind == TASK_KERNELS) name_kernels(&worker);
        if (worker.task->kind == TASK_RUN) run_samples(&worker);
        if (worker.task->kind == TASK_STATE) tell_state(events);
    }
}
