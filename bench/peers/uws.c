/* uws PORT: µWebSockets doing what pushserver does for the same clients, over the C functions that socketify's library
   for Linux exports (uws_..., over libuv). It understands `auth` (HS256, exp) and `subscribe`, and HTTP /publish and
   /batch. No compression; a topic for each channel, published to by the library: as its documentation recommends. */
#define _GNU_SOURCE
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* -- of the library: version 0.0.31 of socketify has no header of it ------------------------------------------------- */

typedef struct uws_app_s uws_app_t;
typedef struct uws_req_s uws_req_t;
typedef struct uws_res_s uws_res_t;
typedef struct uws_ws_s uws_ws_t;
typedef struct uws_socket_context_s uws_socket_context_t;
typedef struct us_listen_socket_t us_listen_socket_t;
typedef struct {
  const char *files[5], *ciphers;
  int prefer_low_memory;
} uws_tls_options;
typedef struct {
  int port;
  const char *host;
  int options;
} uws_listen_config;
enum { TEXT = 1 };

typedef struct {
  int compression;
  unsigned int max_payload;
  unsigned short idle_timeout;
  unsigned int max_backpressure;
  bool close_on_backpressure, reset_idle_on_send, send_pings;
  unsigned short max_lifetime;
  void (*upgrade)(uws_res_t *, uws_req_t *, uws_socket_context_t *, void *);
  void (*open)(uws_ws_t *, void *);
  void (*message)(uws_ws_t *, const char *, size_t, int, void *);
  void (*drain)(uws_ws_t *, void *);
  void (*ping)(uws_ws_t *, const char *, size_t, void *);
  void (*pong)(uws_ws_t *, const char *, size_t, void *);
  void (*close)(uws_ws_t *, int, const char *, size_t, void *);
  void (*subscription)(uws_ws_t *, const char *, size_t, int, int, void *);
} uws_behavior;

uws_app_t *uws_create_app(int ssl, uws_tls_options options);
void uws_app_run(int ssl, uws_app_t *);
void uws_app_post(int ssl, uws_app_t *, const char *pattern, void (*)(uws_res_t *, uws_req_t *, void *), void *);
void uws_app_listen_with_config(int ssl, uws_app_t *, uws_listen_config,
                                void (*)(us_listen_socket_t *, uws_listen_config, void *), void *);
void uws_ws(int ssl, uws_app_t *, const char *pattern, uws_behavior, void *);
int uws_ws_send(int ssl, uws_ws_t *, const char *, size_t, int opcode);
void uws_ws_end(int ssl, uws_ws_t *, int code, const char *, size_t);
bool uws_ws_subscribe(int ssl, uws_ws_t *, const char *topic, size_t);
bool uws_publish(int ssl, uws_app_t *, const char *topic, size_t, const char *, size_t, int opcode, bool compress);
void uws_res_end(int ssl, uws_res_t *, const char *, size_t, bool close);
void uws_res_write_header(int ssl, uws_res_t *, const char *, size_t, const char *, size_t);
void uws_res_on_data(int ssl, uws_res_t *, void (*)(uws_res_t *, const char *, size_t, bool, void *), void *);
void uws_res_on_aborted(int ssl, uws_res_t *, void (*)(uws_res_t *, void *), void *);
size_t uws_req_get_header(uws_req_t *, const char *name, size_t, const char **);
void uws_res_upgrade(int ssl, uws_res_t *, void *data, const char *key, size_t, const char *protocol, size_t,
                     const char *extensions, size_t, uws_socket_context_t *);

/* -- the server ----------------------------------------------------------------------------------------------------- */

static uws_app_t *app;
static const char *secret;
static long number;

/* The string behind "name": in the text, and its length; NULL where there is none. */
static const char *field(const char *text, size_t size, const char *name, size_t *length) {
  char key[40];
  size_t n = snprintf(key, sizeof key, "\"%s\"", name);
  const char *at = memmem(text, size, key, n), *stop = text + size;
  if (!at) return NULL;
  for (at += n; at < stop && (*at == ' ' || *at == ':'); at++) {}
  if (at == stop || *at++ != '"') return NULL;
  const char *end = memchr(at, '"', stop - at);
  if (!end) return NULL;
  *length = end - at;
  return at;
}

static int from_base64url(const char *text, size_t size, unsigned char *out, size_t room) {
  char padded[1024];
  size_t whole = (size + 3) / 4 * 4;
  if (whole > sizeof padded || whole / 4 * 3 > room) return -1;
  for (size_t i = 0; i < whole; i++) {
    char c = i < size ? text[i] : '=';
    padded[i] = c == '-' ? '+' : c == '_' ? '/' : c;
  }
  int n = EVP_DecodeBlock(out, (unsigned char *)padded, whole);
  return n < 0 ? -1 : n - (int)(whole - size);
}

