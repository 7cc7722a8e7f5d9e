"""What the parts of a server are given of the configuration, in the shapes of the pure layer."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.config.sections import Config
from pushserver.core.channels import Kind, Namespaces
from pushserver.core.errors import ConfigError
from pushserver.core.throttle import ThrottleRules
from pushserver.core.tokens import Keys, TokenRules

_MAY_BE_OPEN: Final = frozenset({Kind.PLAIN, Kind.PUBLIC})


def namespaces(config: Config) -> Namespaces:
    """Return all namespaces, the built-in ones among them. On an insecure server those that are configured, and that
    mean nothing to the server itself, are open."""
    entries = config.namespaces
    if config.centrifuge.enabled and config.centrifuge.insecure:
        entries = tuple(msgspec.structs.replace(one, open=one.kind in _MAY_BE_OPEN) for one in entries)
    return Namespaces(entries, private=config.centrifuge.enabled)


def keys(config: Config) -> Keys:
    """Return the keys that tokens are verified with. Raises `ConfigError`."""
    try:
        return config.auth.keys()
    except (OSError, ValueError) as problem:
        raise ConfigError(f"[auth]: {problem}") from None


def token_rules(config: Config) -> TokenRules:
    """Return what is asked of a token beside its signature."""
    auth = config.auth
    return TokenRules(
        algorithms=frozenset(auth.algorithms),
        issuer=auth.issuer,
        audience=auth.audience,
        user_claim=auth.user_claim,
        leeway=auth.leeway,
        max_token_lifetime=auth.max_token_lifetime,
        roles=config.roles,
        more_claims=config.centrifuge.enabled,
        without_exp=config.centrifuge.enabled and config.centrifuge.tokens_without_exp,
    )


def throttle_rules(config: Config) -> ThrottleRules:
    """Return how often the progress of a task is shown."""
    return ThrottleRules(config.tasks.min_interval, config.tasks.min_delta)
