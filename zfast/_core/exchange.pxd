# One HTTP exchange: a request on a lease, from the first byte sent to the last one received.

from libcpp.string cimport string

from zfast._core.buffers cimport Arena, Slab
from zfast._core.counters cimport Counters
from zfast._core.http1 cimport Parser
from zfast._core.retry cimport RetryCounts, RetryPolicy
from zfast._core.semantics cimport StatusPolicy, Verdict
from zfast._core.transport cimport Transport
from zfast._core.types cimport ByteRange, Method, Status

cdef cppclass Profile:
    # What the requests of one client have in common; immutable but for the counters.
    string fields                   # header lines of every request
    string foreign_fields           # the same without credentials, for another origin
    StatusPolicy statuses
    RetryPolicy retry
    double read_timeout             # seconds without progress, <= 0 none
    int max_in_flight
    bint keys_only                  # a redirect from "x" to "x/" is no object: "x" is a directory
    int in_flight
    Counters counters

cdef cppclass Endpoint:
    # What a request head has to say about the origin it goes to.
    string authority                # "http://host:port", to tell a redirect to the same origin
    string fields                   # Host, and what a forwarding proxy wants
    string prefix                   # before the target: the authority, for a forwarding proxy

cdef cppclass Request:
    Profile* profile
    Endpoint* endpoint
    Arena* arena
    void* origin                    # the scheduler's, that `endpoint` is of
    void* batch
    size_t index
    Method method
    string target
    string fields                   # header lines of this request alone
    string credentials              # more of them, but not for another origin
    ByteRange wanted
    const char* content             # of a PUT
    size_t content_size
    char* memory                    # where the body goes; NULL until made to measure
    size_t capacity
    bint measured
    Slab* slab
    size_t delivered                # verified bytes already in memory
    string etag                     # strong validator of the object that they are from
    long long object_size           # -1 unknown
    bint resumable
    bint foreign                    # redirected to another origin: no credentials
    Status cancelled                # why it is to end, STATUS_OK while it is not
    bint with_python                # its redirect waits for an answer
    bint range_ignored
    bint repeatable                 # sending it twice does no harm
    bint stale_retried
    bint names_directory            # the server redirected the key to its index page
    bint keep_head                  # the caller wants the raw head of the response
    RetryCounts retries
    int attempts
    # the outcome
    Status code
    int http_status
    int error                       # errno
    string detail                   # what urllib3 said of a connection that did not open
    string location
    string head                     # raw, where it is kept

cdef enum Conclusion:
    CONCLUDED_OK
    CONCLUDED_MISSING
    CONCLUDED_PRECONDITION
    CONCLUDED_RESTART               # the object changed under a resumed read
    CONCLUDED_STATUS                # a status that is worth another attempt
    CONCLUDED_REDIRECT
    CONCLUDED_FAILURE               # final: `code` says which
    CONCLUDED_BROKEN                # the connection or the response broke: `code` says how

cdef enum Phase:
    PHASE_IDLE
    PHASE_HEAD                      # sent or sending, no head yet
    PHASE_CONTENT
    PHASE_DRAIN                     # nothing more is wanted, the connection is

cdef cppclass Exchange:
    Transport transport
    Parser parser
    char* head
    size_t head_capacity
    string out
    size_t sent
    Request* request
    Phase phase
    Verdict verdict
    long long skip
    long long take
    Slab* tail                      # a suffix of a body of unknown length, until its end is known
    size_t tail_size
    size_t drained
    bint answered                   # a byte of the response has come
    bint reusable                   # after the conclusion: the connection may carry another request
    bint end_of_stream_is_clean
    Conclusion conclusion
    Status code
    double begun
    double first_byte
    double progress

cdef void exchange_begin(Exchange* exchange, Request* request, double now) noexcept nogil
cdef bint exchange_step(
    Exchange* exchange, short ready, char* scratch, size_t scratch_size, double now
) noexcept nogil
cdef short exchange_wants(const Exchange* exchange) noexcept nogil
