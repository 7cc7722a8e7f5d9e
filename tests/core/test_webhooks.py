"""Webhooks: their secrets, signatures, and when an event is sent again."""

from __future__ import annotations

import base64

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from pushserver.core import webhooks
from pushserver.core.webhooks import DELAYS, Webhook

KEY = bytes(range(24))
SECRET = webhooks.PREFIX + base64.b64encode(KEY).decode()
OTHER = webhooks.PREFIX + base64.b64encode(bytes(64)).decode()


def test_every_secret_signs_as_the_standard_says() -> None:
    import time

    body = b'{"id":"1-1","type":"user.online"}'
    signed = webhooks.headers("1-1", body, int(time.time()), [webhooks.key_of(SECRET), webhooks.key_of(OTHER)])
    assert signed["webhook-signature"].count("v1,") == 2
    for secret in (SECRET, OTHER):
        assert Verifier(secret).verify(body, signed)["id"] == "1-1"
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body + b" ", signed)
    with pytest.raises(WebhookVerificationError):
        Verifier(base64.b64encode(b"x" * 24).decode()).verify(body, signed)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_!!!!",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        SECRET.removeprefix("whsec_"),
        SECRET + "\n",
        "Whsec_" + SECRET[6:],
    ],
)
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match=r"secret|base64") as raised:
        webhooks.key_of(secret)
    assert len(secret) < 10 or secret not in str(raised.value)


def test_an_event_is_sent_again_later_and_later() -> None:
    assert [webhooks.delay(n, None, 0.5) for n in range(1, 9)] == [*DELAYS, DELAYS[-1], DELAYS[-1]]
    assert webhooks.delay(1, None, 0.0) == 4_000
    assert webhooks.delay(1, None, 1.0) == 6_000
    assert webhooks.delay(1, 60_000, 0.5) == 60_000
    assert webhooks.delay(9, 60_000, 0.5) == DELAYS[-1]


def test_a_webhook_shows_neither_secret_nor_address() -> None:
    shown = repr(Webhook(name="a", url="https://u:pw@h/", secrets=(KEY,), types=frozenset(), timeout=1))
    assert shown == "<Webhook a>"
