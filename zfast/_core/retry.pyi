def delays(
    policy: dict[str, float], mishaps: list[tuple[str, float]], dice: float = 0.0
) -> list[float]:
    """The waits before each retry after the given mishaps, for tests against urllib3's own `Retry`.

    Parameters
    ----------
    policy : dict
        Fields of the policy; those not given are unlimited or off.
    mishaps : list of (str, float)
        Kind ("connect", "read", "status", "limited", "other") and the server's Retry-After in
        seconds (-1 none).

    Returns
    -------
    list of float
        Seconds, -1 where no attempt is left.
    """

def parse_http_date(text: bytes) -> float:
    """Seconds since 1970 of an HTTP-date (RFC 9110, section 5.6.7), -1.0 if it is none."""
