"""Where a redirect leads: to the same origin here and now, elsewhere by way of Python.

Each function runs under the scheduler's lock; none blocks.
"""

from cython.operator cimport dereference

from zfast._core.counters cimport count
from zfast._core.finishing cimport scheduler_finish
from zfast._core.lanes cimport lanes_enqueue
from zfast._core.leases cimport call_python
from zfast._core.request_head cimport http1_is_target
from zfast._core.scheduler cimport scheduler_dispatch
from zfast._core.state cimport CALL_REDIRECT, NOBODY, BatchState
from zfast._core.types cimport METHOD_DELETE, STATUS_MISSING, STATUS_REDIRECT


cdef bint _has_slash_more(const string* target, const string* other) noexcept nogil:
    # Whether the path of the one is that of the other and a slash.
    cdef size_t size = min(target.find(b"?"), target.size())
    cdef size_t less = min(other.find(b"?"), other.size())
    return (
        size == less + 1 and dereference(target)[less] == c"/"
        and target.compare(0, less, dereference(other), 0, less) == 0
    )


cdef bint _names_directory(Request* request, const string* target) noexcept nogil:
    # Servers answer for a directory by sending to its index page, which is no value of a key.
    return request.profile.keys_only and _has_slash_more(target, &request.target)


cdef bint _names_file(Request* request, const string* target) noexcept nogil:
    # Where a file has a directory's name, Caddy sends there who asks for the index page. Behind
    # another redirect the slash is the server's own, and what was asked for may be a key.
    return (
        request.profile.keys_only and request.retries.redirects == 1
        and _has_slash_more(&request.target, target)
    )


cdef bint _deletes_directory(Request* request) noexcept nogil:
    cdef size_t size = min(request.target.find(b"?"), request.target.size())
    return request.method == METHOD_DELETE and size and request.target[size - 1] == c"/"


cdef void _refuse_directory(Scheduler* s, Request* request) noexcept nogil:
    request.names_directory = True
    request.detail = string(b"it is a directory on this server")
    scheduler_finish(s, request, STATUS_REDIRECT)


cdef void scheduler_redirect(Scheduler* s, Request* request) noexcept nogil:
    # To the same origin here and now; anything else takes Python's URL handling.
    cdef string* location = &request.location
    cdef string* authority = &request.endpoint.authority
    cdef size_t fragment = location.find(b"#")
    if request.lead != NULL or request.released:
        # Entity tags tell states of one resource apart: a part of another one does not fit.
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    if _deletes_directory(request):
        # All that is in it would go, and nobody has named it.
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    request.retries.redirects += 1
    count(&request.profile.counters.redirects, 1)
    if request.retries.redirects > request.profile.retry.redirects:
        scheduler_finish(s, request, STATUS_REDIRECT)
        return
    # An entity tag tells states of one resource apart: what came so far is of another one.
    request.delivered = 0
    request.etag.clear()
    if fragment < location.size():
        location.resize(fragment)
    if location.size() > authority.size() and location.compare(
            0, authority.size(), dereference(authority)) == 0 and (
            dereference(location)[authority.size()] == c"/"):
        location.erase(0, authority.size())
    if location.size() and dereference(location)[0] == c"/" and location.compare(
            0, 2, b"//") and http1_is_target(location.data(), location.size()):
        if _names_directory(request, location):
            _refuse_directory(s, request)
            return
        if _names_file(request, location):
            scheduler_finish(s, request, STATUS_MISSING)
            return
        request.target = dereference(location)
        lanes_enqueue(s, request, True)
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
    elif not foreign and _names_directory(request, &target):
        _refuse_directory(s, request)
    elif not foreign and _names_file(request, &target):
        scheduler_finish(s, request, STATUS_MISSING)
    else:
        request.origin = origin
        request.endpoint = &origin.endpoint
        request.target = target
        request.foreign = request.foreign or foreign
        lanes_enqueue(s, request, True)
    scheduler_dispatch(s, NOBODY, now)
