"""Memory that body bytes land in: the caller's, pinned, or made to measure by the core.

Memory is given back when its last owner lets go, never before. Made to measure, it comes in slabs
shared by the bodies of one batch: many small bodies cost one allocation and, on Linux, one huge
page where 4 KiB pages would cost a fault each.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove

from zfast._core.extern.pthread cimport (
    pthread_atfork,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
)

cdef extern from * nogil:
    """
    #include <sys/mman.h>
    #ifdef MADV_HUGEPAGE
    #define ZFAST_ADVISE_HUGE(base, size) madvise(base, size, MADV_HUGEPAGE)
    #else
    #define ZFAST_ADVISE_HUGE(base, size) 0
    #endif
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    """
    void* mmap(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)
    void* MAP_FAILED
    int PROT_READ
    int PROT_WRITE
    int MAP_PRIVATE
    int MAP_ANONYMOUS
    int ZFAST_ADVISE_HUGE(void*, size_t)

cdef enum:
    HUGE_PAGE = 2 << 20
    SMALLEST_SLAB = 4 << 10
    # A slab lives as long as any body in it: the bound on what one small survivor holds.
    LARGEST_SHARED_SLAB = 4 << 20
    # A larger body gets a slab of its own.
    LARGEST_SHARED_BODY = 1 << 20
    BODY_ALIGNMENT = 64
    # What is kept of memory that was let go, for the next bodies: a fresh huge page costs its
    # clearing, which was 38 % of all cycles of a read of 4096 bodies of 64 KiB.
    SPARE_LIMIT = 64 << 20
    SPARE_SLABS = 32

cdef struct Spare:
    char* base
    size_t size

cdef pthread_mutex_t _spare_lock
cdef Spare[SPARE_SLABS] _spare      # the last let go last: it may still be in a cache
cdef size_t _spare_count = 0
cdef size_t _spare_size = 0
pthread_mutex_init(&_spare_lock, NULL)


cdef char* _map(size_t size) noexcept nogil:
    # Aligned to huge pages, so that the kernel can use them from the first byte on.
    cdef size_t span = size + HUGE_PAGE
    cdef char* start = <char*>mmap(
        NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
    )
    cdef size_t before
    if <void*>start == MAP_FAILED:
        return NULL
    before = (HUGE_PAGE - <uintptr_t>start % HUGE_PAGE) % HUGE_PAGE
    if before:
        munmap(start, before)
    munmap(start + before + size, span - before - size)
    ZFAST_ADVISE_HUGE(start + before, size)
    return start + before


cdef inline size_t _rounded(size_t size) noexcept nogil:
    # Up to an eighth of the power of two below: bodies of about one size can follow each other.
    cdef size_t step = HUGE_PAGE
    while step * 2 <= size:
        step *= 2
    step //= 8
    return (size + step - 1) // step * step


cdef char* _take_spare(size_t size) noexcept nogil:
    cdef char* base = NULL
    cdef size_t index
    pthread_mutex_lock(&_spare_lock)
    index = _spare_count
    while index > 0:
        index -= 1
        if _spare[index].size == size:
            base = _drop_spare(index)
            break
    pthread_mutex_unlock(&_spare_lock)
    return base


cdef char* _drop_spare(size_t index) noexcept nogil:
    global _spare_count, _spare_size
    cdef char* base = _spare[index].base
    _spare_size -= _spare[index].size
    _spare_count -= 1
    memmove(&_spare[index], &_spare[index + 1], (_spare_count - index) * sizeof(Spare))
    return base


cdef void _spare_or_unmap(char* base, size_t size) noexcept nogil:
    global _spare_count, _spare_size
    cdef Spare[SPARE_SLABS] old
    cdef size_t count = 0
    if size > SPARE_LIMIT // 2:
        munmap(base, size)
        return
    pthread_mutex_lock(&_spare_lock)
    while _spare_count == SPARE_SLABS or _spare_size + size > SPARE_LIMIT:
        old[count] = _spare[0]
        count += 1
        _drop_spare(0)
    _spare[_spare_count].base = base
    _spare[_spare_count].size = size
    _spare_count += 1
    _spare_size += size
    pthread_mutex_unlock(&_spare_lock)
    _unmap(old, count)


cdef void _unmap(const Spare* slabs, size_t count) noexcept nogil:
    # Without the lock: it may take a while.
    cdef size_t index
    for index in range(count):
        munmap(slabs[index].base, slabs[index].size)


cdef void buffers_trim() noexcept nogil:
    # When nothing is read for a while: the process gets its memory back.
    global _spare_count, _spare_size
    cdef Spare[SPARE_SLABS] all_of_them
    cdef size_t count
    pthread_mutex_lock(&_spare_lock)
    count = _spare_count
    memcpy(all_of_them, _spare, count * sizeof(Spare))
    _spare_count = _spare_size = 0
    pthread_mutex_unlock(&_spare_lock)
    _unmap(all_of_them, count)


def spare_memory():
    """Bytes that are kept for the next bodies; at most 64 MiB, and none after a while of rest."""
    return _spare_size


cdef void _before_fork() noexcept nogil:
    pthread_mutex_lock(&_spare_lock)


cdef void _after_fork() noexcept nogil:
    pthread_mutex_unlock(&_spare_lock)


# A child finds whole what the lock guards. Not by `os.register_at_fork`: between its calls other
# Python threads run, and would wait for the lock with the GIL that the fork needs.
if pthread_atfork(_before_fork, _after_fork, _after_fork):
    raise MemoryError("there is no memory to prepare for forks")


cdef Slab* slab_new(size_t size) noexcept nogil:
    # A slab with one owner, NULL when memory is short.
    cdef Slab* slab = new Slab()
    slab.owners.store(1)
    slab.mapped = size >= HUGE_PAGE
    if slab.mapped:
        size = _rounded(size)
        slab.base = _take_spare(size)
        if slab.base == NULL:
            slab.base = _map(size)
    else:
        slab.base = <char*>malloc(size if size else 1)
    slab.size = size
    if slab.base == NULL:
        del slab
        return NULL
    return slab


cdef Slab* slab_grown(Slab* slab, size_t size) noexcept nogil:
    # For a body of unknown length: only its one owner may call this. NULL leaves `slab` as it was.
    cdef char* base
    if slab == NULL:
        slab = new Slab()
        slab.owners.store(1)
    base = <char*>realloc(slab.base, size)
    if base == NULL:
        if slab.base == NULL:
            del slab
        return NULL
    slab.base = base
    slab.size = size
    return slab


cdef void slab_release(Slab* slab) noexcept nogil:
    if slab != NULL and slab.owners.fetch_sub(1) == 1:
        if slab.mapped:
            _spare_or_unmap(slab.base, slab.size)
        else:
            free(slab.base)
        del slab


cdef Arena* arena_new() noexcept nogil:
    cdef Arena* arena = new Arena()
    pthread_mutex_init(&arena.lock, NULL)
    arena.next_size = SMALLEST_SLAB
    return arena


cdef char* arena_take(Arena* arena, size_t size, Slab** owner) noexcept nogil:
    # `size` bytes, of whose slab the taker becomes an owner; NULL when memory is short.
    cdef char* taken = NULL
    cdef Slab* slab
    if size > LARGEST_SHARED_BODY:
        owner[0] = slab_new(size)
        return owner[0].base if owner[0] != NULL else NULL
    pthread_mutex_lock(&arena.lock)
    if arena.slab == NULL or arena.slab.size - arena.used < size:
        # Slabs grow with the batch: a lone small body must not touch a huge page.
        while arena.next_size < size:
            arena.next_size *= 4
        slab = slab_new(arena.next_size)
        if slab != NULL:
            slab_release(arena.slab)
            arena.slab = slab
            arena.used = 0
            arena.next_size = min(arena.next_size * 4, <size_t>LARGEST_SHARED_SLAB)
    if arena.slab != NULL and arena.slab.size - arena.used >= size:
        taken = arena.slab.base + arena.used
        arena.used = min((arena.used + size + BODY_ALIGNMENT - 1) & ~<size_t>(BODY_ALIGNMENT - 1),
                         arena.slab.size)
        arena.slab.owners.fetch_add(1)
        owner[0] = arena.slab
    pthread_mutex_unlock(&arena.lock)
    return taken


cdef void arena_free(Arena* arena) noexcept nogil:
    if arena != NULL:
        slab_release(arena.slab)
        pthread_mutex_destroy(&arena.lock)
        del arena


cdef class Body:
    """The bytes of one read, without a copy: read-only, with the buffer protocol.

    ``bytes(body)``, ``memoryview(body)`` and ``numpy.frombuffer(memoryview(body), dtype)`` all
    work, the last two on the memory that the network filled. Small bodies of one batch share slabs
    of up to 4 MiB: copy (``bytes(body)``) what should outlive the others.
    """

    def __init__(self):
        raise TypeError("a Body comes from a read; it cannot be made by hand")

    def __dealloc__(self):
        slab_release(self._slab)

    def __len__(self):
        return self._size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self._data, self._size, True, flags)

    def __bytes__(self):
        return PyBytes_FromStringAndSize(self._data, self._size)

    def __getitem__(self, index):
        return memoryview(self)[index]

    def __contains__(self, item):
        return item in self.__bytes__()

    def __iter__(self):
        return iter(memoryview(self))

    def part(self, Py_ssize_t start, Py_ssize_t end):
        """The bytes from `start` to `end` (exclusive) as a Body of the same memory.

        As much of them as there is: neither counts from the end, as a slice's would.
        """
        start = max(0, min(start, self._size))
        end = max(start, min(end, self._size))
        if self._slab != NULL:
            self._slab.owners.fetch_add(1)
        return body_over(self._slab, self._data + start, end - start)

    def __eq__(self, other):
        cdef Py_buffer view
        cdef bint equal
        try:
            PyObject_GetBuffer(other, &view, PyBUF_SIMPLE)
        except (TypeError, BufferError, ValueError):
            # ValueError: a memoryview that was released.
            return NotImplemented
        equal = view.len == self._size and (
            self._size == 0 or memcmp(view.buf, self._data, self._size) == 0
        )
        PyBuffer_Release(&view)
        return equal

    def __hash__(self):
        return hash(bytes(self))

    def __reduce__(self):
        return bytes, (bytes(self),)

    def __repr__(self):
        return f"<zfast.Body of {self._size} bytes>"


cdef const char* _nothing = b""


cdef Body body_over(Slab* slab, const char* data, size_t size):
    # Takes over the caller's ownership of `slab` (NULL for a body without bytes).
    cdef Body body = Body.__new__(Body)
    body._slab = slab
    body._data = data if data != NULL else _nothing
    body._size = size
    return body


cpdef bint holds_objects(object buffer) except -1:
    """Whether a buffer's elements are Python objects, or have such in them."""
    if isinstance(buffer, memoryview):
        # A field of that name is none: names stand between colons (PEP 3118).
        return "O" in "".join(buffer.format.split(":")[::2])
    return bool(getattr(getattr(buffer, "dtype", None), "hasobject", False))


