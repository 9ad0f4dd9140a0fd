"""Shards: an index becomes requests for inner chunks, and what they meet decides how it goes on.

A shard whose object changed between its index and its chunks is begun again, once nothing of the
former state is under way any more; an index that several want is read by one of them.
"""

from libcpp.vector cimport vector

from zfast._core.assembly cimport (
    FOR_CHUNK,
    FOR_INDEX,
    FOR_RUN,
    WORTH_MORE,
    Assembly,
    Purpose,
    Shard,
    Task,
    assembly_add,
    assembly_corrupt,
    assembly_enter_shard,
    assembly_give_index,
    assembly_send,
    tag_is_strong,
)
from zfast._core.coalesce cimport Run, Wanted, coalesce
from zfast._core.finishing cimport scheduler_end, scheduler_finish
from zfast._core.index_cache cimport (
    IndexCache,
    IndexEntry,
    index_cache_drop,
    index_cache_expect_whole,
    index_cache_forget_index,
    index_cache_keep,
)
from zfast._core.placement cimport MAX_DIMENSIONS, Extent, Placement
from zfast._core.recipe cimport Chain, InnerWalk, chain_place, inner_walk_next, inner_walk_start
from zfast._core.request cimport Request
from zfast._core.scatter cimport scatter_fill
from zfast._core.scheduler cimport scheduler_enter
from zfast._core.shard_index cimport (
    ShardIndex,
    shard_index_decode,
    shard_index_fault,
    shard_index_holds,
    shard_index_nbytes,
    shard_index_offset,
    shard_index_release,
)
from zfast._core.sink cimport Piece
from zfast._core.types cimport (
    RANGE_SUFFIX,
    STATUS_CANCELLED,
    STATUS_CHANGED,
    STATUS_CLOSED,
    STATUS_CORRUPT,
    STATUS_DEADLINE,
    STATUS_MISSING,
    STATUS_OK,
    STATUS_RANGE_MISMATCH,
    STATUS_RANGE_UNSUPPORTED,
    Status,
)

cdef enum:
    # Bytes of a shard that is read in one piece where its tag may be the next one's too.
    MOST_RECENT_SIZE = 64 << 20


# ------------------------------------------------------------------------------- without the lock


cdef ShardIndex* shard_decode_index(Task* task, Request* request, Status* code) noexcept nogil:
    # The index that the request brought; NULL and why not.
    cdef const Chain* chain = task.chain
    cdef const char* fault = NULL
    cdef size_t at = 0
    cdef unsigned long long size, start
    cdef ShardIndex* index
    if request.delivered < chain.index_size:
        code[0] = assembly_corrupt(chain, request, -1, "the shard is shorter than its index")
        return NULL
    index = shard_index_decode(
        request.memory, request.delivered, chain.inner_count, chain.index_checksum,
        chain.index_big_endian, &fault,
    )
    if index == NULL:
        code[0] = assembly_corrupt(chain, request, -1, fault)
        return NULL
    index.etag = request.tag
    index.object_size = request.object_size
    index.recent = request.recent
    # Without a size a range past the end still fails, by its own response.
    size = (
        <unsigned long long>request.object_size if request.object_size >= 0
        else <unsigned long long>1 << 62
    )
    start = size - chain.index_size if chain.index_at_end else 0
    fault = shard_index_fault(index, size, start, chain.index_size, &at)
    if fault == NULL:
        return index
    shard_index_release(index)
    code[0] = assembly_corrupt(chain, request, <long>at, fault)
    return NULL


cdef Status shard_plan_runs(Task* task, Request* request, vector[Task_ptr]* tasks) noexcept nogil:
    # What to ask for of a shard whose index is known; what it does not hold is filled here.
    cdef Task* planned = task.shard.task
    cdef vector[Wanted] wanted
    cdef vector[Run] runs
    cdef InnerWalk walk
    cdef size_t number
    cdef Placement part
    cdef Extent[MAX_DIMENSIONS] extents
    if planned.wanted_inner.empty():
        inner_walk_start(&walk, task.chain, &planned.placement)
        while inner_walk_next(&walk, &number, &part, extents):
            if not _want(task, number, number, &part, &wanted):
                return _odd_size(task, request, number)
    else:
        for at in range(planned.wanted_inner.size()):
            number = planned.wanted_inner[at].number
            if not _want(task, number, at, &planned.wanted_inner[at].placement, &wanted):
                return _odd_size(task, request, number)
    coalesce(&wanted, task.assembly.max_gap, task.assembly.max_run, &runs)
    for run in runs:
        tasks.push_back(_new_run(task, &run, wanted.data()))
    if tasks.empty() and task.shard.index_was_kept and not task.shard.index.etag.empty():
        # All of it is filled by what an index says that may be out of date.
        tasks.push_back(_new_task(task, FOR_RUN))
    return STATUS_OK


