/* The floor: what the kernel takes for a delivery, and nothing else. It upgrades whoever asks, ignores what clients say,
   and POST /publish?times=N sends the body, framed once and repeated N times, in one send() to each connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX 20100
static int upgraded[MAX], many;
static char in[1 << 16], out[1 << 20];

static const char *accepted =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x07\"ready\"";

static size_t frame(const char *body, size_t size) {
  size_t head = size < 126 ? 2 : 4;
  out[0] = (char)0x81;
  if (size < 126) out[1] = size;
  else out[1] = 126, out[2] = size >> 8, out[3] = size & 255;
  memcpy(out + head, body, size);
  return head + size;
}

int main(int argc, char **argv) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096)) return perror("listen"), 1;
  struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
  for (;;) {
    int n = epoll_wait(poller, events, 512, -1);
    for (int k = 0; k < n; k++) {
      int fd = events[k].data.fd;
      if (fd == listener) {
        while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          e.events = EPOLLIN, e.data.fd = fd;
          epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
        }
        continue;
      }
      ssize_t size = recv(fd, in, sizeof in - 1, 0);
      if (size <= 0) {
        if (size < 0 && errno == EAGAIN) continue;
        for (int i = 0; i < many; i++)
          if (upgraded[i] == fd) upgraded[i] = upgraded[--many];
        close(fd);
        continue;
      }
      in[size] = 0;
      if (!strncmp(in, "GET ", 4)) {
        upgraded[many++] = fd;
        send(fd, accepted, strlen(accepted), 0);
      } else if (!strncmp(in, "POST ", 5)) {
        char *body = strstr(in, "\r\n\r\n") + 4, *times = strstr(in, "times=");
        size_t length = frame(body, in + size - body), whole = length;
        for (int i = times ? atoi(times + 6) : 1; i > 1; i--, whole += length) memcpy(out + whole, out, length);
        for (int i = 0; i < many; i++) send(upgraded[i], out, whole, MSG_NOSIGNAL);
        const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        send(fd, answer, strlen(answer), 0);
      }
    }
  }
}
