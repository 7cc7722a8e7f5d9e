"""Tokens: who somebody is, until when, and what is granted; signed by whoever holds the key.

`verify` checks everything that needs no question to anybody: form, signature, times, issuer, audience, claims. Whether
a token was revoked is asked elsewhere. Times are ours to check, against the `now` that is given (PyJWT would ask the
clock); signatures are PyJWT's.

An algorithm is accepted only where a key for it was given: HMAC with the secret alone, the others with public keys
alone and only of the matching type and curve, ``none`` never.
"""

from __future__ import annotations

import functools
import math
import re
from base64 import b64decode, urlsafe_b64decode
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from sys import intern
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from pushserver.core.channels import MAX_ID_LENGTH, is_channel, is_id
from pushserver.core.errors import Code, Invalid, Refused, TokenRefused
from pushserver.core.inbox import INBOXES
from pushserver.core.output import PREFIX
from pushserver.core.permissions import Grants

T = TypeVar("T")

#: A longer token is refused unread (characters). Header lines of common proxies end at 8 KiB, so real ones are shorter.
MAX_TOKEN_LENGTH: Final = 16_384
MAX_INFO_SIZE: Final = 1024

#: RFC 7518 section 3.2: a key must be at least as long as the hash.
_HMAC_KEY_SIZES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}

HMAC_ALGORITHMS: Final = frozenset(_HMAC_KEY_SIZES)
PUBLIC_KEY_ALGORITHMS: Final = _RSA | frozenset(_CURVES.values()) | {"EdDSA"}
ALGORITHMS: Final = HMAC_ALGORITHMS | PUBLIC_KEY_ALGORITHMS

# Seconds. Beyond the year 9999 nothing is a date; JSON's 1e300 would not even be a sane integer.
_MAX_SECONDS: Final = 253_402_300_799
#: When a token ends that does not say so, ms since the epoch.
NEVER: Final = _MAX_SECONDS * 1000
#: How long such tokens are taken for valid where that has to be a duration, ms: a hundred years.
ENDLESS: Final = 100 * 365 * 86_400_000

_FROM_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")
_TO_BASE64URL: Final = bytes.maketrans(b"+/", b"-_")

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


# The signature alone, and never with a key that is too short for its algorithm.
_signatures = jwt.PyJWS(options={"enforce_minimum_key_length": True})


class TokenRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must be like. Empty `algorithms`: what the keys imply; empty `issuer` and `audience`: not checked.

    `leeway` and `max_token_lifetime` are in ms; `roles` are the permissions that a role gives. `more_claims`: these
    count as well: ``expire_at``, ``b64info``, ``subs``; ``client``, ``data`` of a token for a channel. `without_exp`:
    ``exp`` may lack.
    """

    algorithms: frozenset[str] = frozenset()
    issuer: str = ""
    audience: str = ""
    user_claim: str = "sub"
    leeway: int = 5_000
    max_token_lifetime: int = 30 * 86_400_000
    roles: Mapping[str, Sequence[str]] = MappingProxyType({})
    more_claims: bool = False
    without_exp: bool = False


class NamedChannel(msgspec.Struct, frozen=True, gc=False):
    """What a token says of a channel that it names: of the user there, and to the client that is subscribed. JSON."""

    info: bytes | None = None
    data: bytes | None = None


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a valid token says. Times are in ms since the epoch; `info` is JSON of at most 1 KiB; `named`: the channels
    that its claims ``channels`` and ``subs`` name one by one, `subs`: what the latter says of them. `user_id` is "" for
    a token of no user, where such was asked for."""

    user_id: str
    grants: Grants
    expires_at: int
    issued_at: int | None = None
    jti: str | None = None
    info: bytes | None = None
    named: tuple[str, ...] = ()
    subs: dict[str, NamedChannel] | None = None
    #: the token's roles, what it grants without them, and what roles gave: what `with_roles` begins with
    roles: tuple[str, ...] = ()
    own: Grants | None = None
    given: Mapping[str, Sequence[str]] | None = None

    @property
    def holder(self) -> str | None:
        """Return who permissions are asked for: a user, "" for nobody who shows a token, None for who shows none."""
        return self.user_id if self.user_id or self.grants.strings else None

    def with_roles(self, role_permissions: Mapping[str, Sequence[str]]) -> Identity:
        """Return the same identity where its roles give other permissions than when the token was verified."""
        if self.own is None or self.given is role_permissions:
            return self
        more = [permission for role in self.roles for permission in role_permissions.get(role, ())]
        grants = Grants.of([*self.own.strings, *more])
        return msgspec.structs.replace(self, grants=grants, given=role_permissions)


