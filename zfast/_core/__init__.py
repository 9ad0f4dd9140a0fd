"""The nogil core: separate extensions joined by their .pxd files, built by setup.py.

This file only says what to do where they are missing.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

if find_spec(f"{__name__}.types") is None:
    raise ImportError(
        f"zfast's native core is not built in {__path__[0]} (no types{EXTENSION_SUFFIXES[0]}). "
        "Install zfast with `pip install .` (a C++ compiler is needed), or build it in place "
        "with `python setup.py build_ext --inplace`.",
        name=__name__,
        path=__path__[0],
    )
