"""Talk to a confidential service from Python as with any HTTP client; it is verified before the first byte is sent.

Run it: python examples/attested_requests.py https://127.0.0.1:8443 /patients/1

Whom to trust was put into the trust file before, by `kokon trust author FILE` (and, for a simulated enclave, by
`kokon trust simulated FINGERPRINT`).
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import httpx2

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust


def main(arguments: Sequence[str] | None = None) -> None:
    """Get one path from a service and print the answer."""
    home = Path(os.environ.get("KOKON_HOME") or Path.home() / ".local" / "share" / "kokon")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("url", help="https://HOST:PORT")
    parser.add_argument("path", help="/patients/1")
    parser.add_argument("--trust", type=Path, default=home / "trust.json")
    options = parser.parse_args(arguments)

    peer = AttestedPeer(options.url, read_trust(options.trust))
    with httpx2.Client(transport=AttestedTransport(peer), base_url=options.url) as client:
        answer = client.get(options.path)
        answer.raise_for_status()
        print(answer.text)


if __name__ == "__main__":
    main()
