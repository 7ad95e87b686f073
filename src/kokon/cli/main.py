"""The command `kokon`: finds the command's file when it is used, and turns errors into text and exit status."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from kokon import __version__
from kokon.cli.output import render_error
from kokon.errors import InternalError, KokonError, UsageError

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT, as shells do."""

BROKEN_PIPE = 141
"""Exit status when the reader of our output went away: 128 and the number of SIGPIPE."""

EPILOGUE = """\
Exit status: 0 done; 1 internal error; 2 usage; 3 malformed input; 4 not trusted; 5 denied by policy; 6 out of date;
7 peer not reachable; 8 this machine lacks something; 130 interrupted. `kokon run` ends with the container's own status.

Answers go to stdout, all else to stderr; with --json both are JSON."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, where its function is, and its line in the overview."""

    words: str
    target: str
    summary: str


GROUPS = {
    "block": "Images as one encrypted, verified file system.",
    "recipients": "Who can open an encrypted image.",
    "keyprovider": "Layer keys for skopeo, buildah and containerd.",
    "evidence": "What hardware signed: reports, quotes, documents.",
    "secret": "Secrets that the provisioning server keeps for enclaves.",
    "workload": "Which enclaves the provisioning server gives secrets to.",
    "policy": "What a project demands of platforms, attestations and requests.",
    "reference": "Reference values that a project's Rego policies ask for.",
    "project": "The provisioning server's tenants.",
    "token": "Who may administrate the provisioning server.",
    "audit": "Proofs about the provisioning server's log that hold without it.",
    "provision": "The owner's provisioning server.",
    "endorsements": "What chip vendors say about their chips.",
    "trust": "Whom this user trusts.",
    "guest": "The image that guests boot.",
    "measure": "What a launch will measure to, computed without the hardware.",
    "sigstruct": "The certificate of an SGX enclave.",
}