/* Signature and expiry of a token in the form of RFC 7519. */
static bool valid(const char *token, size_t size) {
  const char *dot = memchr(token, '.', size), *second = dot ? memchr(dot + 1, '.', token + size - dot - 1) : NULL;
  if (!second) return false;
  unsigned char given[96], wanted[EVP_MAX_MD_SIZE], claims[800];
  unsigned int length = 0;
  HMAC(EVP_sha256(), secret, strlen(secret), (const unsigned char *)token, second - token, wanted, &length);
  if (from_base64url(second + 1, token + size - second - 1, given, sizeof given) != 32) return false;
  if (CRYPTO_memcmp(given, wanted, 32) != 0) return false;
  int n = from_base64url(dot + 1, second - dot - 1, claims, sizeof claims - 1);
  if (n < 0) return false;
  claims[n] = 0;
  char *expiry = strstr((char *)claims, "\"exp\"");
  return expiry && (expiry = strchr(expiry, ':')) && atol(expiry + 1) > time(NULL);
}

static void upgrade(uws_res_t *res, uws_req_t *req, uws_socket_context_t *context, void *data) {
  (void)data;
  const char *key, *protocol, *extensions;
  size_t k = uws_req_get_header(req, "sec-websocket-key", 17, &key);
  size_t p = uws_req_get_header(req, "sec-websocket-protocol", 22, &protocol);
  size_t e = uws_req_get_header(req, "sec-websocket-extensions", 24, &extensions);
  uws_res_upgrade(0, res, NULL, key, k, protocol, p, extensions, e, context);
}

static void message(uws_ws_t *ws, const char *text, size_t size, int opcode, void *data) {
  (void)data, (void)opcode;
  size_t length;
  const char *type = field(text, size, "type", &length);
  if (type && length == 4 && !memcmp(type, "auth", 4)) {
    const char *token = field(text, size, "token", &length);
    if (!token || !valid(token, length)) {
      uws_ws_end(0, ws, 3500, "invalid token", 13);
      return;
    }
    const char said[] = "{\"type\":\"auth_success\",\"id\":1,\"data\":{}}";
    uws_ws_send(0, ws, said, sizeof said - 1, TEXT);
  } else if (type && length == 9 && !memcmp(type, "subscribe", 9)) {
    const char *at = memmem(text, size, "[", 1), *stop = text + size;
    while (at && at < stop && *at != ']') {
      const char *open = memchr(at, '"', stop - at), *close = open ? memchr(open + 1, '"', stop - open - 1) : NULL;
      if (!close) break;
      uws_ws_subscribe(0, ws, open + 1, close - open - 1);
      for (at = close + 1; at < stop && (*at == ' ' || *at == ','); at++) {}
    }
    const char said[] = "{\"type\":\"subscription_success\",\"id\":2,\"data\":{}}";
    uws_ws_send(0, ws, said, sizeof said - 1, TEXT);
  }
}

static void nothing(uws_ws_t *ws, void *data) { (void)ws, (void)data; }

static void closed(uws_ws_t *ws, int code, const char *text, size_t size, void *data) {
  (void)ws, (void)code, (void)text, (void)size, (void)data;
}

/* Publishes each {"channel": ..., "data": {...}} of the text; `data` is an object without others in it. */
static void publish(const char *text, size_t size) {
  const char *at = text, *stop = text + size, *channel, *data, *end;
  size_t length;
  while ((channel = field(at, stop - at, "channel", &length)) && (data = memmem(channel, stop - channel, "{", 1)) &&
         (end = memchr(data, '}', stop - data))) {
    char frame[4096];
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int n = snprintf(frame, sizeof frame,
                     "{\"type\":\"message\",\"channel\":\"%.*s\",\"data\":%.*s,\"timestamp\":%lld,\"messageId\":\"uws-%ld\"}",
                     (int)length, channel, (int)(end + 1 - data), data,
                     (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000, ++number);
    uws_publish(0, app, channel, length, frame, n, TEXT, false);
    at = end + 1;
  }
}

static void body(uws_res_t *res, const char *chunk, size_t size, bool last, void *data) {
  (void)data;
  /* Requests of the benchmarks come in one piece; what does not is not answered, and seen. */
  if (!last) return;
  publish(chunk, size);
  uws_res_end(0, res, "{}", 2, false);
}

static void aborted(uws_res_t *res, void *data) { (void)res, (void)data; }

static void post(uws_res_t *res, uws_req_t *req, void *data) {
  (void)req, (void)data;
  uws_res_on_aborted(0, res, aborted, NULL);
  uws_res_on_data(0, res, body, NULL);
}

static void listening(us_listen_socket_t *socket, uws_listen_config config, void *data) {
  (void)data;
  if (!socket) {
    fprintf(stderr, "cannot listen on %d\n", config.port);
    exit(1);
  }
}

int main(int argc, char **argv) {
  if (argc != 2 || !(secret = getenv("BENCH_SECRET"))) return 2;
  app = uws_create_app(0, (uws_tls_options){0});
  uws_ws(0, app, "/ws",
         (uws_behavior){.max_payload = 65536,
                        .idle_timeout = 36,
                        .max_backpressure = 1 << 20,
                        .send_pings = true,
                        .upgrade = upgrade,
                        .open = nothing,
                        .message = message,
                        .drain = nothing,
                        .close = closed},
         NULL);
  uws_app_post(0, app, "/publish", post, NULL);
  uws_app_post(0, app, "/batch", post, NULL);
  uws_app_listen_with_config(0, app, (uws_listen_config){.port = atoi(argv[1]), .host = "127.0.0.1"}, listening, NULL);
  uws_app_run(0, app);
  return 1;
}
