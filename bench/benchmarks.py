"""The registry: a new benchmark is one file with one function, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.attestation import attestation
from bench.cold_start import cold_start
from bench.encryption import encryption
from bench.evidence import evidence
from bench.memory import memory
from bench.provisioning import provisioning
from bench.sealing import sealing
from bench.setting import Setting
from bench.table import Row

BENCHMARKS: Mapping[str, Callable[[Setting], list[Row]]] = {
    "cold-start": cold_start,
    "memory": memory,
    "sealing": sealing,
    "encryption": encryption,
    "attestation": attestation,
    "evidence": evidence,
    "provisioning": provisioning,
}
