"""The clinic's image is an OCI layout whose program and data carry the canaries, and nothing else does."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from kokon.demo.canaries import plant
from kokon.demo.clinic.image import build_image

CACHE = Path(os.environ.get("KOKON_HOME") or Path.home() / ".local/share/kokon") / "cache"


@pytest.mark.skipif(not (CACHE / "packages.json").is_file(), reason="NO GUEST PACKAGES HERE: run `kokon guest build`")
def test_image_carries_its_canaries(tmp_path: Path) -> None:
    canaries = plant()
    build_image(canaries, CACHE, tmp_path / "image")
    blobs = tmp_path / "image" / "blobs" / "sha256"
    for blob in blobs.iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    index = json.loads((tmp_path / "image" / "index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    layers = [gzip.decompress((blobs / layer["digest"][7:]).read_bytes()) for layer in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    runtime, clinic = layers
    assert canaries.stem.encode() not in runtime
    present = {kind for kind, text in canaries.texts.items() if text.encode() in clinic}
    assert present == {"program", "data"}, "the log's and the answer's canaries exist only when the service runs"
