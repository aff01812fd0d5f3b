#include "devices.h"

#include "virtio.h"

#define MAX_DRIVES 4

enum { BLOCK_READ = 0, BLOCK_WRITE = 1 };

struct request {
  u32 kind, reserved;
  u64 sector;
};

static struct virtqueue drive_queues[MAX_DRIVES];
static u64 drives[MAX_DRIVES];
static int drives_found;

static struct virtqueue entropy_queue;
static u64 entropy;

void devices_start(void) {
  while (drives_found < MAX_DRIVES) {
    u64 device = virtio_find(VIRTIO_BLOCK, drives_found);
    if (!device) break;
    virtio_begin(device);
    virtio_queue(device, 0, &drive_queues[drives_found]);
    virtio_live(device);
    drives[drives_found++] = device;
  }
  entropy = virtio_find(VIRTIO_ENTROPY, 0);
  if (entropy) {
    virtio_begin(entropy);
    virtio_queue(entropy, 0, &entropy_queue);
    virtio_live(entropy);
  }
}

int drive_count(void) { return drives_found; }

u64 drive_sectors(int drive) { return virtio_config64(drives[drive]); }

static bool transfer(int drive, u32 kind, u64 sector, void *data) {
  static struct request request;
  static volatile u8 status;
  struct descriptor *descriptors = drive_queues[drive].descriptors;
  request = (struct request){kind, 0, sector};
  status = 0xff;
  u16 direction = kind == BLOCK_READ ? DEVICE_WRITES : 0;
  descriptors[0] = (struct descriptor){(u64)&request, sizeof request, NEXT, 1};
  descriptors[1] = (struct descriptor){(u64)data, SECTOR, NEXT | direction, 2};
  descriptors[2] = (struct descriptor){(u64)&status, 1, DEVICE_WRITES, 0};
  virtio_do(&drive_queues[drive]);
  return status == 0;
}

bool drive_read(int drive, u64 sector, void *data) { return transfer(drive, BLOCK_READ, sector, data); }

/* Also on a drive that says it is read-only: refusing it is the monitor's duty, not the guest's. */
bool drive_write(int drive, u64 sector, const void *data) { return transfer(drive, BLOCK_WRITE, sector, (void *)data); }

bool entropy_read(u8 data[ENTROPY_BYTES]) {
  if (!entropy) return false;
  for (u32 got = 0; got < ENTROPY_BYTES;) {
    entropy_queue.descriptors[0] = (struct descriptor){(u64)(data + got), ENTROPY_BYTES - got, DEVICE_WRITES, 0};
    got += virtio_do(&entropy_queue);
  }
  return true;
}
