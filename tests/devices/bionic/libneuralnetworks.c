/* Stand-in for Android's libneuralnetworks.so: one accelerator that computes a few operations on float32. Which of
   them it claims is said by FAKE_NNAPI_OPERATIONS, a list like ",3,19," of their numbers; all that it has if it is not set. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PUBLIC __attribute__((visibility("default")))

/* Numbers of NeuralNetworksTypes.h. */
enum { OK = 0, BAD_DATA = 4, UNMAPPABLE = 5 };
enum { ADD = 0, CONV = 3, DEPTHWISE_CONV = 4, FULLY_CONNECTED = 9, RELU = 19, RELU6 = 21, RESHAPE = 22, TRANSPOSE = 37 };
enum { FUSED_RELU = 1, FUSED_RELU1 = 2, FUSED_RELU6 = 3 };
enum { ACCELERATOR = 4, FEATURE_LEVEL = 30, PADDING_SAME = 1 };
#define RANK_LIMIT 8
#define INDEX_LIMIT 64
/* Smaller values are copied, larger ones referred to, as NNAPI promises. */
#define COPIED_BYTES 128

typedef struct {
    int32_t type;
    uint32_t rank;
    const uint32_t *shape;
    float scale;
    int32_t zero_point;
} OperandType;

typedef struct {
    uint32_t rank;
    uint32_t shape[RANK_LIMIT];
    const void *value;
    void *copy;
} Operand;

typedef struct {
    int kind;
    uint32_t input_count, output_count;
    uint32_t inputs[INDEX_LIMIT], outputs[INDEX_LIMIT];
} Operation;

typedef struct {
    Operand *operands;
    Operation *operations;
    uint32_t operand_count, operation_count, input_count, output_count;
    uint32_t inputs[INDEX_LIMIT], outputs[INDEX_LIMIT];
} Model;

typedef struct {
    Model *model;
} Compilation;

typedef struct {
    void *data;
    size_t bytes;
} Memory;

typedef struct {
    Model *model;
    const void *inputs[INDEX_LIMIT];
    void *outputs[INDEX_LIMIT];
} Execution;

static int accelerator;

static bool is_claimed(int kind) {
    static const char all[] = ",0,3,4,9,19,21,22,37,";
    const char *claimed = getenv("FAKE_NNAPI_OPERATIONS");
    char number[16];
    snprintf(number, sizeof number, ",%d,", kind);
    return strstr(all, number) && strstr(claimed ? claimed : all, number);
}

static void copy_indices(uint32_t *place, const uint32_t *indices, uint32_t count) {
    if (count > INDEX_LIMIT) abort();
    memcpy(place, indices, count * sizeof *indices);
}

/* The device. */

PUBLIC int ANeuralNetworks_getDeviceCount(uint32_t *count) {
    *count = 1;
    return OK;
}

PUBLIC int ANeuralNetworks_getDevice(uint32_t index, void **device) {
    (void)index;
    *device = &accelerator;
    return OK;
}

PUBLIC int ANeuralNetworksDevice_getName(void *device, const char **name) {
    (void)device;
    *name = "edgekit-fake-accelerator";
    return OK;
}

PUBLIC int ANeuralNetworksDevice_getType(void *device, int32_t *type) {
    (void)device;
    *type = ACCELERATOR;
    return OK;
}

PUBLIC int ANeuralNetworksDevice_getVersion(void *device, const char **version) {
    (void)device;
    *version = "1.0";
    return OK;
}

PUBLIC int ANeuralNetworksDevice_getFeatureLevel(void *device, int64_t *level) {
    (void)device;
    *level = FEATURE_LEVEL;
    return OK;
}

PUBLIC int64_t ANeuralNetworks_getRuntimeFeatureLevel(void) { return FEATURE_LEVEL; }

/* Memory. */

PUBLIC int ANeuralNetworksMemory_createFromFd(size_t bytes, int protection, int descriptor, size_t offset,
                                              void **memory) {
    Memory *made = calloc(1, sizeof *made);
    made->bytes = bytes;
    made->data = mmap(NULL, bytes, protection, MAP_SHARED, descriptor, (off_t)offset);
    *memory = made;
    return made->data == MAP_FAILED ? UNMAPPABLE : OK;
}

