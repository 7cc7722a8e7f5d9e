"""The configuration: a TOML file, the environment and the command line become one frozen, checked `Config`.

    command line  over  PUSHSERVER_<SECTION>__<KEY>  over  TOML file  over  default

    pushserver.config.values      how one value is read
    pushserver.config.sections    the keys, their defaults and types
    pushserver.config.loader      `RawConfig`: what was said, and by whom
    here                          the rules between keys, and the files that keys name

Every mistake is a `pushserver.core.errors.ConfigError` of one line that names the source, the key, the value and what
was expected. Secrets are in no error and no repr.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pushserver.config import values
from pushserver.config.loader import RawConfig
from pushserver.config.sections import (
    SECTIONS,
    ApiSection,
    AuthSection,
    CentrifugeSection,
    Config,
    DeliverySection,
    EngineSection,
    EventsSection,
    HeartbeatSection,
    InboxSection,
    LogSection,
    ManholeSection,
    RateLimitsSection,
    RedisSection,
    Section,
    ServerSection,
    TasksSection,
    keys_of,
)
from pushserver.config.values import SHORTEST_SECRET, ApiKey, shown
from pushserver.core.channels import BUILT_IN, Namespace
from pushserver.core.errors import ConfigError
from pushserver.core.tokens import HMAC_ALGORITHMS, PUBLIC_KEY_ALGORITHMS, Keys
from pushserver.core.webhooks import key_of

__all__ = [
    "ApiKey",
    "ApiSection",
    "AuthSection",
    "CentrifugeSection",
    "Config",
    "DeliverySection",
    "EngineSection",
    "EventsSection",
    "HeartbeatSection",
    "InboxSection",
    "LogSection",
    "ManholeSection",
    "RateLimitsSection",
    "RedisSection",
    "ServerSection",
    "TasksSection",
    "checked",
    "load",
    "read",
]

#: The option of the command line that sets a key.
OPTIONS: Final = {
    "server.listen": "--listen",
    "server.state_dir": "--state-dir",
    "redis.url": "--redis",
    "engine.kind": "--redis",
    "manhole.listen": "--manhole",
}

_PATHS: Final = ("server.state_dir", "auth.secret_file", "auth.secret_files", "auth.public_key_file",
                 "manhole.authorized_keys", "manhole.password_file")  # fmt: skip


#: Paths that the server answers itself.
_TAKEN: Final = ("api", "sse", "healthz", "readyz", "metrics", "pushclient.js")

SectionType = TypeVar("SectionType", bound=Section)


def load(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    dev: bool = False,
    workers: int = 1,
) -> Config:
    """Read the configuration and check it as a whole.

    ``overrides`` are the command line's, by ``"section.key"``. Paths come back absolute, since ``twistd`` may change
    the working directory between now and the first use. With ``dev``, what `pushserver.app.dev` generates may be
    missing, and every listener must be on loopback. Raises `ConfigError`.
    """
    return checked(read(path, environ, overrides), dev, workers)


def read(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> RawConfig:
    """What the sources say, each value checked by itself alone. Raises `ConfigError`."""
    raw = RawConfig()
    if path is not None:
        raw.add_file(path)
    raw.add_environment(environ if environ is not None else {})
    for key, value in (overrides or {}).items():
        raw.add(f"option {OPTIONS.get(key, key)}", key, value)
    return raw


def checked(raw: RawConfig, dev: bool = False, workers: int = 1, *, keyless: bool = False) -> Config:
    """Return the whole configuration, as `load` does.

    With ``keyless``, no way to verify tokens is no mistake: for whoever talks to a server and cannot know whether it
    runs in development mode. Raises `ConfigError`.
    """
    return _Checks(raw).config(dev, workers, keyless)


class _Checks:
    """What no single key can tell: the rules between keys, and the files that keys name."""

    def __init__(self, raw: RawConfig) -> None:
        self._raw = raw

    def config(self, dev: bool, workers: int, keyless: bool) -> Config:
        self._absolute_paths()
        server, auth = self._section(ServerSection), self._section(AuthSection)
        engine, redis, manhole = (
            self._section(EngineSection),
            self._section(RedisSection),
            self._section(ManholeSection),
        )
        self._check_server(server)
        auth = self._check_auth(auth, dev, keyless)
        self._check_redis(redis)
        self._check_manhole(manhole, dev)
        api = self._section(ApiSection)
        if len({key.key for key in api.keys}) != len(api.keys):
            raise self._mistake("api.keys", "expected each key once", list(api.keys))
        if dev:
            self._check_loopback(server, manhole, "--dev")
        centrifuge = self._check_centrifuge(server)
        if centrifuge.enabled and centrifuge.insecure:
            self._check_loopback(server, manhole, "centrifuge.insecure")
            # Whoever connects may stay, through whichever door.
            auth = msgspec.structs.replace(auth, anonymous=True)
        if workers < 1:
            raise ConfigError(f"option --workers: workers = {workers}: expected a whole number from 1")
        if workers > 1 and engine.kind != "redis":
            raise ConfigError(f'option --workers: workers = {workers}: expected 1, or engine.kind = "redis" (--redis)')
        inbox = self._section(InboxSection)
        chat = min(inbox.max_chat_messages, inbox.max_messages)
        return Config(
            server=server,
            auth=auth,
            heartbeat=self._section(HeartbeatSection),
            delivery=self._section(DeliverySection),
            engine=engine,
            redis=redis,
            tasks=self._section(TasksSection),
            inbox=msgspec.structs.replace(inbox, max_chat_messages=chat),
            rate_limits=self._section(RateLimitsSection),
            api=api,
            manhole=manhole,
            log=self._section(LogSection),
            events=self._check_events(server),
            centrifuge=centrifuge,
            certificates={
                one: digest
                for one in (*server.listen, *server.api_listen)
                if (digest := values.certificates_digest(one))
            },
            roles=self._raw.roles,
            namespaces=tuple(self._raw.namespaces),
        )

    def _section(self, section: type[SectionType]) -> SectionType:
        name = next(name for name, known in SECTIONS.items() if known is section)
        return section(**self._raw.values[name])

    def _absolute_paths(self) -> None:
        for full_key in _PATHS:
            section, _, key = full_key.partition(".")
            value = self._raw.values[section].get(key, getattr(SECTIONS[section](), key))
            if isinstance(value, tuple):
                self._raw.values[section][key] = tuple(map(os.path.abspath, value))
            elif value:
                self._raw.values[section][key] = os.path.abspath(value)

    def _mistake(self, full_key: str, problem: str, value: object) -> ConfigError:
        source = self._raw.sources.get(full_key, "default")
        section, _, key = full_key.partition(".")
        setting = keys_of(SECTIONS[section])[key]
        return ConfigError(f"{source}: {full_key} = {shown(value, setting)}: {problem}")

    def _check_server(self, server: ServerSection) -> None:
        if not server.listen:
            raise self._mistake("server.listen", "expected at least one endpoint", [])
        named: set[str] = set()
        for key in ("listen", "api_listen"):
            endpoints: tuple[str, ...] = getattr(server, key)
            for one in endpoints:
                if one in named and not values.is_any_port(one):
                    raise self._mistake(f"server.{key}", "expected each endpoint once", list(endpoints))
                named.add(one)
        if server.websocket_path.split("/")[1] in _TAKEN:
            raise self._mistake(
                "server.websocket_path", "expected a path that the server does not use itself", server.websocket_path
            )

    def _check_auth(self, auth: AuthSection, dev: bool, keyless: bool) -> AuthSection:
        """Return the section with what its files hold."""
        files = [("auth.secret_file", auth.secret_file), *(("auth.secret_files", path) for path in auth.secret_files)]
        files.append(("auth.public_key_file", auth.public_key_file))
        contents = {path: self._read_file(full_key, path, Path(path).read_bytes) for full_key, path in files if path}
        auth = msgspec.structs.replace(auth, contents=contents)
        keys = self._keys(auth)
        if not (auth.verifies or dev or keyless):
            raise ConfigError(
                "no way to verify tokens: expected auth.secret, auth.secret_file, auth.public_key_file or auth.jwks_url"
                " in the configuration, or --dev"
            )
        self._check_algorithms(auth, keys, dev)
        return auth

    def _keys(self, auth: AuthSection) -> Keys:
        """Return all keys. Each is checked by itself, so that the mistake names the right one."""
        contents = auth.contents
        singles = [
            ("auth.public_key_file", AuthSection(public_key_file=auth.public_key_file, contents=contents)),
            ("auth.secret", AuthSection(secret=auth.secret)),
            ("auth.secret_file", AuthSection(secret_file=auth.secret_file, contents=contents)),
            *(("auth.secrets", AuthSection(secrets=(secret,))) for secret in auth.secrets),
            *(
                ("auth.secret_files", AuthSection(secret_files=(path,), contents=contents))
                for path in auth.secret_files
            ),
        ]
        for full_key, one in singles:
            given = getattr(one, full_key.partition(".")[2])
            for secret in one.hmac_secrets():
                if len(secret) < SHORTEST_SECRET:
                    problem = f"expected at least {SHORTEST_SECRET} bytes, there are {len(secret)}"
                    raise self._mistake(full_key, problem, given)
            try:
                one.keys()
            except ValueError as problem:
                raise self._mistake(full_key, f"expected a usable key: {problem}", given) from None
        return auth.keys()

    def _check_algorithms(self, auth: AuthSection, keys: Keys, dev: bool) -> None:
        usable = keys.algorithms | (PUBLIC_KEY_ALGORITHMS if auth.jwks_url else set())
        chosen = set(auth.algorithms)
        for algorithm in auth.algorithms:
            # Development mode brings a secret of its own.
            if algorithm not in usable and not (dev and algorithm in HMAC_ALGORITHMS):
                wanted = "a secret that is long enough" if algorithm in HMAC_ALGORITHMS else "a public key that fits"
                raise self._mistake("auth.algorithms", f"expected {wanted} beside {algorithm}", list(auth.algorithms))
        if chosen and auth.has_secret and not chosen & HMAC_ALGORITHMS:
            raise self._mistake("auth.algorithms", "expected an HS algorithm beside the secret", list(auth.algorithms))
        if chosen and (auth.public_key_file or auth.jwks_url) and chosen <= HMAC_ALGORITHMS:
            problem = "expected an RS, PS, ES or EdDSA algorithm beside the public key"
            raise self._mistake("auth.algorithms", problem, list(auth.algorithms))

    def _check_redis(self, redis: RedisSection) -> None:
        if redis.sentinels and not redis.service:
            raise self._mistake("redis.sentinels", "expected redis.service beside it", list(redis.sentinels))
        if redis.service and not redis.sentinels:
            raise self._mistake("redis.service", "expected redis.sentinels beside it", redis.service)

    def _check_events(self, server: ServerSection) -> EventsSection:
        """Return the section with what the files of its webhooks hold."""
        events = self._section(EventsSection)
        entries = tuple(
            entry._replace(secret_file=os.path.abspath(entry.secret_file)) if entry.secret_file else entry
            for entry in events.webhooks
        )
        contents: dict[str, bytes] = {}
        for entry in entries:
            if entry.secret_file:
                full_key, path = f"events.webhooks: {shown(entry.name)}: secret_file", entry.secret_file
                try:
                    contents[path] = Path(path).read_bytes()
                    key_of(contents[path].decode("utf-8", "replace").strip())
                except OSError as problem:
                    raise self._file_mistake(full_key, path, f"readable file: {problem.strerror}") from None
                except ValueError as problem:
                    raise self._file_mistake(full_key, path, f"file with a secret: {problem}") from None
        if events.max_bytes < server.max_message_size:
            wanted = f"expected at least {server.max_message_size}, what one event may take (server.max_message_size)"
            raise self._mistake("events.max_bytes", wanted, events.max_bytes)
        return msgspec.structs.replace(events, webhooks=entries, contents=contents)

    def _check_centrifuge(self, server: ServerSection) -> CentrifugeSection:
        centrifuge = self._section(CentrifugeSection)
        taken = (*_TAKEN, server.websocket_path.split("/")[1])
        for key, path in (("path", centrifuge.path), ("emulation_path", centrifuge.emulation_path)):
            if centrifuge.enabled and path.split("/")[1] in taken:
                raise self._mistake(f"centrifuge.{key}", "expected a path that the server does not use itself", path)
        if centrifuge.enabled and _share(f"{centrifuge.path}/", f"{centrifuge.emulation_path}/"):
            problem = "expected a path that is not centrifuge.path, nor above or below it"
            raise self._mistake("centrifuge.emulation_path", problem, centrifuge.emulation_path)
        self._check_centrifuge_api(centrifuge, taken)
        taken_by = inbox_namespace(centrifuge, self._raw.namespaces)
        if taken_by:
            problem = f'expected a name that no channel of the namespace "{taken_by}" has, such as "user:{{id}}"'
            raise self._mistake("centrifuge.inbox_channel", problem, centrifuge.inbox_channel)
        return centrifuge

    def _check_centrifuge_api(self, centrifuge: CentrifugeSection, taken: tuple[str, ...]) -> None:
        path = centrifuge.api_path
        if not (centrifuge.enabled and path):
            return
        others = [f"{one}/" for one in (centrifuge.path, centrifuge.emulation_path)]
        if path.split("/")[1] in taken or any(_share(f"{path}/", other) for other in others):
            raise self._mistake("centrifuge.api_path", "expected a path that nothing else stands at", path)

    def _file_mistake(self, full_key: str, path: str, wanted: str) -> ConfigError:
        source = self._raw.sources.get("events.webhooks", "default")
        return ConfigError(f"{source}: {full_key} = {shown(path)}: expected a {wanted}")

    def _check_manhole(self, manhole: ManholeSection, dev: bool) -> None:
        files = {"manhole.authorized_keys": manhole.authorized_keys, "manhole.password_file": manhole.password_file}
        for full_key, path in files.items():
            if path and not self._read_file(full_key, path, Path(path).read_bytes).strip():
                raise self._mistake(full_key, "expected a file that is not empty", path)
        if manhole.listen and not (manhole.authorized_keys or manhole.password_file or dev):
            raise self._mistake(
                "manhole.listen", "expected manhole.authorized_keys or manhole.password_file beside it", manhole.listen
            )

    def _check_loopback(self, server: ServerSection, manhole: ManholeSection, option: str) -> None:
        for key, listen in [
            *(("server.listen", one) for one in server.listen),
            *(("server.api_listen", one) for one in server.api_listen),
            ("manhole.listen", manhole.listen),
        ]:
            if listen and not values.is_loopback(listen):
                raise self._mistake(key, f"expected a loopback interface (interface=127.0.0.1) with {option}", listen)

    def _read_file(self, full_key: str, path: str, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except OSError as problem:
            raise self._mistake(full_key, f"expected a readable file: {problem.strerror}", path) from None


def inbox_namespace(centrifuge: CentrifugeSection, namespaces: Iterable[Namespace]) -> str:
    """Return a namespace with channels that may be called as inboxes are: what looks like an inbox is never looked for
    elsewhere. "" where there is none."""
    if not centrifuge.enabled:
        return ""
    before = centrifuge.inbox_channel.partition("{id}")[0]
    for name in (*BUILT_IN, *(namespace.name for namespace in namespaces)):
        if name and name != "user" and (before.startswith(f"{name}:") or f"{name}:".startswith(before)):
            return name
    return ""


def _share(path: str, other: str) -> bool:
    """Return whether one of two paths is above the other, or the same."""
    return path.startswith(other) or other.startswith(path)
