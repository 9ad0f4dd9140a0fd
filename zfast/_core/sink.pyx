"""Sinks: the bytes of uncompressed chunks go from the receive scratch to the output as they come.

Pure: moves memory. What lies between the pieces is skipped; a write may begin anywhere, since a
read that is begun again goes back.
"""

from zfast._core.placement cimport Layout
from zfast._core.extern.uio cimport iovec
from zfast._core.scatter cimport Cursor, cursor_start, cursor_vectors, cursor_write


cdef bint sink_takes(const Layout* layout, const Piece* pieces, size_t count) noexcept nogil:
    # Whether all pieces can go out while they come.
    cdef Cursor cursor
    cdef size_t index
    for index in range(count):
        if not cursor_start(&cursor, layout, &pieces[index].placement):
            return False
    return True


cdef void sink_start(
    Sink* sink, const Layout* layout, const Piece* pieces, size_t count, size_t offset
) noexcept nogil:
    sink.layout = layout
    sink.pieces = pieces
    sink.count = count
    sink.current = 0
    sink.offset = offset
    sink.position = 0
    sink.opened = False


cdef void _seek(Sink* sink, size_t position) noexcept nogil:
    cdef const Piece* piece
    sink.opened = False
    sink.current = 0
    while sink.current < sink.count:
        piece = &sink.pieces[sink.current]
        if piece.start + piece.size > position:
            return
        sink.current += 1


cdef void sink_write(Sink* sink, size_t position, const char* data, size_t size) noexcept nogil:
    # Bytes [position, position + size) of the body.
    cdef const Piece* piece
    cdef size_t now
    position += sink.offset
    if position != sink.position:
        _seek(sink, position)
    sink.position = position + size
    while size > 0 and sink.current < sink.count:
        piece = &sink.pieces[sink.current]
        if position < piece.start:
            now = min(size, piece.start - position)
        elif position >= piece.start + piece.size:
            sink.current += 1
            sink.opened = False
            continue
        else:
            if not sink.opened:
                sink.opened = cursor_start(&sink.cursor, sink.layout, &piece.placement)
            now = min(size, piece.start + piece.size - position)
            cursor_write(&sink.cursor, position - piece.start, data, now)
        position += now
        data += now
        size -= now


cdef int sink_vectors(
    Sink* sink, size_t position, size_t size, iovec* vectors, int limit
) noexcept nogil:
    # Where the next bytes go, as cursor_vectors has it; 0 where the next byte goes nowhere.
    cdef const Piece* piece
    position += sink.offset
    if position != sink.position:
        _seek(sink, position)
        sink.position = position
    while sink.current < sink.count:
        piece = &sink.pieces[sink.current]
        if position < piece.start:
            return 0
        if position < piece.start + piece.size:
            if not sink.opened:
                sink.opened = cursor_start(&sink.cursor, sink.layout, &piece.placement)
            return cursor_vectors(
                &sink.cursor, position - piece.start,
                min(size, piece.start + piece.size - position), vectors, limit,
            )
        sink.current += 1
        sink.opened = False
    return 0
