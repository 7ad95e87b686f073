"""Two real replicas on one PostgreSQL: what is done at one holds at the other, even if that one hears of nothing."""

from __future__ import annotations
