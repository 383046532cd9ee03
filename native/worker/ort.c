#include "ort.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "fill.h"
#include "memory.h"

#define PROFILE_LIMIT_BYTES (256u << 20)
/* NNAPI_FLAG_CPU_DISABLED: NNAPI's own reference on the processor is no accelerator, and slower than the runtime's. */
#define NNAPI_FLAGS 4

static bool fail(struct ort *ort, const char *message) {
    size_t length = strcspn(message, "\r\n");
    if (length >= sizeof ort->message) length = sizeof ort->message - 1;
    memcpy(ort->message, message, length);
    ort->message[length] = '\0';
    return false;
}

static bool succeeded(struct ort *ort, OrtStatus *status) {
    if (!status) return true;
    fail(ort, ort->call.get_error_message(status));
    ort->call.release_status(status);
    return false;
}

static void take_entries(struct ort *ort, const ort_entry *table) {
#define ORT_TAKE(place, name, result, arguments) ort->call.name = (result(*) arguments)table[place];
    ORT_ENTRIES(ORT_TAKE)
#undef ORT_TAKE
}

/* C has no conversion from the pointers of dlsym to functions; POSIX promises that their bytes are the same. */
static ort_entry find_function(void *library, const char *name) {
    ort_entry function = NULL;
    void *found = dlsym(library, name);
    memcpy(&function, &found, sizeof function);
    return function;
}

static bool open_library(struct ort *ort, const char *name) {
    char path[ORT_MESSAGE_CAPACITY];
    /* Without a slash, the folder of the job would not be looked at. */
    snprintf(path, sizeof path, "./%s", name);
    ort->library = dlopen(access(path, F_OK) == 0 ? path : name, RTLD_NOW | RTLD_LOCAL);
    if (ort->library) return true;
    const char *problem = dlerror();
    return fail(ort, problem ? problem : "the library cannot be loaded");
}

static bool open_table(struct ort *ort) {
    const OrtApiBase *(*get_base)(void) = (const OrtApiBase *(*)(void))find_function(ort->library, "OrtGetApiBase");
    const OrtApiBase *base = get_base ? get_base() : NULL;
    if (!base) return fail(ort, "the library is no ONNX Runtime: it has no OrtGetApiBase");
    ort->version = base->get_version();
    const ort_entry *table = base->get_table(ORT_TABLE_VERSION);
    if (!table) return fail(ort, "this ONNX Runtime is older than 1.16");
    take_entries(ort, table);
    return true;
}

bool ort_open(struct ort *ort, const char *library, int threads, bool nnapi) {
    *ort = (struct ort){.version = "", .threads = threads, .nnapi = nnapi};
    if (!open_library(ort, library) || !open_table(ort)) return false;
    return succeeded(ort, ort->call.create_env(ORT_LOG_ERRORS, "edgekit", &ort->env)) &&
           succeeded(ort, ort->call.default_allocator(&ort->allocator)) &&
           succeeded(ort, ort->call.create_cpu_memory_info(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &ort->memory)) &&
           succeeded(ort, ort->call.available_providers(&ort->providers, &ort->provider_count));
}

static bool has_provider(const struct ort *ort, const char *name) {
    for (int i = 0; i < ort->provider_count; i++)
        if (strcmp(ort->providers[i], name) == 0) return true;
    return false;
}

bool ort_has_nnapi(struct ort *ort) {
    if (!has_provider(ort, ORT_NNAPI)) return fail(ort, "this build of ONNX Runtime has no provider nnapi");
    /* ONNX Runtime 1.29 crashes where it is missing. It stays open, as the provider would keep it. */
    if (!dlopen("libneuralnetworks.so", RTLD_NOW | RTLD_LOCAL))
        return fail(ort, "this device has no libneuralnetworks.so");
    return true;
}

static bool add_nnapi(struct ort *ort, OrtSessionOptions *options) {
    OrtStatus *(*append)(OrtSessionOptions *, uint32_t) = (OrtStatus * (*)(OrtSessionOptions *, uint32_t))
        find_function(ort->library, "OrtSessionOptionsAppendExecutionProvider_Nnapi");
    if (!append) return fail(ort, "the library has no NNAPI provider");
    return succeeded(ort, append(options, NNAPI_FLAGS));
}

static bool configure(struct ort *ort, OrtSessionOptions *options, const char *profile_prefix) {
    const struct ort_table *call = &ort->call;
    bool done = succeeded(ort, call->set_intra_threads(options, ort->threads)) &&
                succeeded(ort, call->set_inter_threads(options, 1)) &&
                succeeded(ort, call->set_log_severity(options, ORT_LOG_ERRORS)) &&
                succeeded(ort, call->set_optimization(options, ORT_OPTIMIZE_ALL)) &&
                /* Without it, CPUs that have AVX2 and no VNNI add pairs of products in 16 bits that saturate. */
                succeeded(ort, call->add_config_entry(options, "session.x64quantprecision", "1"));
    /* Workers that spin between runs take the cores of whatever else runs on the device. */
    if (done && ort->threads > 1)
        done = succeeded(ort, call->add_config_entry(options, "session.intra_op.allow_spinning", "0"));
    if (done && profile_prefix) done = succeeded(ort, call->enable_profiling(options, profile_prefix));
    return done && (!ort->nnapi || add_nnapi(ort, options));
}

