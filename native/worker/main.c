/* edgekit's worker for devices without Python: carries out one job file and answers with JSON lines (docs/jobs.md). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "events.h"
#include "files.h"
#include "job.h"
#include "ort.h"
#include "tasks.h"

enum { EXIT_DONE = 0, EXIT_ERRORS = 1, EXIT_BAD_JOB = 2 };

/* Stdout for events alone: what runtimes write there comes out on stderr. */
static int own_stdout(void) {
    int descriptor = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (descriptor < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return STDOUT_FILENO;
    return descriptor;
}

static int refuse(struct events *events, const char *message) {
    tell_error(events, NO_TASK, "bad_job", NULL, message);
    return EXIT_BAD_JOB;
}

static bool open_runtime(struct events *events, const struct job *job, struct ort *ort) {
    bool opened = false, nnapi = strcmp(job->provider, "nnapi") == 0;
    if (strcmp(job->runtime, "onnx") == 0)
        opened = ort_open(ort, job->library ? job->library : "libonnxruntime.so", (int)job->threads, nnapi);
    else
        snprintf(ort->message, sizeof ort->message, "this worker runs onnx only, not %s", job->runtime);
    tell_hello(events, job, ort);
    if (!opened) {
        tell_error(events, NO_TASK, "no_runtime", NULL, ort->message);
    } else if (nnapi && !ort_has_nnapi(ort)) {
        tell_error(events, NO_TASK, "no_provider", NULL, ort->message);
        opened = false;
    }
    return opened;
}

static int work(struct events *events, const struct job *job) {
    struct ort ort = {.version = ""};
    if (open_runtime(events, job, &ort)) carry_out(events, &ort, job);
    ort_close(&ort);
    tell_done(events);
    return events->errors ? EXIT_ERRORS : EXIT_DONE;
}

static int read_and_work(struct events *events, const char *path) {
    struct bytes text;
    struct job job;
    struct job_error error;
    char message[300];
    if (!read_file(path, JOB_LIMIT_BYTES, &text))
        return refuse(events, "the job file cannot be read, or is larger than 1 MiB");
    bool parsed = job_parse(text.data, text.length, &job, &error);
    snprintf(message, sizeof message, "line %zu: %s", error.line, error.message);
    int code = parsed ? work(events, &job) : refuse(events, message);
    job_free(&job);
    free(text.data);
    return code;
}

int main(int count, char **arguments) {
    struct events events = {.descriptor = own_stdout()};
    /* Since 1.29 the runtime looks up hosts on the network unless this is set before it is loaded. */
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    int code = count == 2 ? read_and_work(&events, arguments[1]) : refuse(&events, "give one argument: the job file");
    json_free(&events.line);
    return code;
}
