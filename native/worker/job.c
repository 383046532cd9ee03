#include "job.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "numbers.h"

#define NAME_LIMIT 128
#define THREAD_LIMIT 1024
#define NUMBER_LIMIT 1000000
#define NUMBER_DIGITS 7
#define SECONDS_LIMIT 86400.0
#define SECONDS_DIGITS 5
#define SECONDS_DECIMALS 9

struct parser {
    struct job *job;
    struct job_error *error;
    size_t name_count;
    bool runtime_seen, provider_seen, threads_seen;
};

static bool fail(struct parser *parser, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(parser->error->message, sizeof parser->error->message, format, values);
    va_end(values);
    return false;
}

static bool is_name(const char *text) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(text);
    return length > 0 && length <= NAME_LIMIT && *text != '.' && *text != '-' && strspn(text, allowed) == length;
}

static bool check_name(struct parser *parser, const char *text) {
    if (text && is_name(text)) return true;
    return fail(parser, "'%.80s' is no file name: letters, digits and ._- only, not beginning with . or -",
                text ? text : "");
}

/* The text before the next space, which becomes a NUL; NULL at the end. Two spaces give an empty word. */
static char *next_word(char **rest) {
    char *word = *rest;
    if (!word) return NULL;
    char *space = strchr(word, ' ');
    *rest = space ? space + 1 : NULL;
    if (space) *space = '\0';
    return word;
}

static bool set_once(struct parser *parser, const char *key, const char *value, const char **place, bool *seen) {
    if (parser->job->task_count) return fail(parser, "'%s' must come before the first task", key);
    if (*seen) return fail(parser, "'%s' is given twice", key);
    *seen = true;
    *place = value;
    return true;
}

static bool parse_runtime(struct parser *parser, const char *value) {
    if (strcmp(value, "onnx") != 0 && strcmp(value, "tflite") != 0)
        return fail(parser, "runtime must be onnx or tflite, not '%.80s'", value);
    return set_once(parser, "runtime", value, &parser->job->runtime, &parser->runtime_seen);
}

static bool parse_provider(struct parser *parser, const char *value) {
    if (strcmp(value, "cpu") != 0 && strcmp(value, "nnapi") != 0)
        return fail(parser, "provider must be cpu or nnapi, not '%.80s'", value);
    return set_once(parser, "provider", value, &parser->job->provider, &parser->provider_seen);
}

static bool parse_number(const char *text, uint64_t limit, uint64_t *value) {
    size_t length = strlen(text);
    return length <= NUMBER_DIGITS && parse_whole(text, length, limit, value);
}

static bool parse_threads(struct parser *parser, const char *value) {
    const char *ignored = NULL;
    if (!set_once(parser, "threads", value, &ignored, &parser->threads_seen)) return false;
    if (parse_number(value, THREAD_LIMIT, &parser->job->threads) && parser->job->threads > 0) return true;
    return fail(parser, "threads must be 1 to %d, not '%.80s'", THREAD_LIMIT, value);
}

static bool parse_library(struct parser *parser, const char *value) {
    bool seen = parser->job->library != NULL;
    if (!check_name(parser, value)) return false;
    return set_once(parser, "library", value, &parser->job->library, &seen);
}

static struct task *add_task(struct parser *parser, enum task_kind kind) {
    struct task *task = &parser->job->tasks[parser->job->task_count++];
    task->kind = kind;
    task->models = &parser->job->names[parser->name_count];
    return task;
}

static bool add_model(struct parser *parser, struct task *task, const char *name) {
    if (!check_name(parser, name)) return false;
    parser->job->names[parser->name_count++] = name;
    task->model_count++;
    return true;
}

struct time_key {
    const char *name;
    uint64_t least;
    uint64_t *value;
    bool seen;
};

static bool parse_time_number(struct parser *parser, const struct time_key *key, const char *text) {
    if (parse_number(text, NUMBER_LIMIT, key->value) && *key->value >= key->least) return true;
    return fail(parser, "%s must be a whole number from %llu to %d, not '%.80s'", key->name,
                (unsigned long long)key->least, NUMBER_LIMIT, text);
}

static bool parse_seconds(struct parser *parser, const char *text, double *seconds) {
    size_t length = strlen(text), whole = strcspn(text, ".");
    bool short_enough = whole <= SECONDS_DIGITS && length - whole <= SECONDS_DECIMALS + 1;
    if (short_enough && parse_decimal(text, length, SECONDS_LIMIT, seconds)) return true;
    return fail(parser, "min_seconds must be a number from 0 to %.0f, not '%.80s'", SECONDS_LIMIT, text);
}

static bool parse_time_word(struct parser *parser, struct time_settings *time, struct time_key *keys, char *word) {
    char *text = strchr(word, '=');
    if (!text) return fail(parser, "'%.80s' must be key=value", word);
    *text++ = '\0';
    while (keys->name && strcmp(keys->name, word) != 0) keys++;
    if (!keys->name) return fail(parser, "'%.80s' is no parameter of 'time'", word);
    if (keys->seen) return fail(parser, "'%s' is given twice", keys->name);
    keys->seen = true;
    return keys->value ? parse_time_number(parser, keys, text) : parse_seconds(parser, text, &time->min_seconds);
}

