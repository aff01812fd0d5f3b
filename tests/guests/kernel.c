#include "kernel.h"

#include "agent.h"
#include "language.h"

#define DELIMITER "<IDS|MSG>"
#define MAX_IDENTITIES 16
#define IDENTITY_BYTES 512
/* A client's header has some 200 bytes. */
#define HEADER_BYTES 4096
#define MSG_ID_BYTES 128

/* What a message says of the request that it answers. */
struct parent {
  u32 identity_count, identity_sizes[MAX_IDENTITIES];
  u8 identities[IDENTITY_BYTES];
  u8 header[HEADER_BYTES];
  u32 header_length;
  struct span msg_id, kind; /* raw, in the header */
};

struct kernel kernel;
static struct parent cell_parent, control_parent;
static bool cell_runs, interrupted;
static u64 messages;

#define LITERAL(text) ((struct span){(const u8 *)(text), sizeof(text) - 1})
#define NOTHING ((struct span){NULL, 0})

/* The parts from the delimiter to the content; the content's writer is returned, and `say_end` ends it. */
static struct writer *say_begin(int channel, const struct parent *parent, struct span kind) {
  u32 identities = channel == IOPUB ? 1 : parent->identity_count;
  struct writer *writer = link_begin(channel, identities + 6);
  if (channel == IOPUB) {
    put_text(writer, "kernel.");
    put_span(writer, kind);
    link_part(channel);
  } else {
    const u8 *at = parent->identities;
    for (u32 i = 0; i < identities; at += parent->identity_sizes[i++]) {
      put(writer, at, parent->identity_sizes[i]);
      link_part(channel);
    }
  }
  put_text(writer, DELIMITER);
  link_part(channel);
  link_part(channel); /* the signature, which the host does not look at */
  put_text(writer, "{\"msg_id\": \"bare-");
  put_number(writer, machine.generation);
  put_text(writer, "-");
  put_number(writer, (s64)++messages);
  put_text(writer, "\", \"session\": \"bare\", \"username\": \"bare\", \"version\": \"5.3\", \"msg_type\": \"");
  put_span(writer, kind);
  put_text(writer, "\"}");
  link_part(channel);
  if (parent->header_length) put(writer, parent->header, parent->header_length);
  else put_text(writer, "{}");
  link_part(channel);
  put_text(writer, "{}");
  link_part(channel);
  return writer;
}

static void say_end(int channel) { link_part(channel); }

static void say_status(const struct parent *parent, bool idle) {
  struct writer *writer = say_begin(IOPUB, parent, LITERAL("status"));
  if (idle) put_text(writer, "{\"execution_state\": \"idle\"}");
  else put_text(writer, "{\"execution_state\": \"busy\"}");
  say_end(IOPUB);
}

void say_stream(struct span text) {
  struct writer *writer = say_begin(IOPUB, &cell_parent, LITERAL("stream"));
  put_text(writer, "{\"name\": \"stdout\", \"text\": \"");
  put_escaped(writer, text);
  put_text(writer, "\"}");
  say_end(IOPUB);
}

void say_result(struct span text) {
  struct writer *writer = say_begin(IOPUB, &cell_parent, LITERAL("execute_result"));
  put_text(writer, "{\"execution_count\": ");
  put_number(writer, kernel.execution_count);
  put_text(writer, ", \"metadata\": {}, \"data\": {\"text/plain\": \"");
  put_escaped(writer, text);
  put_text(writer, "\"}}");
  say_end(IOPUB);
}

static void put_error(struct writer *writer, struct span name, struct span value) {
  put_text(writer, "\"ename\": \"");
  put_span(writer, name);
  put_text(writer, "\", \"evalue\": \"");
  put_escaped(writer, value);
  put_text(writer, "\", \"traceback\": []");
}