COMMANDS = (
    Command("seal", "kokon.cli.seal:seal", "Encrypt and sign an image, attach its identity statement, push it."),
    Command("encrypt", "kokon.cli.encrypt:encrypt", "Encrypt an image's layers for recipients, as skopeo reads them."),
    Command("decrypt", "kokon.cli.encrypt:decrypt", "Decrypt an image's layers."),
    Command("recipients list", "kokon.cli.recipients:list_recipients", "List who can open an encrypted image."),
    Command("recipients add", "kokon.cli.recipients:add", "Let somebody else open an encrypted image."),
    Command("recipients remove", "kokon.cli.recipients:remove", "Take recipients out of an encrypted image."),
    Command("keyprovider command", "kokon.cli.keyprovider:command", "Wrap or unwrap one layer key for another tool."),
    Command("keyprovider serve", "kokon.cli.keyprovider:serve", "Wrap layer keys for other tools, over gRPC."),
    Command("block make", "kokon.cli.block:make", "Seal an image as one encrypted file system that starts at once."),
    Command("block verify", "kokon.cli.block:verify", "Check a whole block image with its key."),
    Command("copy", "kokon.cli.copy:copy", "Copy an image from anywhere to anywhere, whole or not at all."),
    Command("scan", "kokon.cli.scan:scan", "Look for secrets in an image."),
    Command("sbom", "kokon.cli.sbom:sbom", "List the packages that an image is made of."),
    Command("compare", "kokon.cli.compare:compare", "Prove that a sealed image has the content of one that you built."),
    Command("inspect", "kokon.cli.inspect:inspect", "Show what a sealed image says about itself."),
    Command("certify", "kokon.cli.certify:certify", "Countersign what an author says about a sealed image."),
    Command("sign", "kokon.cli.sign:sign", "Sign an image, so that cosign, podman and Kokon can verify it."),
    Command("verify-image", "kokon.cli.verify_image:verify_image", "Verify an image's signatures by keys or a policy."),
    Command("keygen", "kokon.cli.keys:keygen", "Make an author's signing key."),
    Command("provision serve", "kokon.cli.provision:serve", "Run the provisioning server."),
    Command("provision init", "kokon.cli.provision_state:init", "Prepare a server's state directory."),
    Command("provision status", "kokon.cli.provision:status", "Show how the server is."),
    Command("provision backup", "kokon.cli.provision_state:backup", "Write all that the server keeps into a file."),
    Command("provision restore", "kokon.cli.provision_state:restore", "Put a backup into an empty database."),
    Command("provision recover", "kokon.cli.provision_state:recover", "Make a new owner's token, if none is left."),
    Command("provision rotate", "kokon.cli.provision:rotate", "Replace the key of tokens, of records, or the master."),
    Command("secret put", "kokon.cli.secret:put", "Store a secret."),
    Command("secret generate", "kokon.cli.secret:generate", "Have a secret made that no human sees."),
    Command("secret derive", "kokon.cli.secret:derive", "Have a secret derived for whoever asks."),
    Command("secret rotate", "kokon.cli.secret:rotate", "Make a new version of a secret that was made here."),
    Command("secret list", "kokon.cli.secret:list_secrets", "List the names of secrets."),
    Command("secret rm", "kokon.cli.secret:rm", "Delete a secret for good."),
    Command("admit", "kokon.cli.admit:admit", "Register an image's identity and write its launch document."),
    Command("workload add", "kokon.cli.workload:add", "Admit guests by what the hardware measured of them."),
    Command("workload allow", "kokon.cli.workload:allow", "Admit a workload by a rule: signer, version, certifiers."),
    Command("workload release", "kokon.cli.workload:release", "Let an image in under a workload's rule."),
    Command("workload revoke", "kokon.cli.workload:revoke", "Take back what was let in under a rule."),
    Command("workload list", "kokon.cli.workload:list_workloads", "List the workloads that are admitted."),
    Command("workload show", "kokon.cli.workload:show", "Show a workload."),
    Command("workload history", "kokon.cli.workload:history", "Show all that a workload ever was."),
    Command("workload rm", "kokon.cli.workload:rm", "Withdraw a workload."),
    Command("policy list", "kokon.cli.policy:list_policies", "List a project's policies."),
    Command("policy show", "kokon.cli.policy:show", "Print a policy, or what it was before."),
    Command("policy set", "kokon.cli.policy:set_policy", "Set a policy."),
    Command("policy rm", "kokon.cli.policy:rm", "Remove a policy."),
    Command("reference list", "kokon.cli.reference:list_references", "List reference values."),
    Command("reference set", "kokon.cli.reference:set_references", "Set reference values."),
    Command("reference rm", "kokon.cli.reference:rm", "Remove reference values."),
    Command("project list", "kokon.cli.project:list_projects", "List projects."),
    Command("project add", "kokon.cli.project:add", "Make a project."),
    Command("project rm", "kokon.cli.project:rm", "Close a project."),
    Command("token list", "kokon.cli.token:list_tokens", "List who may administrate."),
    Command("token new", "kokon.cli.token:new", "Let somebody else administrate."),
    Command("token rm", "kokon.cli.token:rm", "Take somebody's access away."),
    Command("log", "kokon.cli.log:log", "Show a project's log, verified."),
    Command("audit export", "kokon.cli.audit:export", "Write the whole log into a file."),
    Command("audit verify", "kokon.cli.audit:verify", "Verify an exported log or a receipt, offline."),
    Command("audit receipt", "kokon.cli.audit:receipt", "Get one entry with all that proves it."),
    Command("audit checkpoint", "kokon.cli.audit:checkpoint", "Get the log's signed head."),
    Command("audit witness", "kokon.cli.witness:witness", "Cosign the log's head, if the log only grew."),
    Command("audit keygen", "kokon.cli.witness:keygen", "Make a witness's key."),
    Command("explain", "kokon.cli.explain:explain", "Say why a launch was denied, or what evidence differs in."),
    Command("conformance", "kokon.cli.conformance:conformance", "Hold a key broker against the protocol."),
    Command("run", "kokon.cli.run:run", "Launch a container in an enclave of its own."),
    Command("ps", "kokon.cli.ps:ps", "List containers on this machine."),
    Command("logs", "kokon.cli.logs:logs", "Read a container's output over the attested channel."),
    Command("stop", "kokon.cli.stop:stop", "Stop a container."),
    Command("rm", "kokon.cli.stop:rm", "Remove an ended container."),
    Command("verify", "kokon.cli.verify:verify", "Verify a running service and show its chain of trust."),
    Command("connect", "kokon.cli.connect:connect", "Tunnel a local port over the attested channel."),
    Command("endorsements fetch", "kokon.cli.endorsements:fetch", "Fetch endorsements into the cache."),
    Command("endorsements bundle", "kokon.cli.endorsements:bundle", "Write endorsements to a file, for use offline."),
    Command("endorsements list", "kokon.cli.endorsements:list_endorsements", "List what is in the cache or in files."),
    Command("trust author", "kokon.cli.trust:trust_author", "Trust an author's public key."),
    Command("trust owner", "kokon.cli.trust:trust_owner", "Trust the owner of a provisioning server."),
    Command("trust simulated", "kokon.cli.trust:trust_simulated", "Accept a simulated root by its fingerprint."),
    Command("trust list", "kokon.cli.trust:trust_list", "Show whom this user trusts."),
    Command("evidence show", "kokon.cli.evidence:show", "Show every field of a piece of evidence."),
    Command("evidence verify", "kokon.cli.evidence:verify", "Verify a piece of evidence and say why."),
    Command("doctor", "kokon.cli.doctor:doctor", "Show what this machine can do and what is missing."),
    Command("guest build", "kokon.cli.guest:build", "Build the guest image."),
    Command("guest show", "kokon.cli.guest:show", "Show the guest image and what it measures to."),
    Command("measure snp", "kokon.cli.measure:snp", "Compute the launch digest of an SEV-SNP guest."),
    Command("measure tdx", "kokon.cli.measure:tdx", "Compute MRTD, RTMR1 and RTMR2 of a TDX guest."),
    Command("measure sgx", "kokon.cli.measure:sgx", "Compute MRENCLAVE of a built SGX enclave."),
    Command("sigstruct show", "kokon.cli.sigstruct:show", "Show a SIGSTRUCT and check its signature."),
    Command("sigstruct make", "kokon.cli.sigstruct:make", "Make a SIGSTRUCT, signed or to be signed elsewhere."),
    Command("sigstruct assemble", "kokon.cli.sigstruct:assemble", "Put a signature made elsewhere into a SIGSTRUCT."),
    Command("demo", "kokon.cli.demo:demo", "Show the whole way of one container on this machine."),
)


