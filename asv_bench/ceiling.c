/* The ceiling: what a bare poll loop gets out of a server, and at which cost in CPU time.
 *
 *   cc -O2 -pthread ceiling.c -o ceiling -ldl
 *   ceiling read PORT THREADS CONNECTIONS ROOM [tls LIBSSL] [zstd LIBZSTD] < targets
 *   ceiling parse TIMES < response
 *
 * `read` asks for every target (one a line) over persistent connections: THREADS poll loops drive
 * CONNECTIONS each, and a connection that is done takes the next target. A body is received
 * straight into its own ROOM bytes of one block of output; one in zstd is received aside and
 * decoded there by the thread that received it, and has to fill them. Connections are open before
 * the clock starts, as those of a client are that has read before; the output is not, its pages
 * are fresh.
 *
 * `parse` reads the head of one response and copies its body, TIMES times over.
 *
 * Both print seconds and CPU seconds. They know the responses that a benchmark asks for, and end
 * at any other: they are here to be measured against, not to be used. They check no certificate.
 * The two libraries are loaded by the names that are given: a compiler alone builds this. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_SIZE = 8 * 1024,
    RESPONSE_SIZE = 256 * 1024,
    MAX_ENCODED = 64 * 1024, /* by how much a body in zstd may be longer than what it holds */
    TLS_READ_AHEAD = 64 * 1024,
    SSL_ERROR_WANT_READ = 2,
    SSL_CTRL_SET_READ_AHEAD = 41,
};

struct connection {
    int fd;
    void *session; /* NULL: no TLS */
    char *encoded; /* NULL: no zstd */
    long target; /* -1: there is none left */
    bool in_body;
    size_t head_received, body_received, content_length;
    char head[HEAD_SIZE];
};

struct loop {
    pthread_t thread;
    void *decoder;
    int connections;
    struct connection *connection;
};

static char **requests;
static long request_count;
static atomic_long next_request;
static char *output;
static size_t room;

static struct {
    void *context;
    void *(*SSL_new)(void *context);
    int (*SSL_set_fd)(void *session, int fd);
    int (*SSL_connect)(void *session);
    int (*SSL_read)(void *session, void *to, int size);
    int (*SSL_write)(void *session, const void *from, int size);
    int (*SSL_get_error)(const void *session, int result);
} tls;

static struct {
    void *(*ZSTD_createDCtx)(void);
    size_t (*ZSTD_decompressDCtx)(void *, void *to, size_t room, const void *from, size_t size);
} zstd;

