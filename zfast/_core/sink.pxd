# A body that is made of chunks as they are in memory, put into the output while it comes.

from zfast._core.extern.uio cimport iovec
from zfast._core.placement cimport Layout, Placement
from zfast._core.scatter cimport Cursor

cdef struct Piece:
    # One stored chunk in a body, and where it goes.
    size_t start                    # its first byte in the body
    size_t size
    size_t number                   # in its shard
    Placement placement

cdef struct Sink:
    const Layout* layout
    const Piece* pieces             # in the order of `start`, without overlap
    size_t count
    size_t current
    size_t offset                   # what of the first piece comes before the body
    size_t position                 # where the last write ended
    bint opened                     # `cursor` is at the current piece
    Cursor cursor

cdef bint sink_takes(const Layout* layout, const Piece* pieces, size_t count) noexcept nogil
cdef void sink_start(
    Sink* sink, const Layout* layout, const Piece* pieces, size_t count, size_t offset
) noexcept nogil
cdef int sink_vectors(
    Sink* sink, size_t position, size_t size, iovec* vectors, int limit
) noexcept nogil
cdef void sink_write(Sink* sink, size_t position, const char* data, size_t size) noexcept nogil
