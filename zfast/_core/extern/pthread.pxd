# POSIX threads, as far as the engine uses them. Declarations only.

from posix.signal cimport sigset_t
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
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)

# Conditions whose waits end after so many seconds, whatever is done to the clock on the wall; not 0
# where one has ended so.
cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <time.h>
    static inline int zfast_cond_init(pthread_cond_t* condition) {
    #ifdef __APPLE__
        return pthread_cond_init(condition, NULL);
    #else
        pthread_condattr_t attributes;
        int failed;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        failed = pthread_cond_init(condition, &attributes);
        pthread_condattr_destroy(&attributes);
        return failed;
    #endif
    }
    static inline int zfast_cond_wait_for(
        pthread_cond_t* condition, pthread_mutex_t* lock, double seconds
    ) {
        struct timespec until = {0, 0};
    #ifndef __APPLE__
        clock_gettime(CLOCK_MONOTONIC, &until);
    #endif
        until.tv_sec += (time_t)seconds;
        until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec += 1;
        }
    #ifdef __APPLE__
        return pthread_cond_timedwait_relative_np(condition, lock, &until);
    #else
        return pthread_cond_timedwait(condition, lock, &until);
    #endif
    }
    """
    int zfast_cond_init(pthread_cond_t*)
    int zfast_cond_wait_for(pthread_cond_t*, pthread_mutex_t*, double)

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
