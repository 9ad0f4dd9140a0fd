"""Large ranges over several connections: one request leads, and the others are its parts.

The lead asks for the first part. Once its head has come, the object is known, and the others ask
for theirs under its entity tag (If-Match, RFC 9110, section 13.1.1): all are of one state of the
object, or none of it counts. Where the object has no strong tag, changes meanwhile, or the server
does not do ranges, the whole range is read by one request after all. Under the scheduler's lock.
"""

from libcpp.string cimport string

from zfast._core.counters cimport count
from zfast._core.exchange cimport RECENT_SECONDS
from zfast._core.lanes cimport lanes_enqueue
from zfast._core.request cimport request_undivide
from zfast._core.state cimport WHOLE_SECONDS, BatchState, Origin, monotonic
from zfast._core.types cimport (
    METHOD_GET,
    RANGE_BOUNDED,
    RANGE_WHOLE,
    STATUS_BAD_STATUS,
    STATUS_CHANGED,
    STATUS_MISSING,
    STATUS_OK,
    STATUS_RANGE_MISMATCH,
    STATUS_RANGE_UNSUPPORTED,
    STATUS_REDIRECT,
)

cdef enum:
    # Parts begin at multiples of this, counted from the begin of the range.
    PART_ALIGNMENT = 64 << 10
    # Ranges in a row that were read anew by one request: then none is split for a while.
    MOST_LOST = 2


