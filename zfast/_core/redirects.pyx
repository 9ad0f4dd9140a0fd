"""Where a redirect leads: to the same origin here and now, elsewhere by way of Python.

Each function runs under the scheduler's lock; none blocks.
"""

from cython.operator cimport dereference

from zfast._core.counters cimport count
from zfast._core.finishing cimport scheduler_finish
from zfast._core.lanes cimport lanes_enqueue
from zfast._core.leases cimport call_python
from zfast._core.octets cimport hex_digit
from zfast._core.origins cimport batch_holds
from zfast._core.request_head cimport http1_is_target
from zfast._core.scheduler cimport scheduler_dispatch
from zfast._core.state cimport CALL_REDIRECT, NOBODY, BatchState
from zfast._core.types cimport METHOD_DELETE, METHOD_PUT, STATUS_MISSING, STATUS_REDIRECT


cdef enum:
    # What everybody is to support (RFC 9110, section 4.1), and a little more.
    MAX_LOCATION = 8 << 10


cdef inline int _next_octet(const char* text, size_t* at, size_t past) noexcept nogil:
    # Percent-decoded; several slashes are one.
    cdef int high, low
    at[0] += 1
    if text[at[0] - 1] == c"/":
        while at[0] < past and text[at[0]] == c"/":
            at[0] += 1
        return c"/"
    if text[at[0] - 1] == c"%" and at[0] + 2 <= past:
        high, low = hex_digit(text[at[0]]), hex_digit(text[at[0] + 1])
        if high >= 0 and low >= 0:
            at[0] += 2
            return 16 * high + low
    return <unsigned char>text[at[0] - 1]


cdef inline size_t _path_size(const string* target) noexcept nogil:
    return min(target.find(b"?"), target.size())


cdef bint _has_dot_segments(const string* target) noexcept nogil:
    # RFC 3986, section 5.2.4: they are taken out of a reference before it is asked for.
    cdef size_t past = _path_size(target)
    cdef size_t end
    cdef size_t at = target.find(b"/.")
    while at < past:
        end = at + 2
        if end < past and dereference(target)[end] == c".":
            end += 1
        if end == past or dereference(target)[end] == c"/":
            return True
        at = target.find(b"/.", at + 1)
    return False


cdef void _read_path(const string* target, size_t past, string* path) noexcept nogil:
    cdef size_t at = 0
    path.reserve(past)
    while at < past:
        path.push_back(<char>_next_octet(target.data(), &at, past))


cdef bint _has_slash_more(const string* target, const string* other, bint ends) noexcept nogil:
    # Whether the path of the one is that of the other (or its end) and a slash, however they are
    # written: servers merge slashes, and encode what they redirect to in ways of their own.
    cdef size_t past = _path_size(target)
    cdef string path, other_path
    if past < 2 or dereference(target)[past - 1] != c"/":
        return False
    while past > 0 and dereference(target)[past - 1] == c"/":
        past -= 1
    _read_path(target, past, &path)
    _read_path(other, _path_size(other), &other_path)
    if not ends:
        return path == other_path
    return not path.empty() and path.size() <= other_path.size() and other_path.compare(
        other_path.size() - path.size(), path.size(), path) == 0


cdef bint _names_directory(Request* request, const string* target) noexcept nogil:
    # Servers answer for a directory by sending to its index page, which is no value of a key. One
    # that stands behind another does not know of what that has taken off the path.
    return request.policy.keys_only and _has_slash_more(target, &request.target, True)


cdef bint _names_file(Request* request, const string* target) noexcept nogil:
    # Where a file has a directory's name, Caddy sends there who asks for the index page. Behind
    # another redirect the slash is the server's own, and what was asked for may be a key.
    return (
        request.policy.keys_only and request.retries.redirects == 1
        and _has_slash_more(&request.target, target, False)
    )


cdef bint _deletes_directory(const Request* request, const string* target) noexcept nogil:
    # All that is in it would go, and nobody has named it.
    cdef size_t size = _path_size(target)
    return request.method == METHOD_DELETE and size and dereference(target)[size - 1] == c"/"


cdef void _refuse_directory(Scheduler* s, Request* request) noexcept nogil:
    request.names_directory = True
    request.detail = string(b"it is a directory on this server")
    scheduler_finish(s, request, STATUS_REDIRECT)


cdef void _refuse_file(Scheduler* s, Request* request) noexcept nogil:
    # Nothing has such a key, and nothing can get it.
    cdef bint writes = request.method == METHOD_PUT
    scheduler_finish(s, request, STATUS_REDIRECT if writes else STATUS_MISSING)


cdef void _follow(Scheduler* s, Request* request) noexcept nogil:
    # A hop is no attempt that has failed: there is a limit for hops, and one for attempts.
    request.attempts -= 1
    lanes_enqueue(s, request, True)


cdef void scheduler_redirect(Scheduler* s, Request* request) noexcept nogil:
    # To the same origin here and now; anything else takes Python's URL handling.
    cdef string* location = &request.location
    cdef string* authority = &request.endpoint.authority
    cdef size_t fragment = location.find(b"#")
    cdef string target
    if request.lead != NULL or request.parts_sent:
        # Entity tags tell states of one resource apart: a part of another one does not fit.
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    if _deletes_directory(request, &request.target):
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    if location.size() > MAX_LOCATION:
        request.detail = string(b"its Location is longer than any that is followed")
        string().swap(dereference(location))
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    request.retries.redirects += 1
    count(&request.policy.counters.redirects, 1)
    if request.retries.redirects > request.policy.retry.redirects:
        request.detail = string(b"more hops than max_redirects allows")
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    # An entity tag tells states of one resource apart: what came so far is of another one.
    request.delivered = 0
    request.etag.clear()
    if fragment < location.size():
        location.resize(fragment)
    if location.compare(0, authority.size(), dereference(authority)) == 0:
        target = location.substr(authority.size())
    elif location.compare(0, 2, b"//"):
        target = dereference(location)
    # Without an authority "//" begins one (RFC 3986, section 4.2), behind it a path: Python gets
    # the location whole.
    if target.size() and target[0] == c"/" and http1_is_target(
            target.data(), target.size()) and not _has_dot_segments(&target):
        if _names_directory(request, &target):
            _refuse_directory(s, request)
            return
        if _names_file(request, &target):
            _refuse_file(s, request)
            return
        if _deletes_directory(request, &target):
            scheduler_finish(s, request, STATUS_REDIRECT)
            return
        request.target = target
        _follow(s, request)
    else:
        request.with_python = True
        call_python(s, CALL_REDIRECT, (<BatchState*>request.batch).id, request.index)


cdef void scheduler_redirected(
    Scheduler* s, Request* request, Origin* origin, string target, bint foreign, double now
) noexcept nogil:
    # Python's answer to CALL_REDIRECT; a NULL origin means that it leads nowhere.
    if not request.with_python:
        # Cancelled meanwhile.
        return
    request.with_python = False
    if origin == NULL:
        scheduler_finish(s, request, STATUS_REDIRECT)
    elif _names_directory(request, &target):
        _refuse_directory(s, request)
    elif not foreign and _names_file(request, &target):
        _refuse_file(s, request)
    elif _deletes_directory(request, &target):
        scheduler_finish(s, request, STATUS_REDIRECT)
    else:
        batch_holds(<BatchState*>request.batch, origin)
        request.origin = origin
        request.endpoint = &origin.endpoint
        request.target = target
        request.foreign = request.foreign or foreign
        _follow(s, request)
    scheduler_dispatch(s, NOBODY, now)
