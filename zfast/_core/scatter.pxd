# Selected elements of a decoded chunk go where they belong in the output, at once or as they come.

from zfast._core.extern.uio cimport iovec
from zfast._core.placement cimport MAX_DIMENSIONS, Extent, Layout, Placement, Plan

cdef struct Cursor:
    # A chunk that comes in pieces. It keeps no pointer to layout, placement or extents.
    Plan plan
    size_t position                 # where the last write ended
    size_t row                      # where the next run begins, SIZE_MAX after the last
    char* out                       # and where it goes
    Py_ssize_t[MAX_DIMENSIONS] at

cdef void scatter(
    const Layout* layout, const Placement* placement, const char* chunk
) noexcept nogil
cdef void scatter_fill(
    size_t item_size, const Placement* placement, const char* value
) noexcept nogil
cdef char* scatter_target(const Layout* layout, const Placement* placement) noexcept nogil

cdef bint cursor_start(
    Cursor* cursor, const Layout* layout, const Placement* placement
) noexcept nogil
cdef int cursor_vectors(
    Cursor* cursor, size_t position, size_t size, iovec* vectors, int limit
) noexcept nogil
cdef void cursor_write(
    Cursor* cursor, size_t position, const char* data, size_t size
) noexcept nogil
