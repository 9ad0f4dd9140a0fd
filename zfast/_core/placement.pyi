# Everything here is nogil and for the engine; `zfast._core.scatter.Box` shows it to tests.