PUBLIC void ANeuralNetworksMemory_free(Memory *memory) {
    if (!memory) return;
    munmap(memory->data, memory->bytes);
    free(memory);
}

/* The model. */

PUBLIC int ANeuralNetworksModel_create(Model **model) {
    *model = calloc(1, sizeof **model);
    return OK;
}

PUBLIC void ANeuralNetworksModel_free(Model *model) {
    if (!model) return;
    for (uint32_t i = 0; i < model->operand_count; i++) free(model->operands[i].copy);
    free(model->operands);
    free(model->operations);
    free(model);
}

PUBLIC int ANeuralNetworksModel_finish(Model *model) {
    (void)model;
    return OK;
}

PUBLIC int ANeuralNetworksModel_relaxComputationFloat32toFloat16(Model *model, bool allow) {
    (void)model, (void)allow;
    return OK;
}

PUBLIC int ANeuralNetworksModel_addOperand(Model *model, const OperandType *type) {
    if (type->rank > RANK_LIMIT) return BAD_DATA;
    model->operands = realloc(model->operands, (model->operand_count + 1) * sizeof *model->operands);
    Operand *operand = &model->operands[model->operand_count++];
    memset(operand, 0, sizeof *operand);
    operand->rank = type->rank;
    for (uint32_t i = 0; i < type->rank; i++) operand->shape[i] = type->shape[i];
    return OK;
}

PUBLIC int ANeuralNetworksModel_setOperandValue(Model *model, int32_t index, const void *value, size_t bytes) {
    Operand *operand = &model->operands[index];
    operand->value = value;
    if (bytes > COPIED_BYTES) return OK;
    operand->copy = malloc(bytes + 1);
    operand->value = memcpy(operand->copy, value, bytes);
    return OK;
}

PUBLIC int ANeuralNetworksModel_setOperandValueFromMemory(Model *model, int32_t index, const Memory *memory,
                                                          size_t offset, size_t bytes) {
    (void)bytes;
    model->operands[index].value = (const char *)memory->data + offset;
    return OK;
}

PUBLIC int ANeuralNetworksModel_setOperandSymmPerChannelQuantParams(Model *model, int32_t index, const void *params) {
    (void)model, (void)index, (void)params;
    return OK;
}

PUBLIC int ANeuralNetworksModel_addOperation(Model *model, int32_t kind, uint32_t input_count, const uint32_t *inputs,
                                             uint32_t output_count, const uint32_t *outputs) {
    model->operations = realloc(model->operations, (model->operation_count + 1) * sizeof *model->operations);
    Operation *operation = &model->operations[model->operation_count++];
    operation->kind = kind;
    operation->input_count = input_count;
    operation->output_count = output_count;
    copy_indices(operation->inputs, inputs, input_count);
    copy_indices(operation->outputs, outputs, output_count);
    return OK;
}

PUBLIC int ANeuralNetworksModel_identifyInputsAndOutputs(Model *model, uint32_t input_count, const uint32_t *inputs,
                                                         uint32_t output_count, const uint32_t *outputs) {
    model->input_count = input_count;
    model->output_count = output_count;
    copy_indices(model->inputs, inputs, input_count);
    copy_indices(model->outputs, outputs, output_count);
    return OK;
}

PUBLIC int ANeuralNetworksModel_getSupportedOperationsForDevices(const Model *model, const void *const *devices,
                                                                 uint32_t device_count, bool *supported) {
    (void)devices, (void)device_count;
    for (uint32_t i = 0; i < model->operation_count; i++) supported[i] = is_claimed(model->operations[i].kind);
    return OK;
}

/* Compilation. */

PUBLIC int ANeuralNetworksCompilation_create(Model *model, Compilation **compilation) {
    *compilation = calloc(1, sizeof **compilation);
    (*compilation)->model = model;
    return OK;
}

PUBLIC int ANeuralNetworksCompilation_createForDevices(Model *model, const void *const *devices, uint32_t device_count,
                                                       Compilation **compilation) {
    (void)devices, (void)device_count;
    return ANeuralNetworksCompilation_create(model, compilation);
}

PUBLIC void ANeuralNetworksCompilation_free(Compilation *compilation) { free(compilation); }

