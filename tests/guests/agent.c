#include "agent.h"

#include "devices.h"
#include "kernel.h"

/* A request of the host's carries an environment at most. */
#define LINE_BYTES 65536
#define OUT_BYTES 65536
#define FIRST_CHANNEL_PORT (CONTROL_PORT + 1)
/* Rounds in which the answer to the shutdown still leaves. */
#define LAST_ROUNDS 100

#define LITERAL(text) ((struct span){(const u8 *)(text), sizeof(text) - 1})
#define NOTHING ((struct span){NULL, 0})

struct machine machine;
static u64 generators[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};

static struct connection *control;
static u8 line[LINE_BYTES], out[OUT_BYTES];
static u32 line_length, passed;
static struct writer writer = {out, out + OUT_BYTES};
static u32 last_rounds;
/* Whether this machine was told that it is another one, and its kernel not yet. */
static bool renewed;

/* What the cell asked; it is told to the host when there is one that listens. */
static s64 question;
static bool told;
static u8 operation[16], arguments[1024];
static u32 operation_length, arguments_length;

enum { NO_METHOD = -32601, BAD_PARAMS = -32602, NO_REQUEST = -32600, KERNEL_ERROR = -32000, NO_ENTROPY = -32001 };

/* xoshiro256** */
u64 random_next(enum generator generator) {
  u64 *s = generators[generator], mixed = s[1] * 5, t = s[1] << 17;
  mixed = (mixed << 7 | mixed >> 57) * 9;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = s[3] << 45 | s[3] >> 19;
  return mixed;
}

static void stir(enum generator generator, const u64 seed[4]) {
  for (int i = 0; i < 4; i++) generators[generator][i] ^= seed[i];
  for (int i = 0; i < 8; i++) random_next(generator);
}

/* A message that there is no room for has nobody who reads. */
static void message_end(void) {
  put_text(&writer, "\n");
  if (writer.at < writer.end || !control) return;
  say("guest: the host does not read its control connection\n");
  vsock_break(control);
}

static void tell_question(void) {
  if (!control || told) return;
  told = true;
  put_text(&writer, "{\"jsonrpc\": \"2.0\", \"method\": \"kernel.request\", \"params\": {\"id\": ");
  put_number(&writer, question);
  put_text(&writer, ", \"instance\": ");
  put_number(&writer, kernel.instance);
  put_text(&writer, ", \"op\": \"");
  put(&writer, operation, operation_length);
  put_text(&writer, "\", \"args\": ");
  put(&writer, arguments, arguments_length);
  put_text(&writer, ", \"parent\": ");
  put_span(&writer, kernel_asking());
  put_text(&writer, "}}");
  message_end();
}

void agent_ask(struct span op, struct span args) {
  question++;
  told = false;
  copy(operation, op.at, operation_length = op.length < sizeof operation ? op.length : sizeof operation);
  copy(arguments, args.at, arguments_length = args.length < sizeof arguments ? args.length : sizeof arguments);
}

void agent_exited(void) {
  if (!control) return;
  put_text(&writer, "{\"jsonrpc\": \"2.0\", \"method\": \"kernel.exited\", \"params\": {\"oom\": false, \"stderr_tail\": [], "
                    "\"instance\": ");
  put_number(&writer, kernel.instance);
  put_text(&writer, ", \"returncode\": ");
  put_number(&writer, kernel.returncode);
  put_text(&writer, "}}");
  message_end();
}

static void begin_reply(struct span id) {
  put_text(&writer, "{\"jsonrpc\": \"2.0\", \"id\": ");
  put_span(&writer, id);
}

static void reply(struct span id, struct span result) {
  begin_reply(id);
  put_text(&writer, ", \"result\": ");
  put_span(&writer, result);
  put_text(&writer, "}");
  message_end();
}

static void refuse(struct span id, s64 code, struct span message) {
  begin_reply(id);
  put_text(&writer, ", \"error\": {\"code\": ");
  put_number(&writer, code);
  put_text(&writer, ", \"message\": \"");
  put_escaped(&writer, message);
  put_text(&writer, "\"}}");
  message_end();
}

static void put_instance(struct writer *to) {
  if (kernel.there) put_number(to, kernel.instance);
  else put_text(to, "null");
}