static bool parse_time(struct parser *parser, char *rest) {
    struct time_settings *time = &add_task(parser, TASK_TIME)->time;
    *time = (struct time_settings){.rounds = 9, .runs = 12, .warmup = 3, .repetitions = 3, .cold = 5};
    struct time_key keys[] = {
        {"rounds", 1, &time->rounds, false},   {"runs", 1, &time->runs, false},
        {"warmup", 0, &time->warmup, false},   {"repetitions", 1, &time->repetitions, false},
        {"min_runs", 0, &time->min_runs, false}, {"cold", 0, &time->cold, false},
        {"min_seconds", 0, NULL, false},       {NULL, 0, NULL, false},
    };
    for (char *word = next_word(&rest); word; word = next_word(&rest))
        if (!parse_time_word(parser, time, keys, word)) return false;
    return true;
}

static bool parse_model(struct parser *parser, const char *name) {
    struct job *job = parser->job;
    struct task *task = job->task_count ? &job->tasks[job->task_count - 1] : NULL;
    if (!task || task->kind != TASK_TIME) return fail(parser, "'model' belongs behind a task 'time'");
    return add_model(parser, task, name);
}

static bool parse_run(struct parser *parser, char *rest) {
    struct task *task = add_task(parser, TASK_RUN);
    if (!add_model(parser, task, next_word(&rest))) return false;
    task->input = next_word(&rest);
    task->output = next_word(&rest);
    if (rest) return fail(parser, "'run' takes a model, an input and an output, and no more");
    return check_name(parser, task->input) && check_name(parser, task->output);
}

/* Every task "time" is complete when another task follows it, or the file ends. */
static bool check_last_task(struct parser *parser) {
    const struct job *job = parser->job;
    const struct task *last = job->task_count ? &job->tasks[job->task_count - 1] : NULL;
    if (!last || last->kind != TASK_TIME || last->model_count) return true;
    return fail(parser, "the task 'time' before has no model");
}

static bool parse_task(struct parser *parser, const char *key, char *rest) {
    if (strcmp(key, "model") == 0) return parse_model(parser, rest);
    if (!check_last_task(parser)) return false;
    if (strcmp(key, "time") == 0) return parse_time(parser, rest);
    if (strcmp(key, "kernels") == 0) return add_model(parser, add_task(parser, TASK_KERNELS), rest);
    if (strcmp(key, "run") == 0) return parse_run(parser, rest);
    if (strcmp(key, "state") != 0) return fail(parser, "unknown key '%.80s'", key);
    if (rest) return fail(parser, "'state' takes nothing");
    add_task(parser, TASK_STATE);
    return true;
}

static bool parse_line(struct parser *parser, char *line) {
    char *rest = line;
    const char *key = next_word(&rest);
    const char *value = rest ? rest : "";
    if (strcmp(key, "runtime") == 0) return parse_runtime(parser, value);
    if (strcmp(key, "provider") == 0) return parse_provider(parser, value);
    if (strcmp(key, "threads") == 0) return parse_threads(parser, value);
    if (strcmp(key, "library") == 0) return parse_library(parser, value);
    return parse_task(parser, key, rest);
}

static bool parse_lines(struct parser *parser, char *text) {
    while (*text) {
        char *line = text, *end = strchr(line, '\n');
        parser->error->line++;
        if (!end) return fail(parser, "does not end in a newline: the file is cut off");
        *end = '\0';
        text = end + 1;
        bool first = parser->error->line == 1;
        if (first && strcmp(line, "edgekit-job 1") != 0) return fail(parser, "must be 'edgekit-job 1'");
        if (!first && !parse_line(parser, line)) return false;
    }
    parser->error->line++;
    return true;
}

static bool check_end(struct parser *parser) {
    if (!parser->runtime_seen || parser->job->task_count == 0)
        return fail(parser, "the file ends without a runtime and at least one task");
    return check_last_task(parser);
}

static size_t line_count(const char *text, size_t length) {
    size_t count = 1;
    for (size_t i = 0; i < length; i++) count += text[i] == '\n';
    return count;
}

bool job_parse(const char *text, size_t length, struct job *job, struct job_error *error) {
    struct parser parser = {.job = job, .error = error};
    size_t lines = line_count(text, length);
    *error = (struct job_error){0};
    *job = (struct job){.provider = "cpu", .threads = 1};
    job->text = allocate(length + 1, 1);
    memcpy(job->text, text, length);
    /* A line gives at most one task and one name. */
    job->tasks = allocate(lines, sizeof *job->tasks);
    job->names = allocate(lines, sizeof *job->names);
    if (memchr(text, '\0', length)) return fail(&parser, "the job holds a NUL");
    return parse_lines(&parser, job->text) && check_end(&parser);
}

void job_free(struct job *job) {
    free(job->text);
    free(job->tasks);
    free(job->names);
    *job = (struct job){0};
}
