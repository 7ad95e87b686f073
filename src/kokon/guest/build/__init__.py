"""How the guest image is made: Debian packages, locked wheels and our own agent become a kernel, an initrd and a root.

Everything comes from packages whose digests are recorded in the image's packages.json, the tools that shape the bytes
(compiler, file system builder, Python's compiler) included, so the same packages give the same bytes on every host.
"""
