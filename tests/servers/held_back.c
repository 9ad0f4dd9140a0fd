/* A quick file server that holds back some of its responses.
 *
 *   cc -O2 held_back.c -o held_back
 *   held_back HOST PORT ROOT EVERY SECONDS
 *
 * It serves the files below ROOT over HTTP/1.1, with persistent connections, entity tags and byte
 * ranges (RFC 9110, section 14). Of EVERY requests the last is answered SECONDS late (EVERY 0: none
 * is), except that a target which was held back a short time ago is not again, so that who asks
 * once more is answered at once; the next request takes its turn. Each target that is held back is
 * a line of stdout. One epoll loop and sendfile are as quick as loopback.
 *
 * It knows what tests and benchmarks ask for: GET and HEAD without a body, one range. A connection
 * that sends anything else, or more than a head at a time, is closed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_SIZE = 8 * 1024, TARGET_SIZE = 1024, ANSWERED_AT_ONCE = 1024, EVENTS = 256 };

struct connection {
    int fd;
    int file; /* whose bytes are to be sent, or -1 */
    bool last; /* close it after this response */
    int64_t held_until; /* or 0 */
    struct connection *next_held;
    off_t offset, end;
    size_t received, head_sent, head_size;
    char request[HEAD_SIZE + 1], head[512];
};

static const char *root;
static int64_t hold;
static long every, requests, owed;
static int poller;

/* All are held for as long: the first in the queue is the first that is due. */
static struct connection *first_held, **last_held = &first_held;

/* Which targets were held back, and until when they are not again. */
static struct { char target[TARGET_SIZE]; int64_t until; } spared[ANSWERED_AT_ONCE];
static long spared_count;

static void end_if(bool failed, const char *what) {
    if (!failed) return;
    fprintf(stderr, "held_back: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000) + at.tv_nsec / 1000000;
}

static void expect(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events | EPOLLRDHUP, .data.ptr = c};
    end_if(epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event) < 0, "epoll");
}

/* ---- which responses are held back */

static bool is_spared(const char *target, int64_t at) {
    long oldest = spared_count > ANSWERED_AT_ONCE ? spared_count - ANSWERED_AT_ONCE : 0;
    for (long i = spared_count; i-- > oldest && spared[i % ANSWERED_AT_ONCE].until > at;)
        if (strcmp(spared[i % ANSWERED_AT_ONCE].target, target) == 0) return true;
    return false;
}

static bool is_held_back(const char *target) {
    if (every == 0) return false;
    owed += ++requests % every == 0;
    int64_t at = now();
    if (owed == 0 || is_spared(target, at)) return false;
    owed--;
    long place = spared_count++ % ANSWERED_AT_ONCE;
    strcpy(spared[place].target, target);
    spared[place].until = at + 2 * hold;
    printf("%s\n", target);
    return true;
}

static void enqueue(struct connection *c) {
    c->held_until = now() + hold;
    c->next_held = NULL;
    *last_held = c;
    last_held = &c->next_held;
}

static void dequeue(struct connection *c) {
    struct connection **link = &first_held;
    while (*link != c) link = &(*link)->next_held;
    *link = c->next_held;
    if (*link == NULL) last_held = link;
    c->held_until = 0;
}

/* ---- one request and its response */

static void respond(struct connection *c, const char *status, const char *fields) {
    int size = snprintf(c->head, sizeof c->head,
                        "HTTP/1.1 %s\r\nContent-Length: %jd\r\nAccept-Ranges: bytes\r\n%s%s\r\n",
                        status, (intmax_t)(c->end - c->offset),
                        c->last ? "Connection: close\r\n" : "", fields);
    c->head_size = size;
    c->head_sent = 0;
}

/* Of a file of that size; whether there is anything in the range. */
static bool in_range(const char *range, off_t size, off_t *start, off_t *end) {
    intmax_t first, last;
    if (*range == '-') {
        last = strtoimax(range + 1, NULL, 10);
        *start = last < size ? size - last : 0;
        *end = size;
    } else {
        char *rest;
        first = strtoimax(range, &rest, 10);
        last = rest[0] == '-' && rest[1] >= '0' && rest[1] <= '9' ? strtoimax(rest + 1, NULL, 10)
                                                                  : size - 1;
        *start = first;
        *end = last < size ? last + 1 : size;
    }
    return *start < *end;
}

