"""From a checked configuration to the rooms of a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pushserver.config.checks import Config
from pushserver.core.channels import NamespaceOptions, Namespaces, Rule
from pushserver.core.errors import ConfigError
from pushserver.core.throttle import ThrottleRules
from pushserver.core.tokens import Keys, TokenRules
from pushserver.server.auth import Authenticator
from pushserver.server.clock import Clock
from pushserver.server.jwks import KeySet
from pushserver.server.limits import Limits
from pushserver.server.node import Node, NodeSettings

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine


def make_node(clock: Clock, config: Config, engine: IEngine, name: str) -> Node:
    """Return the node, not started. Raises `errors.ConfigError` where its keys cannot be read."""
    auth = config.auth
    key_set = KeySet(auth.jwks_url, clock) if auth.jwks_url else None
    settings = NodeSettings(
        limits=Limits(
            node=name,
            connections_per_user=config.server.max_connections_per_user,
            channels_per_connection=config.server.max_channels_per_connection,
            inbox_size=config.inbox.max_messages,
            heartbeat_interval=config.heartbeat.interval,
            heartbeat_timeout=config.heartbeat.timeout,
            anonymous=auth.anonymous,
        ),
        auth_timeout=None if auth.anonymous else auth.timeout,
        refresh_grace=auth.refresh_grace,
        max_token_lifetime=auth.max_token_lifetime,
        leeway=auth.leeway,
        chat_rate=config.rate_limits.chat_messages_per_second,
        throttle=ThrottleRules(config.tasks.min_interval, config.tasks.min_delta),
        stale_after=config.tasks.stale_after,
    )
    authenticator = Authenticator(_keys(config), _token_rules(config), key_set, engine.revocations, clock)
    return Node(clock, engine, Namespaces(_namespaces(config)), authenticator, settings)


def _keys(config: Config) -> Keys:
    auth = config.auth
    try:
        public = [Path(auth.public_key_file).read_bytes()] if auth.public_key_file else []
        return Keys(auth.hmac_secret(), public)
    except (OSError, ValueError) as problem:
        raise ConfigError(f"[auth]: {problem}") from None


def _token_rules(config: Config) -> TokenRules:
    auth = config.auth
    return TokenRules(
        algorithms=frozenset(auth.algorithms),
        issuer=auth.issuer,
        audience=auth.audience,
        user_claim=auth.user_claim,
        leeway=auth.leeway,
        max_token_lifetime=auth.max_token_lifetime,
        roles=config.roles,
    )


def _namespaces(config: Config) -> list[NamespaceOptions]:
    options: list[NamespaceOptions] = []
    for section in config.namespaces:
        given = {name: getattr(section, name) for name in section.given}
        for rule in ("subscribe", "publish"):
            if rule in given:
                given[rule] = Rule(given[rule])
        given["name"] = section.name
        options.append(NamespaceOptions(**given))
    return options
