"""Which of zarr's own tests are not run with zfast, each with its reason."""

from __future__ import annotations

# (faces, how a test's name begins, why)
_REASONS = (
    (
        "pipeline",
        "tests/test_config.py::test_config_codec_pipeline_class",
        "it expects zarr's own pipeline where its test sets none",
    ),
    (
        "store",
        "tests/test_api.py::test_open_group",
        "it looks into the dict of a MemoryStore",
    ),
    (
        "store",
        "tests/test_metadata/test_consolidated.py::TestConsolidated::test_not_writable_raises",
        "it looks into the dict of a MemoryStore",
    ),
    (
        "pipeline store",
        "tests/test_examples.py::test_scripts_can_run",
        "the scripts run in environments that uv makes for them, without zfast",
    ),
)


def reason_to_skip(face: str, test: str) -> str | None:
    """Why a test cannot be run with this face of zfast, if that is so.

    Parameters
    ----------
    face
        "pipeline" or "store".
    test
        The test's name, as pytest gives it.
    """
    for faces, beginning, reason in _REASONS:
        if face in faces.split() and test.startswith(beginning):
            return reason
    return None