static void end_if(bool failed, const char *what) {
    if (!failed) return;
    fprintf(stderr, "ceiling: %s\n", what);
    exit(1);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static char *fresh_pages(size_t size) {
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    end_if(block == MAP_FAILED, "no memory");
#ifdef MADV_HUGEPAGE
    madvise(block, size, MADV_HUGEPAGE); /* as numpy asks for them */
#endif
    return block;
}

/* Where the body begins, or NULL while the head is not whole. */
static char *read_head(char *head, size_t length, size_t *content_length) {
    char *end = memmem(head, length, "\r\n\r\n", 4);
    if (end == NULL) return NULL;
    end_if(memcmp(head, "HTTP/1.1 20", 11) != 0, "not what a server should answer");
    char *line = head;
    while (strncasecmp(line, "content-length:", 15) != 0) {
        line = memchr(line, '\n', end + 2 - line);
        end_if(line == NULL || ++line > end, "no Content-Length");
    }
    *content_length = strtoull(line + 15, NULL, 10);
    return end + 4;
}

/* As recv and send: -1 where it has to be waited for. */
static ssize_t receive(struct connection *c, void *to, size_t size) {
    if (c->session == NULL) return recv(c->fd, to, size, MSG_DONTWAIT);
    int got = tls.SSL_read(c->session, to, size);
    if (got > 0) return got;
    end_if(tls.SSL_get_error(c->session, got) != SSL_ERROR_WANT_READ, "TLS failed");
    errno = EAGAIN;
    return -1;
}

static ssize_t send_request(struct connection *c, const char *request, size_t length) {
    if (c->session == NULL) return send(c->fd, request, length, 0);
    return tls.SSL_write(c->session, request, length);
}

static void ask(struct connection *c) {
    c->target = atomic_fetch_add(&next_request, 1);
    if (c->target >= request_count) {
        c->target = -1;
        return;
    }
    c->in_body = false;
    c->head_received = c->body_received = 0;
    size_t length = strlen(requests[c->target]);
    end_if(send_request(c, requests[c->target], length) != (ssize_t)length, "a request was not taken");
}

static void read_response(struct connection *c, void *decoder) {
    char *place = output + (size_t)c->target * room;
    char *body = c->encoded ? c->encoded : place;
    while (!c->in_body) {
        ssize_t got = receive(c, c->head + c->head_received, HEAD_SIZE - c->head_received);
        if (got < 0 && errno == EAGAIN) return;
        end_if(got <= 0, "the connection ended in a head");
        c->head_received += got;
        char *begin = read_head(c->head, c->head_received, &c->content_length);
        if (begin == NULL) continue;
        end_if(c->content_length > room + (c->encoded ? MAX_ENCODED : 0), "a body longer than ROOM");
        c->body_received = c->head + c->head_received - begin;
        memcpy(body, begin, c->body_received);
        c->in_body = true;
    }
    while (c->body_received < c->content_length) {
        ssize_t got = receive(c, body + c->body_received, c->content_length - c->body_received);
        if (got < 0 && errno == EAGAIN) return;
        end_if(got <= 0, "the connection ended in a body");
        c->body_received += got;
    }
    size_t size = c->content_length;
    if (c->encoded) size = zstd.ZSTD_decompressDCtx(decoder, place, room, body, size);
    end_if(c->encoded && size != room, "zstd that does not fill ROOM");
    ask(c);
}

static void *run_loop(void *argument) {
    struct loop *loop = argument;
    struct pollfd *polled = calloc(loop->connections, sizeof *polled);
    end_if(polled == NULL, "no memory");
    for (int i = 0; i < loop->connections; i++) ask(&loop->connection[i]);
    for (;;) {
        int busy = 0;
        for (int i = 0; i < loop->connections; i++) {
            bool waits = loop->connection[i].target >= 0;
            polled[i].fd = waits ? loop->connection[i].fd : -1;
            polled[i].events = POLLIN;
            busy += waits;
        }
        if (busy == 0) break;
        end_if(poll(polled, loop->connections, -1) < 0 && errno != EINTR, "poll failed");
        for (int i = 0; i < loop->connections; i++)
            if (polled[i].fd >= 0 && polled[i].revents) read_response(&loop->connection[i], loop->decoder);
    }
    free(polled);
    return NULL;
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    end_if(found == NULL, name);
    return found;
}

static void *loaded(const char *name) {
    void *library = dlopen(name, RTLD_NOW);
    end_if(library == NULL, name);
    return library;
}

static void load_tls(const char *name) {
    void *library = loaded(name);
    void *(*new_context)(void *) = symbol(library, "SSL_CTX_new");
    void *(*method)(void) = symbol(library, "TLS_client_method");
    long (*control)(void *, int, long, void *) = symbol(library, "SSL_CTX_ctrl");
    void (*set_buffer)(void *, size_t) = symbol(library, "SSL_CTX_set_default_read_buffer_len");
    tls.SSL_new = symbol(library, "SSL_new");
    tls.SSL_set_fd = symbol(library, "SSL_set_fd");
    tls.SSL_connect = symbol(library, "SSL_connect");
    tls.SSL_read = symbol(library, "SSL_read");
    tls.SSL_write = symbol(library, "SSL_write");
    tls.SSL_get_error = symbol(library, "SSL_get_error");
    tls.context = new_context(method());
    end_if(tls.context == NULL, "no TLS");
    control(tls.context, SSL_CTRL_SET_READ_AHEAD, 1, NULL);
    set_buffer(tls.context, TLS_READ_AHEAD);
}

static void load_zstd(const char *name) {
    void *library = loaded(name);
    zstd.ZSTD_createDCtx = symbol(library, "ZSTD_createDCtx");
    zstd.ZSTD_decompressDCtx = symbol(library, "ZSTD_decompressDCtx");
}

static int connected(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    end_if(connect(fd, (struct sockaddr *)&address, sizeof address) != 0, "the server does not accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void connect_to(struct connection *c, int port) {
    c->fd = connected(port);
    if (tls.context) {
        c->session = tls.SSL_new(tls.context);
        end_if(c->session == NULL || tls.SSL_set_fd(c->session, c->fd) != 1, "no TLS");
        end_if(tls.SSL_connect(c->session) != 1, "no handshake");
        fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    }
    if (zstd.ZSTD_createDCtx) {
        c->encoded = malloc(room + MAX_ENCODED);
        end_if(c->encoded == NULL, "no memory");
    }
}

static void read_requests(int port) {
    char *line = NULL, text[4096];
    size_t size = 0;
    for (ssize_t length; (length = getline(&line, &size, stdin)) > 0; request_count++) {
        line[strcspn(line, "\n")] = 0;
        int written = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
                               line, port);
        end_if(written >= (int)sizeof text, "a target is too long");
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        end_if(requests == NULL, "no memory");
        requests[request_count] = strdup(text);
    }
    free(line);
}

static void print_time(double wall, double cpu) {
    wall = seconds(CLOCK_MONOTONIC) - wall;
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%.9f %.9f\n", wall, cpu);
}

static void read_all(int port, int threads, int connections) {
    read_requests(port);
    output = fresh_pages(request_count * room);
    struct loop *loop = calloc(threads, sizeof *loop);
    end_if(loop == NULL, "no memory");
    for (int i = 0; i < threads; i++) {
        loop[i].connections = connections;
        loop[i].connection = calloc(connections, sizeof *loop[i].connection);
        end_if(loop[i].connection == NULL, "no memory");
        if (zstd.ZSTD_createDCtx) loop[i].decoder = zstd.ZSTD_createDCtx();
        for (int j = 0; j < connections; j++) connect_to(&loop[i].connection[j], port);
    }
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < threads; i++)
        end_if(pthread_create(&loop[i].thread, NULL, run_loop, &loop[i]) != 0, "no thread");
    for (int i = 0; i < threads; i++) pthread_join(loop[i].thread, NULL);
    print_time(wall, cpu);
}

