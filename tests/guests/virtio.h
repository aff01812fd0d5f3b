/* Virtio over MMIO, by polling (virtio 1.2: 2.7 split virtqueues, 4.2 MMIO). */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "machine.h"

enum { VIRTIO_BLOCK = 2, VIRTIO_ENTROPY = 4, VIRTIO_VSOCK = 19 };

#define QUEUE_SIZE 64

/* The descriptor continues in the next one; the device writes into it. */
#define NEXT 1
#define DEVICE_WRITES 2

struct descriptor {
  u64 address;
  u32 length;
  u16 flags, next;
};

struct virtqueue {
  struct descriptor descriptors[QUEUE_SIZE] __attribute__((aligned(16)));
  struct {
    u16 flags, index, ring[QUEUE_SIZE];
  } available __attribute__((aligned(2)));
  struct {
    u16 flags;
    volatile u16 index;
    struct {
      u32 id, length;
    } ring[QUEUE_SIZE];
  } used __attribute__((aligned(4)));
  u16 seen;   /* up to where the used ring was read */
  u64 device; /* where the device's registers are, and which of its queues this is */
  u32 number;
};

/* The registers of the nth device of a kind, or 0. */
u64 virtio_find(u32 kind, int nth);

/* Reset the device and accept version 1 and no optional feature; then its queues are set up, then it goes live. */
void virtio_begin(u64 device);
void virtio_queue(u64 device, u32 number, struct virtqueue *queue);
void virtio_live(u64 device);

/* The device's own configuration, which begins at its register 0x100. */
u64 virtio_config64(u64 device);

/* Hand a chain of descriptors, named by its first one, to the device. */
void virtio_give(struct virtqueue *queue, u16 first);

/* Take back a chain: true if there was one. */
bool virtio_take(struct virtqueue *queue, u16 *first, u32 *length);

/* Hand over the chain that begins at descriptor 0 and wait until the device has done it; returns how much it wrote. */
u32 virtio_do(struct virtqueue *queue);

#endif
