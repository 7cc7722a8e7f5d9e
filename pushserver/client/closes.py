"""What a close means: whether coming back makes sense, and in which company.

close below 3000        back, but for 1002, 1007, 1009: they repeat the mistake
3000 to 3499            back; 3005 (the token ran out) needs another token
3500 to 3999            not back; 3500 is the token's fault
HTTP 400, 401, 403, …   not back, where there never was a connection
"""

from __future__ import annotations

from typing import Final

from pushserver.client.errors import AuthFailed, Disconnected

#: RFC 6455 section 7.4.1.
_FORBIDDEN: Final = frozenset({1002, 1007, 1009})
#: Closes that concern this connection alone, so that no crowd comes back with it: expired, slow consumer.
ALONE: Final = frozenset({3005, 3008})
EXPIRED: Final = 3005
#: Answers to the upgrade that a second try does not change.
_HOPELESS: Final = frozenset({400, 401, 403, 404, 405, 426})


def end_of(
    code: int | None, reason: str, status: int | None, lasting: Exception | None, *, proven: bool, can_fetch: bool
) -> Exception | None:
    """Return the error that ends the client, or None where it may come back.

    `status` is the HTTP answer to the upgrade, `lasting` what no second attempt mends. Both end a client only where
    nothing was `proven` yet by a connection: later they may pass. `can_fetch`: there can be another token.
    """
    if not proven and lasting is not None:
        return lasting
    if not proven and status in _HOPELESS:
        return Disconnected(None, f"HTTP {status}")
    if code is not None and (code in _FORBIDDEN or 3500 <= code < 4000):
        return AuthFailed("INVALID_TOKEN", reason, code) if code == 3500 else Disconnected(code, reason)
    if code == EXPIRED and not can_fetch:
        return AuthFailed("TOKEN_EXPIRED", reason, code)
    return None
