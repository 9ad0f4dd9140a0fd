"""One array read: its chunks and shards become requests, which know where their bytes go.

What makes or ends requests happens under the scheduler's lock; what a decode thread notes of its
own does not. Nothing here blocks.
"""

from libcpp.string cimport string, to_string

from zfast._core.counters cimport count
from zfast._core.finishing cimport scheduler_end, scheduler_finish
from zfast._core.index_cache cimport (
    IndexEntry,
    IndexFormat,
    index_cache_begin,
    index_cache_find_alike,
)
from zfast._core.lanes cimport lanes_enqueue
from zfast._core.placement cimport Placement, placement_span
from zfast._core.recipe cimport Chain
from zfast._core.request cimport Request
from zfast._core.scatter cimport scatter_target
from zfast._core.scheduler cimport scheduler_enter
from zfast._core.shard_index cimport (
    ShardIndex,
    shard_index_offset,
    shard_index_release,
    shard_index_retain,
)
from zfast._core.sink cimport sink_takes
from zfast._core.state cimport BatchState
from zfast._core.types cimport (
    METHOD_GET,
    RANGE_BOUNDED,
    RANGE_SUFFIX,
    RANGE_WHOLE,
    STATUS_CORRUPT,
    STATUS_OK,
    Status,
)

cdef enum:
    # A part of a chunk has to save so many bytes: a range is a longer request, and a longer head.
    PART_SAVES = 8 << 10


cdef Request* assembly_add(Assembly* assembly, Task* task) noexcept nogil:
    # A request for the task, the last of its batch and not entered yet. Under the lock.
    cdef BatchState* batch = assembly.batch
    cdef Request* request
    batch.requests.emplace_back()
    request = &batch.requests.back()
    request.policy = assembly.policy
    request.origin = assembly.origin
    request.endpoint = &assembly.origin.endpoint
    request.arena = batch.arena
    request.batch = batch
    request.index = batch.requests.size() - 1
    request.method = METHOD_GET
    request.target = task.target
    request.object_size = request.expected = request.required_object_size = -1
    request.measured = True
    request.repeatable = (assembly.policy.retry.methods >> METHOD_GET) & 1
    request.task = task
    if task.purpose != FOR_RUN:
        # What a run has its index says, within the same bounds.
        request.most = task.chain.most + WORTH_MORE
    if task.purpose == FOR_CHUNK:
        request.wanted.kind = RANGE_WHOLE
        _land_chunk(assembly, task, request)
    elif task.purpose == FOR_INDEX:
        request.parked = True
    else:
        _ask_for_run(task, request)
    return request


cdef void assembly_leave_out(Assembly* assembly, Task* task) noexcept nogil:
    # Ends the first of what was planned when the batch had been cancelled already: without it the
    # read would pass for complete. Under the lock.
    cdef Request* request = assembly_add(assembly, task)
    request.parked = True
    scheduler_enter(assembly.scheduler, request)
    request.parked = False
    scheduler_end(assembly.scheduler, request, assembly.batch.cancelled)


cdef void _land_chunk(Assembly* assembly, Task* task, Request* request) noexcept nogil:
    # A chunk that is stored as it is in memory needs nobody after its exchange.
    cdef const Chain* chain = task.chain
    if chain.inner != NULL or not chain.steps.empty():
        return
    request.expected = <long long>chain.size
    if _direct(chain, &task.placement, request):
        request.lands = True
        return
    if not task.pieces.empty():
        request.layout = &chain.layout
        request.pieces = task.pieces.data()
        request.piece_count = 1
        request.lands = True
    _ask_for_part(assembly, task, request)


cdef void _ask_for_part(Assembly* assembly, Task* task, Request* request) noexcept nogil:
    # A window of a large chunk that lies in few of its rows: only these. What goes to memory first
    # is as if the rest were around it.
    cdef size_t first, past
    placement_span(&task.placement, &task.chain.layout, &first, &past)
    if task.chain.size - (past - first) < PART_SAVES or not assembly.cache.knows_ranges:
        return
    request.wanted.kind = RANGE_BOUNDED
    request.wanted.start = <long long>first
    request.wanted.end = <long long>past
    request.offset = first
    request.expected = <long long>(past - first)
    request.required_object_size = <long long>task.chain.size


cdef bint _direct(const Chain* chain, const Placement* placement, Request* request) noexcept nogil:
    cdef char* target = scatter_target(&chain.layout, placement)
    if target == NULL:
        return False
    request.memory = target
    request.capacity = chain.size
    request.measured = False
    return True


