/* The language of the bare kernel: one statement a line. See README.md. */
#ifndef LANGUAGE_H
#define LANGUAGE_H

#include "text.h"

#define MAX_CODE 4096

/* Begin with a cell; false if it is too long. */
bool cell_begin(struct span code);
/* One step. */
enum outcome { GOES_ON, ENDED, FAILED } cell_step(void);
/* The host has answered what the cell asked; the cell goes on. */
void cell_answered(void);
/* Whether the cell waits for an answer. */
bool cell_asks(void);

void language_reset(void);

#endif
