#include "vsock.h"

#include "virtio.h"

#define HOST_CID 2
#define STREAM 1

enum { REQUEST = 1, RESPONSE, RESET, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST };
enum { NO_RECEIVE = 1, NO_SEND = 2 };

struct header {
  u64 from_cid, to_cid;
  u32 from_port, to_port, length;
  u16 kind, operation;
  u32 flags, window, served;
} __attribute__((packed));

struct packet {
  struct header header;
  u8 data[PACKET];
} __attribute__((aligned(8)));

static u64 cid, device;
static struct virtqueue receive_queue, send_queue, event_queue;
static struct packet received[QUEUE_SIZE], sending[QUEUE_SIZE];
static u16 free_packets[QUEUE_SIZE];
static int free_packet_count;
static volatile u32 events[QUEUE_SIZE];

static struct connection connections[MAX_CONNECTIONS];
struct connection *vsock_open[MAX_CONNECTIONS];
int vsock_open_count;
u64 vsock_resets;

bool vsock_start(void) {
  device = virtio_find(VIRTIO_VSOCK, 0);
  if (!device) return false;
  /* The slots behind the open connections hold those that are not in use. */
  for (int i = 0; i < MAX_CONNECTIONS; i++) vsock_open[i] = &connections[i];
  virtio_begin(device);
  virtio_queue(device, 0, &receive_queue);
  virtio_queue(device, 1, &send_queue);
  virtio_queue(device, 2, &event_queue);
  cid = virtio_config64(device);
  virtio_live(device);
  for (u16 i = 0; i < QUEUE_SIZE; i++) {
    receive_queue.descriptors[i] = (struct descriptor){(u64)&received[i], sizeof received[i], DEVICE_WRITES, 0};
    virtio_give(&receive_queue, i);
    event_queue.descriptors[i] = (struct descriptor){(u64)&events[i], sizeof events[i], DEVICE_WRITES, 0};
    virtio_give(&event_queue, i);
    free_packets[free_packet_count++] = i;
  }
  return true;
}

static struct packet *free_packet(void) {
  u16 id;
  u32 length;
  /* The device takes packets whether or not the host reads them, so this ends. */
  do
    while (virtio_take(&send_queue, &id, &length)) free_packets[free_packet_count++] = id;
  while (!free_packet_count);
  return &sending[free_packets[--free_packet_count]];
}

static void send_packet(struct packet *packet, u32 port, u32 host_port, u16 operation, u32 flags, u32 length, u32 served) {
  u16 id = (u16)(packet - sending);
  packet->header =
      (struct header){cid, HOST_CID, port, host_port, length, STREAM, operation, flags, WINDOW, served};
  send_queue.descriptors[id] = (struct descriptor){(u64)packet, sizeof packet->header + length, 0, 0};
  virtio_give(&send_queue, id);
}

static void send_control(struct connection *connection, u16 operation, u32 flags) {
  connection->served_told = connection->served;
  send_packet(free_packet(), connection->port, connection->host_port, operation, flags, 0, connection->served);
}

static struct connection *find(const struct header *header) {
  for (int i = 0; i < vsock_open_count; i++)
    if (vsock_open[i]->host_port == header->from_port && vsock_open[i]->port == header->to_port) return vsock_open[i];
  return NULL;
}

static void forget(struct connection *connection) {
  for (int i = 0; i < vsock_open_count; i++)
    if (vsock_open[i] == connection) {
      vsock_open[i] = vsock_open[--vsock_open_count];
      vsock_open[vsock_open_count] = connection;
      service_lost(connection);
      return;
    }
}

void vsock_break(struct connection *connection) {
  send_control(connection, RESET, 0);
  forget(connection);
}

static struct connection *accept(const struct header *header) {
  if (vsock_open_count == MAX_CONNECTIONS || !service_listens(header->to_port)) return NULL;
  struct connection *connection = vsock_open[vsock_open_count++];
  /* Everything but the window, which is large and has no content without `waiting`. */
  connection->host_port = header->from_port;
  connection->port = header->to_port;
  connection->host_ended = connection->ending = connection->asked = connection->started = false;
  connection->first = connection->waiting = 0;
  connection->served = connection->served_told = connection->sent = connection->host_served = 0;
  connection->next_number = connection->numbers_left = 0;
  return connection;
}

