"""Array reads: zarr's list of chunks becomes native requests, a group of them at a time.

Planning holds the GIL and no lock; what is planned goes out while the rest is being planned. From
there on nothing here is needed until the batch is complete.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memcpy
from libcpp.vector cimport vector
from posix.unistd cimport getpid

from zfast._core.assembly cimport (
    FOR_CHUNK,
    FOR_INDEX,
    Assembly,
    Shard,
    Task,
    assembly_add,
    assembly_enter_shard,
    assembly_free,
    assembly_leave_out,
)
from zfast._core.batch cimport Batch
from zfast._core.decoding cimport MOST_DECODED, decoding_plan
from zfast._core.extern.pthread cimport pthread_mutex_lock, pthread_mutex_unlock
from zfast._core.finishing cimport scheduler_finish
from zfast._core.index_cache cimport index_cache_expect_parts
from zfast._core.origins cimport batch_holds, origin_known
from zfast._core.placement cimport MAX_DIMENSIONS, Extent
from zfast._core.policy cimport Policy
from zfast._core.recipe cimport Chain, Recipe, WantedInner
from zfast._core.request cimport Request
from zfast._core.scatter cimport scatter_target
from zfast._core.scheduler cimport (
    scheduler_admit,
    scheduler_dispatch,
    scheduler_seal,
    scheduler_submit,
)
from zfast._core.shard_indexes cimport ShardIndexes
from zfast._core.sink cimport sink_takes
from zfast._core.state cimport MOST_ATTENDED, NOBODY, Scheduler, monotonic
from zfast._core.types cimport STATUS_CANCELLED, STATUS_MISSING, STATUS_OK

cdef extern from "Python.h":
    bint PySlice_Check(object)
    bint PyLong_CheckExact(object)
    int PySlice_Unpack(object, Py_ssize_t*, Py_ssize_t*, Py_ssize_t*) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t, Py_ssize_t*, Py_ssize_t*, Py_ssize_t)

cdef enum:
    # Planned before they go out together: the lock is held for some microseconds each time, and
    # the first requests are under way after as little.
    GROUP = 64
    # Bytes of the output that are little enough to be waited for.
    MOST_WANTED = 512 << 10
    # Shards with a known index that the planner itself goes on with: those of a small read.
    AT_ONCE = 4


class Inexpressible(Exception):
    """What is to be read cannot be put into native terms; the message says what it is."""


@cython.no_gc_clear  # letting go takes batch and buffer
cdef class ArrayRead:
    """One read of a zarr array into an output.

    Parameters
    ----------
    batch : Batch
        Open, and given to nobody else.
    recipe : Recipe
        Of the first chunk: those of other shapes differ in nothing else.
    indexes : ShardIndexes
        Of the store.
    policy : Policy
        Of the client that asks.
    origin : int
        As in `Engine.add_origin`.
    out : buffer
        Writable, with any strides and as many dimensions as it has; its items are as large as the
        recipe's.
    fill : bytes
        One element, for chunks that are missing.
    count : int
        How many chunks (or shards) will be added.
    max_gap, max_run : int
        Bytes between inner chunks that are asked for together, and of what is asked for at once.
    attends : float
        Seconds for which `add` attends to the batch, see `Batch.attend`, if the read is small.
    """

    cdef Assembly* assembly
    cdef Batch batch
    cdef Recipe recipe              # of the chunk that is being planned
    cdef ShardIndexes indexes
    cdef tuple shape                # of that chunk, as zarr has it
    cdef Py_buffer out
    cdef bint pinned
    cdef list kept                  # position lists and recipes that tasks point into
    cdef const Chain* inner_chain   # of what is wanted of the shard that is being planned
    cdef vector[Request*] entering
    cdef size_t entered
    cdef double attends

    def __cinit__(self, Batch batch not None, Recipe recipe not None, ShardIndexes indexes not None,
                  Policy policy not None, long long origin, out, bytes fill not None, size_t count,
                  unsigned long long max_gap, unsigned long long max_run,
                  double attends=0):
        cdef Scheduler* s = batch.engine.scheduler
        cdef Assembly* assembly
        if len(fill) != <Py_ssize_t>recipe.chain.layout.item_size:
            raise ValueError("the fill value is no element of the array")
        if indexes.engine is not batch.engine:
            raise ValueError("the shard indexes are another engine's")
        PyObject_GetBuffer(out, &self.out, PyBUF_STRIDES | PyBUF_WRITABLE)
        self.pinned = True
        if self.out.itemsize != len(fill) or self.out.ndim > MAX_DIMENSIONS:
            raise Inexpressible("an output of other elements")
        batch.engine.ensure_decode_threads()
        self.batch = batch
        self.recipe = recipe
        self.indexes = indexes
        self.kept = []
        assembly = self.assembly = new Assembly()
        assembly.scheduler = s
        assembly.batch = batch.state
        assembly.policy = policy.state
        assembly.cache = indexes.cache
        assembly.fill.resize(len(fill))
        memcpy(assembly.fill.data(), <const char*>fill, len(fill))
        assembly.max_gap = max_gap
        assembly.max_run = max_run
        assembly.missing.resize(count)
        self.attends = attends if self._is_small(count) else 0
        pthread_mutex_lock(&s.lock)
        assembly.origin = origin_known(s, origin)
        if assembly.origin != NULL:
            batch_holds(batch.state, assembly.origin)
        index_cache_expect_parts(indexes.cache)
        pthread_mutex_unlock(&s.lock)
        if assembly.origin == NULL:
            raise KeyError(f"no origin {origin}")
        batch.policies[<size_t>policy.state] = policy
        # Alive until the batch is complete, whoever waits for it.
        batch.pins.append(self)

    def __dealloc__(self):
        if self.pinned:
            PyBuffer_Release(&self.out)
        # In a forked child a thread of the parent may have been at it.
        if self.assembly != NULL and self.batch.engine.pid == getpid():
            assembly_free(self.assembly)

    def add(self, items, type getter_type, store, bytes before, bytes after, target, recipe_of,
            drop_axes=()):
        """Plan the chunks, all of the read's at once, and let them go out.

        Parameters
        ----------
        items : iterable of tuple
            As zarr gives them to a codec pipeline: ``(byte_getter, chunk_spec, chunk_selection,
            out_selection, ...)``.
        getter_type, store : type and object
            What every byte getter has to be, and whose: it has the attributes `store` and `path`.
        before, after : bytes
            A key of unreserved characters has the target ``before + key + after``.
        target : callable
            Gives the target of any other key.
        recipe_of : callable
            Gives the recipe for the chunks of a specification, and what places selections that
            are no boxes: a callable that gives what they want of a chunk, or of each inner chunk
            of a shard, as a list of (number, offset, extents, whether these are of the chunk as
            one dimension). See `zfast.selections`. Called whenever the shape is another than the
            last chunk's.
        drop_axes : sequence of int
            Dimensions of what is taken from a chunk that the output has not.

        Raises
        ------
        Inexpressible
            If an item cannot be read natively. The batch is then to be cancelled.
        """
        cdef size_t item = 0
        cdef Task* task
        for info in items:
            getter, spec, chunk_selection, out_selection = info[0], info[1], info[2], info[3]
            if type(getter) is not getter_type or getter.store is not store:
                raise Inexpressible("chunks of another store")
            if spec.shape != self.shape:
                place = self._turn_to(spec, recipe_of)
            if item == self.assembly.missing.size():
                raise ValueError("more chunks than were announced")
            self.assembly.tasks.emplace_back()
            task = &self.assembly.tasks.back()
            task.assembly = self.assembly
            task.chain = self.recipe.chain
            self.inner_chain = task.chain.inner
            task.item = item
            self._name(task, getter.path, before, after, target)
            if drop_axes or not self._box(task, chunk_selection, out_selection):
                self._place(task, place(chunk_selection, out_selection))
            self._prepare(task)
            item += 1
            if item % GROUP == 0 and not self._enter():
                return
        self._enter()

    def seal(self):
        """Nothing more is added: the batch may be complete."""
        self._seal()

    cdef void _seal(self) noexcept nogil:
        cdef Scheduler* s = self.batch.engine.scheduler
        pthread_mutex_lock(&s.lock)
        scheduler_seal(s, self.batch.state)
        pthread_mutex_unlock(&s.lock)

    def missing(self):
        """Which chunks or shards of the complete read are missing, as a list of bool."""
        return [flag != 0 for flag in self.assembly.missing]

    def failure(self):
        """What failed first in the complete read: its item and request index, None if nothing."""
        cdef size_t index
        cdef Request* request
        cdef long cancelled = -1
        for index in range(self.batch.state.requests.size()):
            request = &self.batch.state.requests[index]
            if request.code in (STATUS_OK, STATUS_MISSING):
                continue
            if request.code != STATUS_CANCELLED:
                return (<Task*>request.task).item, index
            if cancelled < 0:
                cancelled = <long>index
        if cancelled >= 0:
            return (<Task*>self.batch.state.requests[cancelled].task).item, cancelled
        return None

    cdef _turn_to(self, spec, recipe_of):
        # To chunks of another shape, as irregular grids have them.
        cdef Recipe recipe
        recipe, place = recipe_of(spec)
        if (recipe.chain.layout.item_size != self.assembly.fill.size()
                or (recipe.chain.inner == NULL) != (self.recipe.chain.inner == NULL)):
            raise ValueError("chunks that differ in more than their shape")
        self.kept.append(recipe)
        self.recipe = recipe
        self.shape = spec.shape
        if not self._is_small(self.assembly.missing.size()):
            self.attends = 0
        return place

    cdef _name(self, Task* task, key, bytes before, bytes after, target):
        cdef Py_ssize_t size
        cdef const char* text = PyUnicode_AsUTF8AndSize(key, &size)
        if _is_plain(text, size):
            task.target.reserve(len(before) + size + len(after))
            task.target.append(<const char*>before, len(before))
            task.target.append(text, size)
            task.target.append(<const char*>after, len(after))
        else:
            task.target = target(key)

    cdef bint _box(self, Task* task, chunk_selection, out_selection) except -1:
        # Slices and integers, as basic selections have them; False for anything else.
        cdef Extent[MAX_DIMENSIONS] extents
        cdef Extent* extent
        cdef int ndim = self.recipe.chain.layout.ndim
        cdef int dimension
        cdef int at = 0
        cdef Py_ssize_t start, stop, step
        cdef char* base = <char*>self.out.buf
        if not (PyTuple_CheckExact(chunk_selection) and PyTuple_CheckExact(out_selection)):
            return False
        if len(<tuple>chunk_selection) != ndim or len(<tuple>out_selection) != self.out.ndim:
            return False
        for dimension in range(ndim):
            extent = &extents[dimension]
            extent.positions = extent.places = NULL
            selected = <object>PyTuple_GET_ITEM(chunk_selection, dimension)
            if PyLong_CheckExact(selected):
                extent.start = selected
                if not 0 <= extent.start < <Py_ssize_t>self.shape[dimension]:
                    return False
                extent.step = extent.count = 1
                extent.stride = 0
                continue
            if not PySlice_Check(selected) or at == self.out.ndim:
                return False
            PySlice_Unpack(selected, &extent.start, &stop, &extent.step)
            extent.count = PySlice_AdjustIndices(
                self.shape[dimension], &extent.start, &stop, extent.step)
            placed = <object>PyTuple_GET_ITEM(out_selection, at)
            if not PySlice_Check(placed):
                return False
            PySlice_Unpack(placed, &start, &stop, &step)
            if extent.step < 1 or extent.count < 1 or extent.count != PySlice_AdjustIndices(
                    self.out.shape[at], &start, &stop, step):
                return False
            base += start * self.out.strides[at]
            extent.stride = step * self.out.strides[at]
            at += 1
        if at != self.out.ndim:
            return False
        task.extents.resize(ndim)
        for dimension in range(ndim):
            task.extents[dimension] = extents[self.recipe.chain.axes[dimension]]
        task.placement.base = base
        return True

    cdef _place(self, Task* task, placed):
        # `placed` has what is wanted of the chunk, or of each inner chunk of a shard: its number,
        # an offset, extents in stored order, and whether these are of the chunk as one dimension.
        cdef WantedInner wanted
        cdef bint sharded = self.recipe.chain.inner != NULL
        if placed is None:
            raise Inexpressible("a selection that is no box and no list")
        for number, offset, extents, flat in placed:
            wanted.number = number
            wanted.placement.base = <char*>self.out.buf + <Py_ssize_t>offset
            wanted.placement.ndim = len(extents)
            task.wanted_inner.push_back(wanted)
            self._extend(task, extents)
            if flat and sharded:
                self.inner_chain = self.recipe.inner_recipe.flat_chain()
            elif flat:
                task.chain = self.recipe.flat_chain()
        if sharded and self.recipe.inner_recipe.chain.inner != NULL:
            raise Inexpressible("a selection of nested shards that is no box")
        if not sharded:
            task.placement = task.wanted_inner.front().placement
            task.wanted_inner.clear()

    cdef _extend(self, Task* task, extents):
        cdef Extent extent
        for values in extents:
            extent.start, extent.step, extent.count, extent.stride = values[:4]
            extent.positions = extent.places = NULL
            if len(values) > 4:
                extent.positions = self._list(values[4], extent.count)
                extent.places = self._list(values[5], extent.count)
            task.extents.push_back(extent)

    cdef const Py_ssize_t* _list(self, values, Py_ssize_t count) except? NULL:
        cdef Py_ssize_t[::1] view
        if values is None:
            return NULL
        view = values
        if view.shape[0] != count:
            raise ValueError(f"{view.shape[0]} positions for {count} elements")
        self.kept.append(values)
        return &view[0]

    cdef _prepare(self, Task* task):
        cdef Shard* shard
        cdef Extent* extents = task.extents.data()
        cdef size_t at
        task.placement.extents = extents
        task.placement.ndim = <int>task.extents.size()
        for at in range(task.wanted_inner.size()):
            task.wanted_inner[at].placement.extents = extents
            extents += task.wanted_inner[at].placement.ndim
        if task.chain.inner != NULL:
            self.assembly.shards.emplace_back()
            shard = &self.assembly.shards.back()
            shard.task = task
            shard.size = -1
            shard.inner = self.inner_chain
            task.shard = shard
            task.purpose = FOR_INDEX
            return
        task.purpose = FOR_CHUNK
        if task.chain.steps.empty() and scatter_target(
                &task.chain.layout, &task.placement) == NULL:
            task.pieces.resize(1)
            task.pieces[0].start = 0
            task.pieces[0].size = task.chain.size
            task.pieces[0].placement = task.placement
            if not sink_takes(&task.chain.layout, task.pieces.data(), 1):
                task.pieces.clear()

    cdef bint _is_small(self, size_t count):
        # Not so many chunks, nor such large ones, that whoever does it alone would take longer.
        cdef const Chain* chain = self.recipe.chain
        if chain.inner != NULL:
            return count <= AT_ONCE and chain.inner.size <= MOST_DECODED
        return count <= MOST_ATTENDED and (chain.steps.empty() or chain.size <= MOST_DECODED)

    cdef bint _wants_little(self) noexcept nogil:
        cdef size_t wanted = 0
        cdef size_t elements
        for task in self.assembly.tasks:
            elements = 1
            for extent in task.extents:
                elements *= <size_t>extent.count
            wanted += elements * self.recipe.chain.layout.item_size
        return wanted <= MOST_WANTED

    cdef bint _enter(self):
        # Lets go out what was planned since; False if the batch was cancelled meanwhile.
        cdef Assembly* assembly = self.assembly
        cdef Scheduler* s = assembly.scheduler
        cdef vector[Request*] known
        cdef size_t index
        cdef bint goes_on
        cdef int caller = NOBODY
        with nogil:
            pthread_mutex_lock(&s.lock)
            goes_on = assembly.batch.cancelled == STATUS_OK
            if goes_on:
                for index in range(self.entered, assembly.tasks.size()):
                    self.entering.push_back(assembly_add(assembly, &assembly.tasks[index]))
                if self.attends > 0 and self._wants_little() and scheduler_admit(
                        s, assembly.batch, assembly.origin, assembly.tasks.size()):
                    caller = s.guest
                self.entered = assembly.tasks.size()
                scheduler_submit(s, assembly.batch, monotonic())
                if self.recipe.chain.inner != NULL:
                    for request in self.entering:
                        if assembly_enter_shard(assembly, request):
                            if known.size() < AT_ONCE:
                                known.push_back(request)
                            else:
                                scheduler_finish(s, request, STATUS_OK)
                    scheduler_dispatch(s, caller, monotonic())
                self.entering.clear()
            elif self.entered < assembly.tasks.size():
                assembly_leave_out(assembly, &assembly.tasks[self.entered])
                self.entered = assembly.tasks.size()
            pthread_mutex_unlock(&s.lock)
            for request in known:
                decoding_plan(s, request, caller)
            if caller != NOBODY:
                # All is planned, and nothing but this thread is needed from here on.
                self._seal()
                self.batch.attend_to(self.attends)
        return goes_on


cdef bint _is_plain(const char* text, Py_ssize_t size) noexcept nogil:
    # Whether a key stands for itself in a target: unreserved characters (RFC 3986, section 2.3)
    # and single slashes within, and no segment that begins with a dot.
    cdef Py_ssize_t index
    cdef unsigned char octet
    cdef unsigned char last = c"/"
    for index in range(size):
        octet = <unsigned char>text[index]
        if not (c"a" <= octet <= c"z" or c"0" <= octet <= c"9" or c"A" <= octet <= c"Z"
                or octet == c"_" or octet == c"-"):
            if last == c"/" or octet not in (c".", c"/"):
                return False
        last = octet
    return size > 0 and last != c"/"