static bool create_session(struct ort_session *session, const char *model, const char *profile_prefix) {
    struct ort *ort = session->ort;
    OrtSessionOptions *options = NULL;
    if (!succeeded(ort, ort->call.create_session_options(&options))) return false;
    bool created = configure(ort, options, profile_prefix) &&
                   succeeded(ort, ort->call.create_session(ort->env, model, options, &session->session));
    ort->call.release_session_options(options);
    return created;
}

static bool read_shape(struct ort *ort, const OrtTensorInfo *info, int64_t *shape, size_t *rank) {
    if (!succeeded(ort, ort->call.rank(info, rank))) return false;
    if (*rank > ORT_RANK_LIMIT) return fail(ort, "a tensor has more than 16 dimensions");
    return *rank == 0 || succeeded(ort, ort->call.shape(info, shape, *rank));
}

static bool count_elements(struct ort *ort, const int64_t *shape, size_t rank, size_t *count) {
    *count = 1;
    for (size_t i = 0; i < rank; i++)
        if (shape[i] < 0 || !multiply_size(*count, (size_t)shape[i], count))
            return fail(ort, "the shape of a tensor is larger than any memory");
    return true;
}

static bool close_shape(struct ort *ort, struct ort_input *input) {
    char message[ORT_MESSAGE_CAPACITY];
    if (input->rank > 0 && input->shape[0] < 1) input->shape[0] = 1;
    for (size_t i = 1; i < input->rank; i++) {
        if (input->shape[i] > 0) continue;
        snprintf(message, sizeof message, "only the first dimension of the input '%.200s' may be open", input->name);
        return fail(ort, message);
    }
    return count_elements(ort, input->shape, input->rank, &input->count);
}

static bool read_tensor_input(struct ort *ort, const OrtTypeInfo *info, struct ort_input *input) {
    char message[ORT_MESSAGE_CAPACITY];
    const OrtTensorInfo *tensor = NULL;
    if (!succeeded(ort, ort->call.as_tensor_info(info, &tensor))) return false;
    if (tensor && !succeeded(ort, ort->call.element_type(tensor, &input->type))) return false;
    if (!tensor || type_size(input->type) == 0) {
        snprintf(message, sizeof message, "the input '%.200s' is of a type that cannot be filled", input->name);
        return fail(ort, message);
    }
    return read_shape(ort, tensor, input->shape, &input->rank) && close_shape(ort, input);
}

static bool read_input(struct ort_session *session, size_t index) {
    struct ort *ort = session->ort;
    struct ort_input *input = &session->inputs[index];
    OrtTypeInfo *info = NULL;
    if (!succeeded(ort, ort->call.input_name(session->session, index, ort->allocator, &input->name))) return false;
    if (!succeeded(ort, ort->call.input_type(session->session, index, &info))) return false;
    bool done = read_tensor_input(ort, info, input);
    ort->call.release_type_info(info);
    return done;
}

static bool describe(struct ort_session *session) {
    struct ort *ort = session->ort;
    if (!succeeded(ort, ort->call.input_count(session->session, &session->input_count))) return false;
    session->inputs = allocate(session->input_count, sizeof *session->inputs);
    for (size_t i = 0; i < session->input_count; i++)
        if (!read_input(session, i)) return false;
    if (!succeeded(ort, ort->call.output_count(session->session, &session->output_count))) return false;
    session->outputs = allocate(session->output_count, sizeof *session->outputs);
    for (size_t i = 0; i < session->output_count; i++)
        if (!succeeded(ort, ort->call.output_name(session->session, i, ort->allocator, &session->outputs[i])))
            return false;
    return true;
}

bool ort_load(struct ort *ort, const char *model, const char *profile_prefix, struct ort_session *session) {
    *session = (struct ort_session){.ort = ort};
    bool loaded = create_session(session, model, profile_prefix) && describe(session) &&
                  succeeded(ort, ort->call.create_binding(session->session, &session->binding));
    if (!loaded) ort_unload(session);
    return loaded;
}

static bool prepare_input(struct ort_session *session, struct ort_input *input, struct fill *fill) {
    struct ort *ort = session->ort;
    void *data = NULL;
    if (!succeeded(ort, ort->call.create_tensor(ort->allocator, input->shape, input->rank, input->type, &input->value)))
        return false;
    if (!succeeded(ort, ort->call.tensor_data(input->value, &data))) return false;
    fill_values(fill, input->type, data, input->count);
    return succeeded(ort, ort->call.bind_input(session->binding, input->name, input->value));
}

bool ort_prepare(struct ort_session *session) {
    struct ort *ort = session->ort;
    struct fill fill = FILL_START;
    for (size_t i = 0; i < session->input_count; i++)
        if (!prepare_input(session, &session->inputs[i], &fill)) return false;
    for (size_t i = 0; i < session->output_count; i++)
        if (!succeeded(ort, ort->call.bind_output_to_device(session->binding, session->outputs[i], ort->memory)))
            return false;
    return true;
}

