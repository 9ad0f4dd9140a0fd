def checksum(data: bytes | bytearray | memoryview[int], *, by_table: bool = False) -> int:
    """The CRC32C of some bytes, for tests.

    Parameters
    ----------
    data : bytes-like
    by_table : bool
        By the tables, also where the processor has an instruction for it.

    Returns
    -------
    int
        In [0, 2**32).
    """

def implementation() -> str:
    """How checksums are made on this machine: "sse4.2", "armv8" or "table"."""
