"""`IRevocations`: which tokens no longer hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushserver.engine.interfaces import Credential

if TYPE_CHECKING:
    from .nodes import Nodes, RunningNode


async def asked(node: RunningNode, *credentials: Credential) -> list[bool]:
    return await node.revocations.revoked(credentials)


async def test_a_token_is_revoked_until_it_would_expire(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    mine, foreign, nameless = Credential("7", "j1", 0), Credential("7", "j2", 0), Credential("7", None, 0)
    assert await asked(node, mine, foreign, nameless) == [False, False, False]
    assert await asked(node) == []
    await node.revocations.revoke_token("j1", nodes.now() + 10 * nodes.unit)
    assert await asked(other, mine, foreign, nameless) == [True, False, False]
    await nodes.advance(11)
    assert await asked(other, mine) == [False]


async def test_a_users_tokens_are_revoked_by_when_they_were_issued(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    until = nodes.now() + 10 * nodes.unit
    await node.revocations.revoke_user("7", 5_000, until)
    credentials = [
        Credential("7", "a", 4_000),
        Credential("7", "b", 5_000),
        Credential("7", "c", 6_000),
        Credential("7", None, None),
        Credential("8", "a", 4_000),
    ]
    assert await asked(other, *credentials) == [True, True, False, True, False]
    await nodes.advance(11)
    assert await asked(other, *credentials) == [False] * 5


async def test_a_weaker_revocation_takes_nothing_back(nodes: Nodes) -> None:
    node = await nodes.start()
    long, short = nodes.now() + 10 * nodes.unit, nodes.now() + 2 * nodes.unit
    await node.revocations.revoke_user("7", 5_000, long)
    await node.revocations.revoke_user("7", 4_000, short)
    await node.revocations.revoke_token("j", long)
    await node.revocations.revoke_token("j", short)
    await nodes.advance(3)
    assert await asked(node, Credential("7", None, 5_000), Credential("9", "j", 9_000)) == [True, True]


async def test_revocations_outlive_a_restart(nodes: Nodes) -> None:
    node = await nodes.start()
    until = nodes.now() + 10 * nodes.unit
    await node.revocations.revoke_user("7", 5_000, until)
    await node.revocations.revoke_token("j", until)
    await nodes.stop(node)
    node = await nodes.start()
    credentials = [Credential("7", "x", 5_000), Credential("8", "j", 0), Credential("8", "x", 0)]
    assert await asked(node, *credentials) == [True, True, False]
