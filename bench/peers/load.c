/* The benchmarks' client: many WebSocket connections in one process, which counts what comes and is never the limit.
   Compiled with -DTLS, all of them speak TLS; with -DDEFLATE, those that offer it read what is compressed
   (permessage-deflate without context takeover).

   load HOST PORT, commands on standard input, one line each, one line of answer:

     open FILE COUNT WINDOW READY TIMES  connects COUNT, WINDOW at a time. FILE holds, for each connection, the upgrade
                                         request and what to send after its answer (u32 length and octets each). A
                                         connection is ready when READY has come TIMES times.   -> opened N SECONDS
     from N                              connects from N addresses in turns: 127.0.1.1 and what follows it
                                                                                                -> ok
     mark HEX                            what stands before the 16 digits of a message's time, instead of "sent":"
                                                                                                -> ok
     pong HEX HEX                        a text or binary message to answer, and the octets of the answer's frame
                                                                                                -> ok
     pace N                              opens at most N connections a second from now on (0: as they can)
                                                                                                -> ok
     cut                                 ends all connections at once; others can be opened     -> ok
     keep HEX N                          of what greets a connection, keeps the N characters behind these; when they are
                                         opened again, they stand where the greeting has N octets of 1     -> ok
     reset                               forgets what was counted                               -> ok
     tally HEX                           the same, and counts from now on where this stands     -> ok
     await N MS                          waits until N messages have come (they carry "sent":"<16 digits, µs>")
                                                                                                -> got N SECONDS
     counts                              the fewest and the most messages that one connection has had since reset, how
                                         many came out of order (their times do not rise), and all octets
                                                                                                -> counts MIN MAX N OCTETS
     latencies                           of what has come since reset, in µs               -> lat N P50 P99 MAX P99.9
     flood FILE MARKER N MS              every connection sends FILE's octets; waits for N MARKERs in the answers
                                                                                                -> got N SECONDS
     stall I                             stops reading connection I                             -> ok
     lost                                how many connections the server has ended, how many pings came, and how the
                                         first of them ended                                    -> lost N PINGS WHY
     back FIRST NEXT FACTOR CAP SEED     who is ended from now on comes back as the protocol's clients do, after a random
                                         part of FIRST seconds, then of NEXT, which grows by FACTOR up to CAP
                                                                                                -> ok
     returned MS                         waits until all are open again: how many are, how often one that was ready was
                                         ended, how often a return failed, and when the last came (CLOCK_MONOTONIC)
                                                                                                -> returned N LOST FAILED S
     away                                how long each that came back was away, in µs           -> away US...
     quit
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
#endif
#ifdef DEFLATE
#include <zlib.h>
#endif

/* What the answer to an upgrade says where messages may be compressed. */
#define COMPRESSES "permessage-deflate"
#define SENT "\"sent\":\""
#define DIGITS 16
#define KEEP 64
#define SAMPLES 8000000

/* Behind READY nothing is open: who comes back waits for its time, who does not has ended. */
enum { CONNECTING, SHAKING_HANDS, UPGRADING, GREETING, READY, AWAY, ENDED };
static const char *const doing[] = {"connecting", "shaking hands", "upgrading", "signing in", "open"};

/* The end of what was read: what is searched for may have begun in it. */
typedef struct {
  int kept;
  char keep[KEEP];
} tail;

typedef struct {
  int fd, state, greeted, writing, had, met, code, attempts;
  double lost_at;
  uint64_t left, last;
  unsigned char head[10];
  size_t off, out_at;
  long messages;
  tail greeting, data;
#ifdef TLS
  SSL *tls;
#endif
#ifdef DEFLATE
  int deflated, packed, gathers;
  size_t size, room;
  char *message;
#endif
} conn;

static conn *conns;
static char **requests, **greetings;
static uint32_t *request_sizes, *greeting_sizes;
static int count, opened, started, ended, window, ready_times, poller, measuring;
static char ready_marker[128], marker[128], sent[64];
static size_t need;
static long received, wanted;
static double began, pace;
static uint32_t *samples;
static char *flood;
static size_t flood_size;
static struct sockaddr_in address;
static char buffer[KEEP + (1 << 20)];
static int addresses, disordered;
static uint64_t octets;
static char ping[64], answer[64];
static size_t ping_size, answer_size, keep_size;
static char before_kept[64], *kept;
static int kept_room;
static char why[200];
static long pings;

