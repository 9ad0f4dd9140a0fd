# Moves the bytes of an exchange over its connection.

from zfast._core.exchange cimport Exchange
from zfast._core.request cimport Request

cdef void transfer_begin(Exchange* exchange, Request* request, double now) noexcept nogil
cdef bint transfer_step(
    Exchange* exchange, short ready, char* scratch, size_t scratch_size, double now
) noexcept nogil
cdef short transfer_wants(const Exchange* exchange) noexcept nogil