cdef size_t _part_size(const Scheduler* s, const Request* lead, size_t size) noexcept nogil:
    # Of a batch whose requests are many already, each stays whole: its connections are taken.
    cdef size_t requests = (<BatchState*>lead.batch).requests.size()
    cdef size_t most = <size_t>s.max_in_flight // requests
    cdef size_t part = lead.policy.split_size
    cdef size_t parts
    if part == 0 or size < lead.policy.split_threshold:
        return size
    parts = min(most, (size + part - 1) // part)
    if parts < 2:
        return size
    part = (size + parts - 1) // parts
    return (part + PART_ALIGNMENT - 1) // PART_ALIGNMENT * PART_ALIGNMENT


cdef void split_plan(Scheduler* s, Request* lead) noexcept nogil:
    # Of a request that is about to go out: plans parts of it, if it is large.
    cdef BatchState* batch = <BatchState*>lead.batch
    cdef long long start = lead.wanted.start
    cdef long long past = lead.wanted.end
    cdef long long size
    cdef Request* part
    if lead.wanted.kind == RANGE_WHOLE and lead.expected >= 0:
        start = 0
        past = lead.expected
    elif lead.wanted.kind != RANGE_BOUNDED:
        return
    if lead.method != METHOD_GET or lead.piece_count > 1:
        return
    size = <long long>_part_size(s, lead, <size_t>(past - start))
    if size >= past - start or monotonic() < (<Origin*>lead.origin).whole_until:
        return
    if lead.wanted.kind == RANGE_WHOLE:
        lead.required_object_size = lead.expected
    lead.wanted.kind = RANGE_BOUNDED
    lead.wanted.start = start
    lead.wanted.end = start + size
    lead.past = past
    if lead.expected >= 0:
        lead.expected = size
    start = lead.wanted.end
    while start < past:
        batch.parts.emplace_back()
        part = &batch.parts.back()
        part.lead = lead
        part.wanted.kind = RANGE_BOUNDED
        part.wanted.start = start
        # Not their sum: a range may end where a number does.
        part.wanted.end = start + min(size, past - start)
        lead.parts.push_back(part)
        start = part.wanted.end
    lead.unfinished = 1 + lead.parts.size()
    count(&lead.policy.counters.split, 1)


cdef void split_go(Scheduler* s, Request* lead) noexcept nogil:
    # The lead's head has come: the parts go out, to where it was found.
    cdef size_t offset
    cdef long long size
    if lead.parts_sent or lead.parts.empty() or lead.cancelled != STATUS_OK:
        return
    lead.parts_sent = True
    lead.part_tag, lead.part_object_size = lead.tag, lead.object_size
    for part in lead.parts:
        if lead.object_size <= part.wanted.start:
            # The object ends before.
            lead.unfinished -= 1
            continue
        part.wanted.end = min(part.wanted.end, lead.object_size)
        offset = <size_t>(part.wanted.start - lead.wanted.start)
        size = part.wanted.end - part.wanted.start
        part.policy, part.origin, part.endpoint = lead.policy, lead.origin, lead.endpoint
        part.batch, part.arena, part.index = lead.batch, lead.arena, lead.index
        part.method = lead.method
        part.target = lead.target
        part.foreign = lead.foreign
        part.fields, part.credentials = lead.fields, lead.credentials
        if not lead.pinned:
            part.fields += string(b"If-Match: ") + lead.tag + string(b"\r\n")
        part.pinned = True
        part.pinned_tag = lead.tag
        part.object_size = lead.object_size
        part.required_object_size = lead.required_object_size
        part.expected = size
        part.repeatable = lead.repeatable
        part.layout, part.pieces, part.piece_count = lead.layout, lead.pieces, lead.piece_count
        part.offset = lead.offset + offset
        if lead.pieces == NULL:
            part.memory = lead.memory + offset
            part.capacity = <size_t>size
        lanes_enqueue(s, part, False)


cdef inline bint _reads_otherwise(Status code) noexcept nogil:
    # What one request for the whole range may not come to.
    return code in (
        STATUS_BAD_STATUS, STATUS_CHANGED, STATUS_MISSING, STATUS_RANGE_MISMATCH,
        STATUS_RANGE_UNSUPPORTED, STATUS_REDIRECT,
    )


cdef void _unite(Request* lead) noexcept nogil:
    request_undivide(lead)
    lead.delivered = 0
    lead.etag.clear()
    lead.parts.clear()
    lead.parts_sent = False


cdef SplitStep _conclude(Request* lead, Status* code) noexcept nogil:
    # All parts have ended, and the first that failed, if one has, did so with this code.
    cdef Origin* origin = <Origin*>lead.origin
    cdef bint again = False
    if lead.undivided:
        origin.whole_until = monotonic() + WHOLE_SECONDS
        return SPLIT_ENDS
    if not lead.opened:
        # Nothing is there; or there is no tag to hold the parts together.
        again = code[0] == STATUS_OK and lead.delivered > 0
        if again:
            # Of what was written just now others may have been as well.
            origin.whole_until = monotonic() + (RECENT_SECONDS if lead.recent else WHOLE_SECONDS)
    elif code[0] == STATUS_OK:
        origin.splits_lost = 0
        lead.delivered = <size_t>(min(lead.past, lead.object_size) - lead.wanted.start)
    elif not lead.pinned:
        again = _reads_otherwise(code[0])
        origin.splits_lost += again
        # Replicas that each have a tag of their own never agree.
        if origin.splits_lost >= MOST_LOST:
            origin.whole_until = monotonic() + WHOLE_SECONDS
    if again:
        _unite(lead)
    return SPLIT_AGAIN if again else SPLIT_ENDS


cdef void _take_failure(Request* lead) noexcept nogil:
    # Not before all have ended: until then the lead's outcome is its worker's to write.
    if lead.failed != lead:
        lead.http_status, lead.error = lead.failed.http_status, lead.failed.error
        lead.attempts = lead.failed.attempts
        lead.detail = lead.failed.detail


cdef SplitStep split_ended(Scheduler* s, Request* request, Status* code) noexcept nogil:
    # A lead or a part came out so; the code is that of the whole range where all of it has ended.
    cdef Request* lead = request.lead if request.lead != NULL else request
    cdef bint fails = code[0] != STATUS_OK and lead.failed_with == STATUS_OK
    cdef SplitStep step
    lead.unfinished -= 1
    if fails:
        lead.failed_with = code[0]
        lead.failed = request
    if request == lead and not lead.parts_sent:
        if code[0] == STATUS_OK and lead.opened:
            split_go(s, lead)
            if not lead.parts_sent:
                # Cancelled in the very turn in which it ended: the parts stay where they are.
                lead.failed_with, lead.failed = lead.cancelled, lead
        if not lead.parts_sent:
            lead.unfinished -= lead.parts.size()
    if lead.unfinished > 0:
        return SPLIT_FAILS if fails else SPLIT_WAITS
    code[0] = lead.failed_with
    step = _conclude(lead, code)
    if step == SPLIT_ENDS and code[0] != STATUS_OK:
        _take_failure(lead)
    lead.failed_with = STATUS_OK
    return step