static void parse(long times) {
    size_t length = 0, space = 0;
    char *response = NULL;
    for (size_t got = 1; got > 0; length += got) {
        if (length == space) response = realloc(response, space = space ? 2 * space : RESPONSE_SIZE);
        end_if(response == NULL, "no memory");
        got = fread(response + length, 1, space - length, stdin);
    }
    output = fresh_pages(length);
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    while (times-- > 0) {
        size_t size;
        char *body = read_head(response, length < HEAD_SIZE ? length : HEAD_SIZE, &size);
        end_if(body == NULL || body + size != response + length, "not one whole response");
        memcpy(output, body, size);
    }
    print_time(wall, cpu);
}

int main(int count, char **argument) {
    if (count >= 6 && count % 2 == 0 && strcmp(argument[1], "read") == 0) {
        room = strtoull(argument[5], NULL, 10);
        for (int i = 6; i < count; i += 2) {
            bool is_tls = strcmp(argument[i], "tls") == 0;
            end_if(!is_tls && strcmp(argument[i], "zstd") != 0, "neither tls nor zstd");
            (is_tls ? load_tls : load_zstd)(argument[i + 1]);
        }
        read_all(atoi(argument[2]), atoi(argument[3]), atoi(argument[4]));
    } else if (count == 3 && strcmp(argument[1], "parse") == 0) {
        parse(atol(argument[2]));
    } else {
        fputs("usage: ceiling read PORT THREADS CONNECTIONS ROOM [tls LIBSSL] [zstd LIBZSTD]\n"
              "       ceiling parse TIMES\n", stderr);
        return 2;
    }
    return 0;
}
