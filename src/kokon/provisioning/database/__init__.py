"""Where the server keeps everything: sealed records, counters, the logs; in SQLite or PostgreSQL.

`store.Store` is the entrance, `values` what it takes and gives. `sealing`, `head` and `state` say how each row is
protected; `draft`, `batch` and `writer` how many works become one commit; `engines`, `migrate` and `notify` what the
two databases need; `backup` copies everything from one to another. Whoever holds the database but not the keys can read
names and the logs, and can stop the server; any change is detected, and so is putting back an older state, up to what
was remembered outside.
"""

from kokon.provisioning.database.catalogue import Snapshot
from kokon.provisioning.database.store import Store
from kokon.provisioning.database.values import (
    Count,
    Delete,
    Entry,
    Key,
    KeyRing,
    Kind,
    Meta,
    Put,
    Receipt,
    StaleDecision,
    Work,
)

__all__ = [
    "Count",
    "Delete",
    "Entry",
    "Key",
    "KeyRing",
    "Kind",
    "Meta",
    "Put",
    "Receipt",
    "Snapshot",
    "StaleDecision",
    "Store",
    "Work",
]
