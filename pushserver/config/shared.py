"""The settings that all nodes on one Redis should have alike: what they keep, what they allow, and for whom."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pushserver.config import derived
from pushserver.config.sections import Config

#: Sections that are shared whole, and keys of others. No secret is among them.
_SECTIONS: Final = ("inbox", "tasks", "rate_limits")
_KEYS: Final = ("issuer", "audience", "user_claim", "max_token_lifetime", "refresh_grace")
#: What a namespace is by its name, and not by a setting.
_NOT_SET: Final = frozenset({"name", "kind", "private"})


def shared_settings(config: Config) -> dict[str, Any]:
    """Return these settings by their full keys, as JSON values; of a namespace ``namespaces.<name>.<key>``."""
    found: dict[str, Any] = {
        f"{section}.{key}": value
        for section in _SECTIONS
        for key, value in msgspec.structs.asdict(getattr(config, section)).items()
    }
    found |= {f"auth.{key}": getattr(config.auth, key) for key in _KEYS}
    found |= {f"roles.{role}": sorted(permissions) for role, permissions in config.roles.items()}
    for name, namespace in derived.namespaces(config).all.items():
        options = msgspec.to_builtins(namespace)
        found |= {f"namespaces.{name}.{key}": value for key, value in options.items() if key not in _NOT_SET}
    return found
