# Request heads: written into a string, and checks of what may go into them.

from libcpp.string cimport string

# A request head, appended to a string that the caller reuses. What goes in has passed the
# predicates below (from Python: check_token, check_target, check_field_value): nothing is looked
# at again here. Running out of memory ends the process.
cdef void http1_request_line(string* out, const char* method, const string& target) noexcept nogil
cdef void http1_field(string* out, const char* name, const string& value) noexcept nogil
# The kind is RANGE_BOUNDED, with start < end, RANGE_OFFSET or RANGE_SUFFIX; see types.pxd.
cdef void http1_range(string* out, int kind, long long start, long long end) noexcept nogil
cdef void http1_content_length(string* out, long long size) noexcept nogil
cdef void http1_finish(string* out) noexcept nogil

cdef bint http1_is_token(const char* text, size_t size) noexcept nogil
cdef bint http1_is_field_value(const char* text, size_t size) noexcept nogil
cdef bint http1_is_target(const char* text, size_t size) noexcept nogil
