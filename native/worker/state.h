/* The machine's state as /proc, /sys, a Raspberry Pi's firmware and Android tell it. Only read, never changed. */
#ifndef EDGEKIT_WORKER_STATE_H
#define EDGEKIT_WORKER_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_TEXT_CAPACITY 64

struct state {
    char governor[STATE_TEXT_CAPACITY];
    char boot_id[STATE_TEXT_CAPACITY];
    /* As "0x50005"; empty where nothing tells. */
    char throttled[STATE_TEXT_CAPACITY];
    double frequency_mhz;
    double max_frequency_mhz;
    double load_1min;
    double temperature_celsius;
    bool has_temperature;
    /* Android's; -1 where nothing tells. */
    int thermal_status;
    int64_t monotonic_ns;
};

/* `root` is put before every path: "" on a device, a folder in tests. Missing facts stay "unknown", 0 or empty. */
void state_read(const char *root, struct state *state);
void state_read_boot_id(const char *root, char boot_id[STATE_TEXT_CAPACITY]);
int64_t monotonic_ns(void);

#endif
