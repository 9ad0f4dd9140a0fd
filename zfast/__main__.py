"""``python -m zfast`` is the ``zfast`` command."""

from __future__ import annotations

import sys

from zfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
