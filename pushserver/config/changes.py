"""What a running server takes over from a configuration that was read anew, and what only a new start can."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pushserver.config.checks import inbox_namespace
from pushserver.config.sections import SECTIONS, Config, keys_of
from pushserver.config.values import shown
from pushserver.core.errors import ConfigError

#: Sections of which every key counts at once.
_WHOLE_SECTIONS: Final = frozenset({"api", "delivery", "events", "inbox", "log", "rate_limits", "tasks"})

#: Keys of other sections that count at once. Of keys that one rule joins all count at once or none does, so that what
#: is merged holds by the rules too. The files of the console are read at each login.
_KEYS: Final = frozenset(
    {
        "server.allowed_origins",
        "server.max_connections",
        "server.max_connections_per_user",
        "server.max_pending_per_address",
        "server.max_channels_per_connection",
        "server.max_message_size",
        "server.max_body_size",
        "server.trusted_proxies",
        "server.metrics_public",
        "server.keep_alive",
        "server.shutdown_delay",
        "server.shutdown_drain",
        "auth.algorithms",
        "auth.secret",
        "auth.secret_file",
        "auth.secrets",
        "auth.secret_files",
        "auth.public_key_file",
        "auth.jwks_url",
        "auth.issuer",
        "auth.audience",
        "auth.user_claim",
        "auth.leeway",
        "auth.max_token_lifetime",
    }
)


class Changes(msgspec.Struct, frozen=True, rename="camel"):
    """Full keys, such as ``auth.secrets``, ``roles`` and ``namespaces``."""

    changed: list[str]
    restart_needed: list[str]


def counts_at_once(full_key: str) -> bool:
    """Return whether a running server takes over a change of this key."""
    return full_key in _KEYS or full_key.partition(".")[0] in _WHOLE_SECTIONS


def merge(running: Config, read: Config) -> tuple[Config, Changes]:
    """Return the configuration to go on with, and what is another than before.

    What needs a new start stays as it runs, and is named as long as it differs. Raises `ConfigError` where what counts
    at once cannot stand beside what stays.
    """
    changed: list[str] = []
    restart: list[str] = []
    sections: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        now, new = getattr(running, name), getattr(read, name)
        taken: dict[str, Any] = {}
        for key in keys_of(section):
            differs = getattr(now, key) != getattr(new, key) or _contents(now, key) != _contents(new, key)
            if differs and counts_at_once(f"{name}.{key}"):
                changed.append(f"{name}.{key}")
                taken[key] = getattr(new, key)
            elif differs:
                restart.append(f"{name}.{key}")
        sections[name] = msgspec.structs.replace(now, **taken)
    sections["auth"] = msgspec.structs.replace(sections["auth"], contents=read.auth.contents)
    sections["events"] = msgspec.structs.replace(sections["events"], contents=read.events.contents)
    # Of the listeners that there are, whatever the file names now.
    sections["certificates"] = {one: read.certificates.get(one, was) for one, was in running.certificates.items()}
    if running.certificates != sections["certificates"]:
        changed.append("certificates")
    for name in ("roles", "namespaces"):
        sections[name] = getattr(read, name)
        if getattr(running, name) != sections[name]:
            changed.append(name)
    merged = Config(**sections)
    taken_by = inbox_namespace(merged.centrifuge, merged.namespaces)
    if taken_by:
        raise ConfigError(
            f'namespaces: the namespace "{taken_by}" has channels that are called as inboxes are by'
            f" centrifuge.inbox_channel = {shown(merged.centrifuge.inbox_channel)}, which another start alone changes"
        )
    return merged, Changes(changed, restart)


def _contents(section: Any, key: str) -> list[bytes | None]:
    """What the files held that a key names."""
    held: dict[str, bytes] = getattr(section, "contents", {})
    value = getattr(section, key)
    named = value if isinstance(value, tuple) else (value,)
    paths = [getattr(one, "secret_file", one) for one in named]
    return [held[path] for path in paths if path in held]
