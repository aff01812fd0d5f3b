#include "text.h"

#define MAX_DEPTH 64

void put(struct writer *writer, const void *data, u32 count) {
  if (count > (u64)(writer->end - writer->at)) {
    writer->at = writer->end;
    return;
  }
  copy(writer->at, data, count);
  writer->at += count;
}

void put_span(struct writer *writer, struct span span) { put(writer, span.at, span.length); }

void put_number(struct writer *writer, s64 number) {
  u8 digits[20];
  u32 at = sizeof digits;
  u64 rest = number < 0 ? -(u64)number : (u64)number;
  if (number < 0) put_text(writer, "-");
  do digits[--at] = (u8)('0' + rest % 10);
  while (rest /= 10);
  put(writer, digits + at, sizeof digits - at);
}

void put_hex(struct writer *writer, u64 number) {
  u8 digits[16];
  for (int i = 15; i >= 0; i--, number >>= 4) digits[i] = (u8) "0123456789abcdef"[number & 15];
  put(writer, digits, sizeof digits);
}

void put_escaped(struct writer *writer, struct span text) {
  u32 plain = 0; /* where what is not yet written begins */
  for (u32 i = 0; i < text.length; i++) {
    u8 c = text.at[i];
    if (c >= ' ' && c != '"' && c != '\\') continue;
    put(writer, text.at + plain, i - plain);
    plain = i + 1;
    u8 escape[] = {'\\', 'u', '0', '0', (u8) "0123456789abcdef"[c >> 4], (u8) "0123456789abcdef"[c & 15]};
    put(writer, escape, sizeof escape);
  }
  put(writer, text.at + plain, text.length - plain);
}

bool starts_with(struct span span, const void *text, u32 length) {
  const u8 *wanted = text;
  if (span.length < length) return false;
  for (u32 i = 0; i < length; i++)
    if (span.at[i] != wanted[i]) return false;
  return true;
}

bool span_is(struct span span, const void *text, u32 length) {
  return span.length == length && starts_with(span, text, length);
}

bool span_number(struct span span, s64 *number) {
  bool negative = span.length && *span.at == '-';
  u64 value = 0;
  u32 i = negative;
  if (span.length <= i || span.length > i + 18) return false;
  for (; i < span.length; i++) {
    if (span.at[i] < '0' || span.at[i] > '9') return false;
    value = value * 10 + (span.at[i] - '0');
  }
  *number = negative ? -(s64)value : (s64)value;
  return true;
}