/* Who comes back: when each of those that are away may, and how long those were away that are here again. */
typedef struct {
  double due;
  int i;
} appointment;
static appointment *waiting;
static uint32_t *absences;
static int returning, away, returned, lost, failed;
static double first_window, next_window, window_factor, window_cap, next_due, last_return;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void poll_for(conn *c, int op, uint32_t events) {
  struct epoll_event e = {.events = events, .data.ptr = c};
  if (epoll_ctl(poller, op, c->fd, &e) < 0) die("epoll_ctl");
}

#ifdef TLS
static SSL_CTX *context;

/* As the system's calls: -1 and EAGAIN where there is nothing for now, 0 at the end. */
static ssize_t result(conn *c, int n) {
  if (n > 0) return n;
  int error = SSL_get_error(c->tls, n);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
    errno = EAGAIN;
    return -1;
  }
  return 0;
}

static ssize_t receive(conn *c, void *data, size_t size) { return result(c, SSL_read(c->tls, data, size)); }
static ssize_t give(conn *c, const void *data, size_t size) { return result(c, SSL_write(c->tls, data, size)); }
#else
static ssize_t receive(conn *c, void *data, size_t size) { return recv(c->fd, data, size, 0); }
static ssize_t give(conn *c, const void *data, size_t size) { return send(c->fd, data, size, MSG_NOSIGNAL); }
#endif

/* Who ended without being asked to: it comes back later where that is wanted. `how` says what was seen of it. */
static void end(conn *c, const char *how) {
  if (!*why && c->code) snprintf(why, sizeof why, "%s: close %d", doing[c->state], c->code);
  else if (!*why) snprintf(why, sizeof why, "%s: %s", doing[c->state], how);
#ifdef TLS
  SSL_free(c->tls);
#endif
  close(c->fd);
  if (!returning) {
    c->state = ENDED;
    ended++;
    return;
  }
  if (c->state == READY) {
    opened--, lost++;
    c->lost_at = now();
    c->attempts = 0;
  } else {
    failed++;
  }
  double widest = c->attempts ? next_window : first_window;
  for (int k = 1; k < c->attempts && widest < window_cap; k++) widest *= window_factor;
  if (widest > window_cap) widest = window_cap;
  c->attempts++;
  c->state = AWAY;
  waiting[away] = (appointment){now() + widest * drand48(), c - conns};
  if (!away++ || waiting[away - 1].due < next_due) next_due = waiting[away - 1].due;
}

static void start(int i) {
  conn *c = &conns[i];
  int one = 1, attempts = c->attempts;
  double lost_at = c->lost_at;
  memset(c, 0, sizeof *c);
  c->attempts = attempts, c->lost_at = lost_at;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) die("socket");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (addresses) {
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101 + i % addresses)};
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source) < 0) die("bind");
  }
  c->state = CONNECTING;
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
    if (!returning || errno != ECONNREFUSED) die("connect");
    return end(c, strerror(errno));
  }
  poll_for(c, EPOLL_CTL_ADD, EPOLLOUT);
}

/* Those whose time has come; looked for every other millisecond, so that it costs little where many wait. */
static void resume(void) {
  double t = now();
  if (!away || t < next_due) return;
  appointment *due = malloc(away * sizeof *due);
  int n = 0, rest = 0;
  double next = INFINITY;
  for (int k = 0; k < away; k++) {
    if (waiting[k].due <= t) {
      due[n++] = waiting[k];
      continue;
    }
    waiting[rest++] = waiting[k];
    if (waiting[k].due < next) next = waiting[k].due;
  }
  away = rest;
  next_due = next > t + 0.002 ? next : t + 0.002;
  for (int k = 0; k < n; k++) start(due[k].i);
  free(due);
}

/* Milliseconds for which the loop may sleep: so many (below 0: any number), or until somebody comes back. */
static int sleep_at_most(int wait) {
  if (!away) return wait;
  double left = next_due - now();
  int until = left <= 0 ? 0 : (int)(left * 1000) + 1;
  return wait < 0 || until < wait ? until : wait;
}

