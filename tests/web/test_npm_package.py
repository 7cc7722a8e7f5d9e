"""The npm package as the server gives it: the same octets for the same files, whatever made them."""

from __future__ import annotations

import gzip
import io
import tarfile
from hashlib import sha256

import pytest

from pushserver.web.npm_package import BLOCK, archive, store

FILES = {"package.json": b"{}", "index.js": b"export {};\n", "links/a.js": b"", "B.md": b"# B\n"}


def test_it_holds_the_files_below_the_folder_that_npm_expects() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(FILES.items())), mode="r:gz") as opened:
        found = {}
        for entry in opened:
            content = opened.extractfile(entry)
            assert content is not None
            found[entry.name] = content.read()
            assert (entry.mode, entry.uid, entry.gid, entry.uname) == (0o644, 0, 0, "")
    assert found == {f"package/{path}": octets for path, octets in FILES.items()}


def test_the_order_in_which_a_folder_is_read_changes_nothing() -> None:
    assert archive(FILES.items()) == archive(reversed(FILES.items()))


def test_every_change_of_a_file_shows() -> None:
    assert archive(FILES.items()) != archive({**FILES, "B.md": b"# b\n"}.items())


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 200_000])
def test_what_is_stored_is_gzip_of_any_length(size: int) -> None:
    octets = bytes(range(256)) * (size // 256 + 1)
    assert gzip.decompress(store(octets[:size])) == octets[:size]


def test_the_octets_are_the_same_on_every_python() -> None:
    digest = sha256(archive(FILES.items())).hexdigest()
    assert digest == "53c1bc5a61579e4fdce8c77b3f0b1db01b8efb0e815ae4f84f1355d3aa251aa7"
