"""The process's engine: starts and ends the I/O threads, and tells what state they are in.

There is one a process; a forked child abandons its parent's and starts its own.
"""

import os
import socket

cimport cython

from libc.stdlib cimport free, malloc
from libcpp.vector cimport vector
from posix.signal cimport sigfillset, sigset_t
from posix.unistd cimport close, getpid, usleep

from zfast._core.codecs cimport decoder_free, decoder_new
from zfast._core.decoding cimport DecodeThread, decoding_run
from zfast._core.extern.pthread cimport (
    SIG_BLOCK,
    SIG_SETMASK,
    pthread_cond_broadcast,
    pthread_cond_destroy,
    pthread_cond_signal,
    pthread_create,
    pthread_join,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    pthread_sigmask,
    zfast_cond_init,
)
from zfast._core.extern.sockets cimport POLLIN, pollfd
from zfast._core.finishing cimport scheduler_cancel_all, scheduler_finish
from zfast._core.leases cimport lease_drop_twin, lease_lose, lease_retire
from zfast._core.origins cimport (
    origin_forget,
    origin_forget_rested,
    origin_known,
    origin_new,
    origins_free_forgotten,
)
from zfast._core.reactor cimport (
    SCRATCH_SIZE,
    Thread,
    reactor_let_go,
    reactor_run,
    reactor_take_inbox,
)
from zfast._core.request cimport Request
from zfast._core.state cimport (
    BatchState,
    Lease,
    Origin,
    Scheduler,
    Worker,
    monotonic,
    wake,
)
from zfast._core.types cimport STATUS_CLOSED


cdef void _see_guest_out(Scheduler* s) noexcept nogil:
    # It goes at once. One that is still on its way finds the doors closed, if it ever comes: it may
    # be a daemon thread that the exiting interpreter has frozen.
    cdef bint here = True
    while here:
        pthread_mutex_lock(&s.lock)
        here = s.guest_is_here
        pthread_mutex_unlock(&s.lock)
        if here:
            usleep(100)


SNAPSHOT = (
    "in_flight", "max_in_flight", "connections", "max_connections", "dialling", "delayed",
    "connections_opened", "connections_pooled", "connections_closed", "batches_attended", "origins",
)
"""What `Engine.snapshot` tells."""


