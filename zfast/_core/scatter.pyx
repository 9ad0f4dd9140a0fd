"""Scatter: the selected elements of a decoded chunk go where they belong in the output.

Pure: moves memory and never allocates. Around the runs of a plan there are loops, and the two
innermost are one kernel.
"""

from array import array

from libc.stdint cimport SIZE_MAX
from libc.string cimport memcmp, memcpy
from libcpp.vector cimport vector

from zfast._core.extern.uio cimport iovec
from zfast._core.placement cimport (
    MAX_DIMENSIONS,
    Extent,
    Layout,
    Loop,
    Placement,
    Plan,
    distance,
    is_listed,
    placement_within,
    plan_copy,
    plan_fill,
)
from zfast._core.strided cimport Kernel, copy_kernel, repeat_kernel, swap_kernel

cdef enum:
    CACHE_LINE = 64
    # A shorter run is an element: a call of memcpy costs more than it, and where chunk and output
    # disagree on the order it is read and written by the tile.
    SHORTEST_RUN = 64
    TILE = 128
    # Fills copy from a pattern of this size at most, which stays in the first cache.
    PATTERN = 4096

cdef struct Walk:
    # A plan, sorted into what the kernel does and the loops around it.
    Kernel kernel
    Loop slow
    Loop fast
    bint listed                     # `fast` is, and there is no `slow`
    bint tiled                      # the chunk's fastest is `slow`, the output's fastest is `fast`
    int depth
    (const Loop*)[MAX_DIMENSIONS] outer


# -------------------------------------------------------------------------------------------- walk


cdef void _walk_plan(Walk* walk, const Plan* plan) noexcept nogil:
    # Which loops the kernel takes. Where the output's fastest is not the chunk's, both go to it.
    cdef int second = -1
    cdef int index
    walk.listed = walk.tiled = False
    walk.depth = 0
    walk.slow.count = walk.fast.count = 1
    walk.slow.out_stride = walk.slow.chunk_stride = 0
    walk.fast.out_stride = walk.fast.chunk_stride = 0
    if plan.ndim == 0:
        return
    walk.fast = plan.loops[0]
    if is_listed(&walk.fast):
        walk.listed = True
    else:
        if plan.run < SHORTEST_RUN:
            for index in range(1, plan.ndim):
                if distance(&plan.loops[index]) < distance(&walk.fast):
                    second = index
                    walk.fast = plan.loops[index]
        if second > 0:
            walk.tiled = True
            walk.slow = plan.loops[0]
        elif plan.ndim > 1 and not is_listed(&plan.loops[1]):
            second = 1
            walk.slow = plan.loops[1]
    for index in range(1, plan.ndim):
        if index != second:
            walk.outer[walk.depth] = &plan.loops[index]
            walk.depth += 1


