"""Placements: which bytes of a decoded chunk go where in the output, as strided loops around runs.

Pure arithmetic: no byte is moved here. Dimensions in which chunk and output go on alike join.
"""


cdef inline void _plan_start(Plan* plan, char* out, size_t item_size) noexcept nogil:
    plan.out = out
    plan.chunk = 0
    plan.run = item_size
    plan.ndim = 0


cdef void _plan_add(Plan* plan, const Loop* loop) noexcept nogil:
    # The next slower loop, joined with the one before where both sides go on alike.
    cdef Loop* last
    if not is_listed(loop):
        if plan.ndim == 0:
            if loop.chunk_stride == loop.out_stride == <Py_ssize_t>plan.run:
                plan.run *= loop.count
                return
        else:
            last = &plan.loops[plan.ndim - 1]
            if (not is_listed(last)
                    and loop.chunk_stride == last.chunk_stride * last.count
                    and loop.out_stride == last.out_stride * last.count):
                last.count *= loop.count
                return
    plan.loops[plan.ndim] = loop[0]
    plan.ndim += 1


cdef void plan_copy(
    Plan* plan, const Layout* layout, const Placement* placement
) noexcept nogil:
    cdef Py_ssize_t size = layout.item_size     # of one element of this dimension, in the chunk
    cdef int dimension = layout.ndim
    cdef const Extent* extent
    cdef Loop loop
    _plan_start(plan, placement.base, layout.item_size)
    while dimension > 0:
        dimension -= 1
        extent = &placement.extents[dimension]
        if extent.count == 1:
            plan.chunk += size * (
                extent.start if extent.positions == NULL else extent.positions[0]
            )
            if extent.places != NULL:
                plan.out += extent.places[0]
        else:
            loop.count = extent.count
            loop.out_stride = extent.stride
            loop.positions = extent.positions
            loop.places = extent.places
            if extent.positions == NULL:
                plan.chunk += size * extent.start
                loop.chunk_stride = size * extent.step
            else:
                loop.chunk_stride = size
            _plan_add(plan, &loop)
        size *= layout.shape[dimension]


cdef void plan_fill(
    Plan* plan, size_t item_size, const Placement* placement
) noexcept nogil:
    # Every element is alike: the loops are in the output's order, and stand still in the "chunk".
    cdef Loop[MAX_DIMENSIONS] loops
    cdef Loop loop
    cdef int count = 0
    cdef int dimension, at
    cdef const Extent* extent
    _plan_start(plan, placement.base, item_size)
    for dimension in range(placement.ndim):
        extent = &placement.extents[dimension]
        if extent.count == 1:
            if extent.places != NULL:
                plan.out += extent.places[0]
            continue
        loop.count = extent.count
        loop.out_stride = extent.stride
        # As if the chunk were like the output, so that what is contiguous there joins.
        loop.chunk_stride = extent.stride
        loop.positions = NULL
        loop.places = extent.places
        at = count
        while at > 0 and distance(&loops[at - 1]) > distance(&loop):
            loops[at] = loops[at - 1]
            at -= 1
        loops[at] = loop
        count += 1
    for at in range(count):
        _plan_add(plan, &loops[at])
    for at in range(plan.ndim):
        plan.loops[at].chunk_stride = 0


cdef inline Py_ssize_t _steps_to(const Extent* extent, Py_ssize_t position) noexcept nogil:
    # How many selected elements lie before a position of the chunk.
    cdef Py_ssize_t ahead = position - extent.start
    if ahead <= 0:
        return 0
    if extent.step > 1:
        # Not rounded up by a sum: a step may be as large as numbers are.
        ahead = (ahead - 1) // extent.step + 1
    return min(ahead, extent.count)


cdef void placement_span(
    const Placement* placement, const Layout* layout, size_t* first, size_t* past
) noexcept nogil:
    # The bytes [first, past) of the chunk that hold everything that is selected.
    cdef const Extent* extent
    cdef size_t stride = layout.item_size
    cdef Py_ssize_t start, last, at
    cdef int dimension = layout.ndim
    first[0] = 0
    past[0] = layout.item_size
    while dimension > 0:
        dimension -= 1
        extent = &placement.extents[dimension]
        start = extent.start
        last = start + (extent.count - 1) * extent.step
        if extent.positions != NULL:
            start = last = extent.positions[0]
            for at in range(1, extent.count):
                start = min(start, extent.positions[at])
                last = max(last, extent.positions[at])
        first[0] += <size_t>start * stride
        past[0] += <size_t>last * stride
        stride *= <size_t>layout.shape[dimension]


cdef bint placement_within(
    const Placement* whole, int ndim, const Py_ssize_t* cell_shape, const Py_ssize_t* cell,
    Placement* part, Extent* extents
) noexcept nogil:
    # The part of a box (without lists) that falls into one cell of a regular grid, its elements
    # counted from the cell's first; False where there is none. `extents` has room for `ndim`.
    cdef const Extent* extent
    cdef Py_ssize_t first, past, origin
    cdef int dimension
    part.base = whole.base
    part.ndim = ndim
    part.extents = extents
    for dimension in range(ndim):
        extent = &whole.extents[dimension]
        origin = cell[dimension] * cell_shape[dimension]
        first = _steps_to(extent, origin)
        past = _steps_to(extent, origin + cell_shape[dimension])
        if first == past:
            return False
        part.base += first * extent.stride
        extents[dimension].start = extent.start + first * extent.step - origin
        extents[dimension].step = extent.step
        extents[dimension].count = past - first
        extents[dimension].stride = extent.stride
        extents[dimension].positions = NULL
        extents[dimension].places = NULL
    return True
