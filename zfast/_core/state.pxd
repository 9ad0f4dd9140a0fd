# What the engine knows: its queues, leases, origins and batches, all under one lock.

from libcpp.deque cimport deque
from libcpp.map cimport multimap
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.unordered_set cimport unordered_set
from libcpp.vector cimport vector

from zfast._core.buffers cimport Arena
from zfast._core.exchange cimport Exchange
from zfast._core.extern.pthread cimport pthread_cond_t, pthread_mutex_t
from zfast._core.governor cimport Governor
from zfast._core.request cimport Endpoint, Request
from zfast._core.types cimport Status

ctypedef Request* Request_ptr

cdef enum:
    # So long whole objects are asked for where parts came to nothing. What answered so may have
    # been a cache on the way, or one object of many.
    WHOLE_SECONDS = 60

cdef cppclass Lease:
    # A connection borrowed from its urllib3 pool; `id` is what connections knows it by.
    long long id
    Origin* origin
    int worker                      # who has it while it carries a request, else NOBODY
    Request* request                # the scheduler's word; `exchange` is its worker's alone
    Exchange exchange
    bint idle
    bint used                       # it has carried an exchange before: it may be stale
    bint awaited                    # it was opened just now, for the request that it carries
    bint broken                     # it failed, or what came over it was not to be believed
    bint silent                     # nobody acknowledges what goes out over it
    Lease* twin                     # the other one with the same request, NULL for none
    bint wants_twin                 # it is among its origin's `awaiting_hedge`
    bint probes                     # its request went out beyond what its origin is taken to bear
    double late_after               # seconds after which its request may be hedged, 0 never
    size_t address                  # of the host, where there are several; else 0
    bint relayed                    # its bytes pass through Python
    bint polled                     # its worker polls it, or has not stopped yet
    bint retired
    int served                      # exchanges since it was adopted
    double adopted_at
    double idle_since

cdef cppclass Lane:
    # The waiting requests of one batch for one origin. Lanes take turns: a small batch does not
    # wait behind a large one.
    deque[Request*] waiting
    bint listed

cdef cppclass Origin:
    long long id
    Endpoint endpoint
    deque[Lane*] lanes
    vector[Lease*] idle             # the most recently used, least likely stale, last
    double whole_until              # ranges come to nothing there, or parts cannot be held together
    int splits_lost                 # those in a row that came to nothing
    vector[Lease*] awaiting_hedge   # whose requests are to be sent a second time
    Governor governor
    size_t pending
    int batches                     # that hold it: it stays for as long
    double rests_since              # when it became known, or the last batch let go of it
    int leases
    int dialling
    long dial_rounds                # how often dials were asked for, several at a time
    deque[long] dials               # of each that has no answer yet, the round that it is of
    int leaving                     # retired, but not with their owner yet
    bint promised                   # what another has given up is for this one
    bint listed
    int max_leases                  # what its pool allows, 0 no limit
    bint asked_back                 # the next connection that is idle goes back to its pool
    bint forgotten                  # it is to be freed once nothing refers to it
    int probes                      # since it last answered
    double probed_at                # when the last one might go out
    bint may_probe                  # ... which it has not yet
    int dials_begun                 # that Python is at
    double dialled_at               # when one began, ended, or had to wait for a thread
    int dial_failures
    double dial_after
    bint reached                    # a connection to it has been opened before
    double moved_at                 # when a request to it ended, or went out where none was out
    double first_byte               # seconds to it, of late; 0 unknown
    size_t blamed                   # the one of its addresses that answers by failures, 0 none
    double blamed_until

ctypedef Origin* Origin_ptr

cdef cppclass Notices:
    # Completions for one event loop, and the one descriptor that wakes it.
    deque[long long] batches
    deque[long long] indexes        # -1 the whole batch
    int wake_fd
    bint signalled
    long owners

cdef cppclass BatchState:
    long long id
    deque[Request] requests
    deque[Request] parts            # of large ranges among them
    unordered_map[size_t, Lane*] lanes
    unordered_set[Origin*] origins  # that its requests go to, or have gone to
    Arena* arena
    size_t outstanding
    double deadline                 # of the monotonic clock, 0 none
    Notices* notices
    bint notify_each
    bint fail_fast                  # the first failure cancels the rest
    bint failed
    Status cancelled                # why all of it is to end, STATUS_OK while it is not
    bint submitted
    bint open                       # more requests may come: it is not done before it is sealed
    bint attended                   # whoever waits for it does its I/O, and needs no telling
    bint over_sessions              # ... and there are TLS sessions that it may write to
    vector[long long] untold        # what was done of it meanwhile
    size_t entered                  # requests that were submitted
    bint done
    pthread_cond_t completed

