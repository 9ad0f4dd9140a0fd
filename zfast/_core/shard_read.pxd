# How the read of a shard goes on from its index.

from libcpp.vector cimport vector

from zfast._core.assembly cimport Task, Task_ptr
from zfast._core.request cimport Request
from zfast._core.shard_index cimport ShardIndex
from zfast._core.types cimport Status

cdef enum:
    # How often a shard is begun again that changes while it is read.
    MAX_RESTARTS = 3

cdef ShardIndex* shard_decode_index(Task* task, Request* request, Status* code) noexcept nogil
cdef Status shard_plan_runs(Task* task, Request* request, vector[Task_ptr]* tasks) noexcept nogil

cdef void shard_resolve(
    Task* task, Request* request, Status code, ShardIndex* index
) noexcept nogil
cdef void shard_stop_waiting(Task* task, Request* request) noexcept nogil
cdef void shard_end_size(Task* task, Request* request, Status code) noexcept nogil
cdef void shard_begin_anew(Task* task) noexcept nogil
cdef void shard_enter_runs(Task* task, vector[Task_ptr]* tasks) noexcept nogil
cdef Status shard_end_run(Task* task, Status code) noexcept nogil
