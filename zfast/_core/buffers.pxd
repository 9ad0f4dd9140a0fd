# Memory that body bytes land in, with owners counted so that it outlives every one of them.

from cpython.buffer cimport Py_buffer
from libcpp.atomic cimport atomic

from zfast._core.extern.pthread cimport pthread_mutex_t

cdef cppclass Slab:
    atomic[long] owners
    char* base
    size_t size
    bint mapped

cdef cppclass Arena:
    pthread_mutex_t lock
    Slab* slab
    size_t used
    size_t next_size

cdef Slab* slab_new(size_t size) noexcept nogil
cdef Slab* slab_grown(Slab* slab, size_t size) noexcept nogil
cdef void slab_release(Slab* slab) noexcept nogil

cdef void buffers_trim() noexcept nogil

cdef Arena* arena_new() noexcept nogil
cdef char* arena_take(Arena* arena, size_t size, Slab** owner) noexcept nogil
cdef void arena_free(Arena* arena) noexcept nogil

cdef class Body:
    cdef Slab* _slab
    cdef const char* _data
    cdef Py_ssize_t _size

cdef Body body_over(Slab* slab, const char* data, size_t size)

cdef class Pin:
    cdef Py_buffer _view

cdef Pin pin(object buffer, bint writable)
