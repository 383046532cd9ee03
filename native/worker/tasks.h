/* Carrying out a job's tasks, one after the other: what fails ends its own task only. */
#ifndef EDGEKIT_WORKER_TASKS_H
#define EDGEKIT_WORKER_TASKS_H

#include "events.h"
#include "job.h"
#include "ort.h"

void carry_out(struct events *events, struct ort *ort, const struct job *job);

#endif
