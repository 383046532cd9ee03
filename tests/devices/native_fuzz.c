/* Feeds the worker's parsers from a file of records, each a letter, a length of four bytes, and that many bytes, which
   end where allocated memory ends: whoever reads on is caught by the sanitizers. Prints one line for each record. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "job.h"
#include "json.h"
#include "npy.h"
#include "profile.h"

static void try_job(const char *bytes, size_t length) {
    struct job job;
    struct job_error error;
    printf("%d\n", job_parse(bytes, length, &job, &error));
    job_free(&job);
}

static void try_npy(const char *bytes, size_t length) {
    struct npy array;
    const char *problem;
    bool parsed = npy_parse(bytes, length, &array, &problem);
    float sum = 0, number;
    for (size_t i = 0; parsed && i < array.count; i++) {
        memcpy(&number, bytes + array.offset + i * sizeof number, sizeof number);
        sum += number;
    }
    printf("%d %g\n", parsed, (double)sum);
}

static void try_profile(const char *bytes, size_t length) {
    struct profile profile;
    printf("%d\n", profile_parse(bytes, length, &profile));
    profile_free(&profile);
}

static void try_text(const char *bytes, size_t length) {
    struct json json = {0};
    char *text = calloc(length + 1, 1);
    memcpy(text, bytes, length);
    json_string(&json, text);
    fflush(stdout);
    json_flush(&json, 1);
    json_free(&json);
    free(text);
}

static void try_record(char kind, const char *bytes, size_t length) {
    char *exact = malloc(length ? length : 1);
    memcpy(exact, bytes, length);
    if (kind == 'j') try_job(exact, length);
    if (kind == 'n') try_npy(exact, length);
    if (kind == 'p') try_profile(exact, length);
    if (kind == 't') try_text(exact, length);
    free(exact);
}

int main(int count, char **arguments) {
    struct bytes records;
    uint32_t length;
    if (count != 2 || !read_file(arguments[1], (size_t)1 << 30, &records)) return 2;
    for (size_t at = 0; at + 5 <= records.length; at += 5 + (size_t)length) {
        memcpy(&length, records.data + at + 1, sizeof length);
        if (length > records.length - at - 5) return 2;
        try_record(records.data[at], records.data + at + 5, length);
    }
    free(records.data);
    return 0;
}
