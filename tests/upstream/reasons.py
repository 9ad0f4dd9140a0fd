"""Which of zarr's own tests are not run with zfast, each with its reason."""

from __future__ import annotations

# (faces, a test without its parameters, why)
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
        "store",
        "tests/test_codecs/test_sharding.py::test_sharding_partial_shard_read__index_load_fails",
        "it has store.get find no index, by which a FastStore's arrays are not read",
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
    for faces, name, reason in _REASONS:
        if face in faces.split() and test.partition("[")[0] == name:
            return reason
    return None