static void reply_to_cell(struct span name, struct span value) {
  struct writer *writer = say_begin(SHELL, &cell_parent, LITERAL("execute_reply"));
  put_text(writer, "{\"execution_count\": ");
  put_number(writer, kernel.execution_count);
  put_text(writer, ", \"payload\": [], \"user_expressions\": {}, ");
  if (name.length) {
    put_text(writer, "\"status\": \"error\", ");
    put_error(writer, name, value);
  } else {
    put_text(writer, "\"status\": \"ok\"");
  }
  put_text(writer, "}");
  say_end(SHELL);
  say_status(&cell_parent, true);
  cell_runs = false;
}

/* A cell's error ends it. */
void say_error(struct span name, struct span value) {
  struct writer *writer = say_begin(IOPUB, &cell_parent, LITERAL("error"));
  put_text(writer, "{");
  put_error(writer, name, value);
  put_text(writer, "}");
  say_end(IOPUB);
  reply_to_cell(name, value);
}

void kernel_start(s64 instance) {
  kernel = (struct kernel){.there = true, .running = true, .instance = instance};
  cell_runs = interrupted = false;
  language_reset();
  for (int channel = 0; channel < CHANNELS; channel++) link_taken(channel);
}

void kernel_end(s64 returncode) {
  if (!kernel.running) return;
  kernel.running = cell_runs = false;
  kernel.returncode = returncode;
  agent_exited();
}

void kernel_interrupt(void) { interrupted = true; }

void kernel_restored(void) {
  interrupted = false;
  if (cell_runs && cell_asks()) {
    cell_answered();
    reply_to_cell(NOTHING, NOTHING);
  }
}

struct span kernel_asking(void) { return cell_runs && cell_asks() ? cell_parent.msg_id : NOTHING; }

void kernel_answered(struct span result, struct span error) {
  static u8 text[MAX_CODE];
  u32 length = 0;
  if (!cell_runs || !cell_asks()) return;
  cell_answered();
  if (error.length) {
    json_text(error, text, sizeof text, &length);
    say_error(LITERAL("HostError"), (struct span){text, length});
    return;
  }
  if (result.length > MAX_CODE) result.length = MAX_CODE;
  say_result(result);
}

/* Split a message; false for what is no request. */
static bool understand(const struct message *message, struct parent *parent, struct span *content) {
  u32 at = 0, offset = 0;
  struct span part;
  for (;; at++) {
    if (at == message->count || at > MAX_IDENTITIES) return false;
    part = (struct span){message->data + offset, message->sizes[at]};
    if (is(part, DELIMITER)) break;
    offset += part.length;
  }
  if (message->count < at + 6 || offset > IDENTITY_BYTES || message->sizes[at + 2] > HEADER_BYTES) return false;
  parent->identity_count = at;
  copy(parent->identity_sizes, message->sizes, at * sizeof *message->sizes);
  copy(parent->identities, message->data, offset);
  offset += message->sizes[at] + message->sizes[at + 1];
  parent->header_length = message->sizes[at + 2];
  copy(parent->header, message->data + offset, parent->header_length);
  offset += message->sizes[at + 2] + message->sizes[at + 3] + message->sizes[at + 4];
  *content = (struct span){message->data + offset, message->sizes[at + 5]};
  static const struct span names[] = {NAME("msg_id"), NAME("msg_type")};
  struct span values[2];
  if (!json_members((struct span){parent->header, parent->header_length}, names, values, 2)) return false;
  parent->msg_id = values[0];
  parent->kind = values[1];
  /* Both are said again inside other JSON. */
  return values[0].length > 2 && values[0].length <= MSG_ID_BYTES && *values[0].at == '"' && values[1].length > 2 &&
         values[1].length <= 64 && *values[1].at == '"';
}

