# What a client's requests did, counted by several threads at once, with the engine's lock or not.

cdef extern from * nogil:
    """
    static inline void zfast_count(unsigned long long* counter, long long more) {
        __atomic_fetch_add(counter, more, __ATOMIC_RELAXED);
    }
    static inline unsigned long long zfast_counted(const unsigned long long* counter) {
        return __atomic_load_n(counter, __ATOMIC_RELAXED);
    }
    """
    void count "zfast_count"(unsigned long long* counter, long long more)
    unsigned long long counted "zfast_counted"(const unsigned long long* counter)

cdef enum:
    HISTOGRAM_BUCKETS = 32      # bucket b counts times below 2**b microseconds

cdef struct Counters:
    unsigned long long batches          # submitted with at least one read of the client
    unsigned long long requests         # HTTP exchanges begun, retries and redirects included
    unsigned long long reads            # reads, heads, puts and deletes completed, however
    unsigned long long missing
    unsigned long long failed
    unsigned long long cancelled
    unsigned long long requests_on_new_connections
    unsigned long long requests_on_used_connections
    unsigned long long fallback_reads   # reads served by way of Python's ssl
    unsigned long long fallback_chunks  # chunks read by zarr's own codec pipeline
    unsigned long long bytes_received   # wanted body bytes
    unsigned long long bytes_sent       # content of PUTs
    unsigned long long retries
    unsigned long long stale_retries    # free ones: an idle connection had been closed
    unsigned long long redirects
    unsigned long long resumed          # bodies continued from the byte reached
    unsigned long long split            # reads of several requests each
    unsigned long long hedges           # requests sent a second time because the answer was late
    unsigned long long hedge_wins       # ... of which the second answer came first
    unsigned long long ranges_ignored   # reads of a part for which the whole object came
    unsigned long long throttled        # answers 429 and 503
    unsigned long long index_hits       # reads of shards whose index was kept, or on its way
    unsigned long long index_misses     # ... whose index had to be read
    unsigned long long first_byte[HISTOGRAM_BUCKETS]
    unsigned long long transfer[HISTOGRAM_BUCKETS]


cdef inline void record_time(unsigned long long* histogram, double seconds) noexcept nogil:
    cdef double limit = 1e-6
    cdef int bucket = 0
    while bucket < HISTOGRAM_BUCKETS - 1 and seconds >= limit:
        limit *= 2
        bucket += 1
    count(&histogram[bucket], 1)
