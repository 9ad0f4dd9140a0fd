"""Arrays larger than what is stored of them: all chunks are one file."""

from __future__ import annotations

import json
import os

import numpy as np
from arrays import Document, format_3
from servers.site import Site
from shards import objects_of


def write(site: Site, codecs: list[Document], edge: int, across: int) -> None:
    """Write a square array of which all chunks are one file."""
    values = np.random.default_rng(0).integers(0, 1000, (edge, edge)).astype("f4")
    site.write(objects_of(format_3(values.shape, [values.shape], "<f4", codecs), values))
    layout = format_3((edge * across,) * 2, [values.shape], "<f4", codecs)
    site.write({"a/zarr.json": json.dumps(layout.document).encode()})
    for row in range(across):
        for column in range(across):
            path = site.root / f"a/c/{row}/{column}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if row or column:
                os.link(site.root / "a/c/0/0", path)
