/* The link: a network namespace of its own, and a slow, lossy wire that leads there.
 *
 *   cc -O2 link.c -o link
 *   link DELAY LOSS RATE
 *
 * The wire is two TUN devices, one here and one in the namespace. What the kernel sends into one
 * comes out of the other DELAY microseconds later, in order; each packet is lost with the
 * probability LOSS, and RATE bytes a second at most leave each end (0: as many as come). So both
 * ends are the kernel's own TCP, which sends again what is lost, as over any other wire.
 *
 * It prints the addresses of this end and of the other, and takes commands, a line each, which it
 * repeats once they hold: `down` (whatever is sent or under way is lost) and `up`. It ends with its
 * stdin. Neither the namespace nor the devices have a life of their own: they are gone with the
 * last process that has them, however that ends. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Of a packet with all headers, the one of the device included, which comes before the packet. */
enum { LARGEST = 65536 + sizeof(struct virtio_net_hdr), MTU = 1500, QUEUE_LENGTH = 20000 };

/* More than this on its way in one direction is lost, as in any router. */
static const size_t WIRE_SIZE = 256 * 1024 * 1024;

struct packet {
    struct packet *next;
    int64_t due;
    size_t size;
    char bytes[];
};

struct wire {
    int from, to;
    struct packet *first, **last;
    size_t size;
    int64_t free_at; /* when its last byte has left, at RATE */
};

static int64_t delay, rate;
static double loss;
static bool up = true;

static void end_if(bool failed, const char *what) {
    if (!failed) return;
    fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

/* Between 0 and 1, and the same numbers in each run (xorshift64*). */
static double chance(void) {
    static uint64_t state = 0x9E3779B97F4A7C15;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * UINT64_C(2685821657736338717) >> 11) * 0x1p-53;
}

/* ---- the devices */

static int device(struct ifreq *request) {
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    end_if(fd < 0, "/dev/net/tun");
    *request = (struct ifreq){.ifr_name = "zfast%d", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    end_if(ioctl(fd, TUNSETIFF, request) < 0, "no device");
    /* Where nothing is lost the kernel may send 64 KiB in one, which saves most of the work here.
     * What is lost on a wire are packets of its own size, though. */
    unsigned long offload = loss > 0 ? 0 : TUN_F_CSUM | TUN_F_TSO4;
    end_if(ioctl(fd, TUNSETOFFLOAD, offload) < 0, "no offload");
    return fd;
}

static struct sockaddr address(uint32_t host) {
    struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(host)};
    struct sockaddr any;
    memcpy(&any, &ipv4, sizeof any);
    return any;
}

static void configure(int control, const char *name, uint32_t mine, uint32_t peer) {
    struct ifreq request = {0};
    memcpy(request.ifr_name, name, IFNAMSIZ);
    request.ifr_addr = address(mine);
    end_if(ioctl(control, SIOCSIFADDR, &request) < 0, "no address");
    request.ifr_dstaddr = address(peer);
    end_if(ioctl(control, SIOCSIFDSTADDR, &request) < 0, "no address of the peer");
    request.ifr_mtu = MTU;
    end_if(ioctl(control, SIOCSIFMTU, &request) < 0, "no MTU");
    request.ifr_qlen = QUEUE_LENGTH;
    end_if(ioctl(control, SIOCSIFTXQLEN, &request) < 0, "no queue");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    end_if(ioctl(control, SIOCSIFFLAGS, &request) < 0, "it does not come up");
}

static int control_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    end_if(fd < 0, "no socket");
    return fd;
}

static void set(const char *path, const char *value) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    end_if(fd < 0 || write(fd, value, strlen(value)) < 0, path);
    close(fd);
}

/* The same TCP on every machine: the congestion control that each kernel has and lets any namespace
 * choose (RFC 5681), and no memory of earlier connections to an address. */