static void fill(void) {
  while (started < count && started - opened - ended < window && (!pace || (now() - began) * pace >= started))
    start(started++);
}

/* Every whole occurrence of the marker and what belongs to it in the octets at buffer + KEEP; what may be the beginning
   of one is kept. */
static int search(conn *c, tail *t, char *data, size_t size, const char *what, size_t whole) {
  int found = 0;
  size_t length = strlen(what);
  data -= t->kept, size += t->kept;
  memcpy(data, t->keep, t->kept);
  char *at = data, *stop = data + size;
  while ((size_t)(stop - at) >= whole && (at = memmem(at, stop - at, what, length)) && (size_t)(stop - at) >= whole) {
    found++;
    if (measuring && whole > length) {
      uint64_t at_time = strtoull(at + length, NULL, 10);
      if (received + found <= SAMPLES) samples[received + found - 1] = (uint32_t)(now() * 1e6 - at_time);
      if (at_time <= c->last) disordered++;
      c->last = at_time;
      c->messages++;
    }
    at += whole;
  }
  size_t keep = whole - 1;
  if (at == NULL || at < data || stop - at > (ptrdiff_t)keep) at = size > keep ? stop - keep : data;
  t->kept = stop - at;
  memcpy(t->keep, at, t->kept);
  return found;
}

/* Looks for what is counted in octets that have come: of the stream, or of a message that was compressed. */
static void look(conn *c, tail *greeting, tail *messages, char *data, size_t size) {
  if (c->state == GREETING) {
    c->greeted += search(c, greeting, data, size, ready_marker, strlen(ready_marker));
    if (measuring) received += search(c, messages, data, size, marker, need);
    if (c->greeted < ready_times) return;
    c->state = READY;
    opened++;
    if (c->lost_at) {
      last_return = now();
      if (returned < count) absences[returned++] = (uint32_t)((last_return - c->lost_at) * 1e6);
      c->lost_at = 0;
    }
  } else {
    received += search(c, messages, data, size, marker, need);
  }
}

/* Octets of a message's text: whether one of its lines is the protocol's own ping, which may share a frame with others. */
static void seek_ping(conn *c, const char *data, size_t size) {
  while (size) {
    const char *end = memchr(data, '\n', size);
    size_t line = end ? (size_t)(end - data) : size;
    if (c->met >= 0)
      c->met = c->met + line <= ping_size && !memcmp(ping + c->met, data, line) ? c->met + (int)line : -1;
    if (!end) return;
    if (c->met == (int)ping_size) give(c, answer, answer_size);
    c->met = 0;
    data = end + 1, size -= line + 1;
  }
}

#ifdef DEFLATE
static char text[KEEP + (1 << 20)];

/* Keeps octets of a message. */
static void gather(conn *c, const char *data, size_t size) {
  /* Room for the four octets that its sender left out at the end. */
  if (c->size + size + 4 > c->room && !(c->message = realloc(c->message, c->room = 2 * (c->size + size + 4)))) die("realloc");
  memcpy(c->message + c->size, data, size);
  c->size += size;
}

/* The message is whole: looks into its text. */
static void unpack(conn *c) {
  static z_stream zip;
  tail greeting = {0}, messages = {0};
  size_t size = c->size;
  if (c->packed) {
    if (!zip.state && inflateInit2(&zip, -15) != Z_OK) die("inflateInit2");
    gather(c, "\0\0\xff\xff", 4);
    inflateReset(&zip);
    zip.next_in = (Bytef *)c->message, zip.avail_in = c->size;
    zip.next_out = (Bytef *)text + KEEP, zip.avail_out = sizeof text - KEEP;
    int result = inflate(&zip, Z_SYNC_FLUSH);
    if ((result != Z_OK && result != Z_STREAM_END) || zip.avail_in) {
      fprintf(stderr, "load: a message cannot be inflated: %d\n", result);
      exit(1);
    }
    size = zip.total_out;
  } else {
    if (size > sizeof text - KEEP) size = sizeof text - KEEP;
    memcpy(text + KEEP, c->message, size);
  }
  c->size = 0;
  if (ping_size) {
    c->met = 0;
    seek_ping(c, text + KEEP, size);
    if (c->met == (int)ping_size) give(c, answer, answer_size);
  }
  look(c, &greeting, &messages, text + KEEP, size);
}

