from collections.abc import Iterable
from typing import Any

def judge_response(
    raw_head: bytes,
    method: int = 0,
    byte_range: tuple[int, int, int] = (0, 0, 0),
    *,
    delivered: int = 0,
    known_size: int = -1,
    missing: Iterable[int] = (),
    retry: Iterable[int] = (),
) -> dict[str, Any]:
    """Judge a whole response head, for tests.

    Parameters
    ----------
    raw_head : bytes
        Status line, fields and the empty line.
    method : Method
        Of the request.
    byte_range : tuple of (RangeKind, int, int)
        Kind, start and end (exclusive) of what was asked for.
    delivered, known_size : int
        What former attempts delivered, and the object's size as they learned it.
    missing, retry : iterable of int
        Statuses that the policies name.

    Returns
    -------
    dict
        The verdict; its meaning by name.

    Raises
    ------
    ValueError
        If the head is not a whole, valid one.
    """
