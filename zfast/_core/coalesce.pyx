"""Which byte ranges of one object to ask for together: pure arithmetic on what is wanted.

A gap is worth reading where that takes less time than another request would; a long run is cut,
so that several connections can carry its parts at once.

Neighbours at most `max_gap` bytes apart belong to one stretch, unless one of them alone is larger
than `max_size`: that one is a run of its own. A stretch becomes as few runs of at most `max_size`
bytes as it can, and of all ways to cut it into so few the one whose largest run is smallest is
taken: 17 chunks of 1 MiB with a limit of 16 MiB become 9 + 8 of them, not 16 + 1. Bytes that a run
has anyway are not asked for again, however often they are wanted.
"""

cdef extern from "<algorithm>" nogil:
    void sort "std::sort"(Wanted*, Wanted*, bint (*)(const Wanted&, const Wanted&) noexcept nogil)


cdef bint _before(const Wanted& one, const Wanted& other) noexcept nogil:
    if one.start != other.start:
        return one.start < other.start
    return one.size < other.size if one.size != other.size else one.name < other.name


cdef inline unsigned long long _end(const Wanted& wanted) noexcept nogil:
    return wanted.start + wanted.size


cdef Run _run(
    const Wanted* wanted, size_t first, size_t past, unsigned long long limit
) noexcept nogil:
    # The longest run from `first` on that has at most `limit` bytes, or the first one's alone.
    cdef Run run
    cdef size_t at
    run.start = wanted[first].start
    run.end = _end(wanted[first])
    run.first = first
    for at in range(first + 1, past):
        if _end(wanted[at]) > run.end:
            if _end(wanted[at]) - run.start > limit:
                run.past = at
                return run
            run.end = _end(wanted[at])
    run.past = past
    return run


cdef size_t _cut(
    const Wanted* wanted,
    size_t first,
    size_t past,
    unsigned long long limit,
    vector[Run]* runs,
) noexcept nogil:
    # A stretch into runs; only their number where `runs` is NULL.
    cdef size_t count = 0
    cdef Run run
    while first < past:
        run = _run(wanted, first, past, limit)
        if runs != NULL:
            runs.push_back(run)
        first = run.past
        count += 1
    return count


cdef unsigned long long _even_limit(
    const Wanted* wanted, size_t first, size_t past, unsigned long long max_size
) noexcept nogil:
    # The smallest limit that cuts a stretch into no more runs than `max_size` does.
    cdef size_t fewest = _cut(wanted, first, past, max_size, NULL)
    cdef unsigned long long low = 0
    cdef unsigned long long high = max_size
    cdef unsigned long long limit
    while low < high:
        limit = low + (high - low) // 2
        if _cut(wanted, first, past, limit, NULL) <= fewest:
            high = limit
        else:
            low = limit + 1
    return high


cdef void coalesce(
    vector[Wanted]* wanted,
    unsigned long long max_gap,
    unsigned long long max_size,
    vector[Run]* runs,
) noexcept nogil:
    cdef Wanted* ordered = wanted.data()
    cdef size_t count = wanted.size()
    cdef size_t first = 0
    cdef size_t past
    cdef unsigned long long end, limit
    runs.clear()
    sort(ordered, ordered + count, _before)
    while first < count:
        if ordered[first].size > max_size:
            runs.push_back(_run(ordered, first, count, 0))
            first = runs.back().past
            continue
        past = first + 1
        end = _end(ordered[first])
        while (past < count and ordered[past].size <= max_size
               and (ordered[past].start <= end or ordered[past].start - end <= max_gap)):
            end = max(end, _end(ordered[past]))
            past += 1
        limit = max_size
        if end - ordered[first].start > max_size:
            limit = _even_limit(ordered, first, past, max_size)
        _cut(ordered, first, past, limit, runs)
        first = past


def runs_of(list ranges, unsigned long long max_gap, unsigned long long max_size):
    """Coalesce some byte ranges, for tests.

    Parameters
    ----------
    ranges : list of (int, int)
        Start and size of each, in bytes.
    max_gap, max_size : int
        Bytes between neighbours, and of a run.

    Returns
    -------
    list of (int, int, list of int)
        Start and end (exclusive) of each run, and which of the ranges it is for.
    """
    cdef vector[Wanted] wanted
    cdef vector[Run] runs
    cdef Wanted one
    for name, (start, size) in enumerate(ranges):
        one.start, one.size, one.name = start, size, name
        wanted.push_back(one)
    with nogil:
        coalesce(&wanted, max_gap, max_size, &runs)
    return [
        (run.start, run.end, [wanted[at].name for at in range(run.first, run.past)])
        for run in runs
    ]
