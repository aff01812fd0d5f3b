/* The bare machine: memory, the serial console, and nothing else. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define PAGE 4096

/* Map the first 4 GiB one to one, the last of them, where the devices are, uncached. */
void map_memory(void);

/* Write to the serial console. */
void say(const char *text);
void say_number(u64 number);

/* End the machine. */
void power_off(void);

/* Copies with as few instructions as there are, because each may be emulated. */
void copy(void *to, const void *from, size_t count);

/* The device's and the driver's writes must be seen in order. */
static inline void barrier(void) { __asm__ volatile("mfence" ::: "memory"); }

#endif
