from typing_extensions import Buffer

def blosc_fault(data: Buffer) -> str:
    """What is wrong with the header and length of a frame of blosc; "" where nothing shows."""

def sources() -> dict[str, str]:
    """Where the decompressor of each codec is from.

    Returns
    -------
    dict of str to str
        By codec: "numcodecs" and its version, or "not found: " and why.
    """
