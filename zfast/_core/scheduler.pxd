# Which request goes out next on which lease: the queues of the engine, all under one lock.

from libcpp.deque cimport deque
from libcpp.map cimport multimap
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from zfast._core.buffers cimport Arena
from zfast._core.exchange cimport Endpoint, Exchange, Request
from zfast._core.extern.pthread cimport pthread_cond_t, pthread_mutex_t

ctypedef Request* Request_ptr

cdef cppclass Lease:
    # A connection borrowed from its urllib3 pool; `id` is what connections.py knows it by.
    long long id
    Origin* origin
    int worker
    Request* request                # the scheduler's word; `exchange` is its worker's alone
    Exchange exchange
    bint idle
    bint used                       # it has carried an exchange before: it may be stale
    bint relayed                    # its bytes pass through Python
    bint adopted                    # its worker polls it
    bint retired
    int served                      # exchanges since it was adopted
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
    size_t pending
    int leases
    int dialling
    int leaving                     # retired, but not with their owner yet
    bint listed
    int max_leases                  # what its pool allows, 0 no limit
    int dials_begun                 # that Python is at
    int dial_failures
    double dial_after

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
    unordered_map[size_t, Lane*] lanes
    Arena* arena
    size_t outstanding
    double deadline                 # of the monotonic clock, 0 none
    Notices* notices
    bint notify_each
    bint fail_fast                  # the first failure cancels the rest
    bint failed
    bint submitted
    bint done
    pthread_cond_t completed

ctypedef BatchState* BatchState_ptr

cdef enum CallKind:
    CALL_DIAL
    CALL_RELEASE                    # the connection can be used again
    CALL_CLOSE
    CALL_REDIRECT

cdef struct Call:
    CallKind kind
    long long id                    # of the origin, the lease, or the batch
    size_t index

cdef struct Assignment:
    Lease* lease
    Request* request                # NULL: only adopt the lease

cdef cppclass Worker:
    vector[Assignment] inbox
    int wake_fd
    bint woken
    bint scan                       # somebody else cancelled a request or retired a lease of its
    bint forget                     # leases of its were retired and are to be freed
    int leases

cdef cppclass Scheduler:
    pthread_mutex_t lock
    pthread_cond_t calls_waiting
    deque[Call] calls
    vector[Worker*] workers
    vector[Origin*] pending         # origins with waiting requests
    unordered_map[long long, Origin*] origins
    unordered_map[long long, BatchState*] batches
    unordered_map[long long, Lease*] leases_by_id
    vector[long long] finished      # batches that nobody has reaped yet
    multimap[double, Request*] delayed
    int in_flight
    int max_in_flight
    int leases
    int max_leases
    int max_dials_of_one            # connections to one origin that are being opened at once
    int allowed_leases              # what max_leases goes back to
    double restore_after            # when, 0 while there are descriptors enough
    int dialling
    int leaving
    double next_deadline
    unsigned long long dice
    unsigned long long connections_opened
    unsigned long long connections_pooled
    unsigned long long connections_closed
    bint stopping
    bint exiting                    # the process ends: nobody is told of anything any more

cdef enum:
    NOBODY = -1                     # the caller is no worker: see scheduler_dispatch

cdef double monotonic() noexcept nogil
cdef void ring(int fd) noexcept nogil
cdef void wake(Worker* worker) noexcept nogil
cdef void scheduler_enqueue(Scheduler* s, Request* request, bint first) noexcept nogil
cdef void scheduler_withdraw(
    BatchState* batch, long long index, vector[Request_ptr]* withdrawn
) noexcept nogil
cdef void scheduler_withdraw_all(Origin* origin, vector[Request_ptr]* withdrawn) noexcept nogil
cdef void scheduler_submit(Scheduler* s, BatchState* batch, double now) noexcept nogil
cdef void scheduler_complete(Scheduler* s, BatchState* batch) noexcept nogil
cdef void scheduler_notice(BatchState* batch, long long index) noexcept nogil
cdef void scheduler_call(Scheduler* s, CallKind kind, long long id, size_t index) noexcept nogil
cdef void scheduler_retire(Scheduler* s, Lease* lease, bint reusable) noexcept nogil
cdef void scheduler_left(Scheduler* s, Origin* origin, double now) noexcept nogil
cdef void scheduler_lose(Scheduler* s, Lease* lease) noexcept nogil
cdef void scheduler_adopt(Scheduler* s, Lease* lease, double now) noexcept nogil
cdef void scheduler_withdraw_dials(Scheduler* s, Origin* origin) noexcept nogil
cdef void scheduler_dispatch(Scheduler* s, int caller, double now) noexcept nogil
