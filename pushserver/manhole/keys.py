"""Keys in files: the one that the console shows, and those that open it."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.keys import BadKeyError, FingerprintFormats, Key

from pushserver.core.errors import ConfigError

#: The host key's file in the state directory.
HOST_KEY: Final = "ssh_host_ed25519_key"


def host_key(state_dir: Path) -> Key:
    """Return the key that this server shows, made now where there is none. Raises `ConfigError`."""
    path = state_dir / HOST_KEY
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(Key(Ed25519PrivateKey.generate()).toString("openssh"))
                    file.flush()
                    os.fsync(file.fileno())
                # Whole or not at all, and of several processes that start at once the first one's.
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        path.chmod(0o600)
        key: Key = Key.fromFile(str(path))
        return key
    except (OSError, BadKeyError, ValueError) as problem:
        raise ConfigError(f"{path}: expected a private SSH key: {problem}") from None


def authorized_keys(path: Path) -> list[Key]:
    """Return the public keys of a file in OpenSSH's format; lines that cannot be read are left out. Raises OSError."""
    found: list[Key] = []
    for line in path.read_bytes().splitlines():
        text = line.strip()
        if text and not text.startswith(b"#"):
            try:
                key = Key.fromString(text)
            except Exception:
                continue
            if key.isPublic():
                found.append(key)
    return found


def shown(key: Key) -> str:
    """Return a key as ``ssh-keygen -l`` names it: its kind and its fingerprint."""
    fingerprint: str = key.fingerprint(FingerprintFormats.SHA256_BASE64)
    return f"{key.sshType().decode('ascii', 'replace')} SHA256:{fingerprint.rstrip('=')}"