static void answer(struct connection *c, const char *method, const char *target) {
    const char *range = strcasestr(c->request, "\r\nrange: bytes=");
    char path[2 * TARGET_SIZE], fields[200];
    snprintf(path, sizeof path, "%s%.*s", root, (int)strcspn(target, "?"), target);
    struct stat state;
    c->offset = c->end = 0;
    c->file = strstr(target, "..") ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (c->file < 0 || fstat(c->file, &state) < 0 || !S_ISREG(state.st_mode)) {
        respond(c, "404 Not Found", "");
    } else {
        int size = snprintf(fields, sizeof fields, "ETag: \"%jx-%jx\"\r\n",
                            (intmax_t)state.st_mtim.tv_sec * 1000000000 + state.st_mtim.tv_nsec,
                            (intmax_t)state.st_size);
        c->end = state.st_size;
        if (range == NULL) {
            respond(c, "200 OK", fields);
        } else if (in_range(range + 15, state.st_size, &c->offset, &c->end)) {
            snprintf(fields + size, sizeof fields - size, "Content-Range: bytes %jd-%jd/%jd\r\n",
                     (intmax_t)c->offset, (intmax_t)c->end - 1, (intmax_t)state.st_size);
            respond(c, "206 Partial Content", fields);
        } else {
            c->offset = c->end = 0;
            snprintf(fields, sizeof fields, "Content-Range: bytes */%jd\r\n",
                     (intmax_t)state.st_size);
            respond(c, "416 Range Not Satisfiable", fields);
        }
    }
    if (strcmp(method, "HEAD") == 0) c->offset = c->end;
}

static void end_connection(struct connection *c) {
    if (c->held_until) dequeue(c);
    if (c->file >= 0) close(c->file);
    close(c->fd);
    free(c);
}

/* Send what the socket takes. */
static void send_response(struct connection *c) {
    while (c->head_sent < c->head_size || c->offset < c->end) {
        ssize_t sent;
        if (c->head_sent < c->head_size) {
            int more = c->offset < c->end ? MSG_MORE : 0;
            sent = send(c->fd, c->head + c->head_sent, c->head_size - c->head_sent,
                        MSG_NOSIGNAL | more);
            if (sent > 0) c->head_sent += sent;
        } else {
            sent = sendfile(c->fd, c->file, &c->offset, c->end - c->offset);
        }
        if (sent < 0 && errno == EAGAIN) {
            expect(c, EPOLLOUT);
            return;
        }
        if (sent <= 0) {
            end_connection(c);
            return;
        }
    }
    if (c->last) {
        end_connection(c);
        return;
    }
    if (c->file >= 0) close(c->file);
    c->file = -1;
    expect(c, EPOLLIN);
}

static void receive_request(struct connection *c) {
    ssize_t size = recv(c->fd, c->request + c->received, HEAD_SIZE - c->received, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        end_connection(c);
        return;
    }
    c->received += size;
    c->request[c->received] = 0;
    char *end = strstr(c->request, "\r\n\r\n");
    if (end == NULL && c->received < HEAD_SIZE) return;
    char method[5], target[TARGET_SIZE], minor;
    if (end == NULL || end + 4 != c->request + c->received ||
        sscanf(c->request, "%4s %1023s HTTP/1.%c", method, target, &minor) != 3 ||
        (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)) {
        end_connection(c);
        return;
    }
    c->received = 0;
    c->last = minor == '0' || strcasestr(c->request, "\r\nconnection: close") != NULL;
    answer(c, method, target);
    if (is_held_back(target)) {
        enqueue(c);
        expect(c, 0);
    } else {
        send_response(c);
    }
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        end_if(c == NULL, "no memory");
        c->fd = fd;
        c->file = -1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        end_if(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0, "epoll");
    }
}

static int listening(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    end_if(inet_pton(AF_INET, host, &address.sin_addr) != 1, "not an address");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    end_if(bind(fd, (struct sockaddr *)&address, sizeof address) < 0, "bind");
    end_if(listen(fd, 4096) < 0, "listen");
    return fd;
}

int main(int count, char **argument) {
    if (count != 6) {
        fputs("usage: held_back HOST PORT ROOT EVERY SECONDS\n", stderr);
        return 2;
    }
    root = argument[3];
    every = atol(argument[4]);
    hold = atof(argument[5]) * 1000;
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* Of two who asked, one leaves in mid-body, and sendfile knows no MSG_NOSIGNAL. */
    signal(SIGPIPE, SIG_IGN);
    int listener = listening(argument[1], atoi(argument[2]));
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    end_if(epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0, "epoll");
    for (;;) {
        struct epoll_event ready[EVENTS];
        int64_t left = first_held == NULL ? -1 : first_held->held_until - now();
        int found = epoll_wait(poller, ready, EVENTS, left < 0 && first_held ? 0 : (int)left);
        for (int i = 0; i < found; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c == NULL) accept_all(listener);
            else if (ready[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) end_connection(c);
            else if (ready[i].events & EPOLLOUT) send_response(c);
            else receive_request(c);
        }
        while (first_held != NULL && first_held->held_until <= now()) {
            struct connection *c = first_held;
            dequeue(c);
            send_response(c);
        }
    }
}