PUBLIC int ANeuralNetworksCompilation_setPreference(Compilation *compilation, int32_t preference) {
    (void)compilation, (void)preference;
    return OK;
}

PUBLIC int ANeuralNetworksCompilation_setCaching(Compilation *compilation, const char *folder, const uint8_t *token) {
    (void)compilation, (void)folder, (void)token;
    return OK;
}

PUBLIC int ANeuralNetworksCompilation_finish(Compilation *compilation) {
    const Model *model = compilation->model;
    for (uint32_t i = 0; i < model->operation_count; i++)
        if (!is_claimed(model->operations[i].kind)) return BAD_DATA;
    fprintf(stderr, "fake NNAPI: compiled %u operations\n", model->operation_count);
    return OK;
}

/* Execution. */

PUBLIC int ANeuralNetworksExecution_create(Compilation *compilation, Execution **execution) {
    *execution = calloc(1, sizeof **execution);
    (*execution)->model = compilation->model;
    return OK;
}

PUBLIC void ANeuralNetworksExecution_free(Execution *execution) { free(execution); }

PUBLIC int ANeuralNetworksExecution_setInput(Execution *execution, int32_t index, const OperandType *type,
                                             const void *data, size_t bytes) {
    (void)type, (void)bytes;
    execution->inputs[index] = data;
    return OK;
}

PUBLIC int ANeuralNetworksExecution_setOutput(Execution *execution, int32_t index, const OperandType *type, void *data,
                                              size_t bytes) {
    (void)type, (void)bytes;
    execution->outputs[index] = data;
    return OK;
}

PUBLIC int ANeuralNetworksExecution_setInputFromMemory(Execution *execution, int32_t index, const OperandType *type,
                                                       const Memory *memory, size_t offset, size_t bytes) {
    return ANeuralNetworksExecution_setInput(execution, index, type, (char *)memory->data + offset, bytes);
}

PUBLIC int ANeuralNetworksExecution_setOutputFromMemory(Execution *execution, int32_t index, const OperandType *type,
                                                        const Memory *memory, size_t offset, size_t bytes) {
    return ANeuralNetworksExecution_setOutput(execution, index, type, (char *)memory->data + offset, bytes);
}

PUBLIC int ANeuralNetworksExecution_setMeasureTiming(Execution *execution, bool measure) {
    (void)execution, (void)measure;
    return OK;
}

PUBLIC int ANeuralNetworksExecution_getDuration(const Execution *execution, int32_t code, uint64_t *duration_ns) {
    (void)execution, (void)code;
    *duration_ns = 0;
    return OK;
}

PUBLIC int ANeuralNetworksExecution_getOutputOperandRank(Execution *execution, int32_t index, uint32_t *rank) {
    *rank = execution->model->operands[execution->model->outputs[index]].rank;
    return OK;
}

PUBLIC int ANeuralNetworksExecution_getOutputOperandDimensions(Execution *execution, int32_t index, uint32_t *shape) {
    const Operand *operand = &execution->model->operands[execution->model->outputs[index]];
    memcpy(shape, operand->shape, operand->rank * sizeof *shape);
    return OK;
}

/* Arithmetic: one operation, with the values of all operands in `values`. */

typedef struct {
    const Model *model;
    const Operation *operation;
    void **values;
} Step;

static const Operand *input_of(const Step *step, uint32_t index) {
    return &step->model->operands[step->operation->inputs[index]];
}

static const void *value_of(const Step *step, uint32_t index) { return step->values[step->operation->inputs[index]]; }

static int number_of(const Step *step, uint32_t index) { return *(const int32_t *)value_of(step, index); }

static const Operand *output_of(const Step *step) { return &step->model->operands[step->operation->outputs[0]]; }

static size_t count_of(const Operand *operand) {
    size_t count = 1;
    for (uint32_t i = 0; i < operand->rank; i++) count *= operand->shape[i];
    return count;
}