cdef class Engine:
    """The I/O threads and queues that all clients of a process share.

    Parameters
    ----------
    io_threads : int
        Poll loops.
    max_in_flight : int
        Requests on the wire at once, over all callers.
    max_leases : int
        Connections borrowed at once.
    most_leases : int
        ... where some of these are lent for origins that hang.
    idle_timeout : float
        Seconds that an idle connection stays with the engine before its pool gets it back.
    max_head : int
        Bytes that a response head may have.
    max_dial_threads : int
        Most threads that may serve its `Calls`. One origin's dials leave two of those there are to
        others, but get one at least.
    decode_threads : int
        Threads that decode chunks; they start with the first array read.
    """

    def __dealloc__(self):
        if not self.stopped or self.scheduler == NULL or self.pid != getpid():
            return
        for thread in self.threads:
            del thread
        del self.guest
        decoder_free(self.guest_decoder)
        for worker in self.scheduler.workers:
            del worker
        for entry in self.scheduler.origins:
            del entry.second
        pthread_cond_destroy(&self.scheduler.calls_waiting)
        pthread_cond_destroy(&self.scheduler.jobs_waiting)
        pthread_mutex_destroy(&self.scheduler.lock)
        del self.scheduler

    def __cinit__(
        self, int io_threads, int max_in_flight, int max_leases, int most_leases,
        double idle_timeout, size_t max_head, int max_dial_threads, int decode_threads,
    ):
        cdef Scheduler* s = new Scheduler()
        self.scheduler = s
        self.max_head = max_head
        self.max_decode_threads = decode_threads
        self.pid = getpid()
        self.live = {}
        pthread_mutex_init(&s.lock, NULL)
        zfast_cond_init(&s.calls_waiting)
        zfast_cond_init(&s.jobs_waiting)
        s.max_in_flight = max_in_flight
        s.max_leases = s.allowed_leases = max_leases
        s.most_leases = most_leases
        s.max_dial_threads = max_dial_threads
        s.idle_timeout = idle_timeout
        s.dice = int.from_bytes(os.urandom(8), "little") | 1
        s.guest = io_threads
        try:
            for index in range(io_threads):
                self.threads.push_back(self._new_thread(index))
            self.guest = self._new_thread(io_threads)
            self.guest_decoder = decoder_new()
            self._start()
        except BaseException:
            # Where descriptors are short, the next to start is not to lack those of this one.
            self.stopped = True
            for fd in self.descriptors:
                close(fd)
            if self.guest != NULL:
                self.threads.push_back(self.guest)
                self.guest = NULL
            for thread in self.threads:
                free(thread.scratch)
                thread.scratch = NULL
            raise

    cdef Thread* _new_thread(self, int index) except NULL:
        cdef Worker* worker
        cdef Thread* thread
        cdef pollfd waking
        ours, theirs = socket.socketpair()
        worker = new Worker()
        worker.wake_fd = theirs.detach()
        self.scheduler.workers.push_back(worker)
        self.descriptors.push_back(worker.wake_fd)
        thread = new Thread()
        thread.scheduler = self.scheduler
        thread.index = index
        thread.woken_fd = ours.detach()
        self.descriptors.push_back(thread.woken_fd)
        thread.scratch = <char*>malloc(SCRATCH_SIZE)
        if thread.scratch == NULL:
            raise MemoryError("no memory for the engine's scratch")
        waking.fd = thread.woken_fd
        waking.events = POLLIN
        waking.revents = 0
        thread.polled.push_back(waking)
        return thread

    cdef _start(self):
        cdef sigset_t everything
        cdef sigset_t before
        cdef Thread* thread
        cdef vector[Thread*] started
        cdef int error = 0
        sigfillset(&everything)
        # A thread inherits its mask: signals go to Python's threads, which know what to do.
        pthread_sigmask(SIG_BLOCK, &everything, &before)
        for thread in self.threads:
            error = error or pthread_create(&thread.handle, NULL, reactor_run, thread)
            if not error:
                started.push_back(thread)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if error:
            pthread_mutex_lock(&self.scheduler.lock)
            self.scheduler.stopping = True
            for worker in self.scheduler.workers:
                wake(worker)
            pthread_mutex_unlock(&self.scheduler.lock)
            with nogil:
                for thread in started:
                    pthread_join(thread.handle, NULL)
            raise OSError(error, "the engine's threads did not start")

    cdef ensure_decode_threads(self):
        # Without a GIL two first reads would both start them, and `stop` would miss some.
        with cython.critical_section(self):
            self._start_decoding()

    cdef _start_decoding(self):
        cdef sigset_t everything
        cdef sigset_t before
        cdef DecodeThread* thread
        cdef int error = 0
        if self.stopped or <int>self.decode_threads.size() >= self.max_decode_threads:
            # Once stopped, nothing is decoded any more, and nobody would join them.
            return
        sigfillset(&everything)
        pthread_sigmask(SIG_BLOCK, &everything, &before)
        while not error and <int>self.decode_threads.size() < self.max_decode_threads:
            thread = new DecodeThread()
            thread.scheduler = self.scheduler
            thread.decoder = decoder_new()
            error = pthread_create(&thread.handle, NULL, decoding_run, thread)
            if error:
                decoder_free(thread.decoder)
                del thread
            else:
                self.decode_threads.push_back(thread)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if self.decode_threads.empty():
            raise OSError(error, "the engine's decode threads did not start")

    cdef _end_decoding(self):
        # The I/O threads are gone: what they left is ended, and no more will come.
        cdef Scheduler* s = self.scheduler
        pthread_mutex_lock(&s.lock)
        s.decoding_ends = True
        pthread_cond_broadcast(&s.jobs_waiting)
        pthread_mutex_unlock(&s.lock)
        with nogil:
            for thread in self.decode_threads:
                pthread_join(thread.handle, NULL)
        for thread in self.decode_threads:
            decoder_free(thread.decoder)
            del thread
        self.decode_threads.clear()

    cdef ensure_usable(self):
        if (self.stopped and not self.scheduler.exiting) or self.pid != getpid():
            raise RuntimeError("this engine has ended; a new one starts with the next read")

    cdef reap(self):
        # Lets go of batches that are complete, and so of what they pinned.
        cdef vector[long long] finished
        pthread_mutex_lock(&self.scheduler.lock)
        finished.swap(self.scheduler.finished)
        pthread_mutex_unlock(&self.scheduler.lock)
        for id in finished:
            batch = self.live.pop(id, None)
            if batch is not None:
                batch.unpin()

    @property
    def max_in_flight(self):
        """Requests on the wire at once, over all callers."""
        return self.scheduler.max_in_flight

    def raise_limits(self, int max_in_flight, int max_leases, int most_leases):
        """Let at least so many requests and connections be in flight at once."""
        cdef Scheduler* s = self.scheduler
        self.ensure_usable()
        pthread_mutex_lock(&s.lock)
        s.max_in_flight = max(s.max_in_flight, max_in_flight)
        s.allowed_leases = max(s.allowed_leases, max_leases)
        s.most_leases = max(s.most_leases, most_leases)
        s.max_leases = s.allowed_leases
        pthread_mutex_unlock(&s.lock)

    def count_dial_threads(self, int threads):
        """Say how many threads serve its `Calls`."""
        cdef Scheduler* s = self.scheduler
        self.ensure_usable()
        pthread_mutex_lock(&s.lock)
        s.dial_threads = threads
        pthread_cond_signal(&s.calls_waiting)
        pthread_mutex_unlock(&s.lock)

    def add_origin(
        self, long long id, bytes authority, bytes fields, bytes prefix, int max_leases=0
    ):
        """Make an origin known.

        Parameters
        ----------
        id : int
            Unique in the process; connections are asked for by it.
        authority : bytes
            ``scheme://host[:port]``, what a redirect to the same origin begins with.
        fields : bytes
            Header lines that every request to it carries, ``Host`` first.
        prefix : bytes
            What goes before the target: empty, or the authority for a forwarding proxy.
        max_leases : int
            Connections that its pool allows, 0 for no limit.
        """
        cdef Origin* origin
        self.ensure_usable()
        origin = origin_new(id, authority, fields, prefix, max_leases)
        pthread_mutex_lock(&self.scheduler.lock)
        origins_free_forgotten(self.scheduler)
        self.scheduler.origins[id] = origin
        pthread_mutex_unlock(&self.scheduler.lock)

    def forget_origins(self, origin_ids):
        """Free what is known of these origins, of which the caller makes no more requests.

        At once, or when another is added after the last of their requests and connections.
        """
        self._release_idle(origin_ids, True)

    def forget_rested(self, origin_ids, double seconds):
        """Free what is known of those of these origins that nothing has used for so long.

        Parameters
        ----------
        origin_ids : iterable of int
            In the order in which they are looked at.
        seconds : float
            How long no batch has to have been theirs; with a connection or a dial they are in use.

        Returns
        -------
        list of int
            The origins that are forgotten: the caller makes no more requests of them.
        """
        cdef Scheduler* s = self.scheduler
        cdef vector[long long] ids = origin_ids
        cdef vector[long long] forgotten
        cdef double since = monotonic() - seconds
        cdef Origin* origin
        self.ensure_usable()
        pthread_mutex_lock(&s.lock)
        for id in ids:
            origin = origin_known(s, id)
            if origin != NULL and origin_forget_rested(s, origin, since):
                forgotten.push_back(id)
        pthread_mutex_unlock(&s.lock)
        return forgotten

    def release_idle(self, origin_ids):
        """Give the idle connections of these origins back to their pools now."""
        self._release_idle(origin_ids, False)

    cdef _release_idle(self, origin_ids, bint forgets):
        cdef Scheduler* s = self.scheduler
        cdef vector[long long] ids = origin_ids
        cdef Origin* origin
        self.ensure_usable()
        pthread_mutex_lock(&s.lock)
        for id in ids:
            origin = origin_known(s, id)
            if origin == NULL:
                continue
            while not origin.idle.empty():
                lease_retire(s, origin.idle.back(), True)
            if forgets:
                origin_forget(s, origin)
        origins_free_forgotten(s)
        pthread_mutex_unlock(&s.lock)

    def ask_back(self, long long origin_id):
        """Give a connection of an origin back to its pool as soon as one is idle."""
        cdef Scheduler* s = self.scheduler
        cdef Origin* origin
        self.ensure_usable()
        pthread_mutex_lock(&s.lock)
        origin = origin_known(s, origin_id)
        if origin != NULL:
            origin.asked_back = True
        pthread_mutex_unlock(&s.lock)

    def snapshot(self):
        """Connections and requests, of this moment and so far: a dict of `SNAPSHOT` to int."""
        cdef Scheduler* s = self.scheduler
        cdef int in_flight, max_in_flight, leases, max_leases, dialling
        cdef size_t delayed, origins
        cdef unsigned long long opened, pooled, closed, attended
        self.ensure_usable()
        # No Python object is made under the lock: the garbage collector might run, and an end of
        # a batch wants the lock too.
        pthread_mutex_lock(&s.lock)
        in_flight, max_in_flight = s.in_flight, s.max_in_flight
        leases, max_leases = s.leases, s.max_leases
        dialling = s.dialling
        delayed = s.delayed.size()
        opened, pooled, closed = s.connections_opened, s.connections_pooled, s.connections_closed
        attended, origins = s.batches_attended, s.origins.size()
        pthread_mutex_unlock(&s.lock)
        found = (
            in_flight, max_in_flight, leases, max_leases, dialling, delayed, opened, pooled, closed,
            attended, origins,
        )
        return dict(zip(SNAPSHOT, found, strict=True))

    def stop(self, bint exiting=False):
        """End every batch with CLOSED, every thread, and every wait for a call. Idempotent.

        Parameters
        ----------
        exiting : bool
            The process ends: who still waits for a batch, a daemon thread, is left waiting, for so
            long as it should take to end.
        """
        cdef Scheduler* s = self.scheduler
        cdef vector[BatchState*] batches
        cdef Thread* thread
        with cython.critical_section(self):
            if self.stopped or self.pid != getpid():
                return
            pthread_mutex_lock(&s.lock)
            s.exiting = exiting
            self.stopped = True
            for entry in s.batches:
                batches.push_back(entry.second)
            for batch in batches:
                scheduler_cancel_all(s, batch, STATUS_CLOSED)
                pthread_cond_broadcast(&batch.completed)
            s.stopping = True
            for worker in s.workers:
                wake(worker)
            pthread_cond_broadcast(&s.calls_waiting)
            pthread_mutex_unlock(&s.lock)
        with nogil:
            for thread in self.threads:
                pthread_join(thread.handle, NULL)
            _see_guest_out(s)
        self._close_leases()
        self._end_decoding()
        self.reap()
        pthread_mutex_lock(&s.lock)
        for worker in s.workers:
            worker.wake_fd = -1
        pthread_mutex_unlock(&s.lock)
        for fd in self.descriptors:
            close(fd)

    cdef _close_leases(self):
        # The threads are gone: what was still open goes back to its owner to be closed.
        cdef Scheduler* s = self.scheduler
        cdef Request* request
        cdef vector[Lease*] left
        cdef Thread* thread
        pthread_mutex_lock(&s.lock)
        self.threads.push_back(self.guest)
        for thread in self.threads:
            reactor_take_inbox(thread)
        for entry in s.leases_by_id:
            left.push_back(entry.second)
        for lease in left:
            request = lease.request
            if request != NULL:
                lease_drop_twin(s, lease)
                lease_lose(s, lease)
                scheduler_finish(s, request, STATUS_CLOSED)
            lease_retire(s, lease, False)
        for thread in self.threads:
            reactor_let_go(thread)
            free(thread.scratch)
            thread.scratch = NULL
        self.threads.pop_back()
        pthread_cond_broadcast(&s.calls_waiting)
        pthread_mutex_unlock(&s.lock)

    def abandon(self):
        """In a forked child: the threads are the parent's. Close the descriptors, touch no lock."""
        self.stopped = True
        for fd in self.descriptors:
            close(fd)
        # Its batches stay: a worker of the parent may have been at their memory just then.
        for batch in self.live.values():
            batch.unpin()
