"""What of the packages becomes the guest's root file system: programs, the Python that is used, and no shell."""

from __future__ import annotations

from pathlib import PurePosixPath

STDLIB = "usr/lib/python3.11"
PROGRAMS = ("usr/bin/python3.11", "usr/bin/crun", "usr/sbin/cryptsetup", "usr/sbin/mkfs.ext4")
# Opened by name at run time, which no program's list of needed libraries tells: the C library does so to end a thread.
EXTRA_LIBRARIES = ("libgcc_s.so.1",)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOP = _words(
    """
    EXTERNALLY-MANAGED LICENSE.txt sitecustomize __hello__ __phello__ _aix_support _bootsubprocess
    _distutils_system_mod _markupbase _osx_support _pyio _sysconfigdata__linux_x86_64-linux-gnu
    _sysconfigdata__x86_64-linux-gnu aifc antigravity asynchat asyncore asyncio bdb bz2 cProfile cgi cgitb chunk cmd
    code codeop colorsys compileall configparser crypt csv curses dataclasses dbm difflib distutils doctest email
    ensurepip filecmp fileinput ftplib getopt getpass html idlelib imaplib imghdr imp lib2to3 mailbox mailcap
    modulefinder multiprocessing netrc nntplib optparse pdb pickletools pipes plistlib poplib pprint profile pstats
    pty py_compile pyclbr pydoc pydoc_data rlcompleter sched shelve smtpd smtplib sndhdr socketserver sqlite3
    statistics sunau symtable sysconfig tabnanny telnetlib test this timeit tkinter trace tracemalloc tty turtle
    turtledemo unittest uu venv wave webbrowser wsgiref xdrlib xml xmlrpc zipapp zoneinfo _pydecimal
    """
)
_EXTENSIONS = _words(
    """
    _asyncio _bz2 _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _crypt _ctypes_test _curses
    _curses_panel _dbm _lsprof _multibytecodec _multiprocessing _posixshmem _sqlite3 _testbuffer _testcapi
    _testclinic _testimportmultiple _testinternalcapi _testmultiphase _uuid _xxsubinterpreters _xxtestfuzz _zoneinfo
    audioop nis ossaudiodev readline xxlimited xxlimited_35
    """
)
_ENCODINGS = _words(
    "__init__ aliases ascii cp437 hex_codec idna latin_1 punycode raw_unicode_escape unicode_escape utf_8 utf_8_sig"
    " utf_16 utf_16_be utf_16_le utf_32 utf_32_be utf_32_le charmap iso8859_1 base64_codec"
)

# Files of Python's library that are costly at start, and ours in their place.
QUICK = {
    "dataclasses.py": "quick_dataclasses.py",
    "email/__init__.py": "quick_email.py",
    "email/message.py": "quick_email.py",
    "email/parser.py": "quick_email.py",
}
DIRECTORIES = ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64",
               "usr/sbin", "var")  # fmt: skip
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/lib64/ld-linux-x86-64.so.2": "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "etc/resolv.conf": "../run/resolv.conf",
    "etc/mtab": "../proc/self/mounts",
    "var/tmp": "../tmp",
    "var/run": "../run",
}
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "kokon\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/mke2fs.conf": "[defaults]\nbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n"
    "default_mntopts = acl,user_xattr\nblocksize = 4096\ninode_size = 256\ninode_ratio = 16384\n"
    "[fs_types]\next4 = {\n"
    "features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize\n}\n",
    "usr/lib/kokon/agent": "import sys\n\nsys.path.append('/usr/lib/kokon')\n"
    "from kokon.guest.agent.main import main\n\nsys.exit(main())\n",
}


def wanted_in_stage(name: str) -> bool:
    """Whether a file of a package is worth unpacking at all."""
    return name.startswith(("usr/bin/", "usr/sbin/", "usr/lib/")) and "/gconv/" not in name


def wanted_of_stdlib(name: str) -> bool:
    """Whether the guest gets the file `name`, relative to Python's library directory."""
    path = PurePosixPath(name)
    top = path.parts[0]
    if top == "lib-dynload":
        return path.name.partition(".")[0] not in _EXTENSIONS
    if top == "encodings":
        return path.stem in _ENCODINGS
    if top == "ctypes" and path.parts[1] in ("macholib", "test"):
        return False
    return top.removesuffix(".py") not in _TOP and path.suffix == ".py"


def wanted_of_wheels(name: str) -> bool:
    """Whether the guest gets the file `name`, relative to where the wheels are unpacked."""
    return not name.startswith("cffi/")  # cryptography uses the compiled _cffi_backend beside it only