def build_app(words: Sequence[str] = ()) -> App:
    """The command line; command files are imported only when their command is used.

    The command that `words` begin with describes itself at length; the others have their line in the overview.
    """
    app = App(
        name="kokon",
        help="Confidential containers: the cloud sees nothing.",
        help_epilogue=EPILOGUE,
        version=__version__,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    groups = {name: App(name=name, help=summary) for name, summary in GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for command in COMMANDS:
        group_name, _, name = command.words.rpartition(" ")
        parent = groups[group_name] if group_name else app
        used = command.words.split() == list(words[: command.words.count(" ") + 1])
        parent.command(command.target, name=name, help=None if used else command.summary)
    app.register_install_completion_command(help="Install completion for the shell in use.")
    return app


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line `tokens` (default: the program's own) and return the exit status."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    sys.excepthook = report_bug
    try:
        return _status(_dispatch(words))
    except KokonError as error:
        render_error(error, wants_json(words))
        if os.environ.get("KOKON_DEBUG") == "1":
            traceback.print_exc()
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _dispatch(words: list[str]) -> object:
    app = build_app(words)
    try:
        return app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except UnknownCommandError as error:
        raise _unknown_command(words, error) from error
    except CycloptsError as error:
        raise UsageError("usage-malformed", str(error), hint="see the command's --help") from error


def _unknown_command(words: list[str], error: UnknownCommandError) -> UsageError:
    unknown = (error.unused_tokens or words or [""])[0]
    last_words = {command.words.split()[-1] for command in COMMANDS} | set(GROUPS)
    close = difflib.get_close_matches(unknown, last_words, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see: kokon --help"
    return UsageError("command-unknown", f"there is no command {unknown!r}", hint=hint)


def _status(result: object) -> int:
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def wants_json(words: Sequence[str]) -> bool:
    """Whether `--json` is among the options of a command line."""
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What is done about an exception that nobody foresaw: say so; the traceback only with KOKON_DEBUG=1."""
    hint = "please report it, with what KOKON_DEBUG=1 adds"
    bug = InternalError("internal-error", f"a bug in kokon: {kind.__name__}", found=error, hint=hint)
    render_error(bug, wants_json(sys.argv[1:]))
    if os.environ.get("KOKON_DEBUG") == "1":
        traceback.print_exception(kind, error, trace)
