# Kokon's default resource policy: secrets for affirming evidence that a TEE signed, and for nothing else. Simulated
# ones pass where the server was told to accept their roots.
package policy

import rego.v1

default allow := false

hardware := {
	"az-snp-vtpm",
	"az-tdx-vtpm",
	"cca",
	"csv",
	"hygondcu",
	"nitro",
	"nvidia",
	"se",
	"sgx",
	"snp",
	"tdx",
	"tpm",
}

allow if {
	data.plugin == "resource"
	count(input.submods) > 0
	every submodule in input.submods {
		submodule["ear.status"] == "affirming"
		kinds := object.keys(submodule["ear.veraison.annotated-evidence"])
		count(kinds & hardware) > 0
		count(kinds & {"sample", "sampledevice"}) == 0
	}
}
