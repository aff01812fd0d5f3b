/* Drives (virtio 1.2, 5.2) and the entropy device (5.4). */
#ifndef DEVICES_H
#define DEVICES_H

#include "machine.h"

#define SECTOR 512
#define ENTROPY_BYTES 32

void devices_start(void);

int drive_count(void);
u64 drive_sectors(int drive);
/* One sector; false if the device says that it failed. */
bool drive_read(int drive, u64 sector, void *data);
bool drive_write(int drive, u64 sector, const void *data);

/* Random bytes of the device; false where there is none. */
bool entropy_read(u8 data[ENTROPY_BYTES]);

#endif
