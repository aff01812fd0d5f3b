#include "link.h"

#define MAGIC 'F'
#define HEAD_BYTES 24
enum { HELLO = 1, DATA, ACK };

/* Messages after which the host is told that they have come; it keeps them until then. */
#define ACK_EVERY 32
/* Room for what the host has not acknowledged, which it does every 32 messages, and one of them has less than 32 KiB. */
#define SEND_BYTES (1 << 20)
#define MAX_UNACKNOWLEDGED 256

enum stage { HEAD, SIZES, BODY };

struct link {
  struct connection *connection;
  bool greeted, owes_hello;
  u32 generation;

  enum stage stage;
  u32 filled, body;
  u8 head[HEAD_BYTES];
  u32 sizes[MAX_PARTS];
  u32 kind, parts;
  u64 seq, ack;
  u64 received;
  u32 owed;
  bool waiting;
  struct message message;

  /* What was sent and is not acknowledged, whole frames; `passed` bytes of it are on this connection. An acknowledgement that
     is sent in between counts to the message behind it. */
  u64 sent, acknowledged;
  u32 used, passed, begun, extra;
  u32 lengths[MAX_UNACKNOWLEDGED];
  u32 part, part_begun, parts_to_say;
  struct writer writer;
  u8 buffer[SEND_BYTES];
};

static struct link links[CHANNELS];

static u64 big(const u8 *at, u32 bytes) {
  u64 number = 0;
  for (u32 i = 0; i < bytes; i++) number = number << 8 | at[i];
  return number;
}

static void put_big(u8 *to, u64 number, u32 bytes) {
  number = __builtin_bswap64(number << (64 - 8 * bytes));
  copy(to, &number, bytes);
}

static void make_head(const struct link *link, u8 *head, u32 kind, u32 parts, u64 seq) {
  head[0] = MAGIC;
  head[1] = (u8)kind;
  put_big(head + 2, parts, 2);
  put_big(head + 4, link->generation, 4);
  put_big(head + 8, seq, 8);
  put_big(head + 16, link->received, 8);
}

static void refuse(struct link *link, const char *why) {
  say("guest: a channel is broken off: ");
  say(why);
  vsock_break(link->connection);
}

void link_new_generation(int channel, u32 generation) {
  struct link *link = &links[channel];
  link->generation = generation;
  link->received = link->sent = link->acknowledged = 0;
  link->used = link->passed = link->extra = link->owed = 0;
  link->waiting = false;
}

void link_connected(int channel, struct connection *connection) {
  struct link *link = &links[channel];
  struct connection *old = link->connection;
  link->connection = connection;
  if (old && old != connection) vsock_break(old);
  link->greeted = link->owes_hello = false;
  link->stage = HEAD;
  link->filled = link->passed = link->owed = 0;
}

void link_lost(int channel, struct connection *connection) {
  struct link *link = &links[channel];
  if (link->connection != connection) return;
  link->connection = NULL;
  link->greeted = false;
}

/* False if the host acknowledged what was not sent to it. */
static bool acknowledge(struct link *link, u64 ack) {
  u32 gone = 0;
  if (ack > link->sent) return false;
  while (link->acknowledged < ack) gone += link->lengths[++link->acknowledged % MAX_UNACKNOWLEDGED];
  if (link->greeted && gone > link->passed) return false;
  if (!gone) return true;
  link->used -= gone;
  link->passed = link->greeted ? link->passed - gone : 0;
  copy(link->buffer, link->buffer + gone, link->used);
  return true;
}

static void head_complete(struct link *link, int channel) {
  u32 generation = (u32)big(link->head + 4, 4);
  link->kind = link->head[1];
  link->parts = (u32)big(link->head + 2, 2);
  link->seq = big(link->head + 8, 8);
  link->ack = big(link->head + 16, 8);
  link->filled = 0;
  if (link->head[0] != MAGIC || link->kind < HELLO || link->kind > ACK) return refuse(link, "not a frame\n");
  if (link->parts > MAX_PARTS || (link->kind == DATA) != (link->parts > 0)) return refuse(link, "wrong parts\n");
  if ((link->kind == HELLO) == link->greeted) return refuse(link, "a greeting at the wrong time\n");
  if (link->kind == HELLO) {
    if (generation != link->generation) link_new_generation(channel, generation);
    if (!acknowledge(link, link->ack)) return refuse(link, "acknowledged what was not sent\n");
    link->greeted = link->owes_hello = true;
    return;
  }
  if (generation != link->generation) return refuse(link, "another generation\n");
  if (link->kind == DATA)
    link->stage = SIZES;
  else if (!acknowledge(link, link->ack))
    refuse(link, "acknowledged what was not sent\n");
}

