"""What makes two publications the same one: the digest of a key within its scope, and the digest of a content.

The digests are stored, and shared by nodes of several versions: their bytes never change.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pushserver.core.publication import Publication

    from .interfaces import IdempotencyKey

#: What a key belongs to.
CHANNEL: Final = "channel"
INBOX: Final = "inbox"
TASK: Final = "task"
OUTPUT: Final = "output"

_SIZE: Final = 16


def key_digest(kind: str, scope: str, once: IdempotencyKey) -> bytes:
    """Return what a key is stored under, 16 bytes: of the server side, or of one user.

    ``scope`` is the channel, the user, or the task. Neither it nor a user id holds a NUL. The fence has no part in it.
    """
    if once.publisher is None:
        return blake2b(f"{kind}\0{scope}\0{once.key}".encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest()
    text = f"{kind}\0{once.publisher}\0{scope}\0{once.key}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=_SIZE, person=b"publisher").digest()


def content_digest(publication: Publication) -> bytes:
    """Return a digest of type and data, 16 bytes: what a repeat has to have in common with the first."""
    return blake2b(publication.type.encode() + b"\0" + bytes(publication.data), digest_size=_SIZE).digest()
