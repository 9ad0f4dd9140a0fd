"""What all requests of a client have in common, and the counters of what they did.

A policy is immutable once made; its counters outlive it in the sum that `process_counters` gives.
"""

from libc.string cimport memset
from libcpp.unordered_set cimport unordered_set

from zfast._core.counters cimport Counters, count, counted
from zfast._core.extern.pthread cimport (
    pthread_atfork,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
)
from zfast._core.request cimport PolicyState
from zfast._core.semantics cimport POLICY_MISSING, POLICY_RETRY, STATUS_LIMIT

ctypedef PolicyState* PolicyState_ptr

# The counters of every client that there is, and the sum of those of every one that was.
cdef pthread_mutex_t _states_lock
cdef unordered_set[PolicyState_ptr] _states
cdef Counters _retired
pthread_mutex_init(&_states_lock, NULL)
memset(&_retired, 0, sizeof(_retired))


cdef void _before_fork() noexcept nogil:
    pthread_mutex_lock(&_states_lock)


cdef void _after_fork() noexcept nogil:
    pthread_mutex_unlock(&_states_lock)


# As in buffers.pyx: a child finds whole what the lock guards.
if pthread_atfork(_before_fork, _after_fork, _after_fork):
    raise MemoryError("there is no memory to prepare for forks")


cdef void _add_counters(Counters* total, const Counters* some) noexcept nogil:
    cdef unsigned long long* sums = <unsigned long long*>total
    cdef const unsigned long long* numbers = <const unsigned long long*>some
    cdef size_t index
    for index in range(sizeof(Counters) // sizeof(unsigned long long)):
        sums[index] += counted(&numbers[index])


def process_counters():
    """The counters of all clients that this process has had, summed; see `Policy.counters`."""
    cdef Counters total
    pthread_mutex_lock(&_states_lock)
    total = _retired
    for state in _states:
        _add_counters(&total, &state.counters)
    pthread_mutex_unlock(&_states_lock)
    return total


def after_fork_in_child():
    """In a forked child: begin with no request in flight, and with nothing done."""
    memset(&_retired, 0, sizeof(_retired))
    for state in _states:
        # What the parent has in flight no thread will ever end here, and what it did is its own.
        state.in_flight.store(0)
        memset(&state.counters, 0, sizeof(state.counters))


cdef class Policy:
    """What all requests of a client have in common; immutable once made.

    Parameters
    ----------
    fields, foreign_fields : bytes
        Header lines for every request, and those that another origin may see after a redirect.
    missing, retry : iterable of int
        HTTP statuses that mean "missing", and those worth another attempt.
    retries : dict
        The numbers of a `urllib3.Retry`, None as -1; see ``RetryPolicy`` in retry.pxd.
    first_byte_timeout, read_timeout : float
        Seconds without an answer, and without progress, after which an attempt has failed; 0 for
        none.
    split_threshold, split_size : int
        Bytes of a range that goes over several connections, and of the part of each; 0 for none.
    hedge_budget, hedge_floor : float
        The share of requests that may be sent a second time, and after how many seconds at least.
    max_in_flight : int
        Requests of this client on the wire at once.
    suffix_ranges : bool
        Servers here answer ranges that count from the end; else the size is asked for first.
    keys_only : bool
        Targets are those of keys: a redirect from ``x`` to ``x/``, which is how servers answer
        for a directory, is a failure and not followed.
    """

    def __cinit__(self, bytes fields, bytes foreign_fields, missing, retry, dict retries,
                  double first_byte_timeout, double read_timeout, size_t split_threshold,
                  size_t split_size, double hedge_budget, double hedge_floor, int max_in_flight,
                  bint suffix_ranges, bint keys_only):
        cdef PolicyState* state = new PolicyState()
        self.state = state
        state.fields = fields
        state.foreign_fields = foreign_fields
        memset(&state.statuses, 0, sizeof(state.statuses))
        memset(&state.counters, 0, sizeof(state.counters))
        for statuses, flag in ((missing, POLICY_MISSING), (retry, POLICY_RETRY)):
            for status in statuses:
                if not 100 <= status < STATUS_LIMIT:
                    raise ValueError(f"{status!r} is no HTTP status")
                state.statuses.flags[status] |= flag
        state.retry = retries
        state.first_byte_timeout = first_byte_timeout
        state.read_timeout = read_timeout
        state.split_threshold = split_threshold
        state.split_size = split_size
        state.hedge_budget = hedge_budget
        state.hedge_floor = hedge_floor
        state.max_in_flight = max_in_flight
        state.suffix_ranges = suffix_ranges
        state.keys_only = keys_only
        state.in_flight.store(0)
        pthread_mutex_lock(&_states_lock)
        _states.insert(state)
        pthread_mutex_unlock(&_states_lock)

    def __dealloc__(self):
        # Batches hold the policies of their requests: no worker knows this one any more.
        if self.state == NULL:
            return
        pthread_mutex_lock(&_states_lock)
        _add_counters(&_retired, &self.state.counters)
        _states.erase(self.state)
        pthread_mutex_unlock(&_states_lock)
        del self.state

    def count_fallback(self, unsigned long long chunks):
        """Count chunks that zarr's own codec pipeline reads."""
        count(&self.state.counters.fallback_chunks, <long long>chunks)

    def counters(self):
        """What the requests of this policy did, as a dict of int and of lists of int.

        ``first_byte`` and ``transfer`` are histograms: element b counts times below 2**b µs that
        no earlier element counts.
        """
        # Each number is right, their sum may be a moment apart.
        cdef Counters now
        memset(&now, 0, sizeof(now))
        _add_counters(&now, &self.state.counters)
        return dict(now) | {"in_flight": self.state.in_flight.load()}
