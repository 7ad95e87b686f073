"""The fake vendor: evidence of every kind and the endorsements for it, in one call each. Pure but for RSA keys.

Everything a test may want to turn is a keyword argument; nothing here is changed in place. Evidence is genuine in every
respect except its root, which is called "Kokon simulated ..." and is believed only where its fingerprint is accepted.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence
from kokon.testing.vendor import amd, azure, eventlog, intel_quote, nitro, tpm
from kokon.testing.vendor.amd import CSP, Amd, Product, SigningKey, SnpReport
from kokon.testing.vendor.authority import P384, KeyRing, Span
from kokon.testing.vendor.endorsing import endorse
from kokon.testing.vendor.envelope import kbs_envelope
from kokon.testing.vendor.eventlog import LogEvent, encode_log, pcr_bank, rtmrs
from kokon.testing.vendor.intel_collateral import Collateral
from kokon.testing.vendor.intel_pki import IntelAuthorities, Platform
from kokon.testing.vendor.intel_quote import Quoter, QuotingEnclave, SgxReport, TdReport
from kokon.testing.vendor.nitro import Nitro, NitroDocument
from kokon.testing.vendor.ratls import RatlsOptions, ratls_certificate
from kokon.testing.vendor.tpm import Attest, KeyKind, Quoted, Tpm

Certificates = Literal["all", "leaf", "none"]


@dataclass(frozen=True, slots=True)
class FakeVendor:
    """AMD, Intel, AWS and the makers of TPMs in one, at the time `now` (aware).

    The same `seed` gives the same keys, except RSA keys, which are new in each process. `revoked` names what stands on
    revocation lists: "ask", "asvk" (AMD), "platform-ca", "processor-ca", "tcb-signing", "pck" (Intel), "region",
    "zone", "instance" (AWS), "ek-ca", "ak" (TPM). Lists were issued `lists_age` ago and are good for `lists_lifetime`.
    `collateral` is what Intel says about `platforms`, of which the first makes the quotes unless one is given.

    >>> from datetime import UTC, datetime
    >>> vendor = FakeVendor(datetime(2026, 11, 23, tzinfo=UTC))
    >>> vendor.sgx(isvsvn=3).tee
    'sgx'
    """

    now: datetime
    seed: bytes = field(default=b"Kokon", repr=False)
    revoked: frozenset[str] = frozenset()
    lists_age: timedelta = timedelta(days=1)
    lists_lifetime: timedelta = timedelta(days=30)
    collateral: Collateral = field(default_factory=Collateral)
    platforms: tuple[Platform, ...] = (Platform(),)

    def but(self, **changes: Any) -> FakeVendor:
        """The same vendor with other fields: `vendor.but(revoked=frozenset({"ask"}))`."""
        return replace(self, **changes)

    @property
    def keys(self) -> KeyRing:
        """All its keys."""
        return KeyRing(self.seed)

    @property
    def amd(self) -> Amd:
        """AMD's certificates and reports, one by one."""
        return Amd(self.keys, self.now)

    @property
    def intel(self) -> IntelAuthorities:
        """Intel's certificates and lists, one by one."""
        return IntelAuthorities(self.keys, self.now)

    @property
    def aws(self) -> Nitro:
        """AWS's certificates and documents."""
        return Nitro(self.keys, self.now)

    def tpm_of(self, machine: str = "first") -> Tpm:
        """One machine's TPM."""
        return Tpm(self.keys, self.now, machine)

    @property
    def lists_span(self) -> Span:
        """From thisUpdate to nextUpdate of revocation lists."""
        return Span(self.now - self.lists_age, self.lists_lifetime)

    def snp(
        self,
        *,
        key: SigningKey = "vcek",
        chip: str = "first",
        csp: str = CSP,
        debug: bool = False,
        masked: bool = False,
        certificates: Certificates = "all",
        span: Span | None = None,
        crl: bool = False,
        **fields: Any,
    ) -> Evidence:
        """An SEV-SNP report. `fields` are those of `SnpReport`, `product` and `version` among them.

        `key` signs: a chip's own or one loaded for the cloud provider `csp`. `masked`: the host forbade signing.
        `certificates` come along, the leaf valid for `span`; with `crl` the revocation list does too.
        """
        report = SnpReport(**fields)
        report = replace(
            report,
            policy=report.policy | (amd.POLICY_DEBUG if debug else 0),
            key_info=report.key_info | (amd.MASK_CHIP_KEY if masked else 0),
        )
        raw = self.amd.report(report, key, chip=chip, csp=csp)
        parts = {"crl": self.amd.crl(report.product, self.revoked, self.lists_span)} if crl else {}
        leaf = self._snp_leaf(report, key, chip, csp, span)
        chain = self.amd.chain(report.product, key) if certificates == "all" else ()
        return Evidence("snp", raw, () if certificates == "none" else (leaf, *chain), parts)

    def _snp_leaf(self, report: SnpReport, key: SigningKey, chip: str, csp: str, span: Span | None) -> bytes:
        if key == "vlek":
            return self.amd.vlek(report.product, csp, report.reported_tcb, span)
        return self.amd.vcek(report.product, self.amd.chip_id(report.product, chip), report.reported_tcb, span)

    def sgx(
        self,
        *,
        version: Literal[3, 4] = 3,
        debug: bool = False,
        platform: Platform | None = None,
        enclave: QuotingEnclave | None = None,
        span: Span | None = None,
        **fields: Any,
    ) -> Evidence:
        """An SGX quote. `fields` are those of `SgxReport`; `platform` and `enclave` say by what it was made, `span` how
        long the PCK certificate is valid."""
        report = SgxReport(**fields)
        report = replace(report, flags=report.flags | (intel_quote.SGX_DEBUG if debug else 0))
        quoter = self._quoter(platform, enclave or QuotingEnclave(), span)
        return Evidence("sgx", quoter.sgx(report) if version == 3 else quoter.sgx_v4(report))

    def tdx(
        self,
        *,
        version: Literal[4, 5] = 4,
        later: bool = False,
        debug: bool = False,
        platform: Platform | None = None,
        enclave: QuotingEnclave | None = None,
        span: Span | None = None,
        events: tuple[LogEvent, ...] = eventlog.CC_BOOT,
        log: bool = False,
        **fields: Any,
    ) -> Evidence:
        """A TDX quote of version 4 or 5, `later` with the body of TD 1.5. `fields` are those of `TdReport`.

        RTMRs are what `events` extend unless given; with `log` the event log comes along.
        """
        report = TdReport(**({"rtmrs": rtmrs(events)} | fields))
        report = replace(report, td_attributes=report.td_attributes | (intel_quote.TD_DEBUG if debug else 0))
        quoter = self._quoter(platform, enclave or intel_quote.TDX_QE, span)
        parts = {"event-log": encode_log(events, ("sha384",))} if log else {}
        return Evidence("tdx", quoter.tdx(report, version, later=later), (), parts)

    def _quoter(self, platform: Platform | None, enclave: QuotingEnclave, span: Span | None) -> Quoter:
        return Quoter(self.keys, self.intel, platform or self.platforms[0], enclave, span)

    def nitro(self, *, debug: bool = False, span: Span | None = None, **fields: Any) -> Evidence:
        """A Nitro attestation document. `fields` are those of `NitroDocument`; `span` is the leaf certificate's."""
        document = NitroDocument(**({"pcrs": nitro.DEBUG_PCRS} if debug else {}) | fields)
        return Evidence("nitro", self.aws.document(document, span))

    def tpm(
        self,
        *,
        key: KeyKind = "rsa",
        machine: str = "first",
        certified: bool = True,
        span: Span | None = None,
        events: tuple[LogEvent, ...] = eventlog.BOOT,
        log: bool = True,
        public_area: bool = False,
        scheme: int | None = None,
        **fields: Any,
    ) -> Evidence:
        """A TPM quote. `fields` are those of `Attest`; the PCRs are what `events` extend unless given.

        With `certified` the attestation key's certificate and its issuers come along, with `log` the event log, with
        `public_area` the key as TPMT_PUBLIC. `scheme` 0x16 is RSA-PSS.
        """
        maker = self.tpm_of(machine)
        usual = {"pcrs": pcr_bank(events, fields.get("bank", "sha256")), "qualified_signer": maker.qualified_name(key)}
        attest = Attest(**(usual | fields))
        message = attest.encode()
        parts = {
            "signature": maker.sign(message, key, scheme=scheme),
            "pcrs": _pcr_values({attest.bank: attest.pcrs}),
            "ak": maker.ak_public(key),
        }
        parts |= {"event-log": encode_log(events)} if log else {}
        parts |= {"ak-public": maker.public_area(key)} if public_area else {}
        return Evidence("tpm", message, maker.chain(key, span) if certified else (), parts)

    def google(
        self,
        *,
        nonce: bytes = b"",
        machine: str = "first",
        banks: tuple[str, ...] = ("sha1", "sha256"),
        certified: bool = True,
        events: tuple[LogEvent, ...] = eventlog.BOOT,
    ) -> bytes:
        """A quote of each bank with the event log as one message of go-tpm-tools, which Google's tools write."""
        maker = self.tpm_of(machine)
        quotes = []
        for bank in banks:
            registers = pcr_bank(events, bank)
            signer = maker.qualified_name()
            message = Attest(extra_data=nonce, pcrs=registers, bank=bank, qualified_signer=signer).encode()
            quotes.append(Quoted(message, maker.sign(message), registers, bank))
        return tpm.go_tpm_tools(maker, tuple(quotes), encode_log(events), certified=certified)

    def azure_snp(
        self,
        *,
        nonce: bytes = b"",
        machine: str = "first",
        runtime: azure.RuntimeData | None = None,
        events: tuple[LogEvent, ...] = eventlog.BOOT,
        attest: Mapping[str, Any] | None = None,
        ak_machine: str | None = None,
        certificates: Certificates = "leaf",
        **options: Any,
    ) -> Evidence:
        """A quote of Azure's virtual TPM on SEV-SNP. `options` are those of `snp`, `attest` fields of the quote.

        `ak_machine` names the machine whose key stands in the report, another than the one that signs the quote.
        """
        data = self._runtime_data(runtime, ak_machine or machine)
        snp = self.snp(chip=machine, certificates=certificates, **({"report_data": azure.binding(data)} | options))
        parts = {"hcl-report": azure.hcl_report(snp.report, data, azure.SNP)}
        return self._azure("az-snp-vtpm", machine, nonce, events, attest, snp.certificates, parts)

    def azure_tdx(
        self,
        *,
        nonce: bytes = b"",
        machine: str = "first",
        runtime: azure.RuntimeData | None = None,
        events: tuple[LogEvent, ...] = eventlog.BOOT,
        attest: Mapping[str, Any] | None = None,
        ak_machine: str | None = None,
        quoted: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Evidence:
        """A quote of Azure's virtual TPM on TDX: TD report in the HCL report, and a quote over it. `options` are those
        of `tdx`; `quoted` are fields in which the quote differs from the TD report."""
        data = self._runtime_data(runtime, ak_machine or machine)
        fields = {"report_data": azure.binding(data), "rtmrs": (bytes(48),) * 4} | options
        made = {name: fields.pop(name) for name in ("version", "later", "debug", "platform", "enclave", "span")
                if name in fields}  # fmt: skip
        report = TdReport(**fields)
        quote = self.tdx(**made, **(fields | dict(quoted or {})))
        report = replace(report, td_attributes=report.td_attributes | (1 if made.get("debug") else 0))
        inner = azure.td_report(report, self.platforms[0].raw_cpusvn)
        parts = {"hcl-report": azure.hcl_report(inner, data, azure.TDX), "td-quote": quote.report}
        return self._azure("az-tdx-vtpm", machine, nonce, events, attest, (), parts)

    def _runtime_data(self, runtime: azure.RuntimeData | None, machine: str) -> bytes:
        ak = self.keys.rsa(f"TPM attestation key {machine}")
        ek: rsa.RSAPrivateKey = self.keys.rsa("TPM endorsement key")
        return (runtime or azure.RuntimeData()).encode(ak.public_key(), ek.public_key())

    def _azure(
        self,
        kind: str,
        machine: str,
        nonce: bytes,
        events: tuple[LogEvent, ...],
        fields: Mapping[str, Any] | None,
        certificates: tuple[bytes, ...],
        parts: Mapping[str, bytes],
    ) -> Evidence:
        signer = self.tpm_of(machine).qualified_name()
        usual = {"extra_data": nonce, "pcrs": pcr_bank(events), "qualified_signer": signer}
        attest = Attest(**(usual | dict(fields or {})))
        message = attest.encode()
        signature = self.tpm_of(machine).sign(message, raw=True)
        values = _pcr_values({attest.bank: attest.pcrs})
        return Evidence(kind, message, certificates, {"signature": signature, "pcrs": values, **parts})

    def ratls(
        self,
        *,
        options: RatlsOptions | None = None,
        tee: Literal["sgx", "tdx"] = "sgx",
        key: str = "first",
        **fields: Any,
    ) -> Evidence:
        """An RA-TLS certificate around quotes of one enclave. `fields` are those of `sgx` or `tdx`; `key` names the
        TLS key."""
        chosen = options or RatlsOptions()
        private = self.keys.elliptic(f"RA-TLS {key}", P384)
        make = self.sgx if tee == "sgx" else self.tdx

        def quote(form: Literal["legacy", "dice"]) -> bytes | None:
            if chosen.form not in (form, "both"):
                return None
            data = chosen.report_data(private.public_key(), form)
            return make(**({"report_data": data} | fields)).report

        return Evidence("ratls", ratls_certificate(private, chosen, legacy=quote("legacy"), dice=quote("dice")))

    def endorsements(
        self,
        evidence: Evidence,
        *,
        omit: Collection[str] = (),
        accept: bool = True,
        platform: Platform | None = None,
        product: Product | None = None,
        csp: str = CSP,
    ) -> Endorsements:
        """All that is needed to verify this evidence, but for what `omit` names.

        These can be omitted: "leaf", "chain", "crl" (AMD); "tcb-info", "qe-identity", "pck-crl", "root-crl", "pck"
        (Intel); "chain", "crl" (TPM); "crl" (AWS). `accept` puts the root's fingerprint among the accepted ones.
        `platform` is the Intel machine, the vendor's first unless given; `product` is AMD's line for reports that do
        not say it (version 2), else Milan; `csp` is whom the VLEK is for.
        """
        return endorse(self, evidence, omit=omit, accept=accept, platform=platform, product=product, csp=csp)

    def envelope(self, evidence: Evidence, version: int = 2) -> dict[str, Any]:
        """The evidence as the JSON object that the KBS protocol has for it; `version` is that of Azure's (0, 1, 2)."""
        return kbs_envelope(evidence, version)

    def raw(self, evidence: Evidence) -> bytes:
        """The evidence as one file: an SNP report with its certificate table, else the report as it is."""
        if evidence.tee != "snp" or not evidence.certificates:
            return evidence.report
        kind: SigningKey = "vlek" if evidence.report[0x48] >> 2 & 7 == 1 else "vcek"
        return evidence.report + amd.certificate_table(evidence.certificates, kind, evidence.parts.get("crl"))

    @property
    def roots(self) -> frozenset[str]:
        """The fingerprints of all its roots. Makes three RSA-4096 keys the first time, which takes a second or two."""
        return frozenset(self.amd.ark(product).fingerprint for product in amd.PRODUCTS) | self.elliptic_roots

    @property
    def elliptic_roots(self) -> frozenset[str]:
        """The fingerprints of its roots apart from AMD's: these are the same in every process."""
        authorities = (self.intel.root(), self.aws.chain()[0], self.tpm_of().root())
        return frozenset(authority.fingerprint for authority in authorities)


def _pcr_values(banks: Mapping[str, Iterable[bytes]]) -> bytes:
    """PCR values as the TEE "tpm" takes them: per bank algorithm and number of values, then index and value of each."""
    encoded = b""
    for algorithm, values in sorted((eventlog.ALGORITHMS[name], tuple(values)) for name, values in banks.items()):
        encoded += struct.pack(">HB", algorithm, len(values))
        encoded += b"".join(bytes([index]) + value for index, value in enumerate(values))
    return encoded