cdef bint _want(
    Task* task, size_t number, size_t name, const Placement* part, vector[Wanted]* wanted
) noexcept nogil:
    # False if an inner chunk has a size that it cannot have.
    cdef const Chain* chain = task.shard.inner
    cdef const ShardIndex* index = task.shard.index
    cdef Wanted one
    if not shard_index_holds(index, number):
        scatter_fill(chain.layout.item_size, part, task.assembly.fill.data())
        return True
    one.start = shard_index_offset(index, number)
    one.size = shard_index_nbytes(index, number)
    one.name = name
    if one.size == 0 or one.size > chain.most + WORTH_MORE or (
            chain.inner == NULL and chain.steps.empty() and one.size != chain.size):
        return False
    wanted.push_back(one)
    return True


cdef Status _odd_size(Task* task, Request* request, size_t number) noexcept nogil:
    return assembly_corrupt(task.chain, request, <long>number, "its size is not a chunk's")


cdef Task* _new_task(const Task* shard, Purpose purpose) noexcept nogil:
    cdef Task* task = new Task()
    task.assembly = shard.assembly
    task.chain = shard.chain
    task.purpose = purpose
    task.item = shard.item
    task.shard = shard.shard
    task.target = shard.target
    return task


cdef Task* _new_run(Task* shard, const Run* run, const Wanted* wanted) noexcept nogil:
    # `wanted` names inner chunks by number, or by their place in `planned.wanted_inner`.
    cdef Task* planned = shard.shard.task
    cdef size_t ndim = <size_t>shard.chain.layout.ndim if planned.wanted_inner.empty() else 0
    cdef Task* task = _new_task(shard, FOR_RUN)
    cdef Piece* piece
    cdef Extent* extents
    cdef size_t at
    task.pieces.resize(run.past - run.first)
    task.extents.resize(task.pieces.size() * ndim)
    for at in range(task.pieces.size()):
        piece = &task.pieces[at]
        piece.number = wanted[run.first + at].name
        piece.start = <size_t>(wanted[run.first + at].start - run.start)
        piece.size = <size_t>wanted[run.first + at].size
        if planned.wanted_inner.empty():
            extents = task.extents.data() + at * ndim
            chain_place(shard.chain, &planned.placement, piece.number, &piece.placement, extents)
            piece.placement.extents = extents
        else:
            piece.placement = planned.wanted_inner[piece.number].placement
            piece.number = planned.wanted_inner[piece.number].number
    return task


# --------------------------------------------------------------------------------- under the lock


cdef void shard_resolve(
    Task* task, Request* request, Status code, ShardIndex* index
) noexcept nogil:
    # The loading of an index has ended: those who wait for it go on, or one of them tries itself.
    cdef IndexEntry* entry = task.entry
    cdef Task* other
    cdef Request* waiting
    task.loads = False
    task.entry = NULL
    while not entry.waiting.empty():
        waiting = entry.waiting.front()
        entry.waiting.pop_front()
        other = <Task*>waiting.task
        if not waiting.parked:
            other.entry = NULL
            continue
        if index != NULL:
            other.entry = NULL
            assembly_give_index(other.assembly, waiting, index)
        elif code in (STATUS_CANCELLED, STATUS_DEADLINE, STATUS_CLOSED, STATUS_OK):
            # That was the other reader's own end, or says that there is another way.
            if other.assembly.cache.knows_ranges:
                other.loads = True
                assembly_send(other, waiting)
                return
            other.entry = NULL
            if assembly_enter_shard(other.assembly, waiting):
                scheduler_finish(other.assembly.scheduler, waiting, STATUS_OK)
        else:
            other.entry = NULL
            waiting.parked = False
            waiting.http_status = request.http_status
            waiting.error = request.error
            waiting.attempts = request.attempts
            waiting.detail = request.detail
            scheduler_finish(other.assembly.scheduler, waiting, code)
    if index != NULL:
        index_cache_keep(task.assembly.cache, entry, index)
    else:
        index_cache_drop(task.assembly.cache, entry)


cdef void shard_stop_waiting(Task* task, Request* request) noexcept nogil:
    # It was cancelled while another request was loading the index.
    cdef IndexEntry* entry = task.entry
    cdef size_t at
    if entry == NULL:
        return
    task.entry = NULL
    for at in range(entry.waiting.size()):
        if entry.waiting[at] == request:
            entry.waiting.erase(entry.waiting.begin() + <long>at)
            return


