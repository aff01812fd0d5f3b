/* Writing text, and reading JSON: linear, and with as few instructions for a byte as there are. */
#ifndef TEXT_H
#define TEXT_H

#include "machine.h"

struct span {
  const u8 *at;
  u32 length;
};

/* Where text goes. With the first piece that there is no room for it is full: `at` is `end`. */
struct writer {
  u8 *at, *end;
};

void put(struct writer *writer, const void *data, u32 count);
void put_span(struct writer *writer, struct span span);
void put_number(struct writer *writer, s64 number);
/* Sixteen hexadecimal digits. */
void put_hex(struct writer *writer, u64 number);
/* The inside of a JSON string. */
void put_escaped(struct writer *writer, struct span text);
#define put_text(writer, literal) put(writer, literal, sizeof(literal) - 1)

bool span_is(struct span span, const void *text, u32 length);
#define is(span, literal) span_is(span, literal, sizeof(literal) - 1)
bool starts_with(struct span span, const void *text, u32 length);
#define starts(span, literal) starts_with(span, literal, sizeof(literal) - 1)
/* A whole number in decimal digits, perhaps with a sign before. */
bool span_number(struct span span, s64 *number);
/* Without blanks at both ends. */
struct span trimmed(struct span span);

/* The raw values of some members of a JSON object, in one pass; a member that is missing leaves its value empty. The names have
   their quotes. False if it is no object. What is not asked for is only skipped, not checked. */
bool json_members(struct span object, const struct span *names, struct span *values, int count);
#define NAME(literal) ((struct span){(const u8 *)"\"" literal "\"", sizeof(literal) + 1})

/* The text of a raw JSON string; false if it is none, or longer than the room. */
bool json_text(struct span string, u8 *to, u32 room, u32 *length);

/* The bytes of a raw JSON string in base64; false if they are not exactly so many. */
bool json_base64(struct span string, u8 *to, u32 count);

#endif