static void store(struct connection *connection, const u8 *data, u32 count) {
  u32 at = (connection->first + connection->waiting) % WINDOW;
  u32 before_wrap = count < WINDOW - at ? count : WINDOW - at;
  copy(connection->window + at, data, before_wrap);
  copy(connection->window, data + before_wrap, count - before_wrap);
  connection->waiting += count;
}

static void handle(struct packet *packet) {
  struct header *header = &packet->header;
  struct connection *connection = find(header);
  if (header->operation == REQUEST && !connection) connection = accept(header);
  if (!connection) {
    if (header->operation != RESET)
      send_packet(free_packet(), header->to_port, header->from_port, RESET, 0, 0, 0);
    return;
  }
  connection->host_window = header->window;
  connection->host_served = header->served;
  connection->asked = false;
  switch (header->operation) {
  case REQUEST:
    send_control(connection, RESPONSE, 0);
    service_connected(connection);
    break;
  case DATA:
    if (header->length > WINDOW - connection->waiting) {
      say("guest: the host sent more than it had credit for\n");
      vsock_break(connection);
      break;
    }
    store(connection, packet->data, header->length);
    service_received(connection, header->length);
    break;
  case SHUTDOWN:
    if (header->flags & NO_RECEIVE) { /* then nothing can be answered any more */
      vsock_break(connection);
    } else if (header->flags & NO_SEND) {
      connection->host_ended = true;
    }
    break;
  case RESET:
    forget(connection);
    break;
  case CREDIT_REQUEST:
    send_control(connection, CREDIT_UPDATE, 0);
    break;
  }
}

void vsock_poll(void) {
  u16 id;
  u32 length;
  /* Events first: a connection that came after a reset must not fall to it. */
  while (virtio_take(&event_queue, &id, &length)) {
    /* The one event that there is: the machine was saved or restored, and all connections are gone (5.10.6.7). */
    vsock_resets++;
    while (vsock_open_count) forget(vsock_open[0]);
    cid = virtio_config64(device);
    virtio_give(&event_queue, id);
  }
  while (virtio_take(&receive_queue, &id, &length)) {
    handle(&received[id]);
    virtio_give(&receive_queue, id);
  }
}

u32 vsock_room(const struct connection *connection) {
  u32 under_way = connection->sent - connection->host_served;
  if (connection->ending || under_way >= connection->host_window) return 0;
  u32 room = connection->host_window - under_way;
  return room < PACKET ? room : PACKET;
}

void vsock_send(struct connection *connection, const void *data, u32 count) {
  struct packet *packet = free_packet();
  copy(packet->data, data, count);
  connection->sent += count;
  connection->served_told = connection->served;
  send_packet(packet, connection->port, connection->host_port, DATA, 0, count, connection->served);
}

void vsock_take(struct connection *connection, void *data, u32 count) {
  u32 before_wrap = count < WINDOW - connection->first ? count : WINDOW - connection->first;
  copy(data, connection->window + connection->first, before_wrap);
  copy((u8 *)data + before_wrap, connection->window, count - before_wrap);
  connection->first = (connection->first + count) % WINDOW;
  connection->waiting -= count;
  connection->served += count;
}

bool vsock_end(struct connection *connection) {
  if (connection->ending) return true;
  if (connection->sent != connection->host_served) {
    /* Firecracker drops what its socket has not taken two seconds after the end, so the end waits for it. */
    if (!connection->asked) {
      connection->asked = true;
      send_control(connection, CREDIT_REQUEST, 0);
    }
    return false;
  }
  connection->ending = true;
  send_control(connection, SHUTDOWN, NO_RECEIVE | NO_SEND);
  return true;
}

void vsock_tell_credit(struct connection *connection) {
  if (connection->served - connection->served_told >= WINDOW / 2) send_control(connection, CREDIT_UPDATE, 0);
}