static void configure_tcp(void) {
    set("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
    set("/proc/sys/net/ipv4/tcp_no_metrics_save", "1");
}

static void lay(struct wire wires[2]) {
    struct ifreq here, there;
    int control = control_socket(), ours = device(&here);
    memset(&there, 0, sizeof there);
    struct ifreq index = here;
    end_if(ioctl(control, SIOCGIFINDEX, &index) < 0, "no index");
    /* 198.18.0.0/15 is there for benchmarks (RFC 2544); no two devices have the same index. */
    uint32_t mine = 0xC6120000 + 2 * (index.ifr_ifindex & 0xFFFF), peer = mine + 1;
    configure(control, here.ifr_name, mine, peer);
    end_if(unshare(CLONE_NEWNET) < 0, "no namespace");
    int theirs = device(&there);
    configure(control_socket(), there.ifr_name, peer, mine);
    configure_tcp();
    wires[0] = (struct wire){.from = ours, .to = theirs};
    wires[1] = (struct wire){.from = theirs, .to = ours};
    for (int i = 0; i < 2; i++) wires[i].last = &wires[i].first;
    char text[2][INET_ADDRSTRLEN];
    uint32_t ends[2] = {htonl(mine), htonl(peer)};
    for (int i = 0; i < 2; i++) inet_ntop(AF_INET, &ends[i], text[i], sizeof text[i]);
    printf("%s %s\n", text[0], text[1]);
}

/* ---- the wire */

static void take(struct wire *wire) {
    static char bytes[LARGEST];
    ssize_t size;
    while ((size = read(wire->from, bytes, sizeof bytes)) > 0) {
        if (!up || wire->size + size > WIRE_SIZE || (loss > 0 && chance() < loss)) continue;
        int64_t sent = now();
        if (rate > 0) {
            if (sent < wire->free_at) sent = wire->free_at;
            sent = wire->free_at = sent + size * INT64_C(1000000000) / rate;
        }
        struct packet *packet = malloc(sizeof *packet + size);
        end_if(packet == NULL, "no memory");
        *packet = (struct packet){.due = sent + delay, .size = size};
        memcpy(packet->bytes, bytes, size);
        *wire->last = packet;
        wire->last = &packet->next;
        wire->size += size;
    }
    end_if(size < 0 && errno != EAGAIN, "a device that cannot be read");
}

static void give(struct wire *wire) {
    int64_t until = now();
    while (wire->first != NULL && (!up || wire->first->due <= until)) {
        struct packet *packet = wire->first;
        /* What the other end does not take is lost. */
        if (up && write(wire->to, packet->bytes, packet->size) < 0 && errno == EBADFD)
            end_if(true, "a device that is gone");
        wire->first = packet->next;
        if (wire->first == NULL) wire->last = &wire->first;
        wire->size -= packet->size;
        free(packet);
    }
}

static void obey(void) {
    char line[16];
    ssize_t size = read(STDIN_FILENO, line, sizeof line);
    if (size <= 0) exit(0);
    up = strncmp(line, "up\n", size) == 0;
    end_if(!up && strncmp(line, "down\n", size) != 0, "not a command");
    end_if(write(STDOUT_FILENO, line, size) != size, "nobody listens");
}

int main(int count, char **argument) {
    if (count != 4) {
        fputs("usage: link DELAY LOSS RATE\n", stderr);
        return 2;
    }
    delay = atoll(argument[1]) * 1000;
    loss = atof(argument[2]);
    rate = atoll(argument[3]);
    prctl(PR_SET_TIMERSLACK, 1);
    struct wire wires[2];
    lay(wires);
    fflush(stdout);
    for (;;) {
        struct pollfd polled[3] = {{.fd = STDIN_FILENO, .events = POLLIN}};
        int64_t due = INT64_MAX;
        for (int i = 0; i < 2; i++) {
            polled[i + 1] = (struct pollfd){.fd = wires[i].from, .events = POLLIN};
            if (wires[i].first != NULL && wires[i].first->due < due) due = wires[i].first->due;
        }
        int64_t left = due == INT64_MAX ? -1 : due - now();
        if (left < 0 && due != INT64_MAX) left = 0;
        struct timespec wait = {left / 1000000000, left % 1000000000};
        end_if(ppoll(polled, 3, left < 0 ? NULL : &wait, NULL) < 0 && errno != EINTR, "no poll");
        for (int i = 0; i < 2; i++) {
            if (polled[i + 1].revents) take(&wires[i]);
            give(&wires[i]);
        }
        if (polled[0].revents) obey();
    }
}
