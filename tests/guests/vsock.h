/* Connections over virtio-vsock (virtio 1.2, 5.10), with credit in both directions. */
#ifndef VSOCK_H
#define VSOCK_H

#include "machine.h"

/* What the host may send on a connection before the guest has served it; a power of two. */
#define WINDOW 65536
/* The largest piece that is sent at a time. */
#define PACKET 16384
#define MAX_CONNECTIONS 64

struct connection {
  u32 host_port, port;
  bool host_ended; /* the host sends no more */
  bool ending;     /* the end was announced to the host */

  /* What has come and was not served: a ring. */
  u32 first, waiting;
  u8 window[WINDOW];

  /* Credit. All four count bytes since the beginning, and wrap. */
  u32 served, served_told; /* of the host's bytes; what the host knows of it */
  u32 sent, host_served;   /* of ours */
  u32 host_window;
  bool asked; /* the host was asked for its credit */

  /* The service's own. */
  u64 next_number, numbers_left;
  bool started;
};

/* False where there is no device. */
bool vsock_start(void);

/* How often the monitor has reset the device, and with it all connections. */
extern u64 vsock_resets;

/* Called for a connection to every port; false refuses it. */
bool service_listens(u32 port);
/* Called when the host has connected, and when a connection is gone. */
void service_connected(struct connection *connection);
void service_lost(struct connection *connection);
/* Called for each packet of data, before it can be taken. */
void service_received(struct connection *connection, u32 count);

/* Take in what the host has sent. */
void vsock_poll(void);

/* The open connections, in no order. A closed one is replaced by the last. */
extern struct connection *vsock_open[MAX_CONNECTIONS];
extern int vsock_open_count;

/* How much may be sent now. */
u32 vsock_room(const struct connection *connection);
void vsock_send(struct connection *connection, const void *data, u32 count);

/* Take bytes that have come; there have to be as many. */
void vsock_take(struct connection *connection, void *data, u32 count);

/* Say that no more will be sent, when the host has got everything; false if it is to be tried again. */
bool vsock_end(struct connection *connection);

/* Break the connection off. */
void vsock_break(struct connection *connection);

/* Tell the host how much it may send, if that is news for it. */
void vsock_tell_credit(struct connection *connection);

#endif
