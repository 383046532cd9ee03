#include "events.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "state.h"

static struct json *begin(struct events *events, const char *name) {
    json_open(&events->line, '{');
    json_key(&events->line, "event");
    json_string(&events->line, name);
    return &events->line;
}

static void end(struct events *events) {
    json_close(&events->line, '}');
    /* Nobody reads any more: the worker has nothing to live for. */
    if (!json_flush(&events->line, events->descriptor)) _exit(1);
}

static void text(struct json *json, const char *key, const char *value) {
    json_key(json, key);
    json_string(json, value);
}

static void whole(struct json *json, const char *key, int64_t value) {
    json_key(json, key);
    json_whole(json, value);
}

static void decimal(struct json *json, const char *key, double value) {
    json_key(json, key);
    json_decimal(json, value);
}

static void list(struct json *json, const char *key, const int64_t *values, size_t count) {
    json_key(json, key);
    json_open(json, '[');
    for (size_t i = 0; i < count; i++) json_whole(json, values[i]);
    json_close(json, ']');
}

static void list_of_texts(struct json *json, const char *key, const char *const *values, size_t count) {
    json_key(json, key);
    json_open(json, '[');
    for (size_t i = 0; i < count; i++) json_string(json, values[i]);
    json_close(json, ']');
}

void tell_hello(struct events *events, const struct job *job, const struct ort *ort) {
    char version[80] = "", boot_id[STATE_TEXT_CAPACITY];
    struct utsname machine;
    struct json *json = begin(events, "hello");
    if (ort->providers) snprintf(version, sizeof version, "onnxruntime %.60s", ort->version);
    state_read_boot_id("", boot_id);
    text(json, "worker", "c");
    whole(json, "version", 1);
    text(json, "runtime", job->runtime);
    text(json, "runtime_version", version);
    list_of_texts(json, "providers", (const char *const *)ort->providers, (size_t)ort->provider_count);
    text(json, "boot_id", boot_id);
    text(json, "architecture", uname(&machine) == 0 ? machine.machine : "unknown");
    whole(json, "pid", getpid());
    end(events);
}

static void tell_heat(struct json *json, const struct state *state) {
    json_key(json, "temperature_celsius");
    if (state->has_temperature)
        json_decimal(json, state->temperature_celsius);
    else
        json_null(json);
    text(json, "throttled", *state->throttled ? state->throttled : NULL);
    json_key(json, "thermal_status");
    if (state->thermal_status >= 0)
        json_whole(json, state->thermal_status);
    else
        json_null(json);
}

void tell_state(struct events *events) {
    struct state state;
    state_read("", &state);
    struct json *json = begin(events, "state");
    text(json, "governor", state.governor);
    decimal(json, "frequency_mhz", state.frequency_mhz);
    decimal(json, "max_frequency_mhz", state.max_frequency_mhz);
    tell_heat(json, &state);
    decimal(json, "load_1min", state.load_1min);
    text(json, "boot_id", state.boot_id);
    whole(json, "monotonic_ns", state.monotonic_ns);
    end(events);
}

void tell_begin(struct events *events, int64_t task, const struct task *models, const uint64_t *runs_per_round) {
    struct json *json = begin(events, "begin");
    whole(json, "task", task);
    list_of_texts(json, "models", models->models, models->model_count);
    json_key(json, "runs_per_round");
    json_open(json, '[');
    for (size_t i = 0; i < models->model_count; i++) json_whole(json, (int64_t)runs_per_round[i]);
    json_close(json, ']');
    end(events);
}

void tell_round(struct events *events, int64_t task, size_t models, const int64_t *fastest_ns,
                const int64_t *total_ns) {
    struct json *json = begin(events, "round");
    whole(json, "task", task);
    list(json, "fastest_ns", fastest_ns, models);
    list(json, "total_ns", total_ns, models);
    end(events);
}

void tell_cold(struct events *events, int64_t task, size_t models, const int64_t *ns) {
    struct json *json = begin(events, "cold");
    whole(json, "task", task);
    list(json, "ns", ns, models);
    end(events);
}

void tell_end(struct events *events, int64_t task) {
    whole(begin(events, "end"), "task", task);
    end(events);
}

static void tell_kernel_name(struct json *json, const struct profile_node *node) {
    char name[2 * PROFILE_TEXT_CAPACITY + 2];
    snprintf(name, sizeof name, *node->type ? "%s[%s]" : "%s", node->operator, node->type);
    json_string(json, name);
}

static void tell_node(struct json *json, const struct profile_node *node) {
    json_open(json, '{');
    text(json, "name", node->name);
    text(json, "operator", node->operator);
    text(json, "provider", node->provider);
    json_close(json, '}');
}

void tell_kernels(struct events *events, int64_t task, const char *model, const struct profile *profile) {
    struct json *json = begin(events, "kernels");
    whole(json, "task", task);
    text(json, "model", model);
    json_key(json, "kernels");
    json_open(json, '[');
    for (size_t i = 0; i < profile->count; i++) tell_kernel_name(json, &profile->nodes[i]);
    json_close(json, ']');
    json_key(json, "nodes");
    json_open(json, '[');
    for (size_t i = 0; i < profile->count; i++) tell_node(json, &profile->nodes[i]);
    json_close(json, ']');
    end(events);
}

void tell_output(struct events *events, int64_t task, const struct task *run, size_t samples) {
    struct json *json = begin(events, "output");
    whole(json, "task", task);
    text(json, "model", run->models[0]);
    text(json, "file", run->output);
    whole(json, "samples", (int64_t)samples);
    end(events);
}

void tell_error(struct events *events, int64_t task, const char *code, const char *model, const char *message) {
    struct json *json = begin(events, "error");
    events->errors++;
    json_key(json, "task");
    if (task == NO_TASK)
        json_null(json);
    else
        json_whole(json, task);
    text(json, "code", code);
    text(json, "model", model);
    text(json, "message", message);
    end(events);
}

void tell_done(struct events *events) {
    begin(events, "done");
    end(events);
}
