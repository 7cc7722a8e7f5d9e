"""Which server a command is about, and with which keys.

What is not said by an option or its environment variable is read from the configuration file, or else from the state
directory, where a server in development mode keeps its keys and, while it runs, its address.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import click

from pushserver.config.checks import Config, checked, read
from pushserver.core import tokens
from pushserver.core.errors import ConfigError

#: Where a server listens when nobody says otherwise.
DEFAULT_URL: Final = "http://127.0.0.1:8080"
#: Who ``listen`` is, where it makes its own token.
LISTENER: Final = "pushctl"
#: ms that a token made on the fly holds.
LISTENER_LIFETIME: Final = 24 * 3600 * 1000

#: Files in the state directory of a server in development mode.
ADDRESS_FILE: Final = "address"
API_KEY_FILE: Final = "api_key"
TOKEN_SECRET_FILE: Final = "token_secret"


class ServerPlace:
    """A server, as far as the caller knows it. Looks things up only when they are needed."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        token: str | None = None,
        config: str | None = None,
        state_dir: str | None = None,
        as_json: bool = False,
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._token = token
        self._config_path = config
        self._state_dir = state_dir
        self.as_json = as_json
        self._config: Config | None = None
        #: whether the configuration itself says where its server listens
        self._listens = False

    def config(self) -> Config | None:
        """The configuration file's, with the environment's; None where none was named."""
        if self._config is None and self._config_path is not None:
            try:
                raw = read(self._config_path, os.environ)
                # A server in development mode makes the keys that its file does not have.
                self._config = checked(raw, keyless=True)
                self._listens = "server.listen" in raw.sources
            except ConfigError as mistake:
                raise click.ClickException(str(mistake)) from None
        return self._config

    def _kept(self, name: str) -> str | None:
        """A file in the state directory; None where there is none."""
        path = self.state_dir / name
        try:
            return path.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise click.ClickException(f"cannot read {path}: {problem.strerror}") from None

    @property
    def state_dir(self) -> Path:
        """Return the server's state directory."""
        if self._state_dir is not None:
            return Path(self._state_dir)
        config = self.config()
        return Path("var" if config is None else config.server.state_dir)

    @property
    def is_named(self) -> bool:
        """Return whether the server's address was said, so that what lies here may be another one's."""
        return bool(self._url)

    @property
    def engine(self) -> str:
        """Return which engine the server has, as far as is known: the embedded one, where nothing else is said."""
        config = self.config()
        return "embedded" if config is None else config.engine.kind

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        url = self._url
        if not url:
            config = self.config()
            # What lies in the state directory may be another server's, but the file is about the one that was named.
            if config is not None and self._listens:
                from pushserver.app.dev import address

                url = address(config.server.listen[0])
            else:
                url = self._kept(ADDRESS_FILE) or DEFAULT_URL
        return url.rstrip("/")

    @property
    def websocket_url(self) -> str:
        config = self.config()
        path = "/ws" if config is None else config.server.websocket_path
        scheme, _, rest = self.url.partition("://")
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}{path}"

    @property
    def api_keys(self) -> list[str]:
        """Return the keys to try, one after another where one lacks the scope; at least one."""
        if self._api_key is not None:
            return [self._api_key]
        config = self.config()
        if config is not None and config.api.keys:
            # The one with the most scopes is the one that most likely can do what is asked.
            return [key.key for key in sorted(config.api.keys, key=lambda key: -len(key.scopes))]
        key = self._kept(API_KEY_FILE)
        if key is None:
            raise click.UsageError(
                "no API key: use --api-key or PUSHCTL_API_KEY, or name the server's --config or --state-dir"
            )
        return [key]

    @property
    def has_api_key(self) -> bool:
        """Return whether there is a key to call the API with."""
        try:
            return bool(self.api_keys)
        except click.UsageError:
            return False

    @property
    def names_token(self) -> bool:
        """Return whether a token was given to listen with."""
        return self._token is not None

    def _secret(self) -> bytes:
        config = self.config()
        if config is not None and config.auth.has_secret:
            return config.auth.hmac_secrets()[0]
        secret = self._kept(TOKEN_SECRET_FILE)
        if secret is None:
            raise click.UsageError("no secret to sign tokens with: name the server's --config or --state-dir")
        return secret.encode()

    def issue(
        self, user: str, lifetime: int, permissions: tuple[str, ...] = (), channels: tuple[str, ...] = (), jti: str = ""
    ) -> str:
        """A token signed with the server's own secret. Raises `errors.Invalid` or ValueError for what cannot be."""
        config = self.config()
        auth = None if config is None else config.auth
        algorithms = () if auth is None else tuple(a for a in auth.algorithms if a.startswith("HS"))
        return tokens.issue(
            self._secret(),
            user,
            time.time_ns() // 1_000_000,
            lifetime,
            permissions=permissions,
            channels=channels,
            jti=jti or None,
            issuer="" if auth is None else auth.issuer,
            audience="" if auth is None else auth.audience,
            user_claim="sub" if auth is None else auth.user_claim,
            algorithm=algorithms[0] if algorithms else "HS256",
        )

    @property
    def token(self) -> str:
        """The token to listen with: the given one, or one that may hear everything."""
        return self._token or self.issue(LISTENER, LISTENER_LIFETIME, ("admin",))
