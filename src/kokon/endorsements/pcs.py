"""Intel's provisioning certification service (PCS), API version 4, and caches that speak like it (PCCS).

Paths lie below `/sgx/certification/v4` and `/tdx/certification/v4` of a base URL. Issuers' chains come in headers, as
URL-encoded PEM. Intel itself has the root's revocation list elsewhere, as DER; a PCCS has it at `rootcacrl`, in hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlencode

from kokon.endorsements.http import HEADERS_LIMIT, Answer, Getter, check_url
from kokon.endorsements.needs import FMSPC_SIZE, octets, parameter
from kokon.errors import MalformedError, UnreachableError
from kokon.tee.certificates import CERTIFICATE_LIMIT
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Need
from kokon.tee.intel.collateral import read_collateral, read_signed_document
from kokon.tee.intel.documents import DOCUMENT_LIMIT
from kokon.tee.intel.pem import CERTIFICATE, CRL, read_blocks
from kokon.tee.revocation import CRL_LIMIT

URL: Final = "https://api.trustedservices.intel.com"
ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
DOCUMENTS: Final = ("tcb-info", "qe-identity")
_SGX: Final = "/sgx/certification/v4"
_TDX: Final = "/tdx/certification/v4"
_CHAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "tcb-info": ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"),
    "qe-identity": ("sgx-enclave-identity-issuer-chain",),
    "pck-crl": ("sgx-pck-crl-issuer-chain",),
    "pck": ("sgx-pck-certificate-issuer-chain",),
}
_PCK: Final[Mapping[str, int | None]] = {"encrypted-ppid": None, "cpusvn": 16, "pcesvn": 2, "pceid": 2}

Update = Literal["standard", "early"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which state of Intel's knowledge: the `standard` one, `early` (as soon as it is published, before the platforms'
    owners had time to patch), or that of one TCB evaluation data number."""

    update: Update = "standard"
    evaluation: int | None = None

    @property
    def query(self) -> dict[str, str]:
        """The parameter for TCB info and identities."""
        if self.evaluation is not None:
            return {"tcbEvaluationDataNumber": str(self.evaluation)}
        return {"update": self.update}

    def __str__(self) -> str:
        return urlencode(self.query)


@dataclass(frozen=True, slots=True)
class Access:
    """Where a service is, and the subscription key that Intel wants for PCK certificates ("" for none)."""

    url: str = URL
    key: str = field(default="", repr=False)


class Pcs:
    """Intel's service, or a PCCS. Answers are parsed but not examined here; raises what `Getter` raises."""

    kinds: Final = frozenset({"tcb-info", "qe-identity", "pck-crl", "root-crl", "pck"})

    def __init__(self, getter: Getter, access: Access | None = None, choice: Choice | None = None) -> None:
        access = access or Access()
        self._getter = getter
        self._url = check_url(access.url).removesuffix(_SGX)
        self._key = access.key
        self.choice = choice or Choice()

    def variant(self, need: Need) -> str:
        """What, beside the need, an answer depends on: the choice, for TCB info and identities."""
        return str(self.choice) if need.kind in DOCUMENTS else ""

    def url(self, need: Need) -> str:
        """Where to ask for a need. Raises `UsageError` (`endorsement-parameters`)."""
        if need.kind == "root-crl":
            return ROOT_CRL_URL if self._url == URL else f"{self._url}{_SGX}/rootcacrl"
        if need.kind == "pck-crl":
            ca = parameter(need, "ca", "platform", "processor")
            return f"{self._url}{_SGX}/pckcrl?{urlencode({'ca': ca, 'encoding': 'der'})}"
        if need.kind == "pck":
            return f"{self._url}{_SGX}/pckcert?{urlencode(_pck_query(need))}"
        base = _TDX if parameter(need, "tee", "sgx", "tdx") == "tdx" else _SGX
        if need.kind == "qe-identity":
            return f"{self._url}{base}/qe/identity?{self.choice}"
        fmspc = octets(need, "fmspc", FMSPC_SIZE).hex()
        return f"{self._url}{base}/tcb?{urlencode({'fmspc': fmspc} | self.choice.query)}"

    def fetch(self, need: Need) -> Endorsements:
        """The answer to a need of one of `kinds`, with the chain that came along; of a PCK, the leaf comes first."""
        headers = {"Ocp-Apim-Subscription-Key": self._key} if self._key and need.kind == "pck" else {}
        limit = CRL_LIMIT * 2 + 2 if need.kind.endswith("crl") else 2 * DOCUMENT_LIMIT
        answer = self._getter.get(self.url(need), limit=limit, headers=headers)
        try:
            return _read(need, answer)
        except MalformedError as error:
            raise UnreachableError(
                "endorsement-answer-malformed",
                "Intel's service gives an answer that makes no sense",
                expected=need.kind,
                found=error,
                hint="is that the right service?",
            ) from error


def _read(need: Need, answer: Answer) -> Endorsements:
    chain = _chain(need.kind, answer)
    if need.kind.endswith("crl"):
        return Endorsements(chain, (read_crl(answer.body),))
    if need.kind == "pck":
        return Endorsements((*read_blocks(answer.body[: CERTIFICATE_LIMIT * 2], CERTIFICATE), *chain))
    return Endorsements(documents=(read_signed_document(answer.body, chain),))


def read_crl(data: bytes) -> bytes:
    """The DER of a revocation list in DER, PEM or hex; it is not parsed. Raises `MalformedError`: `pem-malformed`,
    `collateral-malformed`, `json-malformed`, `json-too-large`."""
    if data.startswith(b"\x30"):
        return data
    if data.startswith(b"-----BEGIN"):
        return read_blocks(data, CRL)[0]
    found = read_collateral(data.strip(b"\"' \t\r\n")).crls
    if len(found) != 1:
        raise MalformedError("collateral-malformed", "not one revocation list", found=len(found))
    return found[0]


def _chain(kind: str, answer: Answer) -> tuple[bytes, ...]:
    for name in _CHAINS.get(kind, ()):
        if name in answer.headers:
            return read_blocks(unquote(answer.headers[name][:HEADERS_LIMIT]).encode(), CERTIFICATE)
    return ()


def _pck_query(need: Need) -> dict[str, str]:
    """Parameters by which a PCK certificate is asked for: the platform's encrypted id and its SVNs, as in the quote.
    A PCCS also knows platforms by the quoting enclave's id."""
    given = dict(need.parameters)
    if "encrypted-ppid" not in given and "qeid" not in given:
        raise UnreachableError(
            "endorsement-not-offered",
            "no service gives a PCK certificate for a platform id that is not encrypted",
            found=", ".join(given),
            hint="give the platform's PCK certificate chain as a file",
        )
    wanted = {name: size for name, size in _PCK.items() if name in given or size is not None}
    query = {name.replace("-", "_"): octets(need, name, size).hex() for name, size in wanted.items()}
    return query | ({"qeid": octets(need, "qeid", 16).hex()} if "qeid" in given else {})