#: Who has not signed in.
NOBODY: Final = Identity(user_id="", grants=Grants.of(()), expires_at=NEVER)


class ChannelToken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a token for one channel says: its user may subscribe there, and with ``publish`` publish, whatever else the
    user may do. Times are in ms since the epoch; ``info`` is what presence shows there, JSON of at most 1 KiB;
    ``connection_id``: the only connection that it is for; ``data``: what its client is told with the subscription.
    ``user_id`` is "" for a token of no user, where such was asked for."""

    user_id: str
    channel: str
    publish: bool
    expires_at: int
    issued_at: int | None = None
    jti: str | None = None
    info: bytes | None = None
    connection_id: str | None = None
    data: bytes | None = None

    def extend(self, identity: Identity) -> Identity:
        """Return the identity as it counts in this channel."""
        strings = [*identity.grants.strings, f"subscribe:{self.channel}"]
        if self.publish:
            strings.append(f"publish:{self.channel}")
        info = identity.info if self.info is None else self.info
        return msgspec.structs.replace(identity, grants=Grants.of(strings), info=info)


class KeySource(Protocol):
    """Where the keys come from that a token may have been signed with."""

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[Any]:
        """The keys for this algorithm and, where both the token and a key have one, this key id; as PyJWT prepares them
        (`jwt.algorithms.Algorithm.prepare_key`)."""


class Keys:
    """Secrets, public keys, or both, loaded once: parsing PEM for each token would cost a quarter of its check."""

    __slots__ = ("_keys", "algorithms")

    def __init__(
        self, secrets: str | bytes | Iterable[str | bytes] = (), public_keys: Iterable[str | bytes] = ()
    ) -> None:
        """`secrets`: one HMAC secret, or several. `public_keys`: PEM texts of public keys or certificates.

        Raises ValueError, with a sentence and never with the key, for what cannot be a key or is too weak to be one.
        """
        self._keys: list[tuple[frozenset[str], str | None, Any]] = []
        for secret in [secrets] if isinstance(secrets, str | bytes) else secrets:
            if secret:
                self._add_secret(secret.encode() if isinstance(secret, str) else secret)
        for text in public_keys:
            for key in _public_keys(text.decode("ascii", "replace") if isinstance(text, bytes) else text):
                self._keys.append((_algorithms_of(key), None, key))
        #: what these keys can verify
        self.algorithms = self._implied()

    @classmethod
    def from_jwks(cls, document: bytes) -> Keys:
        """The keys of a JWK set (RFC 7517): the public ones for signatures; others and unknown ones are passed over.

        Raises ValueError where the document is no JWK set or has no key that can be used.
        """
        try:
            found = msgspec.json.decode(document, type=_JwkSet).keys
        except (msgspec.MsgspecError, RecursionError):
            raise ValueError("not a JWK set") from None
        keys = cls()
        for entry in found:
            if entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
                continue
            key_id = entry.get("kid")
            try:
                key = jwt.PyJWK(entry).key
                # A set that lists a private key has leaked it; its public half is all that is needed here.
                key = key.public_key() if hasattr(key, "public_key") else key
                algorithms = _algorithms_of(key)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
                continue
            if "alg" in entry:
                algorithms = frozenset(name for name in algorithms if name == entry["alg"])
            if algorithms and (key_id is None or isinstance(key_id, str)):
                keys._keys.append((algorithms, key_id, key))
        if not keys._keys:
            raise ValueError("a JWK set without a public key for signatures")
        keys.algorithms = keys._implied()
        return keys

    def candidates(self, algorithm: str, key_id: str | None) -> list[Any]:
        """See `KeySource`. A key without an id, or a token without one, is not held back by the other's."""
        return [
            key
            for algorithms, own_id, key in self._keys
            if algorithm in algorithms and (own_id is None or key_id is None or own_id == key_id)
        ]

    def _add_secret(self, secret: bytes) -> None:
        algorithms = frozenset(name for name, size in _HMAC_KEY_SIZES.items() if len(secret) >= size)
        if not algorithms:
            raise ValueError(f"a secret needs at least {_HMAC_KEY_SIZES['HS256']} bytes")
        try:
            secret = _signatures.get_algorithm_by_name("HS256").prepare_key(secret)
        except jwt.InvalidKeyError:
            raise ValueError("a public key or certificate cannot be a secret") from None
        self._keys.append((algorithms, None, secret))

    def _implied(self) -> frozenset[str]:
        return frozenset[str]().union(*(algorithms for algorithms, _, _ in self._keys))


