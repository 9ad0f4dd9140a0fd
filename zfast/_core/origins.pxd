# Origins: made known to the engine, held by the batches that ask them, and forgotten.

from libcpp.string cimport string

from zfast._core.state cimport BatchState, Origin, Scheduler

cdef Origin* origin_new(
    long long id, string authority, string fields, string prefix, int max_leases
) noexcept nogil
cdef Origin* origin_known(Scheduler* s, long long id) noexcept nogil
cdef void origin_forget(Scheduler* s, Origin* origin) noexcept nogil
cdef bint origin_forget_rested(Scheduler* s, Origin* origin, double since) noexcept nogil
cdef void origins_free_forgotten(Scheduler* s) noexcept nogil
cdef void batch_holds(BatchState* batch, Origin* origin) noexcept nogil
cdef void batch_lets_go(BatchState* batch) noexcept nogil
