from collections.abc import Iterable

def quantile_of(times: Iterable[float], quantile: float) -> float:
    """The quantile of times as the histogram has it, for tests.

    Parameters
    ----------
    times : iterable of float
        Seconds, the latest last.
    quantile : float
        From 0 to 1.

    Returns
    -------
    float
        Seconds; 0.0 where there were no times.
    """
