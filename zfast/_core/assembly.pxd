# One read of a zarr array, and what each of its requests is for.

from libcpp.deque cimport deque
from libcpp.string cimport string
from libcpp.vector cimport vector

from zfast._core.index_cache cimport IndexCache, IndexEntry
from zfast._core.octets cimport is_strong_tag
from zfast._core.placement cimport Extent, Placement
from zfast._core.recipe cimport Chain, WantedInner
from zfast._core.request cimport PolicyState, Request
from zfast._core.shard_index cimport ShardIndex
from zfast._core.sink cimport Piece
from zfast._core.state cimport BatchState, Origin, Scheduler
from zfast._core.types cimport Status

cdef enum Purpose:
    FOR_CHUNK                       # a whole object is one stored chunk (or a shard, read whole)
    FOR_SIZE                        # how long a shard is, where ranges cannot count from its end
    FOR_INDEX                       # the index of a shard
    FOR_RUN                         # neighbouring inner chunks of a shard

cdef cppclass Shard:
    # One shard of an array read.
    Task* task                      # the planner's, with what is wanted of it
    const Chain* inner              # of its inner chunks, or the same as one dimension
    ShardIndex* index               # the one that its runs are planned by
    bint index_was_kept             # it came from the cache: the shard may have changed since
    size_t running                  # runs that have not ended
    bint changed                    # one of them met another object than the index's
    int restarts
    long long size                  # where it had to be learned, -1 else
    string tag                      # ... and the entity tag of the object then

cdef cppclass Task:
    # What one request is for.
    Assembly* assembly
    const Chain* chain              # of the whole chunk or shard
    Purpose purpose
    size_t item                     # which chunk or shard of the read
    Shard* shard
    string target
    Placement placement             # of the whole chunk or shard
    vector[WantedInner] wanted_inner  # ... of inner chunks, where that is no box of the shard
    vector[Extent] extents          # what the placements point to
    vector[Piece] pieces            # of a run; of a chunk that is as it is in memory, that one
    IndexEntry* entry               # that it reads an index for, or waits at
    bint loads                      # ... reads, for all that wait

cdef cppclass Assembly:
    # One array read: planned by one thread, carried on by the decode threads.
    Scheduler* scheduler
    BatchState* batch
    PolicyState* policy
    Origin* origin
    IndexCache* cache
    vector[char] fill               # one element
    unsigned long long max_gap
    unsigned long long max_run
    deque[Task] tasks               # the planner's
    deque[Shard] shards             # the planner's
    vector[Task*] later_tasks       # those that came of an index, under the scheduler's lock
    vector[char] missing            # a flag for each item, under the lock too

ctypedef Task* Task_ptr

cdef enum:
    # A body that is longer than a chunk (or shard) can be by so much would take memory until there
    # is none.
    WORTH_MORE = 1 << 20

cdef inline bint tag_is_strong(const string& tag) noexcept nogil:
    return is_strong_tag(tag.data(), tag.size())

cdef Request* assembly_add(Assembly* assembly, Task* task) noexcept nogil
cdef void assembly_leave_out(Assembly* assembly, Task* task) noexcept nogil
cdef void assembly_send(Task* task, Request* request) noexcept nogil
cdef bint assembly_enter_shard(Assembly* assembly, Request* request) noexcept nogil
cdef void assembly_give_index(
    Assembly* assembly, Request* request, ShardIndex* index
) noexcept nogil
cdef Status assembly_corrupt(
    const Chain* chain, Request* request, long number, const char* fault
) noexcept nogil
cdef void assembly_free(Assembly* assembly) noexcept nogil
