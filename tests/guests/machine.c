#include "machine.h"

#define SERIAL_PORT 0x3f8
/* The keyboard controller, whose reset is how a guest ends its Firecracker. */
#define RESET_PORT 0x64
#define RESET 0xfe

/* Bits of a page table's entry. */
#define PRESENT 0x01
#define WRITABLE 0x02
#define UNCACHED 0x10
#define LARGE 0x80 /* 2 MiB */

static u64 level4[512] __attribute__((aligned(PAGE)));
static u64 level3[512] __attribute__((aligned(PAGE)));
static u64 level2[4][512] __attribute__((aligned(PAGE)));

void map_memory(void) {
  level4[0] = (u64)level3 | PRESENT | WRITABLE;
  for (u64 gib = 0; gib < 4; gib++) {
    level3[gib] = (u64)level2[gib] | PRESENT | WRITABLE;
    for (u64 i = 0; i < 512; i++)
      level2[gib][i] = gib << 30 | i << 21 | PRESENT | WRITABLE | LARGE | (gib == 3 ? UNCACHED : 0);
  }
  __asm__ volatile("mov %0, %%cr3" ::"r"(level4) : "memory");
}

static void put(char c) { __asm__ volatile("outb %0, %1" ::"a"(c), "Nd"((u16)SERIAL_PORT)); }

void say(const char *text) {
  while (*text) put(*text++);
}

void say_number(u64 number) {
  for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[number >> shift & 15]);
  put('\n');
}

void power_off(void) { __asm__ volatile("outb %0, %1" ::"a"((u8)RESET), "Nd"((u16)RESET_PORT)); }

void copy(void *to, const void *from, size_t count) {
  size_t words = count / 8, rest = count % 8;
  __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest)::"memory");
}

/* The compiler may call these, also where no C library is. */
void *memcpy(void *to, const void *from, size_t count) {
  copy(to, from, count);
  return to;
}

void *memset(void *to, int byte, size_t count) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(byte) : "memory");
  return to;
}
