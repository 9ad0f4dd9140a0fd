# One table of operations over an open connection: what moves bytes, and nothing that opens one.

cdef enum:
    TRANSPORT_WOULD_BLOCK = -1      # nothing moved; `wants` says what to poll for
    TRANSPORT_FAILED = -2           # `error` holds the errno

cdef struct TransportOperations:
    # Both move at most `size` bytes and return how many, 0 for the end of the stream (recv only),
    # or one of the two codes above.
    ssize_t (*recv)(Transport*, char*, size_t) noexcept nogil
    ssize_t (*send)(Transport*, const char*, size_t) noexcept nogil
    # Ends both directions at once without giving the descriptor up: its owner closes it.
    void (*shut)(Transport*) noexcept nogil

cdef struct Transport:
    int fd
    void* session
    const TransportOperations* operations
    short wants
    int error

cdef void transport_over_socket(Transport* transport, int fd) noexcept nogil
