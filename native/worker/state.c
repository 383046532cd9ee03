#include "state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "memory.h"
#include "numbers.h"

#define PATH_CAPACITY 512
#define CPU_INFO_LIMIT (1u << 20)
#define COMMAND_LIMIT (1u << 20)
#define CORE_LIMIT 99999
#define COMMAND_DEADLINE_MS 5000
/* Sensors that are absent or asleep report nonsense: only what silicon survives is believed. */
#define COLDEST_MILLIDEGREES (-50000.0)
#define HOTTEST_MILLIDEGREES 150000.0

int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void read_fact(const char *root, const char *path, char *text, size_t capacity) {
    char whole[PATH_CAPACITY];
    int length = snprintf(whole, sizeof whole, "%s%s", root, path);
    *text = '\0';
    if (length > 0 && (size_t)length < sizeof whole) read_line(whole, text, capacity);
}

static double leading_decimal(const char *text) {
    double value = 0;
    size_t length = strspn(text, "0123456789.");
    return parse_decimal(text, length, 1e9, &value) ? value : 0;
}

static double cpu_info_mhz(const char *root) {
    char path[PATH_CAPACITY];
    struct bytes info;
    double mhz = 0;
    snprintf(path, sizeof path, "%s/proc/cpuinfo", root);
    if (!read_file(path, CPU_INFO_LIMIT, &info)) return 0;
    const char *line = strstr(info.data, "\ncpu MHz");
    const char *value = line ? strchr(line, ':') : NULL;
    if (value) mhz = leading_decimal(value + 1 + strspn(value + 1, " \t"));
    free(info.data);
    return mhz;
}

static void read_clock_fact(const char *root, uint64_t core, const char *name, char *text, size_t capacity) {
    char path[PATH_CAPACITY];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%llu/cpufreq/%s", (unsigned long long)core, name);
    read_fact(root, path, text, capacity);
}

static double core_mhz(const char *root, uint64_t core, const char *name) {
    char text[STATE_TEXT_CAPACITY];
    uint64_t kilohertz = 0;
    read_clock_fact(root, core, name, text, sizeof text);
    return parse_whole(text, strlen(text), 999999999, &kilohertz) ? (double)kilohertz / 1e3 : 0;
}

static bool has_clock(const char *root, const char *name, uint64_t *core) {
    char path[PATH_CAPACITY];
    if (strncmp(name, "cpu", 3) != 0 || !parse_whole(name + 3, strlen(name + 3), CORE_LIMIT, core)) return false;
    snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%llu/cpufreq", root, (unsigned long long)*core);
    return access(path, F_OK) == 0;
}

/* The core that can run the fastest, the first of equals; false if none tells its clock. */
static bool fastest_core(const char *root, uint64_t *fastest) {
    char path[PATH_CAPACITY];
    double most_mhz = -1;
    uint64_t core = 0;
    snprintf(path, sizeof path, "%s/sys/devices/system/cpu", root);
    DIR *folder = opendir(path);
    if (!folder) return false;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        if (!has_clock(root, entry->d_name, &core)) continue;
        double mhz = core_mhz(root, core, "cpuinfo_max_freq");
        if (mhz < most_mhz || (mhz <= most_mhz && core > *fastest)) continue;
        most_mhz = mhz;
        *fastest = core;
    }
    closedir(folder);
    return most_mhz >= 0;
}

static void read_clock(const char *root, struct state *state) {
    uint64_t core = 0;
    if (fastest_core(root, &core)) {
        state->frequency_mhz = core_mhz(root, core, "scaling_cur_freq");
        state->max_frequency_mhz = core_mhz(root, core, "scaling_max_freq");
        read_clock_fact(root, core, "scaling_governor", state->governor, sizeof state->governor);
    } else {
        state->frequency_mhz = cpu_info_mhz(root);
    }
    if (!*state->governor) memcpy(state->governor, "unknown", sizeof "unknown");
}

static bool zone_temperature(const char *root, const char *zone, double *millidegrees) {
    char path[PATH_CAPACITY], text[STATE_TEXT_CAPACITY];
    uint64_t value = 0;
    int length = snprintf(path, sizeof path, "/sys/class/thermal/%s/temp", zone);
    if (length < 0 || (size_t)length >= sizeof path) return false;
    read_fact(root, path, text, sizeof text);
    bool negative = *text == '-';
    if (!parse_whole(text + negative, strlen(text + negative), 999999999, &value)) return false;
    *millidegrees = negative ? -(double)value : (double)value;
    return *millidegrees > COLDEST_MILLIDEGREES && *millidegrees < HOTTEST_MILLIDEGREES;
}

