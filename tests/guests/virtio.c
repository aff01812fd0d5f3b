#include "virtio.h"

/* Where the windows of Firecracker's devices start: up to 1.15, and from 1.16 on. */
static const u64 WINDOWS[] = {0xc0000000, 0xd0000000};
#define WINDOW_PAGES 32

#define MAGIC 0x74726976 /* "virt" */

enum {
  REG_MAGIC = 0x00,
  REG_KIND = 0x08,
  REG_DRIVER_FEATURES = 0x20,
  REG_DRIVER_FEATURES_SELECT = 0x24,
  REG_QUEUE_SELECT = 0x30,
  REG_QUEUE_MAX = 0x34,
  REG_QUEUE_SIZE = 0x38,
  REG_QUEUE_READY = 0x44,
  REG_QUEUE_NOTIFY = 0x50,
  REG_STATUS = 0x70,
  REG_QUEUE_DESCRIPTORS = 0x80,
  REG_QUEUE_AVAILABLE = 0x90,
  REG_QUEUE_USED = 0xa0,
  REG_CONFIG = 0x100,
};

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

static u32 get(u64 device, u32 reg) { return *(volatile u32 *)(device + reg); }
static void set(u64 device, u32 reg, u32 value) { *(volatile u32 *)(device + reg) = value; }

static void set64(u64 device, u32 reg, const volatile void *pointer) {
  set(device, reg, (u32)(u64)pointer);
  set(device, reg + 4, (u32)((u64)pointer >> 32));
}

u64 virtio_find(u32 kind, int nth) {
  for (unsigned w = 0; w < sizeof WINDOWS / sizeof *WINDOWS; w++)
    for (u64 at = WINDOWS[w]; at < WINDOWS[w] + WINDOW_PAGES * PAGE; at += PAGE)
      if (get(at, REG_MAGIC) == MAGIC && get(at, REG_KIND) == kind && nth-- == 0) return at;
  return 0;
}

void virtio_begin(u64 device) {
  set(device, REG_STATUS, 0);
  set(device, REG_STATUS, ACKNOWLEDGE);
  set(device, REG_STATUS, ACKNOWLEDGE | DRIVER);
  set(device, REG_DRIVER_FEATURES_SELECT, 0);
  set(device, REG_DRIVER_FEATURES, 0);
  set(device, REG_DRIVER_FEATURES_SELECT, 1);
  set(device, REG_DRIVER_FEATURES, 1); /* bit 32: VIRTIO_F_VERSION_1 */
  set(device, REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  if (!(get(device, REG_STATUS) & FEATURES_OK)) say("guest: a device refuses version 1\n");
}

void virtio_queue(u64 device, u32 number, struct virtqueue *queue) {
  queue->device = device;
  queue->number = number;
  set(device, REG_QUEUE_SELECT, number);
  if (get(device, REG_QUEUE_MAX) < QUEUE_SIZE) say("guest: a queue is too small\n");
  set(device, REG_QUEUE_SIZE, QUEUE_SIZE);
  set64(device, REG_QUEUE_DESCRIPTORS, queue->descriptors);
  set64(device, REG_QUEUE_AVAILABLE, &queue->available);
  set64(device, REG_QUEUE_USED, &queue->used);
  set(device, REG_QUEUE_READY, 1);
}

void virtio_live(u64 device) { set(device, REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK); }

u64 virtio_config64(u64 device) { return get(device, REG_CONFIG) | (u64)get(device, REG_CONFIG + 4) << 32; }

void virtio_give(struct virtqueue *queue, u16 first) {
  queue->available.ring[queue->available.index % QUEUE_SIZE] = first;
  barrier();
  queue->available.index++;
  barrier();
  set(queue->device, REG_QUEUE_NOTIFY, queue->number);
}

bool virtio_take(struct virtqueue *queue, u16 *first, u32 *length) {
  if (queue->seen == queue->used.index) return false;
  barrier();
  *first = (u16)queue->used.ring[queue->seen % QUEUE_SIZE].id;
  *length = queue->used.ring[queue->seen % QUEUE_SIZE].length;
  queue->seen++;
  return true;
}

u32 virtio_do(struct virtqueue *queue) {
  u16 first;
  u32 length;
  virtio_give(queue, 0);
  while (!virtio_take(queue, &first, &length)) continue;
  return length;
}
