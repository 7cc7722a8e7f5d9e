"""Revoking tokens: for how long that is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pushserver.app.node import settings_of
from tests.fakes import Rig


async def test_tokens_need_not_end_where_that_is_configured_and_their_users_are_revoked_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await Rig(tmp_path, "[centrifuge]\nenabled = true\ntokens_without_exp = true\n").start()
    ann = rig.connect()
    token = rig.token("ann", exp=None)
    reply = await ann.ask("auth", token=token)
    assert (reply["type"], reply["data"]["expiresAt"]) == ("auth_success", None)
    revoke, remembered = rig.engine.revocations.revoke_user, []

    def noted(user_id: str, issued_until: int, until: int) -> Any:
        remembered.append(until)
        return revoke(user_id, issued_until, until)

    monkeypatch.setattr(rig.engine.revocations, "revoke_user", noted)
    await rig.advance(1)
    assert (await rig.execute("revoke", userId="ann"))["closed"] == 1
    assert remembered[0] > rig.now() + 90 * 365 * 86_400_000
    again = rig.connect()
    reply = await again.ask("auth", token=token)
    assert (reply["type"], reply["data"]["code"]) == ("auth_failed", "TOKEN_BLACKLISTED")
    await rig.stop()


async def test_who_is_revoked_after_a_reload_stays_so_for_as_long_as_tokens_may_last_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 86_400_000
    rig = await Rig(tmp_path, '[auth]\nmax_token_lifetime = "1d"\n').start()
    remembered = []
    revoke = rig.engine.revocations.revoke_user

    def noted(user_id: str, issued_until: int, until: int) -> Any:
        remembered.append(until)
        return revoke(user_id, issued_until, until)

    monkeypatch.setattr(rig.engine.revocations, "revoke_user", noted)
    await rig.execute("revoke", userId="ann")
    auth = msgspec.structs.replace(rig.config.auth, max_token_lifetime=30 * day)
    settings = settings_of(msgspec.structs.replace(rig.config, auth=auth), "here")
    rig.node.adopt(rig.node.namespaces, {}, settings)
    await rig.execute("revoke", userId="ann")
    assert [(until - rig.now()) // day for until in remembered] == [1, 30]
    await rig.stop()