static void sizes_complete(struct link *link) {
  u64 all = 0;
  link->message.count = link->parts;
  for (u32 i = 0; i < link->parts; i++) {
    link->message.sizes[i] = __builtin_bswap32(link->sizes[i]);
    all += link->message.sizes[i];
  }
  link->filled = 0;
  link->body = (u32)all;
  link->stage = BODY;
  if (all > MAX_MESSAGE) refuse(link, "a message that is too large\n");
}

static void body_complete(struct link *link) {
  link->stage = HEAD;
  link->filled = 0;
  if (!acknowledge(link, link->ack)) return refuse(link, "acknowledged what was not sent\n");
  if (link->seq <= link->received) return; /* sent again after a reset, although it had come */
  if (link->seq != link->received + 1) return refuse(link, "a message is missing\n");
  link->received = link->seq;
  link->owed++;
  link->waiting = true;
}

/* Take bytes until there are so many; false if there are fewer. */
static bool fill(struct link *link, void *to, u32 wanted) {
  struct connection *connection = link->connection;
  u32 count = wanted - link->filled;
  if (count > connection->waiting) count = connection->waiting;
  if (count) vsock_take(connection, (u8 *)to + link->filled, count);
  link->filled += count;
  return link->filled == wanted;
}

static void receive(struct link *link, int channel) {
  while (link->connection && link->connection->waiting) {
    switch (link->stage) {
    case HEAD:
      if (!fill(link, link->head, HEAD_BYTES)) return;
      head_complete(link, channel);
      break;
    case SIZES:
      if (link->waiting) return; /* the message before it was not taken yet */
      if (!fill(link, link->sizes, 4 * link->parts)) return;
      sizes_complete(link);
      if (link->connection && !link->body) body_complete(link);
      break;
    case BODY:
      if (!fill(link, link->message.data, link->body)) return;
      body_complete(link);
      break;
    }
  }
}

static void send_head(struct link *link, u32 kind) {
  make_head(link, link->buffer + link->used, kind, 0, 0);
  link->used += HEAD_BYTES;
  link->extra += HEAD_BYTES;
}

static void transmit(struct link *link) {
  if (link->owes_hello) {
    u8 hello[HEAD_BYTES];
    if (vsock_room(link->connection) < HEAD_BYTES) return;
    make_head(link, hello, HELLO, 0, 0);
    vsock_send(link->connection, hello, HEAD_BYTES);
    link->owes_hello = false;
    link->owed = 0;
  }
  if (link->owed >= ACK_EVERY && link->used + HEAD_BYTES <= SEND_BYTES) {
    send_head(link, ACK);
    link->owed = 0;
  }
  while (link->passed < link->used) {
    u32 count = vsock_room(link->connection);
    if (count > link->used - link->passed) count = link->used - link->passed;
    if (!count) return;
    vsock_send(link->connection, link->buffer + link->passed, count);
    link->passed += count;
  }
}

void link_serve(int channel) {
  struct link *link = &links[channel];
  if (link->connection->waiting) receive(link, channel);
  if (link->connection && link->greeted) transmit(link);
  if (link->connection) vsock_tell_credit(link->connection);
}

struct message *link_waiting(int channel) { return links[channel].waiting ? &links[channel].message : NULL; }

void link_taken(int channel) { links[channel].waiting = false; }

bool link_has_room(int channel) {
  const struct link *link = &links[channel];
  /* Some messages are said to one request. */
  return link->used + LINK_ROOM <= SEND_BYTES && link->sent - link->acknowledged < MAX_UNACKNOWLEDGED - 16;
}

struct writer *link_begin(int channel, u32 parts) {
  struct link *link = &links[channel];
  link->begun = link->used;
  link->part = 0;
  link->parts_to_say = parts;
  link->part_begun = link->begun + HEAD_BYTES + 4 * parts;
  link->writer = (struct writer){link->buffer + link->part_begun, link->buffer + SEND_BYTES};
  return &link->writer;
}

void link_part(int channel) {
  struct link *link = &links[channel];
  u32 at = (u32)(link->writer.at - link->buffer);
  put_big(link->buffer + link->begun + HEAD_BYTES + 4 * link->part, at - link->part_begun, 4);
  link->part_begun = at;
  if (++link->part < link->parts_to_say) return;
  make_head(link, link->buffer + link->begun, DATA, link->parts_to_say, ++link->sent);
  link->lengths[link->sent % MAX_UNACKNOWLEDGED] = at - link->begun + link->extra;
  link->extra = 0;
  link->used = at;
  link->owed = 0;
}
