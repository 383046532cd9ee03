/* Reading the profile that ONNX Runtime writes: which kernels ran, and which provider has each node. */
#ifndef EDGEKIT_WORKER_PROFILE_H
#define EDGEKIT_WORKER_PROFILE_H

#include <stdbool.h>
#include <stddef.h>

#define PROFILE_NAME_CAPACITY 4096
#define PROFILE_TEXT_CAPACITY 256

struct profile_node {
    char name[PROFILE_NAME_CAPACITY];
    char operator[PROFILE_TEXT_CAPACITY];
    char provider[PROFILE_TEXT_CAPACITY];
    /* Of its first input; empty if it has none. */
    char type[PROFILE_TEXT_CAPACITY];
};

struct profile {
    struct profile_node *nodes;
    size_t count;
};

/* The kernels in the order in which they ran; false if the text is not the JSON of a profile. */
bool profile_parse(const char *text, size_t length, struct profile *profile);
void profile_free(struct profile *profile);

#endif