static float clamp(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

static float activate(float value, int fused) {
    if (fused == FUSED_RELU) return value > 0 ? value : 0;
    if (fused == FUSED_RELU1) return clamp(value, -1, 1);
    return fused == FUSED_RELU6 ? clamp(value, 0, 6) : value;
}

static void run_add(const Step *step, float *out) {
    const float *left = value_of(step, 0), *right = value_of(step, 1);
    size_t left_count = count_of(input_of(step, 0)), right_count = count_of(input_of(step, 1));
    for (size_t i = 0; i < count_of(output_of(step)); i++)
        out[i] = activate(left[i % left_count] + right[i % right_count], number_of(step, 2));
}

static void run_activation(const Step *step, float *out, int fused) {
    const float *in = value_of(step, 0);
    for (size_t i = 0; i < count_of(output_of(step)); i++) out[i] = activate(in[i], fused);
}

static void run_transpose(const Step *step, float *out) {
    const float *in = value_of(step, 0);
    const int32_t *order = value_of(step, 1);
    const Operand *from = input_of(step, 0), *to = output_of(step);
    size_t strides[RANK_LIMIT], stride = 1;
    uint32_t at[RANK_LIMIT] = {0};
    for (uint32_t i = to->rank; i-- > 0;) {
        strides[i] = stride;
        stride *= from->shape[i];
    }
    for (size_t n = 0; n < count_of(to); n++) {
        size_t source = 0;
        for (uint32_t i = 0; i < to->rank; i++) source += at[i] * strides[order[i]];
        out[n] = in[source];
        for (uint32_t i = to->rank; i-- > 0 && ++at[i] == to->shape[i];) at[i] = 0;
    }
}

typedef struct {
    int height, width, channels, kernel_height, kernel_width, top, left, step_y, step_x, fused;
} Window;

static int same_padding(int in, int out, int stride, int kernel) {
    int total = (out - 1) * stride + kernel - in;
    return total > 0 ? total / 2 : 0;
}

/* With ten inputs or more the padding is given, with fewer it is "same" or "valid"; a depthwise convolution has one
   more in either case. */
static Window window_of(const Step *step) {
    const uint32_t *in = input_of(step, 0)->shape, *kernel = input_of(step, 1)->shape, *out = output_of(step)->shape;
    uint32_t more = step->operation->kind == DEPTHWISE_CONV;
    bool given = step->operation->input_count >= 10 + more;
    uint32_t first = given ? 7 : 4;
    Window window = {.height = (int)in[1], .width = (int)in[2], .channels = (int)in[3]};
    window.kernel_height = (int)kernel[1];
    window.kernel_width = (int)kernel[2];
    window.step_x = number_of(step, first);
    window.step_y = number_of(step, first + 1);
    window.fused = number_of(step, first + 2 + more);
    if (given) {
        window.left = number_of(step, 3);
        window.top = number_of(step, 5);
    } else if (number_of(step, 3) == PADDING_SAME) {
        window.left = same_padding(window.width, (int)out[2], window.step_x, window.kernel_width);
        window.top = same_padding(window.height, (int)out[1], window.step_y, window.kernel_height);
    }
    return window;
}

static float tap(const float *in, const float *weights, int channels) {
    float sum = 0;
    for (int c = 0; c < channels; c++) sum += in[c] * weights[c];
    return sum;
}

static float convolve(const Window *window, const float *in, const float *weights, int y, int x) {
    float sum = 0;
    for (int v = 0; v < window->kernel_height; v++)
        for (int u = 0; u < window->kernel_width; u++) {
            int row = y * window->step_y - window->top + v, column = x * window->step_x - window->left + u;
            if (row < 0 || row >= window->height || column < 0 || column >= window->width) continue;
            sum += tap(in + ((size_t)row * (size_t)window->width + (size_t)column) * (size_t)window->channels,
                       weights + ((size_t)v * (size_t)window->kernel_width + (size_t)u) * (size_t)window->channels,
                       window->channels);
        }
    return sum;
}

static void run_convolution(const Step *step, float *out) {
    const Window window = window_of(step);
    const float *in = value_of(step, 0), *weights = value_of(step, 1), *bias = value_of(step, 2);
    const uint32_t *shape = output_of(step)->shape;
    size_t filter = (size_t)window.kernel_height * (size_t)window.kernel_width * (size_t)window.channels;
    for (uint32_t y = 0; y < shape[1]; y++)
        for (uint32_t x = 0; x < shape[2]; x++)
            for (uint32_t k = 0; k < shape[3]; k++)
                *out++ = activate(bias[k] + convolve(&window, in, weights + k * filter, (int)y, (int)x), window.fused);
}

/* Channel k of the output reads channel k / multiplier of the input; the filter is [1][row][column][k]. */
static float convolve_channel(const Window *window, const float *in, const float *weights, int outputs, int y, int x,
                              int k) {
    int source = k / (outputs / window->channels);
    float sum = 0;
    for (int v = 0; v < window->kernel_height; v++)
        for (int u = 0; u < window->kernel_width; u++) {
            int row = y * window->step_y - window->top + v, column = x * window->step_x - window->left + u;
            if (row < 0 || row >= window->height || column < 0 || column >= window->width) continue;
            sum += in[(row * window->width + column) * window->channels + source] *
                   weights[(v * window->kernel_width + u) * outputs + k];
        }
    return sum;
}

static void run_depthwise_convolution(const Step *step, float *out) {
    const Window window = window_of(step);
    const float *in = value_of(step, 0), *weights = value_of(step, 1), *bias = value_of(step, 2);
    const uint32_t *shape = output_of(step)->shape;
    int outputs = (int)shape[3];
    for (int y = 0; y < (int)shape[1]; y++)
        for (int x = 0; x < (int)shape[2]; x++)
            for (int k = 0; k < outputs; k++)
                *out++ = activate(bias[k] + convolve_channel(&window, in, weights, outputs, y, x, k), window.fused);
}

static void run_fully_connected(const Step *step, float *out) {
    const float *in = value_of(step, 0), *weights = value_of(step, 1), *bias = value_of(step, 2);
    size_t width = input_of(step, 1)->shape[1], outputs = input_of(step, 1)->shape[0];
    for (size_t i = 0; i < count_of(output_of(step)); i++) {
        const float *row = in + i / outputs * width;
        size_t k = i % outputs;
        out[i] = activate(bias[k] + tap(row, weights + k * width, (int)width), number_of(step, 3));
    }
}

static void run_step(const Step *step, float *out) {
    switch (step->operation->kind) {
    case ADD: run_add(step, out); return;
    case CONV: run_convolution(step, out); return;
    case DEPTHWISE_CONV: run_depthwise_convolution(step, out); return;
    case FULLY_CONNECTED: run_fully_connected(step, out); return;
    case RELU: run_activation(step, out, FUSED_RELU); return;
    case RELU6: run_activation(step, out, FUSED_RELU6); return;
    case RESHAPE: memcpy(out, value_of(step, 0), count_of(output_of(step)) * sizeof *out); return;
    case TRANSPOSE: run_transpose(step, out); return;
    default: abort();
    }
}

static void connect_values(const Execution *execution, void **values) {
    const Model *model = execution->model;
    for (uint32_t i = 0; i < model->operand_count; i++) values[i] = (void *)(uintptr_t)model->operands[i].value;
    for (uint32_t i = 0; i < model->input_count; i++)
        values[model->inputs[i]] = (void *)(uintptr_t)execution->inputs[i];
    for (uint32_t i = 0; i < model->output_count; i++) values[model->outputs[i]] = execution->outputs[i];
}

PUBLIC int ANeuralNetworksExecution_compute(Execution *execution) {
    const Model *model = execution->model;
    void **values = calloc(model->operand_count, sizeof *values);
    void **made = calloc(model->operation_count, sizeof *made);
    connect_values(execution, values);
    for (uint32_t i = 0; i < model->operation_count; i++) {
        const Step step = {model, &model->operations[i], values};
        uint32_t output = step.operation->outputs[0];
        if (!values[output]) values[output] = made[i] = calloc(count_of(&model->operands[output]) + 1, sizeof(float));
        run_step(&step, values[output]);
    }
    for (uint32_t i = 0; i < model->operation_count; i++) free(made[i]);
    free(made);
    free(values);
    return OK;
}

PUBLIC int ANeuralNetworksExecution_startCompute(Execution *execution, void **event) {
    *event = execution;
    return ANeuralNetworksExecution_compute(execution);
}

PUBLIC int ANeuralNetworksEvent_wait(void *event) {
    (void)event;
    return OK;
}

PUBLIC void ANeuralNetworksEvent_free(void *event) { (void)event; }