bool ort_run(struct ort_session *session) {
    struct ort *ort = session->ort;
    return succeeded(ort, ort->call.run_with_binding(session->session, NULL, session->binding));
}

bool ort_single_input(struct ort_session *session, float **data) {
    struct ort *ort = session->ort;
    void *found = NULL;
    if (session->input_count != 1 || session->inputs[0].type != ORT_FLOAT || session->inputs[0].rank == 0)
        return fail(ort, "only a model with one input of type float32 can be run on samples");
    if (!ort_prepare(session) || !succeeded(ort, ort->call.tensor_data(session->inputs[0].value, &found))) return false;
    *data = found;
    return true;
}

static bool read_output(struct ort *ort, struct ort_output *output, const OrtTensorInfo *info) {
    int type = 0;
    void *data = NULL;
    if (!succeeded(ort, ort->call.element_type(info, &type))) return false;
    if (type != ORT_FLOAT) return fail(ort, "the first output is not of type float32");
    if (!read_shape(ort, info, output->shape, &output->rank)) return false;
    if (!count_elements(ort, output->shape, output->rank, &output->count)) return false;
    if (!succeeded(ort, ort->call.tensor_data(output->values[0], &data))) return false;
    output->data = data;
    return true;
}

bool ort_first_output(struct ort_session *session, struct ort_output *output) {
    struct ort *ort = session->ort;
    OrtTensorInfo *info = NULL;
    int is_tensor = 0;
    *output = (struct ort_output){0};
    if (!succeeded(ort, ort->call.bound_outputs(session->binding, ort->allocator, &output->values,
                                                &output->value_count)))
        return false;
    bool done = output->value_count > 0 && succeeded(ort, ort->call.is_tensor(output->values[0], &is_tensor));
    if (done && !is_tensor) done = fail(ort, "the first output is no tensor");
    if (done) done = succeeded(ort, ort->call.tensor_info(output->values[0], &info));
    if (done) done = read_output(ort, output, info);
    if (info) ort->call.release_tensor_info(info);
    if (!done) ort_release_output(ort, output);
    return done;
}

void ort_release_output(struct ort *ort, struct ort_output *output) {
    for (size_t i = 0; i < output->value_count; i++) ort->call.release_value(output->values[i]);
    if (output->values) succeeded(ort, ort->call.allocator_free(ort->allocator, output->values));
    *output = (struct ort_output){0};
}

static bool read_profile(struct ort *ort, OrtSession *session, struct profile *profile) {
    struct bytes text = {0};
    char *path = NULL;
    if (!succeeded(ort, ort->call.end_profiling(session, ort->allocator, &path))) return false;
    bool read = read_file(path, PROFILE_LIMIT_BYTES, &text) && profile_parse(text.data, text.length, profile);
    unlink(path);
    free(text.data);
    succeeded(ort, ort->call.allocator_free(ort->allocator, path));
    return read || fail(ort, "the profile that the runtime wrote cannot be read");
}

bool ort_profile(struct ort *ort, const char *model, struct profile *profile) {
    struct ort_session session;
    char prefix[64], message[ORT_MESSAGE_CAPACITY];
    *profile = (struct profile){0};
    snprintf(prefix, sizeof prefix, ".kernels-%ld", (long)getpid());
    if (!ort_load(ort, model, prefix, &session)) return false;
    bool ran = ort_prepare(&session) && ort_run(&session);
    memcpy(message, ort->message, sizeof message);
    /* Also after a failure, which it must not hide: ends and removes the file. */
    bool read = read_profile(ort, session.session, profile);
    if (!ran) fail(ort, message);
    ort_unload(&session);
    return ran && read;
}

void ort_unload(struct ort_session *session) {
    struct ort *ort = session->ort;
    if (session->binding) ort->call.release_binding(session->binding);
    for (size_t i = 0; session->inputs && i < session->input_count; i++) {
        if (session->inputs[i].value) ort->call.release_value(session->inputs[i].value);
        if (session->inputs[i].name) ort->call.allocator_free(ort->allocator, session->inputs[i].name);
    }
    for (size_t i = 0; session->outputs && i < session->output_count; i++)
        if (session->outputs[i]) ort->call.allocator_free(ort->allocator, session->outputs[i]);
    if (session->session) ort->call.release_session(session->session);
    free(session->inputs);
    free(session->outputs);
    *session = (struct ort_session){.ort = ort};
}

void ort_close(struct ort *ort) {
    if (ort->providers) ort->call.release_providers(ort->providers, ort->provider_count);
    if (ort->memory) ort->call.release_memory_info(ort->memory);
    if (ort->env) ort->call.release_env(ort->env);
    ort->env = NULL;
    ort->memory = NULL;
    ort->providers = NULL;
    ort->provider_count = 0;
    /* The library stays: its threads and exit handlers may still need it. */
}