def unverified_header(token: str) -> tuple[str, str | None]:
    """The algorithm and the key id that a token claims. Raises `errors.Refused` (INVALID_TOKEN) where it has none."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise _invalid("too long")
    if not token.isascii() or token.count(".") != 2:
        raise _invalid("malformed")
    # The same few headers come again and again, one for each key of an issuer; bounded, as anyone may send others.
    return _header(token.partition(".")[0])


def verify(token: str, keys: KeySource, rules: TokenRules, now: int, *, anonymous: bool = False) -> Identity:
    """Who holds this token, at `now` (ms since the epoch). ``anonymous``: it may be nobody's.

    Raises `errors.TokenRefused`: TOKEN_EXPIRED for a token in which nothing else is wrong, INVALID_TOKEN for every
    other fault; a token for one channel signs nobody in.
    """
    return _judged(token, keys, rules, lambda claims: _identity(claims, rules, now, anonymous))


def verify_channel(
    token: str, keys: KeySource, rules: TokenRules, now: int, *, anonymous: bool = False
) -> ChannelToken:
    """Return what a token for one channel says, at `now`. Raises as `verify` does, also for one without a channel."""
    return _judged(token, keys, rules, lambda claims: _channel_token(claims, rules, now, anonymous))


def _judged(token: str, keys: KeySource, rules: TokenRules, judge: Callable[[dict[str, Any]], T]) -> T:
    claims: dict[str, Any] | None = None
    try:
        claims = _signed_claims(token, keys, rules)
        return judge(claims)
    except Refused as problem:
        verified = claims is not None
        said = claims if verified else unverified_claims(token)
        raise TokenRefused(problem.message, problem.code, _claimed_user(said, rules.user_claim), verified) from None


def _identity(claims: dict[str, Any], rules: TokenRules, now: int, anonymous: bool) -> Identity:
    if "channel" in claims:
        raise _invalid("it is for one channel")
    facts = _facts(claims, rules, now, anonymous)
    subs = _subs(claims["subs"]) if rules.more_claims and claims.get("subs") is not None else {}
    roles, own, grants = _grants(claims, subs, rules.roles)
    _check_end(facts, rules, now)
    return Identity(
        user_id=facts.user_id,
        grants=grants,
        expires_at=facts.expires_at,
        issued_at=facts.issued_at,
        jti=facts.jti,
        info=facts.info,
        named=_named(dict.fromkeys([*claims.get("channels", ()), *subs])),
        subs=subs or None,
        roles=roles,
        own=own if roles else None,
        given=rules.roles if roles else None,
    )


def _channel_token(claims: dict[str, Any], rules: TokenRules, now: int, anonymous: bool) -> ChannelToken:
    channel, publish = claims.get("channel"), claims.get("publish", False)
    if not isinstance(channel, str) or not is_channel(channel):
        raise _invalid("it is for no channel")
    if not isinstance(publish, bool):
        raise _invalid("malformed publish")
    facts = _facts(claims, rules, now, anonymous)
    _check_end(facts, rules, now)
    return ChannelToken(
        user_id=facts.user_id,
        channel=channel,
        publish=publish,
        expires_at=facts.expires_at,
        issued_at=facts.issued_at,
        jti=facts.jti,
        info=facts.info,
        connection_id=_client(claims) if rules.more_claims else None,
        data=_json(claims, "data") if rules.more_claims else None,
    )


def _client(claims: dict[str, Any]) -> str | None:
    client = claims.get("client") or None
    if client is not None and not isinstance(client, str):
        raise _invalid("malformed client")
    return client


def _subs(claim: object) -> dict[str, NamedChannel]:
    """Return what a token says of the channels that it names in its claim ``subs``."""
    if not isinstance(claim, dict):
        raise _invalid("malformed subs")
    found: dict[str, NamedChannel] = {}
    for name, options in claim.items():
        if not is_channel(name) or not isinstance(options, dict):
            raise _invalid("malformed subs")
        found[name] = NamedChannel(_info(options), _json(options, "data"))
    return found


def _json(claims: dict[str, Any], name: str) -> bytes | None:
    """Return JSON that a claim holds, or its twin in Base64 (``b64…``), which wins; None where neither does."""
    encoded = claims.get(f"b64{name}")
    if encoded is None or encoded == "":
        return None if claims.get(name) is None else msgspec.json.encode(claims[name])
    try:
        octets = b64decode(encoded, validate=True)
        return msgspec.json.encode(msgspec.json.decode(octets))
    except (TypeError, ValueError, RecursionError):
        raise _invalid(f"malformed b64{name}") from None


def _named(channels: Iterable[str]) -> tuple[str, ...]:
    """Return those that are no globs; a user's own channel needs no naming, and outputs are read over HTTP."""
    return tuple(name for name in channels if "*" not in name and not name.startswith((INBOXES, PREFIX)))


