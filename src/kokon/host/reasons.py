"""What a guest's code means, in words. A guest tells the untrusted host codes only; the words are added here.

A code that is not listed is shown as it is; docs/ERRORS.md has them all.
"""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "command-missing": "neither the image nor the launch document says what to run",
    "container-start-failed": "the application could not be started inside the guest",
    "disk-full": "the scratch disk is full: the unpacked image does not fit; give it more with --scratch",
    "disk-missing": "a disk that the launch document names was not attached",
    "guest-memory-small": "the guest has too little memory for its agent; give it more with --memory",
    "image-author-unknown": "nobody whom the launch document names has signed the image",
    "image-digest-mismatch": "the registry served another image than the launch document names",
    "image-not-found": "the registry does not have the image",
    "image-unsigned": "the image is not signed",
    "kek-wrong": "the key that was released does not open the image's layers",
    "launch-document-mismatch": "the launch document is not the one that the processor recorded",
    "layer-diff-id-mismatch": "a decrypted layer is not the one that the author sealed",
    "layer-digest-mismatch": "a layer was changed on its way: it is not the one that the author sealed",
    "layer-hmac-mismatch": "a layer's ciphertext was changed",
    "network-missing": "the guest has no network",
    "processor-missing": "the guest found no security processor",
    "provisioning-certificate-mismatch": "somebody else answered in place of the provisioning server",
    "provisioning-denied": "the provisioning server refused this guest; no secret was released",
    "provisioning-unreachable": "the guest could not reach the provisioning server",
    "registry-denied": "the registry refused access to the image",
    "registry-error": "the registry answered with an error",
    "registry-unreachable": "the guest could not reach the registry",
    "resource-missing": "the provisioning server does not have a secret that the launch document names",
    "scratch-corrupted": "the scratch disk was changed outside of the enclave",
    "scratch-too-small": "the scratch disk is too small; give it more with --scratch",
    "secret-not-text": "a secret that becomes a variable of the environment is no text",
    "statement-expired": "the author's identity statement has expired; the author seals the image again",
    "statement-image-mismatch": "the identity statement is about another image",
    "statement-missing": "the image has no identity statement of its author",
    "user-unknown": "the image names a user that it does not have",
    "volume-corrupted": "a volume was changed outside of the enclave, or its key is another one",
    "volume-too-small": "the volume's file is too small",
    "volume-unusable": "a volume could not be opened",
}
