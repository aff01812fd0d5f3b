/* A Jupyter kernel without a process: its language is in language.c, its messages are here. */
#ifndef KERNEL_H
#define KERNEL_H

#include "link.h"

#define SIGINT 2
#define SIGKILL 9
#define SIGTERM 15

struct kernel {
  bool there, running, frozen;
  s64 instance, returncode;
  s64 execution_count;
};
extern struct kernel kernel;

void kernel_start(s64 instance);
void kernel_end(s64 returncode);
void kernel_interrupt(void);
/* Another machine than the one that was saved: the cell that asked for the snapshot ends at that line. */
void kernel_restored(void);
/* Take requests and let the cell go on, one step each. */
void kernel_poll(void);

/* The host's answer to what the cell asked: a result, or an error as a JSON string. */
void kernel_answered(struct span result, struct span error);
/* The id of the message whose cell asks the host for something; empty when none does. */
struct span kernel_asking(void);

/* What a cell may say. */
void say_stream(struct span text);
void say_result(struct span text);
void say_error(struct span name, struct span value);

#endif
