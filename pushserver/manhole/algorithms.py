"""The SSH algorithms of the console: modern ones alone, and in words what a client lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.transport import SSHServerTransport

_FORWARD_SECRET: Final = (
    b"mlkem768x25519-sha256",
    b"curve25519-sha256",
    b"curve25519-sha256@libssh.org",
    b"ecdh-sha2-nistp256",
    b"ecdh-sha2-nistp384",
    b"ecdh-sha2-nistp521",
)
_CIPHERS: Final = (b"aes256-ctr", b"aes192-ctr", b"aes128-ctr")
_MACS: Final = (b"hmac-sha2-512", b"hmac-sha2-384", b"hmac-sha2-256")

#: Signatures that a login's key may make: RSA keys by SHA-2 (RFC 8332), never by SHA-1 ("ssh-rsa").
SIGNATURES: Final = (
    b"ssh-ed25519",
    b"sk-ssh-ed25519@openssh.com",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"sk-ecdsa-sha2-nistp256@openssh.com",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)


def _known(wanted: Sequence[bytes], library: Sequence[bytes]) -> list[bytes]:
    return [name for name in wanted if name in library]


#: Of these, what the installed library has.
KEY_EXCHANGES: Final = _known(_FORWARD_SECRET, SSHServerTransport.supportedKeyExchanges)
CIPHERS: Final = _known(_CIPHERS, SSHServerTransport.supportedCiphers)
MACS: Final = _known(_MACS, SSHServerTransport.supportedMACs)


def nothing_in_common(packet: bytes, host_keys: Sequence[bytes]) -> str:
    """Return of a client's KEXINIT (RFC 4253 section 7.1) what it has no algorithm for that the console has too.

    "" where there is one for everything.
    """
    lists = [offered.split(b",") for offered in getNS(packet[16:], 6)[:6]]
    ours = (KEY_EXCHANGES, host_keys, CIPHERS, CIPHERS, MACS, MACS)
    kinds = ("key exchange", "host key", "cipher", "cipher", "MAC", "MAC")
    missing = {
        kind: offered
        for kind, offered, known in zip(kinds, lists, ours, strict=True)
        if not any(name in known for name in offered)
    }
    return "; ".join(f"{kind}: {b', '.join(offered).decode('latin-1')[:200]}" for kind, offered in missing.items())
