# Which byte ranges of one object to ask for together. Pure arithmetic.

from libcpp.vector cimport vector

cdef struct Wanted:                 # bytes wanted of one object; start + size must not overflow
    unsigned long long start
    unsigned long long size
    size_t name                     # whatever the caller knows it by

cdef struct Run:                    # one request, for wanted[first:past]
    unsigned long long start        # [start, end)
    unsigned long long end
    size_t first
    size_t past

# Sorts `wanted` by start and fills `runs` anew, in the same order: see the .pyx for the rule.
cdef void coalesce(
    vector[Wanted]* wanted,
    unsigned long long max_gap,
    unsigned long long max_size,
    vector[Run]* runs,
) noexcept nogil
