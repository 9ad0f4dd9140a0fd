"""The command line of a proof that takes long: how much of it, if not all."""

from __future__ import annotations

import argparse

__all__ = ["how_many"]


def how_many(text: str | None, of_what: str, usual: int) -> int:
    """What the command line says, or else `usual`; its help is the first line of `text`."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument(
        "number",
        metavar=of_what.upper(),
        nargs="?",
        type=int,
        default=usual,
        help=f"{usual} if not given",
    )
    number: int = parser.parse_args().number
    return number