ctypedef BatchState* BatchState_ptr

cdef enum CallKind:
    CALL_DIAL
    CALL_RELEASE                    # the connection can be used again
    CALL_CLOSE
    CALL_REDIRECT
    CALL_SWEEP                      # what servers have closed in pools is to be closed there

cdef struct Call:
    CallKind kind
    long long id                    # of the origin, the lease, or the batch
    size_t index

cdef cppclass Worker:
    # Who polls leases: an I/O thread, or the guest, a caller that attends to its own batch. It has
    # them while they carry requests; idle, they are nobody's.
    vector[Lease*] inbox
    int wake_fd
    bint woken
    bint scan                       # somebody else cancelled a request of its
    bint forget                     # leases that it polls are no longer its
    int load                        # leases that it has

cdef cppclass Scheduler:
    pthread_mutex_t lock
    pthread_cond_t calls_waiting
    deque[Call] calls
    vector[Worker*] workers         # the guest's is the last
    int guest                       # its index
    bint guest_is_expected          # somebody was admitted, and has its place
    bint has_sessions               # of TLS, over which a guest may write
    bint guest_is_here
    bint guest_settles              # it holds the lock, and looks at the jobs before it goes
    vector[Origin*] pending         # origins with waiting requests
    Lease* adopted                  # the one that is being adopted, else NULL
    unordered_map[long long, Origin*] origins
    vector[Origin*] forgotten       # those of them that are
    unordered_map[long long, BatchState*] batches
    unordered_map[long long, Lease*] leases_by_id
    vector[long long] finished      # batches that nobody has reaped yet
    multimap[double, Request*] delayed
    pthread_cond_t jobs_waiting
    deque[Request*] jobs            # whose bodies the decode threads are to make something of
    size_t backlog                  # bytes of these bodies
    bint decoding_ends
    int in_flight
    int max_in_flight
    int leases
    int max_leases
    int most_leases                 # beside origins that hang
    int dial_threads                # that serve calls
    int max_dial_threads            # that may
    int dials_begun                 # that they are at
    int allowed_leases              # what max_leases goes back to
    double restore_after            # when, 0 while there are descriptors enough
    double next_starving            # when to look after origins that others leave no room, 0 never
    int hanging                     # origins where no dial, or no request, has ended of late
    double hanging_at               # when these were counted
    int dialling
    int leaving
    double next_deadline
    double idle_timeout
    double next_idle                # when to look at the idle leases again, 0 if there are none
    double next_sweep               # when to look at what lies in pools, 0 if nothing does
    bint trims                      # nothing has been read for a while: spare memory is to go
    unsigned long long dice
    unsigned long long connections_opened
    unsigned long long connections_pooled
    unsigned long long connections_closed
    unsigned long long batches_attended
    bint stopping
    bint exiting                    # the process ends: nobody is told of anything any more

cdef enum:
    # Requests that a guest takes on; what is beyond, the I/O threads do.
    MOST_ATTENDED = 8
    NOBODY = -1                     # the caller is no worker: see scheduler_dispatch
    # Bytes that may wait to be decoded: then no more are asked for, until some have been.
    MAX_BACKLOG = 32 << 20

cdef inline double sooner(double one, double other) noexcept nogil:
    # Of two times, where 0 stands for never.
    if one == 0 or other == 0:
        return one + other
    return min(one, other)


cdef inline int origin_in_flight(const Origin* origin) noexcept nogil:
    # What is not in flight is idle.
    return origin.leases - <int>origin.idle.size()


cdef inline bint origin_has_waiting(const Origin* origin) noexcept nogil:
    return origin.pending > 0 or not origin.awaiting_hedge.empty()


cdef double monotonic() noexcept nogil
cdef bint wait_for(pthread_cond_t* waiting, pthread_mutex_t* lock, double seconds) noexcept nogil
cdef void ring(int fd) noexcept nogil
cdef void wake(Worker* worker) noexcept nogil
