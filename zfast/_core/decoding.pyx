"""The decode threads: bodies become elements of the output, shard indexes become requests.

No thread here ever holds a Python thread state; memory is decoded and copied outside the
scheduler's lock. A request with a task comes here however it came out.
"""

from libcpp.vector cimport vector

from zfast._core.assembly cimport (
    FOR_CHUNK,
    FOR_RUN,
    FOR_SIZE,
    Assembly,
    Task,
    Task_ptr,
    assembly_corrupt,
)
from zfast._core.buffers cimport buffers_trim, slab_release
from zfast._core.codecs cimport Decoder, decoder_trim
from zfast._core.extern.pthread cimport (
    pthread_cond_wait,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from zfast._core.finishing cimport scheduler_end
from zfast._core.index_cache cimport index_cache_expect_whole, index_cache_forget_index
from zfast._core.placement cimport Extent
from zfast._core.recipe cimport Chain, chain_read, chain_read_wanted
from zfast._core.request cimport Request
from zfast._core.scatter cimport scatter_fill
from zfast._core.scheduler cimport scheduler_dispatch
from zfast._core.shard_index cimport ShardIndex
from zfast._core.shard_read cimport (
    MAX_RESTARTS,
    shard_begin_anew,
    shard_decode_index,
    shard_end_run,
    shard_end_size,
    shard_enter_runs,
    shard_plan_runs,
    shard_resolve,
    shard_stop_waiting,
)
from zfast._core.sink cimport Piece
from zfast._core.state cimport NOBODY, BatchState, Scheduler, monotonic, wait_for
from zfast._core.types cimport (
    RANGE_BOUNDED,
    RANGE_SUFFIX,
    STATUS_CHANGED,
    STATUS_CORRUPT,
    STATUS_MISSING,
    STATUS_OK,
    STATUS_RANGE_UNSUPPORTED,
    Status,
)


cdef inline Task* _planned(Task* task) noexcept nogil:
    # The one that says what is wanted: of a shard the planner's, whichever request it is for.
    return task if task.shard == NULL else task.shard.task


cdef void _fill(Task* task) noexcept nogil:
    cdef Task* planned = _planned(task)
    cdef size_t item_size = task.chain.layout.item_size
    cdef size_t at
    if planned.wanted_inner.empty():
        scatter_fill(item_size, &planned.placement, task.assembly.fill.data())
    for at in range(planned.wanted_inner.size()):
        scatter_fill(item_size, &planned.wanted_inner[at].placement, task.assembly.fill.data())


cdef Status _decode_chunk(Task* task, Request* request, Decoder* decoder) noexcept nogil:
    cdef Task* planned = _planned(task)
    cdef const char* fill = task.assembly.fill.data()
    cdef const char* fault
    cdef const char* data = request.memory
    cdef size_t size = request.delivered
    cdef long number = -1
    if request.wanted.kind == RANGE_BOUNDED:
        # All that is selected, and what is around it nobody looks at.
        data -= request.offset
        size = task.chain.size
    if planned.wanted_inner.empty():
        fault = chain_read(task.chain, decoder, data, size, &planned.placement, fill, &number)
    else:
        fault = chain_read_wanted(
            task.chain, task.shard.inner, decoder, request.memory, request.delivered,
            planned.wanted_inner.data(), planned.wanted_inner.size(), fill, &number,
        )
    return STATUS_OK if fault == NULL else assembly_corrupt(task.chain, request, number, fault)


cdef Status _decode_run(Task* task, Request* request, Decoder* decoder) noexcept nogil:
    cdef const Chain* chain = task.chain
    cdef const char* fault
    cdef long deeper = -1
    cdef size_t at
    if request.pieces != NULL or not request.measured:
        return STATUS_OK
    for at in range(task.pieces.size()):
        fault = chain_read(
            task.shard.inner, decoder, request.memory + task.pieces[at].start, task.pieces[at].size,
            &task.pieces[at].placement, task.assembly.fill.data(), &deeper,
        )
        if fault != NULL:
            return assembly_corrupt(chain, request, <long>task.pieces[at].number, fault)
    return STATUS_OK


cdef void _let_go(Request* request) noexcept nogil:
    # Before the lock: giving memory back may take a while.
    slab_release(request.slab)
    request.slab = NULL
    request.memory = NULL


cdef void _do_chunk(Scheduler* s, Request* request, Decoder* decoder, Status code) noexcept nogil:
    # This and its likes are called without the lock and return with it.
    cdef Task* task = <Task*>request.task
    if code == STATUS_OK:
        code = _decode_chunk(task, request, decoder)
    elif code == STATUS_MISSING:
        _fill(task)
    _let_go(request)
    pthread_mutex_lock(&s.lock)
    if code == STATUS_MISSING:
        task.assembly.missing[task.item] = 1
    scheduler_end(s, request, code)


cdef bint _only_tells_size(const Task* task, const Request* request, Status code) noexcept nogil:
    if code == STATUS_RANGE_UNSUPPORTED:
        return request.wanted.kind == RANGE_SUFFIX
    if code == STATUS_CHANGED:
        return task.shard.size >= 0 and task.shard.restarts < MAX_RESTARTS
    return code == STATUS_OK and task.shard.index == NULL and (
        request.range_ignored or task.purpose == FOR_SIZE and request.object_size != 0
    )


cdef void _do_index(Scheduler* s, Request* request, Status code) noexcept nogil:
    cdef Task* task = <Task*>request.task
    cdef Assembly* assembly = task.assembly
    cdef ShardIndex* index = task.shard.index
    cdef vector[Task_ptr] tasks
    if _only_tells_size(task, request, code):
        pthread_mutex_lock(&s.lock)
        shard_end_size(task, request, code)
        return
    if code == STATUS_OK and index == NULL:
        index = shard_decode_index(task, request, &code)
    _let_go(request)
    pthread_mutex_lock(&s.lock)
    if task.loads:
        task.shard.index = index
        shard_resolve(task, request, code, index)
    elif code != STATUS_OK:
        shard_stop_waiting(task, request)
    pthread_mutex_unlock(&s.lock)
    if code == STATUS_OK:
        code = shard_plan_runs(task, request, &tasks)
    elif code == STATUS_MISSING:
        _fill(task)
    pthread_mutex_lock(&s.lock)
    if assembly.batch.cancelled != STATUS_OK and (code == STATUS_OK or code == STATUS_CORRUPT):
        code = assembly.batch.cancelled
    if code == STATUS_CORRUPT and task.shard.index_was_kept and task.shard.restarts == 0:
        # What is stored there now may be mended.
        code = STATUS_OK
        shard_begin_anew(task)
    elif code == STATUS_CORRUPT and task.shard.index != NULL:
        index_cache_forget_index(assembly.cache, &task.target, task.shard.index)
    elif code == STATUS_OK:
        shard_enter_runs(task, &tasks)
    else:
        for each in tasks:
            del each
    if code == STATUS_MISSING:
        task.assembly.missing[task.item] = 1
    scheduler_end(s, request, code)


cdef void decoding_plan(Scheduler* s, Request* request, int caller) noexcept nogil:
    # Serves a request for an index that is known here and now, without the lock: a small read must
    # not wait for a decode thread to wake, which only passes it on to an I/O thread.
    _do_index(s, request, STATUS_OK)
    scheduler_dispatch(s, caller, monotonic())
    pthread_mutex_unlock(&s.lock)


cdef void _do_run(Scheduler* s, Request* request, Decoder* decoder, Status code) noexcept nogil:
    cdef Task* task = <Task*>request.task
    if code == STATUS_OK:
        code = _decode_run(task, request, decoder)
    _let_go(request)
    # A read of many inner chunks has other runs to come.
    vector[Piece]().swap(task.pieces)
    vector[Extent]().swap(task.extents)
    pthread_mutex_lock(&s.lock)
    if request.range_ignored:
        index_cache_expect_whole(task.assembly.cache)
    scheduler_end(s, request, shard_end_run(task, code))


cdef void _do(Scheduler* s, Request* request, Decoder* decoder) noexcept nogil:
    # Under the lock, which is let go of meanwhile.
    cdef Task* task = <Task*>request.task
    cdef BatchState* batch = task.assembly.batch
    cdef Status code = request.code
    cdef size_t size = request.delivered if code == STATUS_OK and request.pieces == NULL else 0
    if code == STATUS_OK and batch.cancelled != STATUS_OK:
        code = batch.cancelled
    pthread_mutex_unlock(&s.lock)
    if task.purpose == FOR_CHUNK:
        _do_chunk(s, request, decoder, code)
    elif task.purpose == FOR_RUN:
        _do_run(s, request, decoder, code)
    else:
        _do_index(s, request, code)
    # The batch may be gone from here on.
    s.backlog -= size
    if not s.pending.empty():
        scheduler_dispatch(s, NOBODY, monotonic())


cdef bint decoding_has(const Scheduler* s, const BatchState* batch) noexcept nogil:
    # Whether the next thing to do is the batch's, and little. Under the lock.
    cdef const Task* task
    cdef size_t size
    if s.jobs.empty() or s.jobs.front().batch != batch:
        return False
    task = <const Task*>s.jobs.front().task
    size = task.chain.size
    if task.purpose == FOR_RUN:
        size = task.pieces.size() * task.shard.inner.size
    elif task.purpose != FOR_CHUNK:
        size = task.chain.index_size
    return size <= MOST_DECODED


cdef void decoding_help(Scheduler* s, BatchState* batch, Decoder* decoder) noexcept nogil:
    # Does the next thing, if it is the batch's. Under the lock, which is let go of meanwhile.
    cdef Request* request
    if decoding_has(s, batch):
        request = s.jobs.front()
        s.jobs.pop_front()
        _do(s, request, decoder)


cdef void* decoding_run(void* argument) noexcept nogil:
    cdef Scheduler* s = (<DecodeThread*>argument).scheduler
    cdef Decoder* decoder = (<DecodeThread*>argument).decoder
    cdef Request* request
    cdef bint trimmed = True
    pthread_mutex_lock(&s.lock)
    while True:
        if not s.jobs.empty():
            request = s.jobs.front()
            s.jobs.pop_front()
            _do(s, request, decoder)
            trimmed = False
        elif s.decoding_ends:
            break
        elif trimmed:
            pthread_cond_wait(&s.jobs_waiting, &s.lock)
        elif not wait_for(&s.jobs_waiting, &s.lock, s.idle_timeout):
            # Giving memory back may take a while.
            pthread_mutex_unlock(&s.lock)
            decoder_trim(decoder)
            # The last connections may have gone before the last bodies were decoded.
            buffers_trim()
            pthread_mutex_lock(&s.lock)
            trimmed = True
    pthread_mutex_unlock(&s.lock)
    return NULL