/* A frame's head: on a connection that compresses, each message is looked into by itself. */
static void begin_frame(conn *c) {
  int opcode = c->head[0] & 15;
  if (opcode == 1 || opcode == 2) c->packed = c->head[0] & 0x40;
  c->gathers = c->deflated && opcode < 8;
}

static void end_frame(conn *c) {
  if (c->gathers && c->head[0] & 0x80) unpack(c);
}
#endif

/* Walks over the frames and answers pings, as every client must: those of WebSocket, and a protocol's own. */
static void walk(conn *c, const char *data, size_t size) {
  while (size) {
    if (c->left) {
      size_t skip = size < c->left ? size : c->left;
#ifdef DEFLATE
      if (c->gathers) gather(c, data, skip); else
#endif
      if (ping_size) seek_ping(c, data, skip);
      data += skip, size -= skip, c->left -= skip;
      if (!c->left && ping_size && c->met == (int)ping_size) give(c, answer, answer_size);
#ifdef DEFLATE
      if (!c->left) end_frame(c);
#endif
      continue;
    }
    c->head[c->had++] = *data++, size--;
    int length = c->had < 2 ? 0 : c->head[1] & 127, whole = length == 127 ? 10 : length == 126 ? 4 : 2;
    if (c->had < whole) continue;
    c->left = whole == 2 ? length : 0;
    for (int k = 2; k < whole; k++) c->left = c->left << 8 | c->head[k];
    if ((c->head[0] & 15) == 8 && size > 1) c->code = (unsigned char)data[0] << 8 | (unsigned char)data[1];
    if ((c->head[0] & 15) == 9) pings++, give(c, "\x8a\x80\0\0\0", 6);
    c->met = 0;
    c->had = 0;
#ifdef DEFLATE
    begin_frame(c);
    if (!c->left) end_frame(c);
#endif
  }
}

/* What a connection was told, by its number: it stays when the connection is cut. */
static char *kept_of(int i) { return kept + (size_t)i * keep_size; }

/* Sends all of it; return whether that could be. */
static int send_all(conn *c, const char *octets, size_t size) {
  if (!size || give(c, octets, size) == (ssize_t)size) return 1;
  if (!returning) die("send");
  end(c, strerror(errno));
  return 0;
}

/* Greets, with what was kept of the connection of the same number before. */
static int greet(conn *c, int i) {
  char ones[KEEP], *hole;
  memset(ones, 1, sizeof ones);
  if (keep_size && (hole = memmem(greetings[i], greeting_sizes[i], ones, keep_size)))
    memcpy(hole, kept_of(i), keep_size);
  return send_all(c, greetings[i], greeting_sizes[i]);
}

/* What has come behind the head of the upgrade's answer: frames, in which are greetings and messages. */
static void take(conn *c, char *data, size_t size) {
  walk(c, data, size);
  octets += size;
  if (c->state == GREETING) {
    char *told = keep_size ? memmem(data, size, before_kept, strlen(before_kept)) : NULL;
    if (told && told + strlen(before_kept) + keep_size <= data + size)
      memcpy(kept_of(c - conns), told + strlen(before_kept), keep_size);
  }
#ifdef DEFLATE
  if (c->deflated) return;
#endif
  look(c, &c->greeting, &c->data, data, size);
}

static void upgrade(conn *c, int i) {
  if (!send_all(c, requests[i], request_sizes[i])) return;
  c->state = UPGRADING;
  poll_for(c, EPOLL_CTL_MOD, EPOLLIN);
}

#ifdef TLS
static void shake_hands(conn *c, int i) {
  int n = SSL_do_handshake(c->tls);
  if (n == 1) return upgrade(c, i);
  int error = SSL_get_error(c->tls, n);
  if (error == SSL_ERROR_WANT_READ) poll_for(c, EPOLL_CTL_MOD, EPOLLIN);
  else if (error == SSL_ERROR_WANT_WRITE) poll_for(c, EPOLL_CTL_MOD, EPOLLOUT);
  else end(c, "the handshake failed");
}
#endif

