# One table of operations over an open connection: what moves bytes, and nothing that opens one.

from zfast._core.extern.uio cimport iovec

cdef enum:
    TRANSPORT_WOULD_BLOCK = -1      # nothing moved; `recv_wants`, `send_wants` say what to poll for
    TRANSPORT_FAILED = -2           # `error` holds the errno

cdef struct TransportOperations:
    # Each moves at most `size` bytes and returns how many, 0 for the end of the stream (recv only),
    # or one of the two codes above.
    ssize_t (*recv)(Transport*, char*, size_t) noexcept nogil
    # The same into pieces of memory; NULL where that would only be a copy in disguise.
    ssize_t (*recv_vectors)(Transport*, const iovec*, int) noexcept nogil
    ssize_t (*send)(Transport*, const char*, size_t) noexcept nogil
    # Whether bytes wait that no poll would tell of; NULL where none ever do.
    bint (*pending)(Transport*) noexcept nogil
    # Whether a recv may take from the kernel what comes behind what it gives; NULL where none does.
    # Only while a response is awaited: at rest whatever comes has to be where a poll sees it.
    void (*read_ahead)(Transport*, bint) noexcept nogil
    # Has the kernel acknowledge at once what has come.
    void (*acknowledge)(Transport*) noexcept nogil
    # Ends both directions at once without giving the descriptor up: its owner closes it.
    void (*shut)(Transport*) noexcept nogil

cdef struct Transport:
    int fd
    void* session                   # SSL*, NULL for a plain socket
    const TransportOperations* operations
    short recv_wants                # TLS may have to write in order to read ...
    short send_wants                # ... and the other way round
    int error
    const char* fault               # what broke the protocol below HTTP, NULL if nothing did
    bint is_refusal                 # the peer will not have us, however often it is asked
    long long segment               # bytes that the peer may hold back as less than a segment

cdef void transport_over_socket(Transport* transport, int fd) noexcept nogil
