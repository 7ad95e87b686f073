"""The block format: descriptor, derived keys, hash tree, cipher, file system, all of it together."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.image.block.erofs import write_erofs
from kokon.image.block.flatten import Flattener, Node
from kokon.image.block.format import (
    ARTIFACT_TYPE,
    BLOCK,
    BLOCKS_ANNOTATION,
    LAYER_TYPE,
    ROOT_ANNOTATION,
    BlockInfo,
    crypt_table,
    is_block_image,
    parse_block,
    tree_levels,
    verity_salt,
    verity_table,
    xts_key,
)
from kokon.image.block.make import make_block, verify_block
from kokon.image.block.verity import TreeHasher, whole_blocks
from kokon.image.block.xts import decrypt_blocks, encrypt_blocks
from kokon.image.manifest import Manifest, parse_manifest
from kokon.image.source import open_source
from kokon.image.unpack import Limits, Unpacker
from support.images import digest_of, make_tar, member, write_layout

KEY = bytes(range(32))
BIG = bytes(range(256)) * 5000
LOWER = make_tar(
    [
        ("bin", None),
        (member("bin/app", mode=0o4755, mtime=1_700_000_000), b"program" * 900),
        ("bin/big", BIG),
        (member("link", tarfile.SYMTYPE, linkname="bin/app"), None),
        (member("hard", tarfile.LNKTYPE, linkname="bin/app"), None),
        (member("pipe", tarfile.FIFOTYPE, mode=0o640), None),
        (member("etc", tarfile.DIRTYPE, mode=0o2750, uid=7, gid=100_000), None),
        ("etc/gone", b"hidden"),
        (member("tagged", pax_headers={"SCHILY.xattr.user.colour": "blue"}), b"hi"),
        ("opaque", None),
        ("opaque/old", b"old"),
        ("empty", b""),
        ("many", None),
        *((f"many/{number:04}-{'n' * 100}", b"%d" % number) for number in range(300)),
    ]
)
UPPER = make_tar(
    [("etc/.wh.gone", b""), ("etc/new", b"new"), ("opaque/.wh..wh..opq", b""), ("opaque/fresh", b"fresh")]
)  # fmt: skip


def flattened(*layers: bytes) -> tuple[Node, io.BytesIO]:
    spool = io.BytesIO()
    flattener = Flattener(spool)
    for layer in layers:
        flattener.layer([layer])
    return flattener.root, spool


def file_system(*layers: bytes) -> bytes:
    root, spool = flattened(*layers)

    def read(offset: int, size: int) -> bytes:
        spool.seek(offset)
        return spool.read(size)

    return b"".join(write_erofs(root, read))


def manifest(
    annotations: dict[str, str], *, size: int = 2 * BLOCK, kind: str = LAYER_TYPE, copies: int = 1
) -> Manifest:
    layer = {"mediaType": kind, "digest": digest_of(b"x"), "size": size, "annotations": annotations}
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
    members: dict[str, Any] = {"schemaVersion": 2, "artifactType": ARTIFACT_TYPE, "config": config}
    return parse_manifest(json.dumps({**members, "layers": [layer] * copies}).encode())


GOOD = {ROOT_ANNOTATION: "ab" * 32, BLOCKS_ANNOTATION: "1"}


def test_a_descriptor_says_root_and_size() -> None:
    layer, info = parse_block(manifest(GOOD))
    assert (info.root.hex(), info.blocks, info.size, layer.size) == ("ab" * 32, 1, 2 * BLOCK, 2 * BLOCK)
    assert info.annotations() == GOOD
    assert is_block_image(manifest(GOOD))


@pytest.mark.parametrize(
    "wrong",
    [
        manifest({}),
        manifest({**GOOD, ROOT_ANNOTATION: "AB" * 32}),
        manifest({**GOOD, ROOT_ANNOTATION: "ab" * 31}),
        manifest({**GOOD, BLOCKS_ANNOTATION: "0"}),
        manifest({**GOOD, BLOCKS_ANNOTATION: "01"}),
        manifest({**GOOD, BLOCKS_ANNOTATION: "9999999999"}, size=1 << 39),
        manifest({**GOOD, BLOCKS_ANNOTATION: "-1"}),
        manifest(GOOD, size=3 * BLOCK),
        manifest(GOOD, copies=2),
        manifest(GOOD, kind="application/vnd.oci.image.layer.v1.tar"),
        replace(manifest(GOOD), artifact_type=None),
    ],
)
def test_other_descriptors_are_refused(wrong: Manifest) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_block(wrong)
    assert caught.value.code == "block-malformed"


def test_keys_are_derived_with_hkdf() -> None:
    root = bytes(32)
    assert verity_salt(KEY) == HKDF(SHA256(), 32, None, b"kokon block 1 verity salt").derive(KEY)
    assert xts_key(KEY, root) == HKDF(SHA256(), 64, root, b"kokon block 1 aes-xts-plain64").derive(KEY)
    assert xts_key(KEY, b"\1" * 32) != xts_key(KEY, root)
    with pytest.raises(MalformedError) as caught:
        xts_key(KEY[:31], root)
    assert caught.value.code == "size-mismatch"


def test_the_tables_are_what_the_kernel_wants() -> None:
    info = BlockInfo(b"\7" * 32, 300)
    crypt, verity = crypt_table(KEY, info, "/dev/vdd").split(), verity_table(KEY, info, "/dev/dm-2").split()
    assert crypt[0] == "aes-xts-plain64"
    assert bytes.fromhex(crypt[1]) == xts_key(KEY, info.root)
    assert crypt[2:] == ["0", "/dev/vdd", "0", "2", "sector_size:4096", "iv_large_sectors"]
    assert verity[:7] == ["1", "/dev/dm-2", "/dev/dm-2", "4096", "4096", "300", "300"]
    assert verity[7:] == ["sha256", "07" * 32, verity_salt(KEY).hex()]


def test_levels_of_the_tree() -> None:
    assert [tree_levels(blocks) for blocks in (1, 128, 129, 16385)] == [[1], [1], [2, 1], [129, 2, 1]]


@pytest.mark.parametrize("blocks", [2, 128, 129, 300])
def test_the_tree_is_that_of_veritysetup(blocks: int, tmp_path: Path) -> None:
    tool = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        pytest.skip("SKIPPED LOUDLY: no veritysetup here; the hash tree is not compared with it")
    data = b"".join(number.to_bytes(4, "big") * (BLOCK // 4) for number in range(blocks))
    hasher = TreeHasher(verity_salt(KEY))
    for piece in whole_blocks([data], 3 * BLOCK):
        hasher.update(piece)
    info, tree = hasher.finish()
    (tmp_path / "data").write_bytes(data)
    words = [tool, "format", "--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"]
    words += [f"--salt={verity_salt(KEY).hex()}", str(tmp_path / "data"), str(tmp_path / "tree")]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert info == BlockInfo(bytes.fromhex(said.split("Root hash:")[1].split()[0]), blocks)
    assert (tmp_path / "tree").read_bytes() == tree
    assert info.size == len(data) + len(tree)


def test_an_empty_image_has_no_tree() -> None:
    with pytest.raises(MalformedError) as caught:
        TreeHasher(KEY).finish()
    assert caught.value.code == "block-empty"


def test_each_block_is_encrypted_by_itself() -> None:
    key = xts_key(KEY, KEY)
    data = bytes(BLOCK) * 600
    sealed = b"".join(encrypt_blocks(whole_blocks([data]), key))
    tweak = (513).to_bytes(8, "little") + bytes(8)
    alone = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor().update(bytes(BLOCK))
    assert sealed[513 * BLOCK : 514 * BLOCK] == alone
    assert len({sealed[at : at + BLOCK] for at in range(0, len(sealed), BLOCK)}) == 600
    assert b"".join(decrypt_blocks(whole_blocks([sealed], 7 * BLOCK), key)) == data


def test_the_file_system_holds_what_unpacking_gives(tmp_path: Path) -> None:
    tool = shutil.which("fsck.erofs")
    if tool is None:
        pytest.skip("SKIPPED LOUDLY: no fsck.erofs here (apt install erofs-utils); the file system is not read back")
    image, ours, theirs = tmp_path / "image", tmp_path / "ours", tmp_path / "theirs"
    image.write_bytes(file_system(LOWER, UPPER))
    subprocess.run([tool, f"--extract={ours}", str(image)], check=True, capture_output=True, text=True)
    theirs.mkdir()
    with Unpacker(theirs) as unpacker:
        unpacker.layer([LOWER])
        unpacker.layer([UPPER])
    assert listing(ours) == listing(theirs)
    assert (ours / "bin/big").read_bytes() == BIG
    assert (ours / "many" / f"0299-{'n' * 100}").read_bytes() == b"299"


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Names with kind, mode, owner, and content; of directories also what is in them."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        target: object = path.is_symlink() and path.readlink()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        # fsck.erofs 1.5 sets the owner after the mode, which clears the set-user-id bit
        found[str(path.relative_to(root))] = (status.st_mode & ~0o6000, status.st_uid, status.st_gid, target, content)
    return found


def test_hard_links_times_and_attributes_are_kept() -> None:
    root, _ = flattened(LOWER, UPPER)
    app = root.children[b"bin"].children[b"app"]
    assert root.children[b"hard"] is app
    assert (app.mtime, app.mode) == (1_700_000_000, 0o4755)
    assert root.children[b"tagged"].xattrs == {b"user.colour": b"blue"}
    assert set(root.children[b"etc"].children) == {b"new"}
    assert set(root.children[b"opaque"].children) == {b"fresh"}
    data = file_system(LOWER, UPPER)
    assert len(data) % BLOCK == 0
    assert b"colour" in data[: BLOCK * 64]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([("../up", b"")], "layer-entry-unsafe"),
        ([(member("d", tarfile.CHRTYPE), None)], "layer-entry-refused"),
        ([(member("h", tarfile.LNKTYPE, linkname="none"), None)], "layer-link-missing"),
        ([("f", b""), ("f/x", b"")], "layer-entry-unsafe"),
        ([(member("a", tarfile.SYMTYPE, linkname="a"), None), ("a/x", b"")], "layer-entry-unsafe"),
        ([(".wh..", b"")], "layer-entry-unsafe"),
        ([("n" * 256, b"")], "layer-entry-unsafe"),
        ([(member("s", tarfile.SYMTYPE, linkname="t" * 4033), None)], "layer-entry-unsafe"),
    ],
)
def test_bad_layers_are_refused(members: list[Any], code: str) -> None:
    with pytest.raises(KokonError) as caught:
        flattened(make_tar(members))
    assert caught.value.code == code


def test_links_on_the_way_stay_inside() -> None:
    away = member("away", tarfile.SYMTYPE, linkname="/../../etc")
    root, _ = flattened(make_tar([("etc", None), (away, None), ("away/passwd", b"inside")]))
    assert set(root.children[b"etc"].children) == {b"passwd"}


def test_what_is_too_much_is_refused() -> None:
    flattener = Flattener(io.BytesIO(), Limits(entries=2))
    with pytest.raises(MalformedError) as caught:
        flattener.layer([make_tar([("a", b""), ("b", b""), ("c", b"")])])
    assert caught.value.code == "layer-too-large"
    with pytest.raises(MalformedError) as caught:
        Flattener(io.BytesIO(), Limits(total=1000)).layer([make_tar([("a", b"")])])
    assert caught.value.code == "layer-too-large"
    huge = member("x", pax_headers={"SCHILY.xattr.user.a": "v" * 65536})
    with pytest.raises(MalformedError) as caught:
        file_system(make_tar([(huge, b"")]))
    assert caught.value.code == "block-too-large"


@pytest.fixture(name="made")
def make(tmp_path: Path) -> tuple[Path, BlockInfo]:
    write_layout(tmp_path / "image", [LOWER, UPPER])
    with open_source(f"oci:{tmp_path / 'image'}") as source:
        return tmp_path / "block", make_block(source, KEY, tmp_path / "block")


def test_the_same_image_and_key_give_the_same_bytes(made: tuple[Path, BlockInfo], tmp_path: Path) -> None:
    write_layout(tmp_path / "again", [LOWER, UPPER], compress=False)
    with open_source(f"oci:{tmp_path / 'again'}") as source:
        assert make_block(source, KEY, tmp_path / "second") == made[1]
        other = make_block(source, KEY[::-1], tmp_path / "third")
    assert made[0].read_bytes() == (tmp_path / "second").read_bytes()
    assert other.root != made[1].root
    assert made[0].stat().st_size == made[1].size


def test_a_whole_image_is_verified(made: tuple[Path, BlockInfo]) -> None:
    file, info = made
    with file.open("rb") as stream:
        verify_block(stream, info, KEY)
    with pytest.raises(UntrustedError) as caught:
        verify_block(io.BytesIO(file.read_bytes()), info, KEY[::-1])
    assert caught.value.code == "block-mismatch"


@pytest.mark.parametrize("place", [5, 200 * BLOCK, -1, -BLOCK - 7])
def test_every_changed_bit_is_seen(made: tuple[Path, BlockInfo], place: int) -> None:
    data = bytearray(made[0].read_bytes())
    data[place] ^= 1
    with pytest.raises(UntrustedError) as caught:
        verify_block(io.BytesIO(bytes(data)), made[1], KEY)
    assert caught.value.code == "block-mismatch"


@pytest.mark.parametrize("change", [lambda d: d[:-BLOCK], lambda d: d + bytes(BLOCK), lambda d: d[:-1], lambda _: b""])
def test_every_other_size_is_seen(made: tuple[Path, BlockInfo], change: Any) -> None:
    with pytest.raises(UntrustedError) as caught:
        verify_block(io.BytesIO(change(made[0].read_bytes())), made[1], KEY)
    assert caught.value.code == "block-mismatch"


def test_a_full_disk_and_a_file_in_the_way_are_errors_of_the_host(made: tuple[Path, BlockInfo], tmp_path: Path) -> None:
    with open_source(f"oci:{tmp_path / 'image'}") as source, pytest.raises(KokonError) as caught:
        make_block(source, KEY, made[0])
    assert caught.value.kind == "host"
    with tempfile.TemporaryDirectory() as gone:
        missing = Path(gone) / "no" / "such"
    with open_source(f"oci:{tmp_path / 'image'}") as source, pytest.raises(KokonError):
        make_block(source, KEY, missing)