/* The hottest zone: the one that throttling will follow. */
static void read_temperature(const char *root, struct state *state) {
    char path[PATH_CAPACITY];
    double hottest = COLDEST_MILLIDEGREES, zone;
    snprintf(path, sizeof path, "%s/sys/class/thermal", root);
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        if (strncmp(entry->d_name, "thermal_zone", 12) != 0 || !zone_temperature(root, entry->d_name, &zone)) continue;
        state->has_temperature = true;
        if (zone > hottest) hottest = zone;
    }
    closedir(folder);
    state->temperature_celsius = hottest / 1e3;
}

static bool find_program(const char *name, char *path, size_t capacity) {
    const char *folders = getenv("PATH");
    while (folders && *folders) {
        size_t length = strcspn(folders, ":");
        int written = snprintf(path, capacity, "%.*s/%s", (int)length, folders, name);
        if (length > 0 && length < capacity && (size_t)written < capacity && access(path, X_OK) == 0) return true;
        folders += length + (folders[length] == ':');
    }
    return false;
}

/* In the child: only what may be called between fork and exec in a program with threads. */
static void become(char *path, char *argument, int output) {
    char *argv[] = {path, argument, NULL};
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(nothing, STDERR_FILENO);
    /* Else the output would not end before the program does, though it closes it. */
    if (output > STDERR_FILENO) close(output);
    execv(path, argv);
    _exit(127);
}

/* What the program writes until it closes its output; false if it does not in time, or writes more than fits. */
static bool read_answer(int output, char *text, size_t capacity) {
    int64_t deadline = monotonic_ns() + (int64_t)COMMAND_DEADLINE_MS * 1000000;
    struct pollfd waiting = {.fd = output, .events = POLLIN};
    size_t used = 0;
    ssize_t got = 1;
    while (got > 0 && used < capacity - 1) {
        int64_t left_ms = (deadline - monotonic_ns()) / 1000000;
        int ready = left_ms > 0 ? poll(&waiting, 1, (int)left_ms) : 0;
        if (ready < 0 && errno == EINTR) continue;
        got = ready > 0 ? read(output, text + used, capacity - 1 - used) : -1;
        if (got > 0) used += (size_t)got;
    }
    text[used] = '\0';
    return got == 0;
}

/* What a program answers, found on PATH; false if there is none, or no answer in time. */
static bool ask(const char *name, char *argument, char *text, size_t capacity) {
    char path[PATH_CAPACITY];
    int ends[2];
    if (!find_program(name, path, sizeof path) || pipe(ends) != 0) return false;
    pid_t child = fork();
    if (child == 0) become(path, argument, ends[1]);
    close(ends[1]);
    bool answered = child > 0 && read_answer(ends[0], text, capacity);
    close(ends[0]);
    if (child < 0) return false;
    /* Also one that answered may go on for long. */
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
    return answered;
}

static void read_throttled(struct state *state) {
    char text[STATE_TEXT_CAPACITY], argument[] = "get_throttled";
    if (!ask("vcgencmd", argument, text, sizeof text) || strncmp(text, "throttled=0x", 12) != 0) return;
    size_t digits = strspn(text + 12, "0123456789abcdefABCDEF");
    if (digits == 0) return;
    snprintf(state->throttled, sizeof state->throttled, "0x%.*s", digits > 8 ? 8 : (int)digits, text + 12);
}

static void read_thermal_status(struct state *state) {
    static const char label[] = "Thermal Status: ";
    char *text = allocate(COMMAND_LIMIT, 1), argument[] = "thermalservice";
    uint64_t status = 0;
    state->thermal_status = -1;
    const char *found = ask("dumpsys", argument, text, COMMAND_LIMIT) ? strstr(text, label) : NULL;
    if (found) {
        found += sizeof label - 1;
        if (parse_whole(found, strspn(found, "0123456789"), 999, &status)) state->thermal_status = (int)status;
    }
    free(text);
}

void state_read_boot_id(const char *root, char boot_id[STATE_TEXT_CAPACITY]) {
    read_fact(root, "/proc/sys/kernel/random/boot_id", boot_id, STATE_TEXT_CAPACITY);
    if (!*boot_id) memcpy(boot_id, "unknown", sizeof "unknown");
}

void state_read(const char *root, struct state *state) {
    char load[STATE_TEXT_CAPACITY];
    *state = (struct state){0};
    /* First of all: the clock falls as soon as nothing is computed. */
    read_clock(root, state);
    state_read_boot_id(root, state->boot_id);
    read_fact(root, "/proc/loadavg", load, sizeof load);
    state->load_1min = leading_decimal(load);
    read_temperature(root, state);
    read_throttled(state);
    read_thermal_status(state);
    state->monotonic_ns = monotonic_ns();
}
