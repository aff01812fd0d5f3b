#include "language.h"

#include "agent.h"
#include "kernel.h"

#define MAX_VARIABLES 32
#define MAX_NAME 32
/* Rounds of the guest's loop in one unit of `sleep`. */
#define SLEEP_ROUNDS 1000

#define LITERAL(text) ((struct span){(const u8 *)(text), sizeof(text) - 1})

static struct variable {
  u8 name[MAX_NAME];
  u32 length;
  s64 value;
} variables[MAX_VARIABLES];
static u32 variable_count;
static s64 asked; /* how often `count` was evaluated */

/* The cell: its code, where the next line begins, and what the present line still has to do. */
static struct cell {
  u8 code[MAX_CODE];
  u32 length, at;
  bool spins, asks;
  s64 rounds, lines, line;
} cell;

void language_reset(void) {
  variable_count = 0;
  asked = 0;
}

bool cell_begin(struct span code) {
  cell.at = cell.length = 0;
  cell.spins = cell.asks = false;
  cell.rounds = cell.lines = cell.line = 0;
  return json_text(code, cell.code, sizeof cell.code, &cell.length);
}

bool cell_asks(void) { return cell.asks; }
void cell_answered(void) { cell.asks = false; }

static struct variable *variable(struct span name) {
  for (u32 i = 0; i < variable_count; i++)
    if (span_is(name, variables[i].name, variables[i].length)) return &variables[i];
  return NULL;
}

static bool is_name(struct span text) {
  if (!text.length || text.length > MAX_NAME || (*text.at >= '0' && *text.at <= '9')) return false;
  for (u32 i = 0; i < text.length; i++) {
    u8 c = text.at[i], low = c | 32;
    if (!((low >= 'a' && low <= 'z') || (c >= '0' && c <= '9') || c == '_')) return false;
  }
  return true;
}

static enum outcome fail(struct span name, struct span value) {
  say_error(name, value);
  return FAILED;
}

static u32 position(struct span text, u8 byte) {
  u32 at = 0;
  while (at < text.length && text.at[at] != byte) at++;
  return at;
}

static struct span before(struct span text, u32 at) { return trimmed((struct span){text.at, at}); }
static struct span behind(struct span text, u32 at) {
  return trimmed((struct span){text.at + at, text.length - at});
}

static bool evaluate(struct span expression, s64 *value) {
  u32 plus = position(expression, '+');
  if (plus < expression.length) {
    s64 more;
    if (!evaluate(before(expression, plus), value)) return false;
    struct span rest = behind(expression, plus + 1);
    /* Sums of two, so that there is no recursion to bound. */
    struct variable *other = variable(rest);
    if (other) more = other->value;
    else if (!span_number(rest, &more)) return false;
    *value = (s64)((u64)*value + (u64)more);
    return true;
  }
  if (is(expression, "count")) {
    *value = ++asked;
    return true;
  }
  if (is(expression, "generation")) {
    *value = machine.generation;
    return true;
  }
  struct variable *found = variable(expression);
  if (found) *value = found->value;
  return found || span_number(expression, value);
}

static enum outcome assign(struct span name, struct span expression) {
  s64 value;
  if (!is_name(name)) return fail(LITERAL("SyntaxError"), name);
  if (!evaluate(expression, &value)) return fail(LITERAL("NameError"), expression);
  struct variable *target = variable(name);
  if (!target) {
    if (variable_count == MAX_VARIABLES) return fail(LITERAL("MemoryError"), name);
    target = &variables[variable_count++];
    copy(target->name, name.at, target->length = name.length);
  }
  target->value = value;
  return GOES_ON;
}

static enum outcome number_of(struct span text, s64 *number) {
  return span_number(text, number) && *number >= 0 ? GOES_ON : fail(LITERAL("SyntaxError"), text);
}

static void put_name(struct writer *writer, struct span name) {
  if (!name.length) {
    put_text(writer, "null");
    return;
  }
  put_text(writer, "\"");
  put_escaped(writer, name);
  put_text(writer, "\"");
}

