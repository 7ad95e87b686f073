"""What the registry knows of SEV-SNP."""

from __future__ import annotations

from typing import Final

from kokon.tee.registry import Tee
from kokon.tee.snp.describe import describe
from kokon.tee.snp.envelope import from_envelope
from kokon.tee.snp.recognise import recognise
from kokon.tee.snp.verify import verify_snp

SNP: Final = Tee("snp", verify_snp, recognise, from_envelope, describe)
