def runs_of(
    ranges: list[tuple[int, int]], max_gap: int, max_size: int
) -> list[tuple[int, int, list[int]]]:
    """Coalesce some byte ranges, for tests.

    Parameters
    ----------
    ranges : list of (int, int)
        Start and size of each, in bytes.
    max_gap, max_size : int
        Bytes between neighbours, and of a run.

    Returns
    -------
    list of (int, int, list of int)
        Start and end (exclusive) of each run, and which of the ranges it is for.
    """
