"""What a file of ours says of its rows: those of a prompt stand together.

The claim travels in the file's own metadata. Whoever changed the rows may have kept it, so a reader
takes it as a hint, and looks while it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

#: The key of Parquet's metadata; its value is the name of the column of prompts.
TOGETHER = "prefmill.together"


def told(metadata: Mapping[bytes, bytes] | None) -> str | None:
    """The column whose equal values stand together, as a file's metadata say; None: nobody knows.

    >>> told({b"prefmill.together": b"prompt"}), told(None)
    ('prompt', None)
    """
    name = (metadata or {}).get(TOGETHER.encode())
    return None if name is None else name.decode("utf-8", "replace")
