def sources() -> dict[str, str]:
    """Where the decompressor of each codec is from.

    Returns
    -------
    dict of str to str
        By codec: "numcodecs" and its version, or "not found: " and why.
    """
