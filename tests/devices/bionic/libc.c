/* Stand-in for Android's libc.so on x86_64: what bionic has and glibc has not, or has in another shape. All other names
   are passed on to glibc by jumps that tests/devices/nnapi.py generates. */
#include <stdarg.h>
#include <stddef.h>

typedef struct FILE FILE;

extern void *real_function(const char *name);
extern int *real_errno(void);
extern void real_abort(void);

/* Generated: a place for each name that is passed on, and the names one after the other. */
extern void *forward_targets[] __attribute__((visibility("hidden")));
extern const char forward_names[] __attribute__((visibility("hidden")));
extern const int forward_count __attribute__((visibility("hidden")));

/* Bionic's standard streams are pointers since API level 23, and were an array before: programs use either. */
#define OLD_FILE_BYTES 152
char __sF[3 * OLD_FILE_BYTES];
FILE *stdin, *stdout, *stderr;
char **environ;

__attribute__((constructor(101))) static void connect(void) {
    const char *name = forward_names;
    for (int i = 0; i < forward_count; i++) {
        void *target = real_function(name);
        forward_targets[i] = target ? target : (void *)real_abort;
        while (*name++) continue;
    }
    stdin = *(FILE **)real_function("stdin");
    stdout = *(FILE **)real_function("stdout");
    stderr = *(FILE **)real_function("stderr");
    environ = *(char ***)real_function("environ");
}

void __libc_init(void *arguments, void (*at_exit)(void), int (*start)(int, char **, char **), const void *structors) {
    long count = *(long *)arguments;
    char **values = (char **)arguments + 1;
    void (*leave)(int) = (void (*)(int))real_function("exit");
    (void)at_exit;
    (void)structors;
    leave(start((int)count, values, values + count + 1));
}

int *__errno(void) { return real_errno(); }

void android_set_abort_message(const char *message) { (void)message; }

/* The only property that is asked for is the API level: that of Android 14, or FAKE_ANDROID_API_LEVEL. */
int __system_property_get(const char *name, char *value) {
    static const char level[] = "ro.build.version.sdk";
    const char *given = ((const char *(*)(const char *))real_function("getenv"))("FAKE_ANDROID_API_LEVEL");
    int i = 0;
    while (level[i] && level[i] == name[i]) i++;
    value[0] = 0;
    if (level[i] || name[i]) return 0;
    if (!given) given = "34";
    for (i = 0; i < 3 && given[i]; i++) value[i] = given[i];
    value[i] = 0;
    return i;
}

void __FD_SET_chk(int descriptor, unsigned long *set, size_t bytes) {
    (void)bytes;
    set[descriptor / 64] |= 1ul << (descriptor % 64);
}

int __FD_ISSET_chk(int descriptor, const unsigned long *set, size_t bytes) {
    (void)bytes;
    return (int)(set[descriptor / 64] >> (descriptor % 64) & 1);
}

size_t __strlen_chk(const char *text, size_t bytes) {
    size_t length = 0;
    (void)bytes;
    while (text[length]) length++;
    return length;
}

char *__strchr_chk(const char *text, int letter, size_t bytes) {
    (void)bytes;
    for (; *text != (char)letter; text++)
        if (!*text) return NULL;
    return (char *)text;
}

char *__gnu_strerror_r(int error, char *text, size_t bytes) {
    return ((char *(*)(int, char *, size_t))real_function("strerror_r"))(error, text, bytes);
}

int strerror_r(int error, char *text, size_t bytes) {
    return ((int (*)(int, char *, size_t))real_function("__xpg_strerror_r"))(error, text, bytes);
}

/* A set of signals has 64 bits here and 1,024 in glibc. */
int sigfillset(unsigned long *set) {
    *set = ~0ul;
    return 0;
}

int pthread_sigmask(int how, const unsigned long *set, unsigned long *old) {
    int (*real)(int, const void *, void *) = (int (*)(int, const void *, void *))real_function("pthread_sigmask");
    unsigned long wide[16] = {0}, wide_old[16] = {0};
    if (set) wide[0] = *set;
    int result = real(how, set ? wide : NULL, old ? wide_old : NULL);
    if (old) *old = wide_old[0];
    return result;
}

/* Names of sysconf: bionic's number, glibc's number. */
long sysconf(int name) {
    static const int numbers[][2] = {{0x06, 2},  {0x0b, 4},  {0x27, 30}, {0x28, 30},
                                     {0x60, 83}, {0x61, 84}, {0x62, 85}, {0x63, 86}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i][0] == name) return ((long (*)(int))real_function("sysconf"))(numbers[i][1]);
    return -1;
}

static FILE *stream_of(FILE *stream) {
    ptrdiff_t offset = (char *)stream - __sF;
    if (offset < 0 || offset >= (ptrdiff_t)sizeof __sF) return stream;
    return offset < OLD_FILE_BYTES ? stdin : offset < 2 * OLD_FILE_BYTES ? stdout : stderr;
}

int fflush(FILE *stream) {
    return ((int (*)(FILE *))real_function("fflush"))(stream ? stream_of(stream) : NULL);
}

int fputs(const char *text, FILE *stream) {
    return ((int (*)(const char *, FILE *))real_function("fputs"))(text, stream_of(stream));
}

int fputc(int letter, FILE *stream) {
    return ((int (*)(int, FILE *))real_function("fputc"))(letter, stream_of(stream));
}

int getc(FILE *stream) { return ((int (*)(FILE *))real_function("getc"))(stream_of(stream)); }

int ungetc(int letter, FILE *stream) {
    return ((int (*)(int, FILE *))real_function("ungetc"))(letter, stream_of(stream));
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    size_t (*real)(const void *, size_t, size_t, FILE *) =
        (size_t(*)(const void *, size_t, size_t, FILE *))real_function("fwrite");
    return real(data, size, count, stream_of(stream));
}

int fileno(FILE *stream) { return ((int (*)(FILE *))real_function("fileno"))(stream_of(stream)); }

int vfprintf(FILE *stream, const char *format, va_list values) {
    int (*real)(FILE *, const char *, va_list) =
        (int (*)(FILE *, const char *, va_list))real_function("vfprintf");
    return real(stream_of(stream), format, values);
}

int fprintf(FILE *stream, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = vfprintf(stream, format, values);
    va_end(values);
    return written;
}
