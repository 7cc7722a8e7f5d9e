"""The npm package of the browser client, as ``/pushclient.tgz`` gives it: the same octets for the same files.

npm keeps a digest of each archive in its lock file, so two nodes of one version must not differ in one octet. Nothing
of the machine may therefore get into it: no times, owners or order of a folder, and none of the choices in which one
zlib differs from another. `archive` stores without compressing; a packaged server has a compressed one, made once.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from struct import pack
from zlib import crc32

#: Seconds since 1970 that npm itself gives to every file (npm/cli, ``pacote``): ZIP knows no time before 1980.
MODIFIED = 499_162_500

#: Octets of one stored block of deflate (RFC 1951 section 3.2.4).
BLOCK = 65_535


def tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar of these files, path and content, in the order of their paths, below ``package/``."""
    # Where nobody asks for the package, the server starts without it.
    import tarfile

    output = BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archived:
        for path, octets in sorted(files):
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size, entry.mode, entry.mtime = len(octets), 0o644, MODIFIED
            archived.addfile(entry, BytesIO(octets))
    return output.getvalue()


def store(octets: bytes) -> bytes:
    """Return the octets as gzip (RFC 1952) without compression."""
    blocks = [octets[at : at + BLOCK] for at in range(0, len(octets), BLOCK)] or [b""]
    parts = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for number, block in enumerate(blocks, 1):
        parts += [pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, pack("<II", crc32(octets), len(octets) & 0xFFFFFFFF)])


def archive(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the package of these files, as ``npm install`` takes it."""
    return store(tar(files))
