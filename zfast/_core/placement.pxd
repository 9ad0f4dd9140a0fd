# From a decoded chunk to the output: which elements, and where each of them goes.
# Offsets, positions and strides are signed, sizes of memory are not.

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    MAX_DIMENSIONS = 32

cdef struct Extent:
    # What a selection takes of one dimension of a chunk, and where it goes.
    Py_ssize_t start                # elements: start, start + step, ...
    Py_ssize_t step                 # >= 1
    Py_ssize_t count                # >= 1
    # Bytes of the output from one selected element to the next; may be negative, 0 where the output
    # has no such dimension.
    Py_ssize_t stride
    const Py_ssize_t* positions     # NULL, or `count` elements instead of start and step
    const Py_ssize_t* places        # NULL, or `count` byte offsets in the output instead of stride

cdef struct Placement:
    char* base                      # where the element of stride (or place) offset 0 goes
    int ndim
    Extent* extents                 # in the order of the layout's dimensions

cdef struct Layout:
    # A decoded chunk: C order of this shape. One that was stored transposed has its shape and its
    # extents permuted alike: the strides in the output do the rest.
    int ndim
    size_t item_size
    # Bytes of the units whose order is to be reversed, 0 none; divides item_size.
    size_t swap
    Py_ssize_t[MAX_DIMENSIONS] shape

cdef struct Loop:
    # One dimension of a copy; those of one element, and those that join with a neighbour, are none.
    Py_ssize_t count
    Py_ssize_t chunk_stride         # bytes
    Py_ssize_t out_stride
    const Py_ssize_t* positions     # multiplied by chunk_stride
    const Py_ssize_t* places

cdef struct Plan:
    # Loops, from the fastest in the chunk to its slowest, around runs contiguous on both sides.
    char* out
    Py_ssize_t chunk                # offset of the first element
    size_t run                      # bytes
    int ndim
    Loop[MAX_DIMENSIONS] loops

cdef void plan_copy(Plan* plan, const Layout* layout, const Placement* placement) noexcept nogil
cdef void plan_fill(Plan* plan, size_t item_size, const Placement* placement) noexcept nogil

cdef void placement_span(
    const Placement* placement, const Layout* layout, size_t* first, size_t* past
) noexcept nogil
cdef bint placement_within(
    const Placement* whole, int ndim, const Py_ssize_t* cell_shape, const Py_ssize_t* cell,
    Placement* part, Extent* extents
) noexcept nogil


cdef inline bint is_listed(const Loop* loop) noexcept nogil:
    return loop.positions != NULL or loop.places != NULL


cdef inline Py_ssize_t distance(const Loop* loop) noexcept nogil:
    # In the output. Lists are far apart, so that what is contiguous stays within them.
    if is_listed(loop):
        return PY_SSIZE_T_MAX
    return -loop.out_stride if loop.out_stride < 0 else loop.out_stride