static void readable(conn *c, int i) {
#ifdef TLS
  if (c->state == SHAKING_HANDS) return shake_hands(c, i);
#endif
  for (;;) {
    char *data = buffer + KEEP;
    ssize_t n = receive(c, data, sizeof buffer - KEEP);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
      end(c, n ? strerror(errno) : "the server closed the connection");
      return;
    }
    if (c->state == UPGRADING) {
      if (c->off == 0 && strncmp(data, "HTTP/1.1 101", 12) != 0) {
        data[n < (ssize_t)(sizeof buffer - KEEP) ? n : n - 1] = 0;
        char *body = strstr(data, "\r\n\r\n");
        fprintf(stderr, "load: not upgraded: %.*s %.80s\n", (int)strcspn(data, "\r"), data, body ? body + 4 : "");
        exit(1);
      }
      c->off += n;
      /* The end of the head may come in pieces. */
      tail *t = &c->greeting;
      char *from = memcpy(data - t->kept, t->keep, t->kept), *head = memmem(from, data + n - from, "\r\n\r\n", 4);
      size_t known = data + n - from;
#ifdef DEFLATE
      if (memmem(from, head ? (size_t)(head - from) : known, COMPRESSES, strlen(COMPRESSES))) c->deflated = 1;
#endif
      t->kept = head ? 0 : known < strlen(COMPRESSES) ? known : strlen(COMPRESSES) - 1;
      memcpy(t->keep, data + n - t->kept, t->kept);
      if (head) {
        c->state = GREETING;
        if (!greet(c, i)) return;
        size_t rest = data + n - (head + 4);
        memmove(data, head + 4, rest);
        take(c, data, rest);
      }
    } else {
      take(c, data, n);
    }
#ifndef TLS
    if ((size_t)n < sizeof buffer - KEEP) return;
#endif
  }
}

static void pour(conn *c) {
  while (c->out_at < flood_size) {
    ssize_t n = give(c, flood + c->out_at, flood_size - c->out_at);
    if (n < 0) {
      if (errno != EAGAIN) return end(c, strerror(errno));
      if (!c->writing) poll_for(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
      c->writing = 1;
      return;
    }
    c->out_at += n;
  }
  if (c->writing) poll_for(c, EPOLL_CTL_MOD, EPOLLIN);
  c->writing = 0;
}

static void writable(conn *c, int i) {
  if (c->state == CONNECTING) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
      errno = error;
      if (!returning) die("connect");
      return end(c, strerror(error));
    }
#ifdef TLS
    c->tls = SSL_new(context);
    SSL_set_fd(c->tls, c->fd);
    SSL_set_connect_state(c->tls);
    c->state = SHAKING_HANDS;
    shake_hands(c, i);
  } else if (c->state == SHAKING_HANDS) {
    shake_hands(c, i);
#else
    upgrade(c, i);
#endif
  } else {
    pour(c);
  }
}

static char *whole_file(const char *name, size_t *size) {
  FILE *f = fopen(name, "rb");
  if (!f) die(name);
  fseek(f, 0, SEEK_END);
  *size = ftell(f);
  rewind(f);
  char *octets = malloc(*size + 1);
  if (fread(octets, 1, *size, f) != *size) die(name);
  octets[*size] = 0;
  fclose(f);
  return octets;
}

static char *piece(char **at, uint32_t *size) {
  memcpy(size, *at, 4);
  char *octets = *at + 4;
  *at += 4 + *size;
  return octets;
}

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Lets the sockets work until what was asked for has happened or the time is over; with until = 0 for a moment. */
static void work(double until, int (*done)(void)) {
  struct epoll_event events[512];
  for (;;) {
    if (done && done()) return;
    double left = until - now();
    if (left <= 0 && until > 0) return;
    int wait = until == 0 ? 0 : pace && started < count ? 1 : (int)(left * 1000) + 1;
    int n = epoll_wait(poller, events, 512, sleep_at_most(wait));
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int k = 0; k < n; k++) {
      conn *c = events[k].data.ptr;
      if (!c) return;
      if (c->state >= AWAY) continue;
      int i = c - conns;
      if (events[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c, i);
      if (c->state < AWAY && events[k].events & EPOLLOUT) writable(c, i);
    }
    fill();
    resume();
    if (until == 0) return;
  }
}

