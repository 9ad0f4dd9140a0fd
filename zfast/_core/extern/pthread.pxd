# POSIX threads, as far as the engine uses them. Declarations only.

from posix.signal cimport sigset_t
from posix.time cimport timespec

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t*, const void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)
    int pthread_atfork(
        void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil
    )
    int pthread_mutex_init(pthread_mutex_t*, const void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_init(pthread_cond_t*, const void*)
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, const timespec*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<signal.h>" nogil:
    int pthread_sigmask(int, const sigset_t*, sigset_t*)
    int SIG_BLOCK
    int SIG_SETMASK

# A SIGPIPE that is pending is taken, and not delivered; without one it returns at once. macOS has
# no wait that can: there one that came to the whole process may be another thread's before.
cdef extern from * nogil:
    """
    #include <signal.h>
    #include <time.h>
    static inline void zfast_take_broken_pipe(void) {
        sigset_t broken_pipes;
        sigemptyset(&broken_pipes);
        sigaddset(&broken_pipes, SIGPIPE);
    #ifdef __APPLE__
        sigset_t pending;
        int taken;
        sigpending(&pending);
        if (sigismember(&pending, SIGPIPE)) sigwait(&broken_pipes, &taken);
    #else
        struct timespec at_once = {0, 0};
        sigtimedwait(&broken_pipes, NULL, &at_once);
    #endif
    }
    """
    void zfast_take_broken_pipe()
