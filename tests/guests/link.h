/* The guest's end of the channels' tunnels, as in fc_kernel/wire/link.py: messages that a reset of the connection does not
   lose or repeat. */
#ifndef LINK_H
#define LINK_H

#include "text.h"
#include "vsock.h"

enum { SHELL, IOPUB, STDIN, CONTROL, CHANNELS };

#define MAX_PARTS 32
/* A message of the host's. A guest that computes with numbers is sent nothing larger. */
#define MAX_MESSAGE 65536
/* The kernel waits until there is so much room, and what it says to one request is less. */
#define LINK_ROOM 65536

struct message {
  u32 count, sizes[MAX_PARTS];
  u8 data[MAX_MESSAGE];
};

/* The message that the host sent on a channel and nobody has taken, or NULL. */
struct message *link_waiting(int channel);
void link_taken(int channel);

/* Whether all that may be said to one request can be sent on a channel. */
bool link_has_room(int channel);
/* Say a message of so many parts: write each, end each, and the last end sends it. */
struct writer *link_begin(int channel, u32 parts);
void link_part(int channel);

/* Another generation: what was sent and received is void. */
void link_new_generation(int channel, u32 generation);

void link_connected(int channel, struct connection *connection);
void link_lost(int channel, struct connection *connection);
/* Receive and send what there is. The connection may be gone afterwards. */
void link_serve(int channel);

#endif
