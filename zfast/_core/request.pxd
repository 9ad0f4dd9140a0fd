# One request: whose it is, what it wants, where its body goes, and how it came out.

from libcpp.atomic cimport atomic
from libcpp.string cimport string
from libcpp.vector cimport vector

from zfast._core.buffers cimport Arena, Slab
from zfast._core.counters cimport Counters
from zfast._core.placement cimport Layout
from zfast._core.retry cimport RetryCounts, RetryPolicy
from zfast._core.semantics cimport StatusPolicy
from zfast._core.sink cimport Piece
from zfast._core.types cimport ByteRange, Method, Status

cdef cppclass PolicyState:
    # What the requests of one client have in common; immutable but for the counters.
    string fields                   # header lines of every request
    string foreign_fields           # the same without credentials, for another origin
    StatusPolicy statuses
    RetryPolicy retry
    double first_byte_timeout       # seconds from the request to its answer, <= 0 none
    double read_timeout             # seconds without progress, <= 0 none
    size_t split_threshold          # bytes of a range that is read by several requests
    size_t split_size               # ... of which each gets so many, 0 for no parts
    double hedge_budget             # the share of requests that may be sent a second time
    double hedge_floor              # ... seconds after the first, at least
    int max_in_flight
    bint suffix_ranges              # servers here answer ranges that count from the end
    bint keys_only                  # a redirect from "x" to "x/" is no object: "x" is a directory
    atomic[int] in_flight           # changed under the lock alone
    Counters counters

cdef cppclass Endpoint:
    # What a request head has to say about the origin it goes to.
    string authority                # "http://host:port", to tell a redirect to the same origin
    string fields                   # Host, and what a forwarding proxy wants
    string prefix                   # before the target: the authority, for a forwarding proxy

cdef cppclass Request:
    PolicyState* policy
    Endpoint* endpoint
    Arena* arena
    void* origin                    # the scheduler's, that `endpoint` is of
    void* batch
    size_t index
    Method method
    bint asks_size                  # before its range, by one that is empty
    bint by_size                    # has asked, and its range is made of that
    string target
    string fields                   # header lines of this request alone
    string credentials              # more of them, but not for another origin
    ByteRange wanted
    ByteRange wanted_next           # once the size has been asked for
    const char* content             # of a PUT
    size_t content_size
    char* memory                    # where the body goes; NULL until made to measure
    size_t capacity
    bint measured
    Slab* slab
    const Layout* layout            # of the chunks in the body, where they go out as they come
    const Piece* pieces             # those chunks, NULL where the body goes to `memory`
    size_t piece_count
    size_t offset                   # what of the first chunk comes before the body
    long long expected              # bytes that the body must have, -1 any number
    long long required_object_size  # bytes that the object must have, -1 any number
    size_t most                     # bytes that a body is worth taking in, 0 any number
    void* task                      # what the assembly makes of the body, NULL for nothing
    bint lands                      # ... and that is nothing more, once the body has come
    bint parked                     # waits in no lane for what another request brings
    bint pinned                     # of an object that is known already, and has to be the same
    string pinned_tag               # its entity tag as it came, empty if it has none
    size_t delivered                # verified bytes already in memory
    string tag                      # entity tag of the object that they are from, as it came
    string etag                     # the same, if it is a strong validator
    long long object_size           # -1 unknown
    bint recent                     # modified so lately that its next state may have the same tag
    bint resumable
    bint foreign                    # redirected to another origin: no credentials
    Status cancelled                # why it is to end, STATUS_OK while it is not
    Status unwanted                 # the same, but for what ends since another part has failed
    bint with_python                # its redirect waits for an answer
    bint range_ignored
    bint repeatable                 # sending it twice does no harm
    int stale_retries
    bint names_directory            # the server redirected the key to its index page
    bint keep_head                  # the caller wants the raw head of the response
    # of a large range over several connections, see splitting
    Request* lead                   # the one that this is a part of, NULL for none
    vector[Request*] parts          # of a lead, in order
    long long past                  # where the whole range ends
    size_t unfinished               # the lead, and parts
    bint opened                     # the head has come, and a tag that holds the parts together
    bint undivided                  # the server sends the whole object: there are no parts
    bint parts_sent                 # the parts are on their way
    string part_tag                 # ... of an object with this tag
    long long part_object_size      # ... and of this size
    Status failed_with              # what the first of them came to, STATUS_OK while none failed
    const Request* failed           # ... which
    void* claimant                  # the exchange whose response it is, NULL until one has come
    long dial_round                 # of its origin, as it began to wait for a connection
    size_t avoided                  # the address where it failed last, 0 none
    RetryCounts retries
    unsigned long long seen_answers     # of its origin, as it first went out or was last refused
    int attempts
    # the outcome
    Status code
    int http_status
    int error                       # errno
    string detail                   # what the error is to say beside the code
    string location
    string head                     # raw, where it is kept

cdef void request_ask_size(Request* request) noexcept nogil
cdef bint request_count_from_start(Request* request) noexcept nogil
cdef void request_undivide(Request* lead) noexcept nogil
cdef void request_compose(Request* request, string* out) noexcept nogil
cdef bint request_has_all(const Request* request) noexcept nogil
cdef bint request_make_room(Request* request, size_t size) noexcept nogil
cdef bint request_grow(Request* request, size_t size) noexcept nogil
cdef void request_shrink(Request* request) noexcept nogil
cdef void request_forget_memory(Request* request) noexcept nogil
