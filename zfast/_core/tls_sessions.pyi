from typing import Any

def session_count() -> int:
    """How many TLS sessions of Python's libssl there are in this process, whoever made them."""

def unavailable() -> str:
    """Why no session can be used natively: "" if nothing is in the way.

    Returns
    -------
    str
        A reason that fits behind a colon.
    """

def session_of(sock: Any) -> tuple[int, str]:
    """Find the session (``SSL*``) behind a connected `ssl.SSLSocket`.

    Parameters
    ----------
    sock : object
        What is to be read and written natively; it is kept, and left alone, until that is over.

    Returns
    -------
    tuple of (int, str)
        The session's address and "", or 0 and why only Python can use it.
    """
