# Kokon's default attestation policy: AR4SI claims from evidence and reference values.
#
# What no rule below speaks for is not recognised: every kind of evidence begins contraindicated.
package policy

import rego.v1

trust_claims := {
	"instance-identity": 0,
	"configuration": configuration,
	"executables": executables,
	"file-system": 0,
	"hardware": hardware,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default hardware := 97

default executables := 33

default configuration := 36

intel_quoting_enclave := "939a7233f79c4ca9940a0db3957f0607"

# One of the values registered under a name.
listed(name, value) if value in query_reference_value(name)

# The value registered under a name.
registered(name, value) if value == query_reference_value(name)

# Numbers only: Rego compares everything with everything.
at_least(value, minimum) if {
	is_number(value)
	is_number(minimum)
	value >= minimum
}

# As `listed`, whether numbers and switches were registered as such or as texts.
listed_as_text(name, value) if {
	some candidate in query_reference_value(name)
	sprintf("%v", [candidate]) == sprintf("%v", [value])
}

# ---- sample: for trials of the protocol, signed by nobody

executables := 3 if listed("launch_digest", input.sample.launch_digest)

hardware := 2 if {
	listed("svn", input.sample.svn)
	registered("major_version", input.sample.platform_version.major)
	at_least(input.sample.platform_version.minor, query_reference_value("minimum_minor_version"))
}

configuration := 2 if input.sample.debug == false

# ---- snp

executables := 3 if listed("snp_launch_measurement", input.snp.measurement)

hardware := 2 if {
	listed("snp_bootloader", input.snp.reported_tcb_bootloader)
	listed("snp_tee_svn", input.snp.reported_tcb_tee)
	listed("snp_snp_svn", input.snp.reported_tcb_snp)
	listed("snp_microcode", input.snp.reported_tcb_microcode)
}

configuration := 2 if {
	snp_closed
	registered("snp_guest_abi_major", input.snp.policy_abi_major)
	registered("snp_guest_abi_minor", input.snp.policy_abi_minor)
	registered("snp_single_socket", input.snp.policy_single_socket)
	registered("snp_smt_allowed", input.snp.policy_smt_allowed)
	registered("snp_smt_enabled", input.snp.platform_smt_enabled)
	registered("snp_tsme_enabled", input.snp.platform_tsme_enabled)
} else := 3 if snp_closed

# Neither a debugger nor a migration agent can be let in.
snp_closed if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

# ---- tdx

executables := 3 if {
	tdx_booted
	tdx_loaded_kernel
	tdx_given_parameters
} else := 4 if tdx_booted

tdx_booted if {
	listed("rtmr_1", input.tdx.quote.body.rtmr_1)
	listed("rtmr_2", input.tdx.quote.body.rtmr_2)
}

tdx_loaded_kernel if {
	some event in input.tdx.uefi_event_logs
	event.type_name == "EV_EFI_BOOT_SERVICES_APPLICATION"
	"File(kernel)" in event.details.device_paths
	some measured in event.digests
	registered("tdvfkernel", measured.digest)
}

tdx_given_parameters if {
	some event in input.tdx.uefi_event_logs
	event.type_name == "EV_EVENT_TAG"
	event.details.string == "LOADED_IMAGE::LoadOptions"
	some measured in event.digests
	registered("tdvfkernelparams", measured.digest)
}

hardware := 2 if {
	td_quoted(input.tdx.quote)
	up_to_date(input.tdx)
}

configuration := 2 if {
	input.tdx.td_attributes.debug == false
	listed("xfam", input.tdx.quote.body.xfam)
}

td_quoted(quote) if {
	quote.header.tee_type == "81000000"
	quote.header.vendor_id == intel_quoting_enclave
	listed("mr_td", quote.body.mr_td)
}

up_to_date(platform) if {
	platform.tcb_status == "UpToDate"
	platform.collateral_expiration_status == "0"
}

# ---- sgx

executables := 3 if sgx_known

# By its measurement alone, or by all that a registered launch says: it must name the enclave or its signer; product and
# lowest version are optional.
sgx_known if {
	input.sgx
	listed("sgx_mr_enclave", input.sgx.body.mr_enclave)
}

sgx_known if {
	some launch in query_reference_value("sgx_launches")
	named := {name | some name in ["mr_enclave", "mr_signer"]; is_string(launch[name])}
	count(named) > 0
	object.get(launch, "mr_enclave", input.sgx.body.mr_enclave) == input.sgx.body.mr_enclave
	object.get(launch, "mr_signer", input.sgx.body.mr_signer) == input.sgx.body.mr_signer
	object.get(launch, "isv_prod_id", input.sgx.isv_prod_id) == input.sgx.isv_prod_id
	at_least(input.sgx.isv_svn, object.get(launch, "isv_svn", 0))
}

hardware := 2 if {
	input.sgx.header.vendor_id == intel_quoting_enclave
	up_to_date(input.sgx)
}

configuration := 2 if input.sgx.debug == false

# ---- Azure's confidential machines: the hardware's report with a virtual TPM

executables := 3 if {
	listed("measurement", input["az-snp-vtpm"].measurement)
	listed("snp_pcr11", input["az-snp-vtpm"].tpm.pcr11)
}

hardware := 2 if {
	listed_as_text("tcb_bootloader", input["az-snp-vtpm"].reported_tcb_bootloader)
	listed_as_text("tcb_tee", input["az-snp-vtpm"].reported_tcb_tee)
	listed_as_text("tcb_snp", input["az-snp-vtpm"].reported_tcb_snp)
	listed_as_text("tcb_microcode", input["az-snp-vtpm"].reported_tcb_microcode)
}

configuration := 2 if {
	input["az-snp-vtpm"].policy_debug_allowed in [false, "false"]
	listed_as_text("abi_major", input["az-snp-vtpm"].policy_abi_major)
	listed_as_text("abi_minor", input["az-snp-vtpm"].policy_abi_minor)
	listed_as_text("single_socket", input["az-snp-vtpm"].policy_single_socket)
	listed_as_text("smt_allowed", input["az-snp-vtpm"].policy_smt_allowed)
	listed_as_text("smt_enabled", input["az-snp-vtpm"].platform_smt_enabled)
	listed_as_text("tsme_enabled", input["az-snp-vtpm"].platform_tsme_enabled)
}

executables := 3 if listed("tdx_pcr11", input["az-tdx-vtpm"].tpm.pcr11)

hardware := 2 if {
	td_quoted(input["az-tdx-vtpm"].quote)
	input["az-tdx-vtpm"].tcb_status == "UpToDate"
}

configuration := 2 if {
	input["az-tdx-vtpm"].td_attributes.debug == false
	listed("xfam", input["az-tdx-vtpm"].quote.body.xfam)
}

# ---- tpm: says what booted, and nothing of the memory

executables := 3 if {
	listed("tpm_pcr11", input.tpm.pcr11)
	listed("trusted_aks", input.tpm.ak_public)
}

hardware := 2 if input.tpm

configuration := 0 if input.tpm

# ---- what the workload is, as far as the launch document binds it

extensions := [{
	"name": "ear.trustee.identifiers",
	"key": -18,
	"value": {"validated": object.union(images, users)},
}]

containers := [container | some container in input.init_data_claims.agent_policy_claims.containers]

images := {"container_images": found} if {
	found := [name | some one in containers; name := one.OCI.Annotations["io.kubernetes.cri.image-name"]]
	count(found) > 0
} else := {}

users := {"container_uids": found} if {
	found := [number | some one in containers; number := one.OCI.Process.User.UID]
	count(found) > 0
} else := {}