/* %snapshot [name], %restore name [--same-seed], %fork [count], %snapshots, %vm */
static enum outcome ask(struct span line) {
  static u8 arguments[1024];
  struct writer writer = {arguments, arguments + sizeof arguments};
  u32 space = position(line, ' ');
  struct span magic = before(line, space), rest = space < line.length ? behind(line, space) : LITERAL("");
  if (rest.length > 128) return fail(LITERAL("UsageError"), magic);
  struct span operation = {magic.at + 1, magic.length - 1};
  put_text(&writer, "{");
  if (is(magic, "%snapshot")) {
    put_text(&writer, "\"description\": \"\", \"name\": ");
    put_name(&writer, rest);
  } else if (is(magic, "%restore")) {
    u32 option = position(rest, ' ');
    put_text(&writer, "\"name\": ");
    put_name(&writer, before(rest, option));
    if (option < rest.length) put_text(&writer, ", \"same_seed\": true");
    else put_text(&writer, ", \"same_seed\": false");
  } else if (is(magic, "%fork")) {
    s64 count = 1;
    if (rest.length && number_of(rest, &count) == FAILED) return FAILED;
    put_text(&writer, "\"name\": null, \"count\": ");
    put_number(&writer, count);
  } else if (!is(magic, "%snapshots") && !is(magic, "%vm")) {
    return fail(LITERAL("UsageError"), magic);
  }
  put_text(&writer, "}");
  cell.asks = true;
  agent_ask(operation, (struct span){arguments, (u32)(writer.at - arguments)});
  return GOES_ON;
}

static void show(struct span text, bool last) {
  if (last) say_result(text);
}

/* What evaluates to text. */
static bool text_of(struct span line, struct writer *writer) {
  if (is(line, "random")) put_hex(writer, random_next(MACHINES));
  else if (is(line, "dice")) put_hex(writer, random_next(LANGUAGES));
  else if (is(line, "role")) put(writer, machine.role, machine.role_length);
  else if (is(line, "name")) put(writer, machine.name, machine.name_length);
  else if (is(line, "hostname")) put(writer, machine.hostname, machine.hostname_length);
  else return false;
  return true;
}

static enum outcome run(struct span line, bool last) {
  u8 text[96];
  struct writer writer = {text, text + sizeof text};
  s64 value;
  if (*line.at == '%') return ask(line);
  if (starts(line, "echo ")) {
    static u8 echoed[MAX_CODE + 1];
    struct span rest = behind(line, 5);
    copy(echoed, rest.at, rest.length);
    echoed[rest.length] = '\n';
    say_stream((struct span){echoed, rest.length + 1});
    return GOES_ON;
  }
  if (starts(line, "sleep ")) {
    if (number_of(behind(line, 6), &value) == FAILED) return FAILED;
    cell.rounds = value * SLEEP_ROUNDS;
    return GOES_ON;
  }
  if (starts(line, "flood ")) {
    cell.line = 0;
    return number_of(behind(line, 6), &cell.lines);
  }
  if (is(line, "spin")) {
    cell.spins = true;
    return GOES_ON;
  }
  if (is(line, "refuse entropy")) {
    machine.refuses_entropy = true;
    return GOES_ON;
  }
  if (is(line, "exit")) {
    kernel_end(0);
    return ENDED;
  }
  u32 equals = position(line, '=');
  if (equals < line.length) return assign(before(line, equals), behind(line, equals + 1));
  if (!text_of(line, &writer)) {
    if (!evaluate(line, &value)) return fail(LITERAL("NameError"), line);
    put_number(&writer, value);
  }
  show((struct span){text, (u32)(writer.at - text)}, last);
  return GOES_ON;
}

enum outcome cell_step(void) {
  if (cell.spins || cell.asks) return GOES_ON;
  if (cell.rounds) {
    cell.rounds--;
    return GOES_ON;
  }
  if (cell.line < cell.lines) {
    u8 text[32];
    struct writer writer = {text, text + sizeof text};
    put_number(&writer, cell.line++);
    put_text(&writer, "\n");
    say_stream((struct span){text, (u32)(writer.at - text)});
    return GOES_ON;
  }
  struct span rest = {cell.code + cell.at, cell.length - cell.at};
  if (!trimmed(rest).length) return ENDED;
  u32 end = position(rest, '\n');
  struct span line = before(rest, end);
  cell.at += end < rest.length ? end + 1 : end;
  if (!line.length) return GOES_ON;
  return run(line, !trimmed((struct span){cell.code + cell.at, cell.length - cell.at}).length);
}
