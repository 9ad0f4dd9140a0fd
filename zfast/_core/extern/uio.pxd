# Pieces of memory that one call fills, of POSIX.

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t readv(int, const iovec*, int)
