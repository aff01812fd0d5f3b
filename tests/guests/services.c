/* The services of fc_kernel/testing/guest_services.py, in a guest that needs no kernel. */
#include "agent.h"
#include "devices.h"
#include "vsock.h"

enum { ECHO = 5000, COUNTER, FLOOD, SINK, DRIVES, RANDOM, FAREWELL };

enum { DRIVE_SIZE, DRIVE_READ, DRIVE_WRITE };
enum { DONE, FAILED, NO_DRIVE };

/* A request and its answer have the same shape; in the answer the operation is the status, the sector the drive's size. */
struct drive_message {
  u32 operation, drive;
  u64 sector;
  u8 data[SECTOR];
} __attribute__((packed));

static u64 counter, sunk;

bool service_listens(u32 port) { return (port >= ECHO && port <= FAREWELL) || agent_listens(port); }

void service_connected(struct connection *connection) { agent_connected(connection); }

void service_lost(struct connection *connection) { agent_lost(connection); }

void service_received(struct connection *connection, u32 count) {
  if (connection->port == SINK) sunk += count;
}

static u32 least(u32 a, u32 b) { return a < b ? a : b; }

static void echo(struct connection *connection) {
  static u8 piece[PACKET];
  u32 count = least(connection->waiting, vsock_room(connection));
  if (!count) return;
  vsock_take(connection, piece, count);
  vsock_send(connection, piece, count);
}

static void count(struct connection *connection) {
  u64 answer[] = {counter, vsock_resets, sunk};
  u8 question;
  if (!connection->waiting || vsock_room(connection) < sizeof answer) return;
  vsock_take(connection, &question, 1);
  vsock_send(connection, answer, sizeof answer);
}

static void swallow(struct connection *connection) {
  connection->first = (connection->first + connection->waiting) % WINDOW;
  connection->served += connection->waiting;
  connection->waiting = 0;
}

static void random(struct connection *connection) {
  static u8 answer[ENTROPY_BYTES];
  u8 question;
  if (!connection->waiting || vsock_room(connection) < sizeof answer) return;
  if (!entropy_read(answer)) return;
  vsock_take(connection, &question, 1);
  vsock_send(connection, answer, sizeof answer);
}

static void drive(struct connection *connection) {
  static struct drive_message message;
  if (connection->waiting < sizeof message || vsock_room(connection) < sizeof message) return;
  vsock_take(connection, &message, sizeof message);
  bool done = true;
  if (message.drive >= (u32)drive_count()) {
    message.operation = NO_DRIVE;
    message.sector = 0;
  } else {
    if (message.operation == DRIVE_READ) done = drive_read((int)message.drive, message.sector, message.data);
    if (message.operation == DRIVE_WRITE) done = drive_write((int)message.drive, message.sector, message.data);
    message.operation = done ? DONE : FAILED;
    message.sector = drive_sectors((int)message.drive);
  }
  vsock_send(connection, &message, sizeof message);
}

static void send_numbers(struct connection *connection) {
  static u64 numbers[PACKET / 8];
  u32 wanted = vsock_room(connection) / 8;
  if (wanted > connection->numbers_left) wanted = (u32)connection->numbers_left;
  if (!wanted) return;
  for (u32 i = 0; i < wanted; i++) numbers[i] = connection->next_number + i;
  connection->next_number += wanted;
  connection->numbers_left -= wanted;
  vsock_send(connection, numbers, wanted * 8);
}

static void flood(struct connection *connection) {
  if (connection->waiting && !connection->started) {
    connection->started = true;
    connection->numbers_left = (u64)-1;
  }
  swallow(connection);
  send_numbers(connection);
}

static void farewell(struct connection *connection) {
  if (connection->waiting >= 4 && !connection->started) {
    u32 wanted;
    vsock_take(connection, &wanted, sizeof wanted);
    connection->started = true;
    connection->numbers_left = wanted;
  }
  send_numbers(connection);
  if (connection->started && !connection->numbers_left) vsock_end(connection);
}

static void serve(struct connection *connection) {
  if (agent_serve(connection)) return;
  switch (connection->port) {
  case ECHO: echo(connection); break;
  case COUNTER: count(connection); break;
  case FLOOD: flood(connection); break;
  case SINK: swallow(connection); break;
  case DRIVES: drive(connection); break;
  case RANDOM: random(connection); break;
  case FAREWELL: farewell(connection); break;
  }
  vsock_tell_credit(connection);
  /* A host that sends no more has been answered when nothing waits any more. */
  if (connection->host_ended && !connection->waiting) vsock_end(connection);
}

void guest_main(void) {
  map_memory();
  say("guest: up\n");
  devices_start();
  if (!vsock_start()) {
    say("guest: there is no vsock device\n");
    return;
  }
  say("guest: serving\n");
  for (;;) {
    counter++;
    vsock_poll();
    for (int i = 0; i < vsock_open_count; i++) serve(vsock_open[i]);
    agent_poll();
  }
}