cdef void _again(Task* task, Purpose purpose) noexcept nogil:
    # Another request for the same shard.
    cdef Assembly* assembly = task.assembly
    cdef Task* next = _new_task(task, purpose)
    cdef Request* request
    assembly.later_tasks.push_back(next)
    request = assembly_add(assembly, next)
    scheduler_enter(assembly.scheduler, request)
    if request.parked:
        if task.loads:
            # The entry is this reader's still, and others may be waiting at it.
            task.loads = False
            next.loads = True
            next.entry = task.entry
            task.entry = NULL
            assembly_send(next, request)
        else:
            if assembly_enter_shard(assembly, request):
                scheduler_finish(assembly.scheduler, request, STATUS_OK)


cdef void shard_enter_runs(Task* task, vector[Task_ptr]* tasks) noexcept nogil:
    cdef Assembly* assembly = task.assembly
    cdef const ShardIndex* index = task.shard.index
    if index.recent and not tasks.empty() and 0 <= index.object_size <= MOST_RECENT_SIZE:
        # By its tag nobody could tell that the runs are of the next one.
        for each in tasks[0]:
            del each
        _again(task, FOR_CHUNK)
        return
    task.shard.running = tasks.size()
    task.shard.changed = False
    for each in tasks[0]:
        assembly.later_tasks.push_back(each)
        scheduler_enter(assembly.scheduler, assembly_add(assembly, each))


cdef void shard_begin_anew(Task* task) noexcept nogil:
    # By another index than this one, which nobody is to have from here on.
    cdef Shard* shard = task.shard
    shard.restarts += 1
    shard.size = -1
    index_cache_forget_index(task.assembly.cache, &task.target, shard.index)
    shard_index_release(shard.index)
    shard.index = NULL
    shard.index_was_kept = False
    _again(task, FOR_INDEX)


cdef Status shard_end_run(Task* task, Status code) noexcept nogil:
    # The code to end the run with; the last one of a shard that changed begins it again.
    cdef Shard* shard = task.shard
    shard.running -= 1
    if code in (STATUS_CHANGED, STATUS_MISSING, STATUS_RANGE_MISMATCH) or (
            code == STATUS_CORRUPT and shard.index_was_kept
            and not tag_is_strong(shard.index.etag)):
        if shard.restarts == MAX_RESTARTS:
            return STATUS_CHANGED if code == STATUS_MISSING else code
        shard.changed = True
        code = STATUS_OK
    if shard.running or not shard.changed or code != STATUS_OK:
        return code
    if task.assembly.batch.cancelled != STATUS_OK:
        return task.assembly.batch.cancelled
    shard_begin_anew(task)
    return STATUS_OK


cdef void shard_end_size(Task* task, Request* request, Status code) noexcept nogil:
    # How long the shard is, and whether this server knows ranges, is known now.
    cdef IndexCache* cache = task.assembly.cache
    if task.assembly.batch.cancelled != STATUS_OK:
        # Nobody would cancel another request of this batch.
        code = task.assembly.batch.cancelled
    elif code == STATUS_CHANGED:
        # Between its size and its index.
        task.shard.restarts += 1
        task.shard.size = -1
        code = STATUS_OK
    elif code == STATUS_RANGE_UNSUPPORTED:
        # The size may have come with the refusal.
        cache.knows_suffixes = False
        task.shard.size = request.object_size
        task.shard.tag.clear()
        code = STATUS_OK
    elif code == STATUS_OK and request.range_ignored and request.object_size >= 0 and (
            request.wanted.kind == RANGE_SUFFIX):
        # As Azure's: with the size that has come the same bytes are asked for from the start.
        cache.knows_suffixes = False
        task.shard.size = request.object_size
        task.shard.tag = request.tag
    elif code == STATUS_OK and request.range_ignored:
        if request.wanted.kind == RANGE_SUFFIX:
            cache.knows_suffixes = False
        else:
            index_cache_expect_whole(cache)
        shard_resolve(task, request, STATUS_OK, NULL)
        _again(task, FOR_CHUNK)
        scheduler_end(task.assembly.scheduler, request, STATUS_OK)
        return
    elif code == STATUS_OK:
        task.shard.size = request.object_size
        task.shard.tag = request.tag
        code = STATUS_OK if request.object_size >= 0 else STATUS_RANGE_UNSUPPORTED
    if code == STATUS_OK:
        _again(task, FOR_INDEX)
    else:
        shard_resolve(task, request, code, NULL)
    scheduler_end(task.assembly.scheduler, request, code)
