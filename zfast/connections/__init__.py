"""The only package that knows urllib3: pools, dialling, leases, Retry and Timeout as numbers.

urllib3 owns every connection. Here one is opened through its pool, as the user configured it, and
leased to the engine; it comes back in a state that urllib3 can use, or closed.
"""

from __future__ import annotations

from zfast.connections.leases import relayed, tls_fallback
from zfast.connections.managers import PoolManager, urllib3_version, usual_options
from zfast.connections.numbers import (
    Limits,
    Retries,
    Timeouts,
    credential_fields,
    retry_numbers,
    retry_statuses,
    time_limits,
)
from zfast.connections.origins import Connections, all_connections, shared

__all__ = [
    "Connections",
    "Limits",
    "PoolManager",
    "Retries",
    "Timeouts",
    "all_connections",
    "credential_fields",
    "relayed",
    "retry_numbers",
    "retry_statuses",
    "shared",
    "time_limits",
    "tls_fallback",
    "urllib3_version",
    "usual_options",
]
