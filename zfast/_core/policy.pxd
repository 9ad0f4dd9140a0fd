# What the requests of one client have in common, as its owner in Python holds it.

from zfast._core.request cimport PolicyState

cdef class Policy:
    cdef PolicyState* state
