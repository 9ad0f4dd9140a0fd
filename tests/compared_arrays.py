"""The same arrays read by zarr from files and by FastStore from a server."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from array_selections import Answer, Selection
from arrays import ZARRS_OWN, Layout
from servers.nginx import Nginx
from zarr.storage import LocalStore

from zfast import FastStore


class Both:
    """The same arrays in a folder and on a server."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.store = FastStore(url, deadline=30.0)
        self._names = map(str, itertools.count())

    def compare(self, layout: Layout, reads: list[Selection]) -> None:
        """Write an array, and read it from both."""
        name = next(self._names)
        layout.write(self.root / name)
        try:
            self.compare_written(name, reads, layout.zarr_format, layout.order)
        finally:
            shutil.rmtree(self.root / name)

    def compare_written(
        self, name: str, reads: list[Selection], zarr_format: Any, order: Any = "C"
    ) -> None:
        """Read an array from both."""
        options: dict[str, Any] = {"path": name, "mode": "r", "zarr_format": zarr_format}
        if zarr_format == 3:
            options["config"] = {"order": order}
        with zarr.config.set(ZARRS_OWN):
            local = zarr.open_array(store=LocalStore(self.root), **options)
        assert type(local.async_array.codec_pipeline).__name__ == "BatchedCodecPipeline"
        remote = zarr.open_array(store=self.store, **options)
        for selection in reads:
            # Shards look for the pipeline of their inner chunks when they are read.
            with zarr.config.set(ZARRS_OWN):
                expected, refusal = _outcome(selection, local)
            if refusal is not None and not selection.may_be_refused:
                raise refusal
            given, error = _outcome(selection, remote)
            if difference := given.differs(expected):
                raise AssertionError(f"{selection} gives {difference}") from error


def _outcome(selection: Selection, array: zarr.Array[Any]) -> tuple[Answer, Exception | None]:
    try:
        return selection.read(array), None
    except Exception as error:
        return Answer(type(error).__name__, "raised", (), b""), error


@contextmanager
def serving(start: Callable[..., Any], folder: Path) -> Iterator[Both]:
    """Compare arrays in a new folder of this one, over a server that `start` starts."""
    (folder / "arrays").mkdir()
    # Thousands of cases would make a long access log, and nothing here reads it.
    quiet = {"access_log": False, "autoindex": False, "extra": "log_not_found off;"}
    both = Both(folder / "arrays", start(Nginx, folder / "arrays", **quiet).url)
    try:
        yield both
    finally:
        both.store.close()