static void hello(struct span id, struct span params) {
  static const struct span names[] = {NAME("entropy_b64")};
  struct span values[1];
  u64 seed[4];
  if (!json_members(params, names, values, 1) || !json_base64(values[0], (u8 *)seed, sizeof seed))
    return refuse(id, BAD_PARAMS, LITERAL("hello: no entropy"));
  stir(MACHINES, seed);
  begin_reply(id);
  put_text(&writer, ", \"result\": {\"python\": \"none\", \"kernel_release\": \"bare\", \"machine\": \"x86_64\", "
                    "\"vcpu_count\": 1, \"mem_total_mib\": 0, \"boot_time_s\": 0.0, \"transport\": \"vsock\", "
                    "\"protocol\": ");
  put_number(&writer, PROTOCOL_VERSION);
  put_text(&writer, "}}");
  message_end();
}

static void start(struct span id, struct span params) {
  static const struct span names[] = {NAME("instance")};
  struct span values[1];
  s64 instance;
  u64 seed[4];
  if (!json_members(params, names, values, 1) || !span_number(values[0], &instance))
    return refuse(id, BAD_PARAMS, LITERAL("kernel.start: no instance"));
  if (kernel.running) return refuse(id, KERNEL_ERROR, LITERAL("a kernel is running"));
  kernel_start(instance);
  for (int i = 0; i < 4; i++) seed[i] = random_next(MACHINES);
  stir(LANGUAGES, seed);
  begin_reply(id);
  put_text(&writer, ", \"result\": {\"pid\": 1, \"instance\": ");
  put_instance(&writer);
  put_text(&writer, "}}");
  message_end();
}

static void status(struct span id) {
  begin_reply(id);
  if (kernel.running) put_text(&writer, ", \"result\": {\"running\": true, \"pid\": 1, \"returncode\": null");
  else put_text(&writer, ", \"result\": {\"running\": false, \"pid\": null, \"returncode\": ");
  if (!kernel.running && kernel.there) put_number(&writer, kernel.returncode);
  else if (!kernel.running) put_text(&writer, "null");
  put_text(&writer, ", \"instance\": ");
  put_instance(&writer);
  put_text(&writer, "}}");
  message_end();
}

static void signal_kernel(struct span id, struct span params) {
  static const struct span names[] = {NAME("signum")};
  struct span values[1];
  s64 number;
  if (!json_members(params, names, values, 1) || !span_number(values[0], &number))
    return refuse(id, BAD_PARAMS, LITERAL("kernel.signal: no signum"));
  reply(id, LITERAL("{}"));
  if (number == SIGINT) kernel_interrupt();
  if (number == SIGKILL || number == SIGTERM) kernel_end(-number);
}

static void freeze(struct span id) {
  struct span asking = kernel_asking();
  kernel.frozen = true;
  begin_reply(id);
  put_text(&writer, ", \"result\": {\"hook_errors\": [], \"quiet\": true, \"language\": null, \"instance\": ");
  put_instance(&writer);
  put_text(&writer, ", \"execution_count\": ");
  if (kernel.there) put_number(&writer, kernel.execution_count);
  else put_text(&writer, "null");
  put_text(&writer, ", \"cell\": ");
  if (asking.length) put_span(&writer, asking);
  else put_text(&writer, "null");
  put_text(&writer, "}}");
  message_end();
}

static u32 text_or_nothing(struct span string, u8 *to, u32 room) {
  u32 length = 0;
  return json_text(string, to, room, &length) ? length : 0;
}

static void renew(struct span id, struct span params) {
  static const struct span names[] = {NAME("generation"), NAME("entropy_b64"), NAME("role"),
                                      NAME("name"),       NAME("hostname"),    NAME("reseed")};
  struct span values[6];
  s64 generation;
  u64 seed[4];
  if (!json_members(params, names, values, 6) || !span_number(values[0], &generation))
    return refuse(id, BAD_PARAMS, LITERAL("renew: no generation"));
  if (machine.refuses_entropy || !json_base64(values[1], (u8 *)seed, sizeof seed))
    return refuse(id, NO_ENTROPY, LITERAL("the entropy was refused"));
  stir(MACHINES, seed);
  if (is(values[5], "true")) stir(LANGUAGES, seed);
  machine.generation = generation;
  machine.role_length = text_or_nothing(values[2], machine.role, sizeof machine.role);
  machine.name_length = text_or_nothing(values[3], machine.name, sizeof machine.name);
  machine.hostname_length = text_or_nothing(values[4], machine.hostname, sizeof machine.hostname);
  for (int channel = 0; channel < CHANNELS; channel++) link_new_generation(channel, (u32)generation);
  /* It stands still until it is thawed, as after a `renew` without a `freeze` before. */
  kernel.frozen = renewed = true;
  begin_reply(id);
  put_text(&writer, ", \"result\": {\"rekeyed\": false, \"instance\": ");
  put_instance(&writer);
  put_text(&writer, "}}");
  message_end();
}

