# Connections in the engine's hands: idle, at work, in pairs, given back, and wished for.

from zfast._core.state cimport CallKind, Lease, Origin, Scheduler

cdef void call_python(Scheduler* s, CallKind kind, long long id, size_t index) noexcept nogil
cdef Lease* lease_new(long long id, size_t max_head) noexcept nogil
cdef void lease_free(Lease* lease) noexcept nogil
cdef bint lease_has_ended(Lease* lease) noexcept nogil
cdef void lease_rest(Scheduler* s, Lease* lease, double now) noexcept nogil
cdef void lease_watch_idle(Scheduler* s, const Lease* lease, double now) noexcept nogil
cdef void lease_retire(Scheduler* s, Lease* lease, bint reusable) noexcept nogil
cdef void lease_lose(Scheduler* s, Lease* lease) noexcept nogil
cdef double lease_hedge_due(Scheduler* s, const Lease* lease, double now) noexcept nogil
cdef void lease_hedge(Scheduler* s, Lease* lease) noexcept nogil
cdef void lease_drop_hedge(Lease* lease) noexcept nogil
cdef void lease_part(Scheduler* s, Lease* lease) noexcept nogil
cdef void lease_drop_twin(Scheduler* s, Lease* lease) noexcept nogil
cdef double origin_probed_next(const Origin* origin) noexcept nogil
cdef int origin_room(const Origin* origin, double now) noexcept nogil
cdef bint origin_can_dial(const Scheduler* s, const Origin* origin) noexcept nogil
cdef bint origin_lacks(const Scheduler* s, const Origin* origin) noexcept nogil
cdef bint origin_may_go_beyond(
    Scheduler* s, const Origin* origin, long beyond, double now
) noexcept nogil
cdef void origin_dial(Scheduler* s, Origin* origin, double now) noexcept nogil
cdef void origin_drop_dial(Scheduler* s, Origin* origin) noexcept nogil
cdef long origin_end_dial(Scheduler* s, Origin* origin) noexcept nogil
cdef void origin_withdraw_dials(Scheduler* s, Origin* origin) noexcept nogil