cdef class Pin:
    """A caller's buffer that stays where it is until the last worker has let go of it."""

    def __dealloc__(self):
        PyBuffer_Release(&self._view)


cdef Pin pin(object buffer, bint writable):
    # No format is asked for: a dtype that has none in the buffer protocol is as good as any.
    cdef Pin pinned = Pin.__new__(Pin)
    if holds_objects(buffer):
        raise TypeError("a buffer of Python objects holds their addresses, and none of their bytes")
    try:
        PyObject_GetBuffer(
            buffer, &pinned._view, PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0)
        )
    except TypeError:
        raise TypeError(
            f"the buffer to read into is a {type(buffer).__name__}, and no buffer of bytes: pass a "
            "bytearray or a numpy array" if writable else
            f"the data to write is a {type(buffer).__name__}, and no buffer of bytes: encode a str"
        ) from None
    except (BufferError, ValueError) as error:
        raise ValueError(
            "the buffer to read into has to be writable and C-contiguous, as numpy.empty(n, "
            f"\"u1\") or a bytearray is: {error}" if writable else
            "the data to write has to be C-contiguous, as numpy.ascontiguousarray(data) is: "
            f"{error}"
        ) from None
    return pinned


def arena_addresses(list sizes):
    """Take bodies of the given sizes from one arena; for tests of sharing and alignment.

    Parameters
    ----------
    sizes : list of int
        Bytes of each body.

    Returns
    -------
    list of (int, int, Body)
        Address of the slab, address of the body, and the body itself.
    """
    cdef Arena* arena = arena_new()
    cdef Slab* slab
    cdef char* data
    taken = []
    try:
        for size in sizes:
            data = arena_take(arena, size, &slab)
            if data == NULL:
                raise MemoryError(f"no memory for a body of {size} bytes")
            taken.append((<uintptr_t>slab.base, <uintptr_t>data, body_over(slab, data, size)))
    finally:
        arena_free(arena)
    return taken
