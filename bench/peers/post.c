/* The benchmarks' publisher: HTTP requests over several kept-alive connections, one at a time on each.

   post HOST PORT CONNECTIONS, commands on standard input, one line each, one line of answer:

     post FILE COUNT MS  sends the file's requests (u32 length and octets each), the n-th over connection n mod their
                         number, and waits for the answers; how many were answered with 200         -> posted N SECONDS
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOM (1 << 16)

typedef struct {
  int next;        /* the request that it sends next, or beyond the last */
  size_t have;     /* of the answer */
  char answer[ROOM];
} conn;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  fprintf(stderr, "post: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* Whether the answer is whole: its status, or 0. Only those with a Content-Length, and chunked ones that end here. */
static int status_of(const conn *c) {
  char *head = memmem(c->answer, c->have, "\r\n\r\n", 4);
  if (!head) return 0;
  size_t size = head + 4 - c->answer;
  char *length = strcasestr(c->answer, "\r\ncontent-length:");
  if (length && length < head) {
    if (c->have < size + atol(length + 17)) return 0;
  } else if (c->have < size + 5 || memcmp(c->answer + c->have - 5, "0\r\n\r\n", 5)) {
    return 0;
  }
  return atoi(c->answer + 9);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
  inet_pton(AF_INET, argv[1], &address.sin_addr);
  int many = atoi(argv[3]), one = 1;
  conn *conns = calloc(many, sizeof *conns);
  struct pollfd *polled = calloc(many, sizeof *polled);
  char line[4200], name[4096];
  while (fgets(line, sizeof line, stdin)) {
    int count, timeout;
    if (sscanf(line, "post %4095s %d %d", name, &count, &timeout) != 3) return 2;
    FILE *file = fopen(name, "rb");
    if (!file) die(name);
    char **requests = calloc(count, sizeof *requests);
    uint32_t *sizes = calloc(count, sizeof *sizes);
    for (int i = 0; i < count; i++) {
      if (fread(&sizes[i], 4, 1, file) != 1 || !(requests[i] = malloc(sizes[i])) ||
          fread(requests[i], 1, sizes[i], file) != sizes[i])
        die(name);
    }
    fclose(file);
    /* Anew for each file: a server ends connections that rest. */
    for (int i = 0; i < many; i++) {
      polled[i].fd = socket(AF_INET, SOCK_STREAM, 0);
      if (connect(polled[i].fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
      setsockopt(polled[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      polled[i].events = POLLIN;
    }
    double began = now(), end = began + timeout / 1000.0;
    int answered = 0, failed = 0;
    for (int i = 0; i < many; i++) {
      conns[i].next = i;
      conns[i].have = 0;
      if (i < count && send(polled[i].fd, requests[i], sizes[i], MSG_NOSIGNAL) != sizes[i]) die("send");
    }
    while (answered + failed < count && now() < end) {
      if (poll(polled, many, 1000) < 0) die("poll");
      for (int i = 0; i < many; i++) {
        if (!polled[i].revents) continue;
        conn *c = &conns[i];
        ssize_t n = recv(polled[i].fd, c->answer + c->have, ROOM - 1 - c->have, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) die("the server closed a connection");
        c->have += n;
        c->answer[c->have] = 0;
        int status = status_of(c);
        if (!status) continue;
        if (status == 200) answered++;
        else failed++;
        c->have = 0;
        c->next += many;
        if (c->next < count && send(polled[i].fd, requests[c->next], sizes[c->next], MSG_NOSIGNAL) != sizes[c->next])
          die("send");
      }
    }
    printf("posted %d %.6f\n", answered, now() - began);
    fflush(stdout);
    for (int i = 0; i < many; i++) close(polled[i].fd);
    for (int i = 0; i < count; i++) free(requests[i]);
    free(requests), free(sizes);
  }
  return 0;
}