static int all_open(void) { return opened + ended >= count; }
static int all_back(void) { return opened >= count; }
static int enough(void) { return received >= wanted; }

static size_t from_hex(const char *text, char *out) {
  size_t n = 0;
  for (unsigned octet; n < 63 && sscanf(text + 2 * n, "%2x", &octet) == 1; n++) out[n] = octet;
  out[n] = 0;
  return n;
}

/* A reset to the server, so that no port here waits for its last answer. */
static void cut(void) {
  struct linger gone = {.l_onoff = 1};
  for (int i = 0; i < started; i++)
    if (conns[i].state < AWAY) {
      setsockopt(conns[i].fd, SOL_SOCKET, SO_LINGER, &gone, sizeof gone);
#ifdef TLS
      if (conns[i].tls) SSL_free(conns[i].tls);
#endif
      close(conns[i].fd);
    }
#ifdef DEFLATE
  for (int i = 0; i < started; i++) free(conns[i].message);
#endif
  free(conns), free(requests), free(greetings), free(request_sizes), free(greeting_sizes);
  conns = NULL, requests = greetings = NULL, request_sizes = greeting_sizes = NULL;
  count = opened = started = ended = away = 0;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
#ifdef TLS
  signal(SIGPIPE, SIG_IGN);
  context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#endif
  address.sin_family = AF_INET;
  address.sin_port = htons(atoi(argv[2]));
  inet_pton(AF_INET, argv[1], &address.sin_addr);
  poller = epoll_create1(0);
  samples = malloc(SAMPLES * sizeof *samples);
  strcpy(sent, SENT);
  strcpy(marker, sent);
  need = strlen(sent) + DIGITS;
  /* Standard input wakes the loop too. */
  struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input);
  char pending[4096];
  size_t have = 0;
  for (;;) {
    char *newline;
    while (!(newline = memchr(pending, '\n', have))) {
      struct epoll_event events[512];
      int n = epoll_wait(poller, events, 512, sleep_at_most(-1)), talk = 0;
      for (int k = 0; k < n; k++) {
        conn *c = events[k].data.ptr;
        if (!c) talk = 1;
        else if (c->state < AWAY) {
          if (events[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c, c - conns);
          if (c->state < AWAY && events[k].events & EPOLLOUT) writable(c, c - conns);
        }
      }
      resume();
      if (talk) {
        ssize_t r = read(0, pending + have, sizeof pending - have);
        if (r <= 0) return 0;
        have += r;
      }
    }
    *newline = 0;
    char line[4096], name[4096], word[128];
    strcpy(line, pending);
    have -= newline + 1 - pending;
    memmove(pending, newline + 1, have);
    int a, b;
    long n;
    epoll_ctl(poller, EPOLL_CTL_DEL, 0, NULL);
    if (sscanf(line, "open %4095s %d %d %127s %d", name, &a, &window, ready_marker, &ready_times) == 5) {
      size_t size;
      char *at = whole_file(name, &size);
      conns = calloc(a, sizeof *conns);
      requests = calloc(a, sizeof *requests), greetings = calloc(a, sizeof *greetings);
      request_sizes = calloc(a, 4), greeting_sizes = calloc(a, 4);
      for (int i = 0; i < a; i++) {
        requests[i] = piece(&at, &request_sizes[i]);
        greetings[i] = piece(&at, &greeting_sizes[i]);
      }
      count = a;
      if (keep_size && count > kept_room) {
        kept = realloc(kept, (size_t)count * keep_size);
        memset(kept_of(kept_room), 0, (size_t)(count - kept_room) * keep_size);
        kept_room = count;
      }
      opened = started = ended = 0;
      began = now();
      fill();
      work(now() + 300, all_open);
      printf("opened %d %.6f\n", opened, now() - began);
    } else if (!strcmp(line, "reset")) {
      received = disordered = octets = 0;
      measuring = 1;
      strcpy(marker, sent);
      need = strlen(sent) + DIGITS;
      for (int i = 0; i < started; i++) conns[i].last = conns[i].messages = 0;
      printf("ok\n");
    } else if (sscanf(line, "tally %127s", word) == 1) {
      received = measuring = 0;
      need = from_hex(word, marker);
      printf("ok\n");
    } else if (sscanf(line, "from %d", &addresses) == 1) {
      printf("ok\n");
    } else if (sscanf(line, "pace %lf", &pace) == 1) {
      printf("ok\n");
    } else if (sscanf(line, "mark %127s", word) == 1) {
      from_hex(word, sent);
      printf("ok\n");
    } else if (sscanf(line, "pong %127s %127s", word, ready_marker) == 2) {
      ping_size = from_hex(word, ping);
      /* It is looked for in lines, and may end with one. */
      if (ping_size && ping[ping_size - 1] == '\n') ping_size--;
      answer_size = from_hex(ready_marker, answer);
      printf("ok\n");
    } else if (sscanf(line, "keep %127s %d", word, &a) == 2 && a < KEEP) {
      from_hex(word, before_kept);
      keep_size = a;
      printf("ok\n");
    } else if (!strcmp(line, "cut")) {
      cut();
      printf("ok\n");
    } else if (!strcmp(line, "counts")) {
      long least = -1, most = 0;
      for (int i = 0; i < started; i++) {
        if (least < 0 || conns[i].messages < least) least = conns[i].messages;
        if (conns[i].messages > most) most = conns[i].messages;
      }
      printf("counts %ld %ld %d %llu\n", least < 0 ? 0 : least, most, disordered, (unsigned long long)octets);
    } else if (sscanf(line, "await %ld %d", &wanted, &b) == 2) {
      began = now();
      work(began + b / 1000.0, enough);
      printf("got %ld %.6f\n", received, now() - began);
    } else if (!strcmp(line, "latencies")) {
      n = received < SAMPLES ? received : SAMPLES;
      qsort(samples, n, sizeof *samples, ascending);
      if (n)
        printf("lat %ld %u %u %u %u\n", n, samples[n / 2], samples[(long)(n * 0.99)], samples[n - 1],
               samples[(long)(n * 0.999)]);
      else printf("lat 0 0 0 0 0\n");
    } else if (sscanf(line, "flood %4095s %127s %ld %d", name, word, &n, &b) == 4) {
      flood = whole_file(name, &flood_size);
      strcpy(marker, word);
      need = strlen(word);
      received = 0;
      measuring = 0;
      wanted = n;
      began = now();
      for (int i = 0; i < count; i++)
        if (conns[i].state == READY) {
          conns[i].out_at = 0;
          pour(&conns[i]);
        }
      work(began + b / 1000.0, enough);
      printf("got %ld %.6f\n", received, now() - began);
      free(flood);
    } else if (sscanf(line, "stall %d", &a) == 1) {
      poll_for(&conns[a], EPOLL_CTL_MOD, 0);
      printf("ok\n");
    } else if (!strcmp(line, "lost")) {
      printf("lost %d %ld %s\n", ended, pings, why);
    } else if (sscanf(line, "back %lf %lf %lf %lf %ld", &first_window, &next_window, &window_factor, &window_cap,
                      &n) == 5) {
      srand48(n);
      waiting = realloc(waiting, count * sizeof *waiting);
      absences = realloc(absences, count * sizeof *absences);
      returning = 1;
      returned = lost = failed = 0;
      last_return = now();
      *why = 0;
      printf("ok\n");
    } else if (sscanf(line, "returned %d", &b) == 1) {
      work(now() + b / 1000.0, all_back);
      printf("returned %d %d %d %.6f\n", opened, lost, failed, last_return);
    } else if (!strcmp(line, "away")) {
      printf("away");
      for (int i = 0; i < returned; i++) printf(" %u", absences[i]);
      printf("\n");
    } else if (!strcmp(line, "quit")) {
      return 0;
    } else {
      printf("unknown: %s\n", line);
    }
    fflush(stdout);
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input);
  }
}
