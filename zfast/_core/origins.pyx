"""Origins: made known to the engine, held by the batches that ask them, and forgotten.

One that is forgotten is freed when nothing refers to it any more: no batch, connection or dial.
Each function but the first runs under the scheduler's lock, and none blocks.
"""

from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from cython.operator cimport dereference

from zfast._core.governor cimport governor_start
from zfast._core.state cimport Origin_ptr, monotonic


cdef Origin* origin_new(
    long long id, string authority, string fields, string prefix, int max_leases
) noexcept nogil:
    cdef Origin* origin = new Origin()
    origin.id = id
    origin.endpoint.authority = authority
    origin.endpoint.fields = fields
    origin.endpoint.prefix = prefix
    origin.max_leases = max_leases
    origin.rests_since = monotonic()
    governor_start(&origin.governor)
    return origin


cdef Origin* origin_known(Scheduler* s, long long id) noexcept nogil:
    # NULL where there is none of this number.
    cdef unordered_map[long long, Origin_ptr].iterator known = s.origins.find(id)
    return dereference(known).second if known != s.origins.end() else NULL


cdef void origin_forget(Scheduler* s, Origin* origin) noexcept nogil:
    # Nobody will ask it anything again, but for what has been asked already.
    if not origin.forgotten:
        origin.forgotten = True
        s.forgotten.push_back(origin)


cdef inline bint _is_in_use(const Origin* origin) noexcept nogil:
    return origin.batches > 0 or origin.leases > 0 or origin.dialling > 0 or (
        origin.leaving > 0 or origin.listed)


cdef void origins_free_forgotten(Scheduler* s) noexcept nogil:
    # Those that are in use wait for the next call.
    cdef vector[Origin_ptr] in_use
    for origin in s.forgotten:
        if _is_in_use(origin):
            in_use.push_back(origin)
        else:
            s.origins.erase(origin.id)
            del origin
    s.forgotten.swap(in_use)


cdef bint origin_forget_rested(Scheduler* s, Origin* origin, double since) noexcept nogil:
    # Whether it is gone: nothing refers to it, and no batch has from that time on.
    if _is_in_use(origin) or origin.forgotten or origin.rests_since > since:
        return False
    s.origins.erase(origin.id)
    del origin
    return True


cdef void batch_holds(BatchState* batch, Origin* origin) noexcept nogil:
    if batch.origins.insert(origin).second:
        origin.batches += 1


cdef void batch_lets_go(BatchState* batch) noexcept nogil:
    cdef double now = monotonic()
    for origin in batch.origins:
        origin.batches -= 1
        origin.rests_since = now
    batch.origins.clear()