class _Facts(msgspec.Struct, frozen=True):
    """What every token says. ``valid_until``: when it ends, ``expires_at``: when what it opened does."""

    user_id: str
    valid_until: int
    expires_at: int
    issued_at: int | None
    jti: str | None
    info: bytes | None


def _check_end(facts: _Facts, rules: TokenRules, now: int) -> None:
    if now >= min(facts.valid_until, facts.expires_at) + rules.leeway:
        raise Refused("token expired", Code.TOKEN_EXPIRED)


def unverified_claims(token: str) -> dict[str, Any] | None:
    """Return what a token says, whoever made it; None where it says nothing that can be read."""
    if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
        return None
    segment = token.partition(".")[2].partition(".")[0]
    try:
        return _claims(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (Refused, ValueError):
        return None


def _claimed_user(claims: dict[str, Any] | None, user_claim: str) -> str | None:
    if claims is None:
        return None
    try:
        return _user_id(claims.get(user_claim))
    except Refused:
        return None


def _signed_claims(token: str, keys: KeySource, rules: TokenRules) -> dict[str, Any]:
    """Return what is signed. Raises `errors.Refused` (INVALID_TOKEN) where no key of ours has signed it."""
    algorithm, key_id = unverified_header(token)
    if algorithm not in ALGORITHMS or (rules.algorithms and algorithm not in rules.algorithms):
        raise _invalid("algorithm not accepted")
    return _claims(_payload(token, algorithm, keys.candidates(algorithm, key_id)))


def _facts(claims: dict[str, Any], rules: TokenRules, now: int, anonymous: bool = False) -> _Facts:
    """Return what every token says; all but its end was checked. Raises `errors.Refused` for what cannot be taken."""
    if rules.issuer and claims.get("iss") != rules.issuer:
        raise _invalid("another issuer")
    if rules.audience and not _is_for(rules.audience, claims.get("aud")):
        raise _invalid("another audience")
    nobody = anonymous and claims.get(rules.user_claim, "") == ""
    user_id = "" if nobody else _user_id(claims.get(rules.user_claim))
    issued_at = _time(claims, "iat")
    not_before = _time(claims, "nbf")
    valid_until = _time(claims, "exp")
    if valid_until is None and not rules.without_exp:
        raise _invalid("no exp")
    if issued_at is not None and issued_at > now + rules.leeway:
        raise _invalid("issued in the future")
    if not_before is not None and not_before > now + rules.leeway:
        raise _invalid("not valid yet")
    # Without iat the token cannot have been made later than now, give or take the clocks.
    longest = (now + rules.leeway if issued_at is None else issued_at) + rules.max_token_lifetime
    if valid_until is not None and valid_until > longest:
        raise _invalid("valid for too long")
    jti = claims.get("jti")
    if "jti" in claims and (not isinstance(jti, str) or not jti):
        raise _invalid("malformed jti")
    valid_until = NEVER if valid_until is None else valid_until
    info = _info(claims if rules.more_claims else {"info": claims.get("info")})
    return _Facts(user_id, valid_until, _end(claims, rules, now, valid_until), issued_at, jti, info)


def _end(claims: dict[str, Any], rules: TokenRules, now: int, valid_until: int) -> int:
    """Return when what a token opens ends: with it, or when its claim ``expire_at`` says."""
    end = _time(claims, "expire_at") if rules.more_claims else None
    if end is None:
        return valid_until
    if end == 0:
        return NEVER if rules.without_exp else now + rules.max_token_lifetime
    if end > now + rules.leeway + rules.max_token_lifetime:
        raise _invalid("valid for too long")
    return end


def issue(
    secret: str | bytes,
    user_id: str,
    now: int,
    lifetime_ms: int,
    *,
    permissions: Sequence[str] = (),
    channels: Sequence[str] = (),
    roles: Sequence[str] = (),
    info: Any = None,
    jti: str | None = None,
    issuer: str = "",
    audience: str = "",
    user_claim: str = "sub",
    algorithm: str = "HS256",
) -> str:
    """A token for this user, signed with the secret, from `now` on for `lifetime_ms`; both are cut to seconds.

    Raises `errors.Invalid` where `verify` would refuse the claims, and ValueError for a secret that is too short for
    the algorithm, or an algorithm that no secret is for.
    """
    if not is_id(user_id):
        raise Invalid(f"{user_id[:300]!r} is not an id: 1 to 200 characters from ! to ~, without * and ,")
    Grants.parse(list(permissions), list(channels), list(roles))
    claims: dict[str, Any] = {user_claim: user_id, "iat": now // 1000, "exp": (now + lifetime_ms) // 1000}
    optional = {
        "permissions": list(permissions),
        "channels": list(channels),
        "roles": list(roles),
        "jti": jti,
        "iss": issuer,
        "aud": audience,
    }
    claims |= {name: value for name, value in optional.items() if value}
    if info is not None:
        if len(msgspec.json.encode(info)) > MAX_INFO_SIZE:
            raise Invalid(f"info is larger than {MAX_INFO_SIZE} bytes")
        claims["info"] = info
    candidates = Keys(secret).candidates(algorithm, None)
    if not candidates:
        raise ValueError(f"this secret cannot sign with {algorithm}")
    return _signatures.encode(msgspec.json.encode(claims), candidates[0], algorithm)


class _JwkSet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _invalid(message: str) -> Refused:
    # The sentence goes to whoever sent the token, so it tells nothing of the configuration.
    return Refused(f"invalid token: {message}", Code.INVALID_TOKEN)


@functools.lru_cache(maxsize=64)
def _header(segment: str) -> tuple[str, str | None]:
    try:
        header = _signatures.get_unverified_header(f"{segment}..")
    except jwt.PyJWTError:
        raise _invalid("malformed") from None
    algorithm = header.get("alg")
    # What is signed beside the token (RFC 7797) is nothing for us.
    if not isinstance(algorithm, str) or header.get("b64") is False:
        raise _invalid("malformed")
    return algorithm, header.get("kid")


def _payload(token: str, algorithm: str, candidates: Sequence[Any]) -> bytes:
    if not candidates:
        raise _invalid("no key for it")
    # PyJWT's `decode` would read the header once more, and look at every character.
    signed, _, signature = token.encode("ascii").rpartition(b".")
    payload, proof = _octets(signed.partition(b".")[2]), _octets(signature)
    method = _signatures.get_algorithm_by_name(algorithm)
    if any(method.verify(signed, key, proof) for key in candidates):
        return payload
    raise _invalid("wrong signature")


def _octets(segment: bytes) -> bytes:
    """Return what a segment of a token holds, in Base64 for URLs (RFC 4648 section 5), padded or not. Raises
    `errors.Refused` for octets that are written in another way."""
    text = segment.rstrip(b"=")
    padding = len(segment) - len(text)
    try:
        octets = a2b_base64(text.translate(_FROM_BASE64URL) + b"==")
    except ValueError:
        raise _invalid("malformed") from None
    # Other characters are passed over as it is read, and leftover bits are lost.
    written = b2a_base64(octets, newline=False).translate(_TO_BASE64URL)
    if written.rstrip(b"=") != text or (padding and written != segment):
        raise _invalid("malformed")
    return octets


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise _invalid("malformed") from None


def _is_for(audience: str, claim: object) -> bool:
    return claim == audience or (isinstance(claim, list) and audience in claim)


def _user_id(claim: object) -> str:
    # The bound is before str, which refuses thousands of digits with an error of its own.
    user_id = str(claim) if type(claim) is int and abs(claim) < 10**MAX_ID_LENGTH else claim
    if not isinstance(user_id, str) or not is_id(user_id):
        raise _invalid("the user is not an id")
    return user_id


def _time(claims: dict[str, Any], name: str) -> int | None:
    """A NumericDate (RFC 7519 section 2: seconds, with or without a fraction) in ms; None where the claim is absent."""
    if name not in claims:
        return None
    seconds = claims[name]
    # In this order: math.isfinite cannot take an integer of hundreds of digits.
    if type(seconds) not in (int, float) or abs(seconds) > _MAX_SECONDS or not math.isfinite(seconds):
        raise _invalid(f"malformed {name}")
    milliseconds: int = round(seconds * 1000)
    return milliseconds


def _info(claims: dict[str, Any]) -> bytes | None:
    info = _json(claims, "info")
    if info is not None and len(info) > MAX_INFO_SIZE:
        raise _invalid(f"info is larger than {MAX_INFO_SIZE} bytes")
    return info


def _grants(
    claims: dict[str, Any], subs: Iterable[str], role_permissions: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], Grants, Grants]:
    """Return the roles, what is granted without them, and what is granted with them."""
    roles = claims.get("roles", [])
    if "role" in claims and isinstance(roles, list):
        roles = [*roles, claims["role"]]
    permissions, channels = claims.get("permissions", []), claims.get("channels", [])
    if isinstance(channels, list):
        channels = [*channels, *subs]
    try:
        own = Grants.parse(permissions, channels)
        if roles == []:
            return (), own, own
        grants = Grants.parse(permissions, channels, roles, role_permissions)
        return tuple(intern(role) for role in roles), own, grants
    except Invalid as error:
        raise _invalid(error.message) from None


def _public_keys(text: str) -> list[Any]:
    keys: list[Any] = []
    for block in _PEM_BLOCK.finditer(text):
        pem = block.group().encode()
        if "PRIVATE" in block.group(1):
            raise ValueError("a private key where a public one is wanted")
        try:
            if block.group(1) == "CERTIFICATE":
                keys.append(load_pem_x509_certificate(pem).public_key())
            else:
                keys.append(load_pem_public_key(pem))
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"a PEM block {block.group(1)!r} that cannot be read as a public key") from None
    if not keys:
        raise ValueError("no public key in PEM form")
    return keys


def _algorithms_of(key: Any) -> frozenset[str]:
    """The algorithms that a public key is for. Raises ValueError for one that is for none, or too weak."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise ValueError(f"an RSA key needs at least {_MIN_RSA_BITS} bits")
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return frozenset({_CURVES[key.curve.name]})
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return frozenset({"EdDSA"})
    raise ValueError("a public key of a type that no token algorithm is for")
