/* ONNX Runtime, loaded by name, and one model in it: how sessions are set up, fed, run and asked. The set-up is that of
   edgekit/runtimes/onnx/session.py. */
#ifndef EDGEKIT_WORKER_ORT_H
#define EDGEKIT_WORKER_ORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ort_table.h"
#include "profile.h"

#define ORT_MESSAGE_CAPACITY 512
#define ORT_RANK_LIMIT 16
#define ORT_NNAPI "NnapiExecutionProvider"

struct ort {
    void *library;
    const char *version;
    struct ort_table call;
    OrtEnv *env;
    OrtAllocator *allocator;
    OrtMemoryInfo *memory;
    char **providers;
    int provider_count;
    int threads;
    bool nnapi;
    /* What went wrong last, in one line. */
    char message[ORT_MESSAGE_CAPACITY];
};

struct ort_input {
    char *name;
    int type;
    int64_t shape[ORT_RANK_LIMIT];
    size_t rank;
    size_t count;
    OrtValue *value;
};

struct ort_session {
    struct ort *ort;
    OrtSession *session;
    OrtIoBinding *binding;
    struct ort_input *inputs;
    size_t input_count;
    char **outputs;
    size_t output_count;
};

/* What a session computed: the first output, float32, as bytes of the runtime's own. */
struct ort_output {
    OrtValue **values;
    size_t value_count;
    int64_t shape[ORT_RANK_LIMIT];
    size_t rank;
    size_t count;
    const float *data;
};

/* Each is false where something failed, with the reason in `ort->message`. */
bool ort_open(struct ort *ort, const char *library, int threads, bool nnapi);

/* Whether NNAPI can be used: by this build of the runtime, and on this device. */
bool ort_has_nnapi(struct ort *ort);
bool ort_load(struct ort *ort, const char *model, const char *profile_prefix, struct ort_session *session);

/* Fixed pseudo-random values in every input, and every output into a buffer of the runtime's own. */
bool ort_prepare(struct ort_session *session);
bool ort_run(struct ort_session *session);

/* The values of the only input, float32, to be filled before `ort_run`. */
bool ort_single_input(struct ort_session *session, float **data);
bool ort_first_output(struct ort_session *session, struct ort_output *output);
void ort_release_output(struct ort *ort, struct ort_output *output);

/* From the profiler, in a session of its own, because profiling slows every run down. */
bool ort_profile(struct ort *ort, const char *model, struct profile *profile);

void ort_unload(struct ort_session *session);
void ort_close(struct ort *ort);

#endif
