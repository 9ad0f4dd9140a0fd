"""One request: its head as it goes out, and the memory that its body gets where nobody gave any."""

from libc.string cimport memcpy
from libcpp.string cimport string

from zfast._core.buffers cimport arena_take, slab_grown, slab_release
from zfast._core.request_head cimport (
    http1_content_length,
    http1_field,
    http1_finish,
    http1_range,
    http1_request_line,
)
from zfast._core.types cimport (
    METHOD_DELETE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_MKCOL,
    METHOD_PUT,
    RANGE_BOUNDED,
    RANGE_EMPTY,
    RANGE_OFFSET,
    RANGE_SUFFIX,
    RANGE_WHOLE,
)

cdef enum:
    FIRST_GUESS = 64 << 10


cdef const char* _method_name(Method method) noexcept nogil:
    if method == METHOD_HEAD:
        return "HEAD"
    if method == METHOD_PUT:
        return "PUT"
    if method == METHOD_DELETE:
        return "DELETE"
    if method == METHOD_MKCOL:
        return "MKCOL"
    return "GET"


cdef void _write_range(Request* request, string* out) noexcept nogil:
    cdef ByteRange* wanted = &request.wanted
    cdef long long first = <long long>request.delivered
    if request.method != METHOD_GET:
        return
    if first == 0:
        if wanted.kind == RANGE_EMPTY:
            http1_range(out, RANGE_BOUNDED, 0, 1)
        elif wanted.kind != RANGE_WHOLE:
            http1_range(out, wanted.kind, wanted.start, wanted.end)
        return
    # Resuming: only the object that the delivered bytes are from may answer with a part.
    if wanted.kind == RANGE_BOUNDED:
        http1_range(out, RANGE_BOUNDED, wanted.start + first, wanted.end)
    elif wanted.kind == RANGE_SUFFIX:
        http1_range(
            out, RANGE_OFFSET, max(request.object_size - wanted.start, 0) + first, 0
        )
    else:
        http1_range(out, RANGE_OFFSET, wanted.start + first, 0)
    http1_field(out, "If-Range", request.etag)


cdef void request_ask_size(Request* request) noexcept nogil:
    # Before a range, where that is not to be had without. Not by HEAD, which servers answer in ways
    # of their own.
    request.wanted_next = request.wanted
    request.wanted.kind = RANGE_EMPTY
    request.asks_size = True


cdef bint request_count_from_start(Request* request) noexcept nogil:
    # Asks for the same bytes by their positions, of the same object, if its size is known now. True
    # where it has none: then there is nothing to ask for.
    if request.asks_size:
        request.wanted = request.wanted_next
    request.asks_size = False
    request.by_size = True
    if request.object_size == 0:
        return True
    if request.object_size < 0:
        if request.http_status == 416:
            # So says every server of an object without bytes, and some of any: the whole tells.
            request.wanted.kind = RANGE_WHOLE
            request.required_object_size = 0
        return False
    request.pinned = True
    request.pinned_tag = request.tag
    request.required_object_size = request.object_size
    if request.wanted.kind == RANGE_SUFFIX:
        request.wanted.kind = RANGE_BOUNDED
        request.wanted.start = max(request.object_size - request.wanted.start, 0)
        request.wanted.end = request.object_size
        request.expected = request.wanted.end - request.wanted.start
    return False


cdef void request_undivide(Request* lead) noexcept nogil:
    # Asks for all of its range again, and for the whole object where that was it: one that turns
    # out to be longer is then another one.
    lead.wanted.end = lead.past
    if lead.wanted.start == 0 and lead.past == lead.required_object_size:
        lead.wanted.kind = RANGE_WHOLE
    if lead.expected >= 0:
        lead.expected = lead.past - lead.wanted.start


cdef void request_compose(Request* request, string* out) noexcept nogil:
    # Its head, as it goes out now: of what has been delivered only the rest is asked for.
    out.clear()
    if request.endpoint.prefix.empty():
        http1_request_line(out, _method_name(request.method), request.target)
    else:
        http1_request_line(
            out, _method_name(request.method), request.endpoint.prefix + request.target
        )
    out.append(request.endpoint.fields)
    if request.foreign:
        out.append(request.policy.foreign_fields)
    else:
        out.append(request.policy.fields)
        out.append(request.credentials)
    out.append(request.fields)
    _write_range(request, out)
    if request.method == METHOD_PUT:
        http1_content_length(out, <long long>request.content_size)
    http1_finish(out)


cdef bint request_has_all(const Request* request) noexcept nogil:
    # Every byte came, yet the response was not complete: there is no range left to resume with.
    cdef long long reached = request.wanted.start + <long long>request.delivered
    if request.wanted.kind == RANGE_BOUNDED and reached >= request.wanted.end:
        return True
    if request.wanted.kind == RANGE_SUFFIX:
        reached = max(request.object_size - request.wanted.start, 0) + <long long>request.delivered
    return 0 <= request.object_size <= reached


cdef bint request_make_room(Request* request, size_t size) noexcept nogil:
    # Room for `size` bytes in all, False when there is no memory. What is delivered stays.
    cdef Slab* slab = NULL
    cdef char* memory
    if request.memory != NULL and request.capacity >= size:
        return True
    memory = arena_take(request.arena, size, &slab)
    if memory == NULL:
        return False
    if request.delivered:
        memcpy(memory, request.memory, request.delivered)
    slab_release(request.slab)
    request.slab = slab
    request.memory = memory
    request.capacity = size
    return True


cdef bint request_grow(Request* request, size_t size) noexcept nogil:
    # For a body of unknown length: memory of its own that doubles.
    cdef size_t room = max(request.capacity * 2, max(size, <size_t>FIRST_GUESS))
    cdef Slab* slab
    if request.capacity >= size:
        return True
    slab = slab_grown(request.slab, room)
    if slab == NULL:
        return False
    request.slab = slab
    request.memory = slab.base
    request.capacity = room
    return True


cdef void request_shrink(Request* request) noexcept nogil:
    # To what came: whoever keeps many small bodies is not to keep the guesses as well.
    cdef Slab* slab
    if request.slab == NULL or not 0 < request.delivered < request.capacity:
        return
    slab = slab_grown(request.slab, request.delivered)
    if slab != NULL:
        request.memory = slab.base
        request.capacity = request.delivered


cdef void request_forget_memory(Request* request) noexcept nogil:
    slab_release(request.slab)
    request.slab = NULL
    request.memory = NULL
    request.capacity = 0