static void begin_cell(struct span content) {
  static const struct span names[] = {NAME("code"), NAME("silent")};
  struct span values[2];
  bool known = json_members(content, names, values, 2) && cell_begin(values[0]);
  if (!is(values[1], "true")) kernel.execution_count++;
  cell_runs = true;
  interrupted = false;
  struct writer *writer = say_begin(IOPUB, &cell_parent, LITERAL("execute_input"));
  put_text(writer, "{\"execution_count\": ");
  put_number(writer, kernel.execution_count);
  put_text(writer, ", \"code\": ");
  if (known) put_span(writer, values[0]);
  else put_text(writer, "\"\"");
  put_text(writer, "}");
  say_end(IOPUB);
  if (!known) say_error(LITERAL("SyntaxError"), LITERAL("no code, or too much"));
}

#define KERNEL_INFO                                                                                                    \
  "{\"status\": \"ok\", \"protocol_version\": \"5.3\", \"implementation\": \"bare\", "                                 \
  "\"implementation_version\": \"1\", \"banner\": \"A kernel without a machine's comforts\", \"help_links\": [], "     \
  "\"language_info\": {\"name\": \"bare\", \"version\": \"1\", \"mimetype\": \"text/plain\", "                         \
  "\"file_extension\": \".txt\"}}"

static const struct answer {
  struct span kind, reply, content;
} answers[] = {
    {NAME("kernel_info_request"), LITERAL("kernel_info_reply"), LITERAL(KERNEL_INFO)},
    {NAME("is_complete_request"), LITERAL("is_complete_reply"), LITERAL("{\"status\": \"complete\"}")},
    {NAME("history_request"), LITERAL("history_reply"), LITERAL("{\"status\": \"ok\", \"history\": []}")},
    {NAME("comm_info_request"), LITERAL("comm_info_reply"), LITERAL("{\"status\": \"ok\", \"comms\": {}}")},
    {NAME("complete_request"), LITERAL("complete_reply"),
     LITERAL("{\"status\": \"ok\", \"matches\": [], \"cursor_start\": 0, \"cursor_end\": 0, \"metadata\": {}}")},
    {NAME("inspect_request"), LITERAL("inspect_reply"),
     LITERAL("{\"status\": \"ok\", \"found\": false, \"data\": {}, \"metadata\": {}}")},
    {NAME("interrupt_request"), LITERAL("interrupt_reply"), LITERAL("{\"status\": \"ok\"}")},
    {NAME("shutdown_request"), LITERAL("shutdown_reply"), LITERAL("{\"status\": \"ok\", \"restart\": false}")},
};

static void answer(int channel, const struct parent *parent) {
  for (u32 i = 0; i < sizeof answers / sizeof *answers; i++) {
    if (!span_is(parent->kind, answers[i].kind.at, answers[i].kind.length)) continue;
    put_span(say_begin(channel, parent, answers[i].reply), answers[i].content);
    say_end(channel);
    return;
  }
}

static void take(int channel, struct parent *parent) {
  struct span content;
  if (!understand(link_waiting(channel), parent, &content)) {
    link_taken(channel);
    say("guest: a message that is none was dropped\n");
    return;
  }
  say_status(parent, false);
  if (channel == SHELL && is(parent->kind, "\"execute_request\"")) {
    begin_cell(content);
    link_taken(channel);
    return;
  }
  link_taken(channel);
  answer(channel, parent);
  say_status(parent, true);
  if (is(parent->kind, "\"interrupt_request\"")) kernel_interrupt();
  if (is(parent->kind, "\"shutdown_request\"")) kernel_end(0);
}

void kernel_poll(void) {
  if (!kernel.running || kernel.frozen || !link_has_room(IOPUB)) return;
  if (link_waiting(STDIN)) link_taken(STDIN);
  if (link_waiting(CONTROL) && link_has_room(CONTROL)) take(CONTROL, &control_parent);
  if (!kernel.running || !link_has_room(SHELL)) return;
  if (!cell_runs) {
    interrupted = false;
    if (link_waiting(SHELL)) take(SHELL, &cell_parent);
    return;
  }
  if (interrupted) {
    interrupted = false;
    cell_answered();
    say_error(LITERAL("KeyboardInterrupt"), NOTHING);
    return;
  }
  if (cell_step() == ENDED && cell_runs) reply_to_cell(NOTHING, NOTHING);
}
