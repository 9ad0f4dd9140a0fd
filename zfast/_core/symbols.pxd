# Functions of a library that Python has loaded, by name; nothing is linked.

from posix.dlfcn cimport RTLD_LAZY, dlerror, dlopen, dlsym


cdef inline void* open_library(bytes path) except NULL:
    # The whole process, where the path is empty.
    cdef const char* name = path
    cdef void* handle = dlopen(name if len(path) else NULL, RTLD_LAZY)
    if handle == NULL:
        raise ImportError(dlerror().decode(errors="replace"))
    return handle


cdef inline void* look_up(void* handle, str name, list missing):
    # NULL where the library lacks it, which then is among what is missing.
    cdef bytes encoded = name.encode()
    cdef void* found = dlsym(handle, encoded)
    if found == NULL:
        missing.append(name)
    return found
