"""The key provider: its protocol, as a command, over gRPC, and with ocicrypt's own Go library as the client."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import KokonError
from kokon.image.keyprovider import parse_packet, wrap
from kokon.image.layer import AGENT_ANNOTATION, PUBLIC_ANNOTATION, layer_options
from kokon.image.manifest import Descriptor
from kokon.image.ocicrypt.grpc_provider import SERVICE, check_address, decode, encode, serving
from kokon.image.ocicrypt.options import encode_private
from kokon.image.ocicrypt.provider import Provider
from kokon.image.ocicrypt.recipients import AgentKey, Opener, opened, wrapped
from kokon.image.ocicrypt.stream import LayerCipher, decrypted
from kokon.wire import b64, unb64
from support.images import LAYER
from support.sealed import LOWER

GO = Path(__file__).parents[2] / "interop_go" / "ocicrypt"
KID, OTHER = "kbs:///default/key/1", "kbs:///default/key/2"
KEYS = {KID: bytes(range(32)), OTHER: bytes(32)}
PRIVATE = encode_private(bytes(32), bytes(16), "sha256:" + "0" * 64)


def wrap_request(parameter: str = KID, name: str = "attestation-agent", options: bytes = PRIVATE) -> bytes:
    """As Go writes it: both objects always there, null where empty."""
    configuration = {"Parameters": {name: [b64(parameter.encode())]}, "DecryptConfig": {"Parameters": None}}
    return json.dumps(
        {
            "op": "keywrap",
            "keywrapparams": {"ec": configuration, "optsdata": b64(options)},
            "keyunwrapparams": {"dc": None, "annotation": None},
        }
    ).encode()


def unwrap_request(packet: bytes) -> bytes:
    return json.dumps(
        {
            "op": "keyunwrap",
            "keywrapparams": {"ec": None, "optsdata": None},
            "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": b64(packet)},
        }
    ).encode()


def wrapped_by(answer: bytes) -> bytes:
    return unb64(json.loads(answer)["keywrapresults"]["annotation"], what="annotation")


def unwrapped_by(answer: bytes) -> bytes:
    return unb64(json.loads(answer)["keyunwrapresults"]["optsdata"], what="optsdata")


def refused(provider: Provider, request: bytes) -> str:
    with pytest.raises(KokonError) as caught:
        provider.answer(request)
    return caught.value.code


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("parameter", [KID, f"sample=false::keyid={KID}::algorithm=A256GCM"])
def test_wrapped_and_unwrapped(version: int, parameter: str) -> None:
    provider = Provider(KEYS, version=version)
    packet = wrapped_by(provider.answer(wrap_request(parameter)))
    assert parse_packet(packet).kid == KID
    assert ("version" in json.loads(packet)) == (version == 2)
    assert unwrapped_by(provider.answer(unwrap_request(packet))) == PRIVATE
    assert opened({AGENT_ANNOTATION: b64(packet)}, Opener(agent=KEYS))[1] == PRIVATE


def test_the_only_key_needs_no_name() -> None:
    packet = wrapped_by(Provider({OTHER: bytes(32)}).answer(wrap_request("Enabled")))
    assert parse_packet(packet).kid == OTHER


def test_what_is_refused() -> None:
    provider = Provider(KEYS)
    packet = wrapped_by(provider.answer(wrap_request()))
    assert refused(provider, wrap_request("Enabled")) == "keyprovider-key"
    assert refused(provider, wrap_request("kbs:///default/key/3")) == "keyprovider-key"
    assert refused(provider, wrap_request(name="somebody-else")) == "keyprovider-request"
    assert refused(provider, wrap_request(options=b"{}")) == "field-missing"
    assert refused(provider, b'{"op":"sign"}') == "keyprovider-request"
    assert refused(provider, b'{"op":"keywrap","op":"keywrap"}') == "json-malformed"
    assert refused(Provider({OTHER: bytes(32)}), unwrap_request(packet)) == "keyprovider-key"
    assert refused(Provider({KID: bytes(32)}), unwrap_request(packet)) == "kek-wrong"
    assert refused(Provider(KEYS, unwraps=False), unwrap_request(packet)) == "keyprovider-wraps-only"
    assert "\\x01" not in repr(provider)
    with pytest.raises(KokonError) as caught:
        wrap(bytes(32), KID, PRIVATE, os.urandom, version=3)
    assert caught.value.code == "packet-unsupported"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 100_000])
def test_messages(size: int) -> None:
    message = encode(bytes(size))
    assert decode(message) == bytes(size)
    for broken in (message + b"\0", message[:-1], b"\x12" + message[1:], b"", b"\x0a\xff\xff\xff\xff\xff"):
        with pytest.raises(KokonError) as caught:
            decode(broken)
        assert caught.value.code == "keyprovider-message"


@pytest.mark.parametrize("address", ["0.0.0.0:1", "192.0.2.1:50000", "localhost", "unix:", "example.org:50000"])
def test_it_listens_to_this_machine_only(address: str) -> None:
    with pytest.raises(KokonError) as caught:
        check_address(address)
    assert caught.value.code == "keyprovider-address"


def key_file(directory: Path) -> str:
    (directory / "kek").write_bytes(KEYS[KID])
    return f"agent:{directory}/kek:{KID}"


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kokon", "keyprovider", "command", "--key", key_file(tmp_path)]
    done = subprocess.run(command, input=wrap_request(), capture_output=True, check=True)
    packet = wrapped_by(done.stdout)
    done = subprocess.run(command, input=unwrap_request(packet), capture_output=True, check=True)
    assert unwrapped_by(done.stdout) == PRIVATE
    done = subprocess.run(command, input=b"{}", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"")


def test_over_grpc(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="SKIPPED LOUDLY: grpcio is missing, the gRPC key provider is untested")
    with serving(Provider(KEYS, unwraps=False), f"unix:{tmp_path}/socket") as address:
        assert (tmp_path / "socket").stat().st_mode & 0o077 == 0
        with grpc.insecure_channel(address) as channel:
            packet = wrapped_by(decode(channel.unary_unary(f"/{SERVICE}/WrapKey")(encode(wrap_request()), timeout=20)))
            with pytest.raises(grpc.RpcError) as denied:
                channel.unary_unary(f"/{SERVICE}/UnWrapKey")(encode(unwrap_request(packet)), timeout=20)
            assert denied.value.code() == grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.RpcError) as malformed:
                channel.unary_unary(f"/{SERVICE}/WrapKey")(b"\0", timeout=20)
            assert malformed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not (tmp_path / "socket").exists()
    with pytest.raises(KokonError) as caught, serving(Provider(KEYS), f"unix:{tmp_path}/no/such/directory"):
        pass
    assert caught.value.code == "keyprovider-not-listening"


def test_without_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(KokonError) as caught, serving(Provider(KEYS), "127.0.0.1:0"):
        pass
    assert caught.value.code == "keyprovider-no-grpc"


@pytest.fixture(scope="module")
def layercrypt() -> Path:
    """ocicrypt's own library at a pinned version, as a small program; built once and kept."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        pytest.skip("SKIPPED LOUDLY: no Go here; ocicrypt's own library is not tried with our key provider")
    sources = b"".join((GO / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    home = Path(os.environ.get("KOKON_HOME") or Path.home() / ".local/share/kokon")
    program = home / "cache" / f"layercrypt-{hashlib.sha256(sources).hexdigest()[:16]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")
        environment = {**os.environ, "CGO_ENABLED": "0"}
        command = [go, "build", "-mod=readonly", "-trimpath", "-o", str(partial), "."]
        done = subprocess.run(command, cwd=GO, env=environment, capture_output=True, check=False, text=True)
        if done.returncode != 0:
            pytest.skip(f"SKIPPED LOUDLY: ocicrypt does not build here (no network?): {done.stderr[-300:]}")
        partial.replace(program)
    return program


def layer_program(program: Path, mode: str, directory: Path, descriptor: dict[str, Any], configuration: Any) -> bytes:
    (directory / "providers.json").write_text(json.dumps({"key-providers": {"attestation-agent": configuration}}))
    environment = {**os.environ, "OCICRYPT_KEYPROVIDER_CONFIG": str(directory / "providers.json")}
    done = subprocess.run(
        [str(program), mode, str(directory / "in"), str(directory / "out"), f"provider:attestation-agent:{KID}"],
        input=json.dumps(descriptor).encode(),
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def there_and_back(program: Path, directory: Path, configuration: Any) -> None:
    (directory / "in").write_bytes(LOWER)
    digest = "sha256:" + hashlib.sha256(LOWER).hexdigest()
    descriptor: dict[str, Any] = {"mediaType": LAYER, "digest": digest, "size": len(LOWER)}
    theirs = json.loads(layer_program(program, "encrypt", directory, descriptor, configuration))
    sealed = (directory / "out").read_bytes()
    found = Descriptor(LAYER + "+encrypted", digest, len(sealed), theirs["annotations"])
    private, _ = opened(found.annotations, Opener(agent=KEYS))
    assert b"".join(decrypted([sealed], layer_options(found), private)) == LOWER
    cipher = LayerCipher()
    ours = b"".join(cipher.chunks([LOWER]))
    (directory / "in").write_bytes(ours)
    annotations = {PUBLIC_ANNOTATION: cipher.public(), **wrapped(cipher.private(), [AgentKey(KID, KEYS[KID])])}
    layer_program(program, "decrypt", directory, {**descriptor, "annotations": annotations}, configuration)
    assert (directory / "out").read_bytes() == LOWER


def test_ocicrypt_itself_encrypts_and_decrypts_through_our_command(layercrypt: Path, tmp_path: Path) -> None:
    arguments = ["-m", "kokon", "keyprovider", "command", "--key", key_file(tmp_path)]
    there_and_back(layercrypt, tmp_path, {"cmd": {"path": sys.executable, "args": arguments}})


@pytest.mark.parametrize("address", ["unix:{}/socket", "127.0.0.1:0"])
def test_ocicrypt_itself_encrypts_and_decrypts_through_our_service(
    layercrypt: Path, tmp_path: Path, address: str
) -> None:
    pytest.importorskip("grpc", reason="SKIPPED LOUDLY: grpcio is missing, the gRPC key provider is untested")
    with serving(Provider(KEYS), address.format(tmp_path)) as bound:
        there_and_back(layercrypt, tmp_path, {"grpc": bound})