cdef void _walk_tiles(const Walk* walk, char* out, const char* chunk) noexcept nogil:
    # A tile reads as many lines of the chunk as it is long, each to its end, and writes runs.
    cdef const Loop* slow = &walk.slow
    cdef const Loop* fast = &walk.fast
    cdef Py_ssize_t height = max(<size_t>1, CACHE_LINE // walk.kernel.size)
    cdef Py_ssize_t row = 0
    cdef Py_ssize_t column
    while row < slow.count:
        column = 0
        while column < fast.count:
            walk.kernel.turn(
                out + row * slow.out_stride + column * fast.out_stride,
                chunk + row * slow.chunk_stride + column * fast.chunk_stride,
                min(height, slow.count - row), slow.out_stride, slow.chunk_stride,
                min(<Py_ssize_t>TILE, fast.count - column), fast.out_stride, fast.chunk_stride,
                walk.kernel.size, walk.kernel.unit,
            )
            column += TILE
        row += height


cdef void _walk_on(
    const Walk* walk, int depth, char* out, const char* chunk
) noexcept nogil:
    cdef const Loop* loop
    cdef Py_ssize_t index
    if depth > 0:
        loop = walk.outer[depth - 1]
        for index in range(loop.count):
            _walk_on(
                walk, depth - 1,
                out + (index * loop.out_stride if loop.places == NULL else loop.places[index]),
                chunk + loop.chunk_stride * (
                    index if loop.positions == NULL else loop.positions[index]
                ),
            )
    elif walk.tiled:
        _walk_tiles(walk, out, chunk)
    elif walk.listed:
        walk.kernel.listed(
            out, chunk, walk.fast.count, walk.fast.out_stride, walk.fast.places,
            walk.fast.chunk_stride, walk.fast.positions, walk.kernel.size, walk.kernel.unit,
        )
    else:
        walk.kernel.block(
            out, chunk, walk.slow.count, walk.slow.out_stride, walk.slow.chunk_stride,
            walk.fast.count, walk.fast.out_stride, walk.fast.chunk_stride,
            walk.kernel.size, walk.kernel.unit,
        )


# ----------------------------------------------------------------------------------------- scatter


cdef void scatter(
    const Layout* layout, const Placement* placement, const char* chunk
) noexcept nogil:
    # Copies what the placement selects of a decoded chunk, in the other byte order if asked to.
    cdef Plan plan
    cdef Walk walk
    plan_copy(&plan, layout, placement)
    _walk_plan(&walk, &plan)
    if layout.swap > 1:
        walk.kernel = swap_kernel(plan.run, layout.swap)
    else:
        walk.kernel = copy_kernel(plan.run)
    _walk_on(&walk, walk.depth, plan.out, chunk + plan.chunk)


cdef void scatter_fill(
    size_t item_size, const Placement* placement, const char* value
) noexcept nogil:
    # Puts one element, in the output's byte order, wherever the placement selects one.
    cdef Plan plan
    cdef Walk walk
    cdef char[PATTERN] pattern
    cdef size_t filled, size
    plan_fill(&plan, item_size, placement)
    _walk_plan(&walk, &plan)
    if plan.run == item_size:
        walk.kernel = copy_kernel(item_size)
    elif not memcmp(value, value + 1, item_size - 1):
        walk.kernel = repeat_kernel(plan.run, 1)
    elif 2 * item_size > PATTERN:
        walk.kernel = repeat_kernel(plan.run, item_size)
    else:
        size = min(plan.run, PATTERN // item_size * item_size)
        memcpy(pattern, value, item_size)
        filled = item_size
        while filled < size:
            memcpy(pattern + filled, pattern, min(filled, size - filled))
            filled += min(filled, size - filled)
        value = pattern
        walk.kernel = repeat_kernel(plan.run, size)
    _walk_on(&walk, walk.depth, plan.out, value)


cdef char* scatter_target(const Layout* layout, const Placement* placement) noexcept nogil:
    # Where the chunk may be decoded to at once: all of it is wanted, as it is and in one piece.
    # NULL where that is not so.
    cdef Plan plan
    cdef size_t size = layout.item_size
    cdef int dimension
    if layout.swap > 1:
        return NULL
    for dimension in range(layout.ndim):
        size *= layout.shape[dimension]
    plan_copy(&plan, layout, placement)
    return plan.out if plan.ndim == 0 and plan.run == size else NULL


# ------------------------------------------------------------------------------------------ cursor


cdef bint cursor_start(
    Cursor* cursor, const Layout* layout, const Placement* placement
) noexcept nogil:
    # False where a chunk cannot go out in pieces: it has to be swapped, or gathered by lists or
    # in short runs, and scatter() does that to the whole of it.
    cdef int index
    if layout.swap > 1:
        return False
    plan_copy(&cursor.plan, layout, placement)
    if cursor.plan.run < SHORTEST_RUN:
        return False
    for index in range(cursor.plan.ndim):
        if is_listed(&cursor.plan.loops[index]):
            return False
    _cursor_seek(cursor, 0)
    return True


cdef void _cursor_seek(Cursor* cursor, size_t position) noexcept nogil:
    # To the first run that ends after `position`.
    cdef const Plan* plan = &cursor.plan
    cdef const Loop* loop
    cdef Py_ssize_t ahead = max(0, <Py_ssize_t>position - plan.chunk)
    cdef Py_ssize_t at
    cdef int index = plan.ndim
    cursor.position = position
    cursor.row = plan.chunk
    cursor.out = plan.out
    while index > 0:
        index -= 1
        loop = &plan.loops[index]
        at = min(ahead // loop.chunk_stride, loop.count - 1)
        ahead -= at * loop.chunk_stride
        cursor.at[index] = at
        cursor.row += at * loop.chunk_stride
        cursor.out += at * loop.out_stride
    if ahead >= <Py_ssize_t>plan.run:
        _cursor_advance(cursor, 1)


cdef inline void _cursor_advance(Cursor* cursor, Py_ssize_t rows) noexcept nogil:
    # Past so many of the rows that are left in the fastest loop; they are not none.
    cdef const Plan* plan = &cursor.plan
    cdef const Loop* loop
    cdef int index
    for index in range(plan.ndim):
        loop = &plan.loops[index]
        cursor.at[index] += rows
        cursor.row += rows * loop.chunk_stride
        cursor.out += rows * loop.out_stride
        if cursor.at[index] < loop.count:
            return
        cursor.at[index] = 0
        cursor.row -= loop.count * loop.chunk_stride
        cursor.out -= loop.count * loop.out_stride
        rows = 1
    cursor.row = SIZE_MAX


cdef inline Py_ssize_t _cursor_rows(
    Cursor* cursor, const char* data, size_t size
) noexcept nogil:
    # Copies the whole rows of the fastest loop that `data` holds, beginning with one; how many.
    cdef const Loop* loop = &cursor.plan.loops[0]
    cdef size_t run = cursor.plan.run
    cdef Py_ssize_t rows
    cdef Kernel kernel
    if cursor.plan.ndim == 0 or size < run:
        return 0
    rows = min(loop.count - cursor.at[0], <Py_ssize_t>(size - run) // loop.chunk_stride + 1)
    kernel = copy_kernel(run)
    kernel.block(
        cursor.out, data, 1, 0, 0, rows, loop.out_stride, loop.chunk_stride, run, kernel.unit
    )
    return rows


cdef void cursor_write(
    Cursor* cursor, size_t position, const char* data, size_t size
) noexcept nogil:
    # Bytes [position, position + size) of the chunk, which may end anywhere, also in an element. In
    # order, or from another position after a restart.
    cdef size_t end = position + size
    cdef size_t run = cursor.plan.run
    cdef size_t within, now
    cdef Py_ssize_t rows
    if position != cursor.position:
        _cursor_seek(cursor, position)
    cursor.position = end
    while cursor.row < end:
        if position < cursor.row:
            data += cursor.row - position
            position = cursor.row
        within = position - cursor.row
        rows = 0 if within else _cursor_rows(cursor, data, end - position)
        if rows:
            now = (rows - 1) * cursor.plan.loops[0].chunk_stride + run
        else:
            now = min(end - position, run - within)
            memcpy(cursor.out + within, data, now)
            rows = within + now == run
        data += now
        position += now
        if rows == 0:
            return
        _cursor_advance(cursor, rows)


cdef int cursor_vectors(
    Cursor* cursor, size_t position, size_t size, iovec* vectors, int limit
) noexcept nogil:
    # Where the next bytes from `position` on go, at most `size` of them, in their order and without
    # a gap; how many pieces of memory that is, 0 if the next byte is not wanted.
    cdef const Loop* loop = &cursor.plan.loops[0]
    cdef size_t run = cursor.plan.run
    cdef size_t within
    cdef Py_ssize_t rows = 1
    cdef char* out
    cdef int count = 0
    if position != cursor.position:
        _cursor_seek(cursor, position)
    if position < cursor.row or cursor.row == SIZE_MAX:
        return 0
    if cursor.plan.ndim and loop.chunk_stride == <Py_ssize_t>run:
        rows = loop.count - cursor.at[0]
    within = position - cursor.row
    out = cursor.out
    while rows > 0 and size > 0 and count < limit:
        vectors[count].iov_base = out + within
        vectors[count].iov_len = min(size, run - within)
        size -= vectors[count].iov_len
        within = 0
        count += 1
        rows -= 1
        out += loop.out_stride
    return count


# -------------------------------------------------------------------------------------------- face


cdef class Box:
    """A selection of a chunk and its place in a buffer, for tests.

    Parameters
    ----------
    out : buffer of uint8
        Writable and contiguous; no method writes outside of it.
    base : int
        Where the element of offset 0 goes, in bytes from the first of `out`.
    shape : sequence of int
        The chunk's.
    item_size, swap : int
        Bytes of an element, and of the units in it whose byte order is reversed (0 none).
    extents : sequence of tuple
        For each dimension ``(start, step, count, stride)``, with lists of positions for `start`
        and of byte offsets for `stride` where they are irregular.

    Raises
    ------
    IndexError
        An element lies outside of the chunk or of `out`.
    """

    cdef object _kept       # the output, so that it stays where it is
    cdef char* _out
    cdef Py_ssize_t _out_size
    cdef Layout _layout
    cdef Placement _placement
    cdef vector[Extent] _extents
    cdef list _lists        # keeps what the extents point to
    cdef size_t _size       # of the chunk

    def __cinit__(self, out, Py_ssize_t base, shape, size_t item_size, size_t swap, extents):
        cdef Extent extent
        cdef unsigned char[::1] memory = out
        cdef Py_ssize_t[::1] view
        self._kept = memory.base
        self._out = <char*>&memory[0]
        self._out_size = memory.shape[0]
        if len(shape) != len(extents) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{len(extents)} extents for {len(shape)} dimensions")
        self._lists = []
        self._layout.ndim = len(shape)
        self._layout.item_size = item_size
        self._layout.swap = swap
        self._size = item_size
        least, most = base, base
        for dimension, (start, step, count, stride) in enumerate(extents):
            self._layout.shape[dimension] = shape[dimension]
            self._size *= <size_t>shape[dimension]
            extent.step = step
            extent.count = count
            extent.positions = extent.places = NULL
            extent.start = extent.stride = 0
            if isinstance(start, int):
                extent.start = start
                read = (start, start + (count - 1) * step)
            else:
                view = self._listed(start)
                extent.positions = &view[0]
                read = (min(start), max(start))
            if isinstance(stride, int):
                extent.stride = stride
                moved = (0, (count - 1) * stride)
            else:
                view = self._listed(stride)
                extent.places = &view[0]
                moved = (min(stride), max(stride))
            if count < 1 or step < 1 or min(read) < 0 or max(read) >= shape[dimension]:
                raise IndexError(f"dimension {dimension}: not in a chunk of shape {shape}")
            least += min(moved)
            most += max(moved)
            self._extents.push_back(extent)
        if least < 0 or most + <Py_ssize_t>item_size > self._out_size:
            raise IndexError(f"bytes {least} to {most} of an output of {self._out_size}")
        self._placement.base = self._out + base
        self._placement.ndim = self._layout.ndim
        self._placement.extents = self._extents.data()

    cdef _listed(self, numbers):
        kept = array("q", numbers)
        self._lists.append(kept)
        return kept

    def scatter(self, const unsigned char[::1] chunk not None):
        """Copies the selected elements of a whole chunk into the output."""
        if <size_t>chunk.shape[0] != self._size:
            raise IndexError(f"a chunk of {chunk.shape[0]} bytes, not {self._size}")
        with nogil:
            scatter(&self._layout, &self._placement, <const char*>&chunk[0])

    def fill(self, const unsigned char[::1] value not None):
        """Puts one element, `item_size` bytes, everywhere in the selection's place."""
        if <size_t>value.shape[0] != self._layout.item_size:
            raise IndexError(f"a value of {value.shape[0]} bytes, not {self._layout.item_size}")
        with nogil:
            scatter_fill(self._layout.item_size, &self._placement, <const char*>&value[0])

    def target(self):
        """Where in the output the whole chunk may be decoded to, in bytes; None if nowhere."""
        cdef char* where = scatter_target(&self._layout, &self._placement)
        return None if where == NULL else where - self._out

    def write(self, const unsigned char[::1] chunk not None, list pieces):
        """Writes bytes ``[start, end)`` of the chunk for each of the pieces, through one cursor.

        Returns
        -------
        bool
            False if this selection cannot be written in pieces; nothing is written then.
        """
        cdef Cursor cursor
        cdef size_t start, end
        if <size_t>chunk.shape[0] != self._size:
            raise IndexError(f"a chunk of {chunk.shape[0]} bytes, not {self._size}")
        if not cursor_start(&cursor, &self._layout, &self._placement):
            return False
        for start, end in pieces:
            if not start <= end <= self._size:
                raise IndexError(f"[{start}, {end}) of a chunk of {self._size} bytes")
            with nogil:
                cursor_write(&cursor, start, <const char*>&chunk[0] + start, end - start)
        return True

    def vectors(self, Py_ssize_t position, size_t size, int limit):
        """Where bytes from `position` of the chunk on may be received to, at most `size` of them.

        Returns
        -------
        list of (int, int)
            Offset in the output and size of at most `limit` pieces; none if the byte at `position`
            is not wanted, None if this selection cannot be written in pieces.
        """
        cdef Cursor cursor
        cdef vector[iovec] found = vector[iovec](<size_t>limit)
        if not cursor_start(&cursor, &self._layout, &self._placement):
            return None
        found.resize(cursor_vectors(&cursor, position, size, found.data(), limit))
        return [(<char*>piece.iov_base - self._out, piece.iov_len) for piece in found]

    def within(self, cell_shape, cell):
        """The part in one cell of a grid, as ``(base, extents)``; None if there is none."""
        cdef Placement part
        cdef Extent[MAX_DIMENSIONS] extents
        cdef Py_ssize_t[MAX_DIMENSIONS] shape
        cdef Py_ssize_t[MAX_DIMENSIONS] at
        cdef int dimension
        part.ndim = self._layout.ndim
        for dimension in range(part.ndim):
            shape[dimension] = cell_shape[dimension]
            at[dimension] = cell[dimension]
        if not placement_within(&self._placement, part.ndim, shape, at, &part, extents):
            return None
        return part.base - self._out, [
            (extents[dimension].start, extents[dimension].step, extents[dimension].count,
             extents[dimension].stride)
            for dimension in range(part.ndim)
        ]
