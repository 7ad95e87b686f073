"""TPM 2.0 quotes: of a TPM by itself, and of the virtual TPMs of Azure's confidential machines.

A quote is as trustworthy as its attestation key (AK). `verify` says who vouches for that: the hardware report of the
machine (Azure puts the AK's digest into REPORT_DATA), a certificate that chains to a cloud's root, or the caller's own
enrolment. A quote whose AK nobody vouches for verifies, and policy refuses it.

`Evidence` of "tpm", "az-snp-vtpm" and "az-tdx-vtpm": `report` is the TPMS_ATTEST as it was signed, b"" if there is a
hardware report alone; `certificates` are DER: AK certificate and intermediates, VCEK. `parts`:

signature           TPMT_SIGNATURE, or a bare RSASSA signature with SHA-256 as long as the modulus (Azure)
quote-2, signature-2 ... quote-8, signature-8
                    further quotes by the same AK of other PCR banks
pcrs                PCR values: for each bank TPM_ALG_ID u16 (big-endian), number of values u8, and for each its index
                    u8 and its digest; banks and indexes ascending. `quote.parse_pcrs`, `quote.encode_pcrs`
ak                  the AK as DER SubjectPublicKeyInfo; needed unless one of the next two is there
ak-public           the AK as TPMT_PUBLIC, with its attributes
hcl-report          Azure's report: hardware report and runtime data with the AK (`hcl`)
td-quote            the TD quote over the TD report in the HCL report
event-log           the firmware's event log (TCG)
version             decimal number of the KBS envelope for Azure, which says what `user-data` must hold
tee-attestation     go-tpm-tools' protobuf message of a hardware report, kept and not evaluated
"""