static bool blank(u8 c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

struct span trimmed(struct span span) {
  while (span.length && blank(*span.at)) span.at++, span.length--;
  while (span.length && blank(span.at[span.length - 1])) span.length--;
  return span;
}

/* The first byte of that value, or the end: one instruction for each byte that is skipped. */
static const u8 *find(const u8 *at, const u8 *end, u8 byte) {
  size_t left = (size_t)(end - at);
  bool found = false;
  if (left) __asm__ volatile("repne scasb" : "+D"(at), "+c"(left), "=@ccz"(found) : "a"(byte) : "memory");
  return found ? at - 1 : end;
}

/* Behind the string that begins here; NULL if it does not end. */
static const u8 *behind_string(const u8 *at, const u8 *end) {
  for (const u8 *quote = at + 1; (quote = find(quote, end, '"')) != end; quote++) {
    const u8 *before = quote;
    while (before[-1] == '\\') before--; /* the opening quote is no backslash, so this ends */
    if (((quote - before) & 1) == 0) return quote + 1;
  }
  return NULL;
}

/* Behind the value that begins here. */
static const u8 *behind_value(const u8 *at, const u8 *end) {
  int depth = 0;
  while (at && at < end) {
    u8 c = *at;
    if (c == '"') {
      at = behind_string(at, end);
    } else if (c == '{' || c == '[') {
      if (++depth > MAX_DEPTH) return NULL;
      at++;
      continue;
    } else if (c == '}' || c == ']') {
      if (!depth) return at;
      depth--;
      at++;
    } else if (c == ',' && !depth) {
      return at;
    } else {
      at++;
      continue;
    }
    if (!depth) return at;
  }
  return depth ? NULL : at;
}

static const u8 *behind_blanks(const u8 *at, const u8 *end) {
  while (at < end && blank(*at)) at++;
  return at;
}

bool json_members(struct span object, const struct span *names, struct span *values, int count) {
  const u8 *at = object.at, *end = object.at + object.length;
  for (int i = 0; i < count; i++) values[i] = (struct span){NULL, 0};
  if (at == end || *at != '{') return false;
  at = behind_blanks(at + 1, end);
  if (at < end && *at == '}') return true;
  while (at < end && *at == '"') {
    const u8 *name = at;
    if (!(at = behind_string(at, end))) return false;
    struct span key = {name, (u32)(at - name)};
    at = behind_blanks(at, end);
    if (at == end || *at != ':') return false;
    const u8 *value = behind_blanks(at + 1, end);
    if (!(at = behind_value(value, end))) return false;
    for (int i = 0; i < count; i++)
      if (span_is(key, names[i].at, names[i].length)) values[i] = trimmed((struct span){value, (u32)(at - value)});
    at = behind_blanks(at, end);
    if (at == end) return false;
    if (*at == '}') return true;
    if (*at != ',') return false;
    at = behind_blanks(at + 1, end);
  }
  return false;
}

static bool hex4(const u8 *at, u32 *value) {
  *value = 0;
  for (int i = 0; i < 4; i++) {
    u8 c = at[i], low = c | 32;
    u32 digit = c >= '0' && c <= '9' ? c - (u32)'0' : low >= 'a' && low <= 'f' ? low - 'a' + 10u : 16;
    if (digit > 15) return false;
    *value = *value << 4 | digit;
  }
  return true;
}

bool json_text(struct span string, u8 *to, u32 room, u32 *length) {
  if (string.length < 2 || *string.at != '"' || string.at[string.length - 1] != '"') return false;
  const u8 *at = string.at + 1, *end = string.at + string.length - 1;
  u32 n = 0;
  while (at < end) {
    const u8 *escape = find(at, end, '\\');
    u32 plain = (u32)(escape - at);
    if (plain + 4 > room - n) return false; /* 4: whatever an escape becomes */
    copy(to + n, at, plain);
    n += plain;
    at = escape;
    if (at == end) break;
    if (end - at < 2) return false;
    u32 c = at[1];
    at += 2;
    if (c == 'u') {
      if (end - at < 4 || !hex4(at, &c)) return false;
      at += 4;
      if (c >= 0xd800 && c < 0xe000) c = '?'; /* half of a surrogate pair is no text */
      if (c >= 0x80) to[n++] = c < 0x800 ? (u8)(0xc0 | c >> 6) : (u8)(0xe0 | c >> 12);
      if (c >= 0x800) to[n++] = (u8)(0x80 | (c >> 6 & 0x3f));
      to[n++] = c < 0x80 ? (u8)c : (u8)(0x80 | (c & 0x3f));
    } else {
      to[n++] = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'b' ? '\b' : c == 'f' ? '\f' : (u8)c;
    }
  }
  *length = n;
  return true;
}

static u32 sextet(u8 c) {
  if (c >= 'A' && c <= 'Z') return c - (u32)'A';
  if (c >= 'a' && c <= 'z') return c - (u32)'a' + 26u;
  if (c >= '0' && c <= '9') return c - (u32)'0' + 52u;
  return c == '+' ? 62 : c == '/' ? 63 : 64;
}

bool json_base64(struct span string, u8 *to, u32 count) {
  u32 bits = 0, held = 0, n = 0, i = 1;
  if (string.length < 2 || *string.at != '"') return false;
  for (; i < string.length - 1 && string.at[i] != '='; i++) {
    u32 value = sextet(string.at[i]);
    if (value > 63) return false;
    held = held << 6 | value;
    if ((bits += 6) >= 8) {
      if (n == count) return false;
      to[n++] = (u8)(held >> (bits -= 8));
    }
  }
  return n == count;
}
