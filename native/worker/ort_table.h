/* The entries of ONNX Runtime's C API that the worker calls, so that no header of it is needed to build. The API is a
   table of function pointers to which entries are only ever appended: their places hold for every version from
   ORT_TABLE_VERSION on (onnxruntime_c_api.h, struct OrtApi). */
#ifndef EDGEKIT_WORKER_ORT_TABLE_H
#define EDGEKIT_WORKER_ORT_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define ORT_TABLE_VERSION 16

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorInfo OrtTensorInfo;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtIoBinding OrtIoBinding;
typedef struct OrtRunOptions OrtRunOptions;

typedef void (*ort_entry)(void);

typedef struct {
    const ort_entry *(*get_table)(uint32_t version);
    const char *(*get_version)(void);
} OrtApiBase;

enum { ORT_LOG_ERRORS = 3, ORT_OPTIMIZE_ALL = 99, ORT_ARENA_ALLOCATOR = 1, ORT_MEMORY_DEFAULT = 0 };

/* ONNXTensorElementDataType. */
enum ort_type {
    ORT_FLOAT = 1,
    ORT_UINT8 = 2,
    ORT_INT8 = 3,
    ORT_UINT16 = 4,
    ORT_INT16 = 5,
    ORT_INT32 = 6,
    ORT_INT64 = 7,
    ORT_BOOL = 9,
    ORT_FLOAT16 = 10,
    ORT_DOUBLE = 11,
    ORT_UINT32 = 12,
    ORT_UINT64 = 13
};

/* X(place in the table, name, result, arguments) */
#define ORT_ENTRIES(X)                                                                                                 \
    X(2, get_error_message, const char *, (const OrtStatus *))                                                         \
    X(3, create_env, OrtStatus *, (int level, const char *name, OrtEnv **))                                            \
    X(7, create_session, OrtStatus *, (OrtEnv *, const char *path, OrtSessionOptions *, OrtSession **))                \
    X(10, create_session_options, OrtStatus *, (OrtSessionOptions **))                                                 \
    X(14, enable_profiling, OrtStatus *, (OrtSessionOptions *, const char *prefix))                                    \
    X(22, set_log_severity, OrtStatus *, (OrtSessionOptions *, int level))                                             \
    X(23, set_optimization, OrtStatus *, (OrtSessionOptions *, int level))                                             \
    X(24, set_intra_threads, OrtStatus *, (OrtSessionOptions *, int count))                                            \
    X(25, set_inter_threads, OrtStatus *, (OrtSessionOptions *, int count))                                            \
    X(30, input_count, OrtStatus *, (const OrtSession *, size_t *))                                                    \
    X(31, output_count, OrtStatus *, (const OrtSession *, size_t *))                                                   \
    X(33, input_type, OrtStatus *, (const OrtSession *, size_t index, OrtTypeInfo **))                                 \
    X(36, input_name, OrtStatus *, (const OrtSession *, size_t index, OrtAllocator *, char **))                        \
    X(37, output_name, OrtStatus *, (const OrtSession *, size_t index, OrtAllocator *, char **))                       \
    X(48, create_tensor, OrtStatus *, (OrtAllocator *, const int64_t *shape, size_t rank, int type, OrtValue **))      \
    X(50, is_tensor, OrtStatus *, (const OrtValue *, int *))                                                           \
    X(51, tensor_data, OrtStatus *, (OrtValue *, void **))                                                             \
    X(55, as_tensor_info, OrtStatus *, (const OrtTypeInfo *, const OrtTensorInfo **))                                  \
    X(60, element_type, OrtStatus *, (const OrtTensorInfo *, int *))                                                   \
    X(61, rank, OrtStatus *, (const OrtTensorInfo *, size_t *))                                                        \
    X(62, shape, OrtStatus *, (const OrtTensorInfo *, int64_t *shape, size_t rank))                                    \
    X(65, tensor_info, OrtStatus *, (const OrtValue *, OrtTensorInfo **))                                              \
    X(69, create_cpu_memory_info, OrtStatus *, (int allocator, int type, OrtMemoryInfo **))                            \
    X(76, allocator_free, OrtStatus *, (OrtAllocator *, void *))                                                       \
    X(78, default_allocator, OrtStatus *, (OrtAllocator **))                                                           \
    X(92, release_env, void, (OrtEnv *))                                                                               \
    X(93, release_status, void, (OrtStatus *))                                                                         \
    X(94, release_memory_info, void, (OrtMemoryInfo *))                                                                \
    X(95, release_session, void, (OrtSession *))                                                                       \
    X(96, release_value, void, (OrtValue *))                                                                           \
    X(98, release_type_info, void, (OrtTypeInfo *))                                                                    \
    X(99, release_tensor_info, void, (OrtTensorInfo *))                                                                \
    X(100, release_session_options, void, (OrtSessionOptions *))                                                       \
    X(110, end_profiling, OrtStatus *, (OrtSession *, OrtAllocator *, char **))                                        \
    X(125, available_providers, OrtStatus *, (char ***, int *))                                                        \
    X(126, release_providers, OrtStatus *, (char **, int))                                                             \
    X(130, add_config_entry, OrtStatus *, (OrtSessionOptions *, const char *key, const char *value))                   \
    X(133, run_with_binding, OrtStatus *, (OrtSession *, const OrtRunOptions *, const OrtIoBinding *))                 \
    X(134, create_binding, OrtStatus *, (OrtSession *, OrtIoBinding **))                                               \
    X(135, release_binding, void, (OrtIoBinding *))                                                                    \
    X(136, bind_input, OrtStatus *, (OrtIoBinding *, const char *name, const OrtValue *))                              \
    X(138, bind_output_to_device, OrtStatus *, (OrtIoBinding *, const char *name, const OrtMemoryInfo *))              \
    X(140, bound_outputs, OrtStatus *, (const OrtIoBinding *, OrtAllocator *, OrtValue ***, size_t *))

#define ORT_FIELD(place, name, result, arguments) result(*name) arguments;

struct ort_table {
    ORT_ENTRIES(ORT_FIELD)
};

#endif
