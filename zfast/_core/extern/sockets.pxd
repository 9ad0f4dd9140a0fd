# Sockets, poll and pipes of POSIX, as far as the transport and the engine use them.

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    ctypedef unsigned long nfds_t
    int poll(pollfd*, nfds_t, int)
    short POLLIN
    short POLLOUT
    short POLLERR
    short POLLHUP
    short POLLNVAL

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int, void*, size_t, int)
    ssize_t send(int, const void*, size_t, int)
    int shutdown(int, int)
    int SHUT_RDWR

# A peer that has gone must be an error, never a SIGPIPE; where there is no flag (macOS), that is so
# since the interpreter ignores the signal.
cdef extern from * nogil:
    """
    #include <sys/socket.h>
    #ifdef MSG_NOSIGNAL
    #define ZFAST_SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)
    #else
    #define ZFAST_SEND_FLAGS MSG_DONTWAIT
    #endif
    """
    int ZFAST_SEND_FLAGS
    int MSG_DONTWAIT

# Of a TCP connection: the size of a full segment, the acknowledgement of what has come so far, and
# the bytes sent for which the peer has not given one; 0 where the system does not say.
cdef extern from * nogil:
    """
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/ioctl.h>
    #ifdef __linux__
    #include <linux/sockios.h>
    #endif
    static inline int zfast_unacknowledged(int fd) {
        int size = 0;
    #if defined(SIOCOUTQ)
        if (ioctl(fd, SIOCOUTQ, &size) != 0) return 0;
    #elif defined(SO_NWRITE)
        socklen_t length = sizeof(size);
        if (getsockopt(fd, SOL_SOCKET, SO_NWRITE, &size, &length) != 0) return 0;
    #endif
        return size;
    }
    static inline int zfast_segment_size(int fd) {
        int size = 0;
        socklen_t length = sizeof(size);
        if (getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &size, &length) != 0) return 0;
        return size;
    }
    static inline void zfast_acknowledge(int fd) {
    #ifdef TCP_QUICKACK
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof(yes));
    #endif
    }
    """
    int zfast_unacknowledged(int)
    int zfast_segment_size(int)
    void zfast_acknowledge(int)