cdef void _ask_for_index(Assembly* assembly, Task* task, Request* request) noexcept nogil:
    cdef const Chain* chain = task.chain
    cdef long long size = <long long>chain.index_size
    request.wanted.kind = RANGE_BOUNDED
    request.wanted.start = request.wanted.end = 0
    if not chain.index_at_end:
        request.wanted.end = size
    elif task.shard.size >= 0:
        request.wanted.start = max(task.shard.size - size, 0)
        request.wanted.end = task.shard.size
        request.expected = task.shard.size - request.wanted.start
        _pin(request, task.shard.tag, task.shard.size)
    elif assembly.cache.knows_suffixes:
        request.wanted.kind = RANGE_SUFFIX
        request.wanted.start = size
    else:
        # The first byte comes with the size of all.
        task.purpose = FOR_SIZE
        request.wanted.end = 1


cdef void _ask_for_run(Task* task, Request* request) noexcept nogil:
    cdef const Chain* chain = task.shard.inner
    cdef const ShardIndex* index = task.shard.index
    cdef size_t first
    request.wanted.kind = RANGE_BOUNDED
    if task.pieces.empty():
        # Nothing is wanted but to know that the object is still the one that the index is of.
        request.wanted.start = 0
        request.wanted.end = request.expected = 1
        _pin(request, index.etag, index.object_size)
        return
    first = task.pieces.front().number
    request.wanted.start = <long long>shard_index_offset(index, first)
    request.expected = <long long>(task.pieces.back().start + task.pieces.back().size)
    request.wanted.end = request.wanted.start + request.expected
    _pin(request, index.etag, index.object_size)
    if chain.inner != NULL or not chain.steps.empty() or chain.layout.swap:
        return
    if task.pieces.size() == 1 and _direct(chain, &task.pieces.front().placement, request):
        return
    if sink_takes(&chain.layout, task.pieces.data(), task.pieces.size()):
        request.layout = &chain.layout
        request.pieces = task.pieces.data()
        request.piece_count = task.pieces.size()


cdef void _pin(Request* request, const string& tag, long long size) noexcept nogil:
    # To the object that something is known of already.
    request.pinned = True
    request.pinned_tag = tag
    request.object_size = size
    if tag_is_strong(tag):
        request.fields = string(b"If-Match: ") + tag + string(b"\r\n")


cdef bint assembly_enter_shard(Assembly* assembly, Request* request) noexcept nogil:
    # Sends a parked request for an index on its way, unless another is there already. True if the
    # index is known, and the request is the caller's to give to a decode thread, or to serve.
    cdef Task* task = <Task*>request.task
    cdef IndexEntry* entry
    cdef IndexFormat format
    if not assembly.cache.knows_ranges:
        task.purpose = FOR_CHUNK
        request.wanted.kind = RANGE_WHOLE
        request.parked = False
        lanes_enqueue(assembly.scheduler, request, False)
        return False
    format.count = task.chain.inner_count
    format.at_end = task.chain.index_at_end
    format.checksum = task.chain.index_checksum
    format.big_endian = task.chain.index_big_endian
    entry = index_cache_find_alike(assembly.cache, &task.target, &format)
    if entry == NULL:
        count(&assembly.policy.counters.index_misses, 1)
        task.entry = index_cache_begin(assembly.cache, &task.target, &format)
        task.loads = True
        assembly_send(task, request)
        return False
    count(&assembly.policy.counters.index_hits, 1)
    if entry.index == NULL:
        entry.waiting.push_back(request)
        task.entry = entry
        return False
    task.shard.index_was_kept = True
    shard_index_retain(entry.index)
    task.shard.index = entry.index
    request.parked = False
    request.code = STATUS_OK
    return True


cdef void assembly_send(Task* task, Request* request) noexcept nogil:
    # By what is known of the server now: it may have been parked for long.
    _ask_for_index(task.assembly, task, request)
    request.parked = False
    lanes_enqueue(task.assembly.scheduler, request, False)


cdef void assembly_give_index(
    Assembly* assembly, Request* request, ShardIndex* index
) noexcept nogil:
    shard_index_retain(index)
    (<Task*>request.task).shard.index = index
    request.parked = False
    scheduler_finish(assembly.scheduler, request, STATUS_OK)


cdef string _at_inner(const Chain* chain, size_t number, const char* fault) noexcept nogil:
    # "inner chunk (3, 4): ...", its coordinates as the shard has them.
    cdef string text
    cdef int dimension = chain.layout.ndim
    while dimension > 0:
        dimension -= 1
        text = to_string(<unsigned long long>(number % <size_t>chain.grid[dimension])) + text
        number //= <size_t>chain.grid[dimension]
        if dimension:
            text = string(b", ") + text
    return string(b"inner chunk (") + text + string(b"): ") + string(fault)


cdef Status assembly_corrupt(
    const Chain* chain, Request* request, long number, const char* fault
) noexcept nogil:
    request.detail = string(fault) if number < 0 else _at_inner(chain, <size_t>number, fault)
    return STATUS_CORRUPT


cdef void assembly_free(Assembly* assembly) noexcept nogil:
    # When its batch is done.
    cdef size_t at
    for at in range(assembly.shards.size()):
        shard_index_release(assembly.shards[at].index)
    for task in assembly.later_tasks:
        del task
    del assembly
