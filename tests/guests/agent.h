/* The agent: the host's control connection (contract in fc_kernel/guest/agent.py), and what the host has told the machine. */
#ifndef AGENT_H
#define AGENT_H

#include "text.h"
#include "vsock.h"

#define ENTROPY 32

struct machine {
  s64 generation;
  u8 role[16], name[64], hostname[64];
  u32 role_length, name_length, hostname_length;
  bool refuses_entropy; /* the next `renew` fails */
};
extern struct machine machine;

/* Numbers from what the host and the device gave: the machine's own, and the language's, which may be left alone. */
enum generator { MACHINES, LANGUAGES };
u64 random_next(enum generator generator);

/* Ask the host, for the cell that runs. */
void agent_ask(struct span operation, struct span arguments);
void agent_exited(void);

bool agent_listens(u32 port);
void agent_connected(struct connection *connection);
void agent_lost(struct connection *connection);
/* True if the port is the agent's; the connection may be gone afterwards. */
bool agent_serve(struct connection *connection);
/* One round of the kernel. */
void agent_poll(void);

#endif