static void thaw(struct span id) {
  bool woken = renewed;
  renewed = kernel.frozen = false;
  if (!woken) return reply(id, LITERAL("{}"));
  kernel_restored();
  reply(id, LITERAL("{\"hook_errors\": []}"));
}

static void answer(struct span id, struct span params) {
  static const struct span names[] = {NAME("id"), NAME("result"), NAME("error")};
  struct span values[3];
  s64 number;
  if (!json_members(params, names, values, 3) || !span_number(values[0], &number))
    return refuse(id, BAD_PARAMS, LITERAL("answer: no id"));
  reply(id, LITERAL("{}"));
  if (number == question) kernel_answered(values[1], values[2]);
}

static void call(struct span id, struct span method, struct span params) {
  if (is(method, "\"ping\"")) return reply(id, LITERAL("{}"));
  if (is(method, "\"hello\"")) return hello(id, params);
  if (is(method, "\"kernel.start\"")) return start(id, params);
  if (is(method, "\"kernel.signal\"")) return signal_kernel(id, params);
  if (is(method, "\"kernel.status\"")) return status(id);
  if (is(method, "\"freeze\"")) return freeze(id);
  if (is(method, "\"renew\"")) return renew(id, params);
  if (is(method, "\"answer\"")) return answer(id, params);
  if (is(method, "\"thaw\"")) return thaw(id);
  if (is(method, "\"kernel.kill\"")) {
    reply(id, LITERAL("{}"));
    return kernel_end(-SIGKILL);
  }
  if (is(method, "\"system.shutdown\"")) {
    last_rounds = LAST_ROUNDS;
    return reply(id, LITERAL("{}"));
  }
  refuse(id, NO_METHOD, LITERAL("no such method"));
}

static void understand(struct span text) {
  static const struct span names[] = {NAME("id"), NAME("method"), NAME("params")};
  struct span values[3];
  s64 number;
  if (json_members(text, names, values, 3) && span_number(values[0], &number) && values[1].length)
    call(values[0], values[1], values[2]);
  else
    refuse(LITERAL("null"), NO_REQUEST, LITERAL("not a request"));
}

static void read_lines(void) {
  while (control && control->waiting) {
    u32 room = LINE_BYTES - line_length, count = control->waiting < room ? control->waiting : room, begun = 0;
    vsock_take(control, line + line_length, count);
    u32 end = line_length + count;
    /* Answers to a burst of requests wait behind each other in `out`, which is large enough for a window full of them. */
    for (u32 i = line_length; i < end; i++)
      if (line[i] == '\n') {
        understand((struct span){line + begun, i - begun});
        begun = i + 1;
      }
    line_length = end - begun;
    copy(line, line + begun, line_length);
    if (control && line_length == LINE_BYTES) {
      say("guest: a line of the host is too long\n");
      vsock_break(control);
    }
  }
}

static void serve_control(void) {
  read_lines();
  if (control && !told && kernel_asking().length) tell_question();
  while (control && out + passed < writer.at) {
    u32 count = vsock_room(control), left = (u32)(writer.at - out) - passed;
    if (count > left) count = left;
    if (!count) break;
    vsock_send(control, out + passed, count);
    passed += count;
    if (count < left) continue;
    passed = 0;
    writer.at = out;
  }
  if (control) vsock_tell_credit(control);
}

bool agent_listens(u32 port) { return port >= CONTROL_PORT && port < FIRST_CHANNEL_PORT + CHANNELS; }

void agent_connected(struct connection *connection) {
  if (connection->port != CONTROL_PORT) {
    if (agent_listens(connection->port)) link_connected((int)(connection->port - FIRST_CHANNEL_PORT), connection);
    return;
  }
  struct connection *old = control;
  control = connection;
  if (old && old != connection) vsock_break(old);
  line_length = passed = 0;
  writer.at = out;
}

void agent_lost(struct connection *connection) {
  if (connection == control) {
    control = NULL;
    line_length = passed = 0;
    writer.at = out;
  } else if (agent_listens(connection->port) && connection->port != CONTROL_PORT) {
    link_lost((int)(connection->port - FIRST_CHANNEL_PORT), connection);
  }
}

bool agent_serve(struct connection *connection) {
  if (!agent_listens(connection->port)) return false;
  if (connection->port == CONTROL_PORT) serve_control();
  else link_serve((int)(connection->port - FIRST_CHANNEL_PORT));
  return true;
}

void agent_poll(void) {
  kernel_poll();
  if (last_rounds && !--last_rounds) power_off();
}
