from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core import tokens
from pushserver.core.errors import Code, Invalid, Refused
from pushserver.core.permissions import Grants
from pushserver.core.tokens import Keys, TokenRules, issue, unverified_header, verify

NOW = 1_700_000_000_000
NOW_S = NOW // 1000
SECRET = "correct horse battery staple, 32+"
KEYS = Keys(SECRET)
RULES = TokenRules()
HOUR = 3_600_000

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()


def pem(private_key: Any) -> str:
    return private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**changed: Any) -> dict[str, Any]:
    all_claims = {"sub": "42", "iat": NOW_S, "exp": NOW_S + 3600, **changed}
    return {name: value for name, value in all_claims.items() if value is not ...}


def signed(payload: dict[str, Any] | bytes, key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return jwt.PyJWS().encode(body, key, algorithm, headers or None)


def refusal(token: str, keys: Any = KEYS, rules: TokenRules = RULES, now: int = NOW) -> Code:
    with pytest.raises(Refused) as caught:
        verify(token, keys, rules, now)
    assert token[:20] not in caught.value.message or len(token) < 20
    return caught.value.code


def test_a_valid_token() -> None:
    token = signed(
        claims(
            jti="j1",
            permissions=["publish:news:*"],
            channels=["x:*"],
            role="editor",
            roles=["guest"],
            info={"name": "Ann\u00e9"},
        )
    )
    rules = TokenRules(roles={"editor": ["history:a"], "guest": ["presence:b"]})
    identity = verify(token, KEYS, rules, NOW)
    assert identity.user_id == "42"
    assert (identity.issued_at, identity.expires_at, identity.jti) == (NOW, NOW + HOUR, "j1")
    assert identity.grants.strings == ("history:a", "presence:b", "publish:news:*", "subscribe:x:*")
    assert identity.info is not None
    assert json.loads(identity.info) == {"name": "Ann\u00e9"}


def test_roles_are_looked_up_anew_where_they_give_something_else() -> None:
    rules = TokenRules(roles={"editor": ["history:a"]})
    identity = verify(signed(claims(role="editor", channels=["x"])), KEYS, rules, NOW)
    assert identity.with_roles(rules.roles) is identity
    changed = {"editor": ["history:b"]}
    newer = identity.with_roles(changed)
    assert newer.grants.strings == ("history:b", "subscribe:x")
    assert newer.with_roles(changed) is newer


def test_the_least_that_a_token_holds() -> None:
    identity = verify(signed({"sub": "u", "exp": NOW_S + 60}), KEYS, RULES, NOW)
    assert (identity.user_id, identity.issued_at, identity.jti, identity.info) == ("u", None, None, None)
    assert identity.grants is Grants.of(())


def test_tokens_of_ours_are_accepted() -> None:
    token = issue(
        SECRET, "42", NOW, HOUR, permissions=["admin"], channels=["a:*"], roles=["r"], info={"n": 1}, jti="j",
        issuer="me", audience="you", user_claim="uid",
    )  # fmt: skip
    rules = TokenRules(issuer="me", audience="you", user_claim="uid")
    identity = verify(token, KEYS, rules, NOW)
    assert (identity.user_id, identity.issued_at, identity.expires_at) == ("42", NOW, NOW + HOUR)
    assert identity.grants.strings == ("admin", "subscribe:a:*")
    assert (identity.jti, identity.info) == ("j", b'{"n":1}')
    assert jwt.decode(token, SECRET, ["HS256"], {"verify_exp": False}, audience="you")["roles"] == ["r"]


def test_tokens_that_would_be_refused_are_not_issued() -> None:
    for arguments in (
        {"user_id": "a b"},
        {"user_id": ""},
        {"permissions": ["subscribe:a b"]},
        {"channels": [""]},
        {"info": "x" * 1023},
    ):
        with pytest.raises(Invalid):
            issue(SECRET, **{"user_id": "42", "now": NOW, "lifetime_ms": HOUR, **arguments})
    with pytest.raises(ValueError, match="32 bytes"):
        issue("short", "42", NOW, HOUR)
    for algorithm in ("HS512", "RS256", "none"):
        with pytest.raises(ValueError, match=f"cannot sign with {algorithm}"):
            issue(SECRET, "42", NOW, HOUR, algorithm=algorithm)


def test_tokens_of_ours_in_another_algorithm() -> None:
    secret = "s" * 64
    token = issue(secret, "42", NOW, HOUR, algorithm="HS512")
    assert unverified_header(token) == ("HS512", None)
    assert verify(token, Keys(secret), RULES, NOW).user_id == "42"


# -- times ------------------------------------------------------------------------------------------------------


def test_expiry_with_leeway() -> None:
    token = signed(claims())
    end = NOW + HOUR
    assert verify(token, KEYS, RULES, end + 4_999).expires_at == end
    assert refusal(token, now=end + 5_000) is Code.TOKEN_EXPIRED
    assert refusal(token, rules=TokenRules(leeway=0), now=end) is Code.TOKEN_EXPIRED


def test_a_token_that_is_expired_and_wrong_is_wrong() -> None:
    late = NOW + 2 * HOUR
    assert refusal(signed(claims()), now=late) is Code.TOKEN_EXPIRED
    assert refusal(signed(claims(permissions="x")), now=late) is Code.INVALID_TOKEN
    assert refusal(signed(claims(), "another secret of 32 bytes or more"), now=late) is Code.INVALID_TOKEN
    assert refusal(signed(claims()), rules=TokenRules(issuer="me"), now=late) is Code.INVALID_TOKEN


def test_not_before_and_issued_at_with_leeway() -> None:
    for name in ("nbf", "iat"):
        assert verify(signed(claims(**{name: NOW_S + 5})), KEYS, RULES, NOW)
        assert refusal(signed(claims(**{name: NOW_S + 6}))) is Code.INVALID_TOKEN
    assert verify(signed(claims(nbf=NOW_S - 100)), KEYS, RULES, NOW)


def test_fractions_of_a_second() -> None:
    identity = verify(signed(claims(exp=NOW_S + 60.5, iat=NOW_S - 0.25)), KEYS, RULES, NOW)
    assert (identity.expires_at, identity.issued_at) == (NOW + 60_500, NOW - 250)


def test_the_longest_lifetime() -> None:
    days = 30 * 86_400
    assert verify(signed(claims(exp=NOW_S + days)), KEYS, RULES, NOW)
    assert refusal(signed(claims(exp=NOW_S + days + 1))) is Code.INVALID_TOKEN
    assert verify(signed(claims(iat=NOW_S - 86_400, exp=NOW_S + days - 86_400)), KEYS, RULES, NOW)
    assert refusal(signed(claims(iat=NOW_S - 86_400, exp=NOW_S + days))) is Code.INVALID_TOKEN
    assert verify(signed(claims(iat=..., exp=NOW_S + days + 5)), KEYS, RULES, NOW)
    assert refusal(signed(claims(iat=..., exp=NOW_S + days + 6))) is Code.INVALID_TOKEN


@pytest.mark.parametrize(
    "value", ["..", None, True, "1700003600", [], {}, 1e300, -1e300, 10**30, 10**400, float("inf"), float("nan")]
)
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_malformed_times(name: str, value: Any) -> None:
    assert refusal(signed(claims(**{name: value}))) is Code.INVALID_TOKEN


def test_exp_is_required() -> None:
    assert refusal(signed(claims(exp=...))) is Code.INVALID_TOKEN
    assert refusal(signed(claims(exp=-5, iat=...))) is Code.TOKEN_EXPIRED


# -- claims -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("claim", "user_id"), [("ann", "ann"), (42, "42"), (0, "0"), (-7, "-7"), (2**70, str(2**70))])
def test_the_user(claim: Any, user_id: str) -> None:
    assert verify(signed(claims(sub=claim)), KEYS, RULES, NOW).user_id == user_id
    rules = TokenRules(user_claim="user_id")
    assert verify(signed(claims(sub=..., user_id=claim)), KEYS, rules, NOW).user_id == user_id


@pytest.mark.parametrize(
    "claim",
    [..., None, "", "a b", "a\n", "a*", "a,b", "\u00e9", "a" * 201, True, False, 1.0, 1.5, [], {}, ["a"], 10**250],
)
def test_what_is_no_user(claim: Any) -> None:
    assert refusal(signed(claims(sub=claim))) is Code.INVALID_TOKEN


def test_a_user_of_thousands_of_digits() -> None:
    body = b'{"exp":%d,"sub":%s}' % (NOW_S + 60, b"9" * 4400)
    assert refusal(signed(body)) is Code.INVALID_TOKEN


@pytest.mark.parametrize(
    "changed",
    [
        {"permissions": "admin"},
        {"permissions": None},
        {"permissions": {"admin": True}},
        {"permissions": [1]},
        {"permissions": ["subscribe:"]},
        {"channels": "news:*"},
        {"channels": ["a b"]},
        {"channels": [None]},
        {"roles": "editor"},
        {"roles": [[]]},
        {"roles": 1},
        {"roles": {}, "role": "editor"},
        {"role": ["editor"]},
        {"role": 1},
        {"role": None},
        {"jti": 5},
        {"jti": ""},
        {"jti": None},
        {"info": "x" * 1023},
        {"info": list(range(500))},
    ],
)
def test_malformed_claims(changed: dict[str, Any]) -> None:
    assert refusal(signed(claims(**changed))) is Code.INVALID_TOKEN


def test_info() -> None:
    assert verify(signed(claims(info="x" * 1022)), KEYS, RULES, NOW).info == b'"' + b"x" * 1022 + b'"'
    assert verify(signed(claims(info=None)), KEYS, RULES, NOW).info is None
    assert verify(signed(claims(info=False)), KEYS, RULES, NOW).info == b"false"


def test_issuer_and_audience_where_they_are_set() -> None:
    rules = TokenRules(issuer="me", audience="you")
    assert verify(signed(claims(iss="me", aud="you")), KEYS, rules, NOW)
    assert verify(signed(claims(iss="me", aud=["them", "you"])), KEYS, rules, NOW)
    assert verify(signed(claims(iss=5, aud={})), KEYS, RULES, NOW)
    for changed in (
        {},
        {"iss": "me"},
        {"aud": "you"},
        {"iss": "I", "aud": "you"},
        {"iss": ["me"], "aud": "you"},
        {"iss": "me", "aud": "your"},
        {"iss": "me", "aud": "yo"},
        {"iss": "me", "aud": {"you": 1}},
        {"iss": "me", "aud": None},
    ):
        assert refusal(signed(claims(**changed)), rules=rules) is Code.INVALID_TOKEN


# -- form -------------------------------------------------------------------------------------------------------


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        "", ".", "..", "...", "a.b.c", "a.b.c.d.e", "\u00e9.a.b", "\ud800.a.b", " ", "Bearer x",
        f"{segment({'alg': 'HS256'})}..",
        f"{segment({'alg': 'HS256'})}.{segment({})}.",
        f"{segment({'alg': 'none'})}.{segment({'sub': '1', 'exp': NOW_S + 60})}.",
        f"{segment({'alg': 'None'})}.{segment({'sub': '1', 'exp': NOW_S + 60})}.",
        f"{segment({})}.{segment({})}.{segment(b'x')}",
        f"{segment([])}.{segment({})}.{segment(b'x')}",
        f"{segment({'alg': ['HS256']})}.{segment({})}.{segment(b'x')}",
        f"{segment({'alg': {}})}.{segment({})}.{segment(b'x')}",
        f"{segment({'alg': None})}.{segment({})}.{segment(b'x')}",
        f"{segment({'alg': 'HS256', 'kid': 5})}.{segment({})}.{segment(b'x')}",
        f"{segment({'alg': 'HS256', 'b64': False, 'crit': ['b64']})}.{segment({})}.{segment(b'x')}",
        f"{segment(b'[' * 5000)}.{segment({})}.{segment(b'x')}",
    ],
)  # fmt: skip
def test_what_is_no_token(token: str) -> None:
    assert refusal(token) is Code.INVALID_TOKEN


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"5", b"{", b'{"sub":"1"', b"\xff", b'{"sub":"\xff"}', b"[" * 9000, b'{"a":' * 1500,
     b'{"sub":"1","exp":NaN}', b'{"sub":"\\ud800","exp":1}'],
)  # fmt: skip
def test_what_is_signed_but_no_claims(payload: bytes) -> None:
    assert refusal(signed(payload)) is Code.INVALID_TOKEN


#: A payload whose Base64 needs padding, with bits left over, and characters that both alphabets write differently.
ODD = b'{"sub":"42","exp":%d,"x":"\xc3\xbf\xc3\xbe?>~"}  ' % (NOW_S + 3600)


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: text + "=",
        lambda text: text + "==",
        lambda text: text + "===",
        lambda text: text + "====",
        lambda text: text[:-1] + chr(ord(text[-1]) + 1),
        lambda text: text.replace("-", "+").replace("_", "/"),
        lambda text: text[:9] + "!" + text[9:],
        lambda text: text[:8] + "=" + text[8:],
        lambda text: text[:8] + "\n" + text[8:],
        lambda text: "",
    ],
)
@pytest.mark.parametrize("spaces", [0, 1, 2])
@pytest.mark.parametrize("place", ["payload", "signature"])
def test_base64_is_written_in_one_way_with_its_padding_or_without(
    written: Callable[[str], str], spaces: int, place: str
) -> None:
    header, payload = segment({"alg": "HS256"}), segment(ODD[: len(ODD) - spaces])
    proof = segment(hmac.digest(SECRET.encode(), f"{header}.{payload}".encode(), "sha256"))
    text = payload if place == "payload" else proof
    if place == "payload":
        payload = written(text)
        proof = segment(hmac.digest(SECRET.encode(), f"{header}.{payload}".encode(), "sha256"))
    else:
        proof = written(text)
    token = f"{header}.{payload}.{proof}"
    if written(text) in (text, text + "=" * (-len(text) % 4)):
        assert verify(token, KEYS, RULES, NOW).user_id == "42"
    else:
        assert refusal(token) is Code.INVALID_TOKEN


def test_a_token_that_is_too_long_is_not_even_read() -> None:
    token = signed(claims(pad="x" * 12_100))
    assert len(token) <= tokens.MAX_TOKEN_LENGTH
    assert verify(token, KEYS, RULES, NOW)
    token = signed(claims(pad="x" * 12_200))
    assert len(token) > tokens.MAX_TOKEN_LENGTH
    assert refusal(token) is Code.INVALID_TOKEN
    assert refusal("x" * 1_000_000) is Code.INVALID_TOKEN


@given(st.integers(0, 10_000), st.integers(1, 127))
def test_a_token_changed_anywhere_is_refused(place: int, change: int) -> None:
    token = signed(claims(permissions=["subscribe:a"]))
    place %= len(token)
    changed = token[:place] + chr(ord(token[place]) ^ change) + token[place + 1 :]
    assert refusal(changed) is Code.INVALID_TOKEN


@given(st.text(max_size=60))
def test_any_text_is_refused_as_a_token(text: str) -> None:
    assert refusal(text) is Code.INVALID_TOKEN


def test_the_header_before_it_is_verified() -> None:
    assert unverified_header(signed(claims(), kid="k1")) == ("HS256", "k1")
    assert unverified_header(signed(claims())) == ("HS256", None)


# -- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA_KEY, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (P256, ["ES256"]),
        (P384, ["ES384"]),
        (ec.generate_private_key(ec.SECP521R1()), ["ES512"]),
        (ec.generate_private_key(ec.SECP256K1()), ["ES256K"]),
        (ED25519, ["EdDSA"]),
        (ED448, ["EdDSA"]),
    ],
)
def test_public_keys(key: Any, algorithms: list[str]) -> None:
    keys = Keys(public_keys=[pem(key)])
    assert keys.algorithms == set(algorithms)
    for algorithm in algorithms:
        token = signed(claims(), key, algorithm)
        assert verify(token, keys, RULES, NOW).user_id == "42"
        assert verify(token, keys, TokenRules(algorithms=frozenset({algorithm})), NOW)
        assert refusal(token, keys, TokenRules(algorithms=frozenset({"HS256"}))) is Code.INVALID_TOKEN
        assert refusal(token) is Code.INVALID_TOKEN
        assert refusal(token[:-8] + "AAAAAAAA", keys) is Code.INVALID_TOKEN


@pytest.mark.parametrize(
    ("size", "algorithms"), [(32, {"HS256"}), (48, {"HS256", "HS384"}), (64, {"HS256", "HS384", "HS512"})]
)
def test_secrets(size: int, algorithms: set[str]) -> None:
    keys = Keys(b"s" * size)
    assert keys.algorithms == algorithms
    for algorithm in algorithms:
        assert verify(signed(claims(), b"s" * size, algorithm), keys, RULES, NOW)
    assert refusal(signed(claims(), b"t" * 64, "HS512"), keys) is Code.INVALID_TOKEN


def test_a_public_key_is_never_a_secret() -> None:
    public = pem(RSA_KEY)
    forged_with = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    body = f"{segment({'alg': 'HS256'})}.{segment(claims())}"
    forged = f"{body}.{segment(forged_with.sign(body.encode(), public.encode()))}"
    assert refusal(forged, Keys(public_keys=[public])) is Code.INVALID_TOKEN
    assert refusal(forged, Keys(SECRET, [public])) is Code.INVALID_TOKEN
    with pytest.raises(ValueError, match="cannot be a secret"):
        Keys(public)


def test_a_secret_and_several_public_keys_at_once() -> None:
    keys = Keys(SECRET, [pem(OTHER_RSA_KEY) + "\n" + pem(RSA_KEY), pem(P256).encode()])
    assert keys.algorithms == {"HS256", "ES256", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    for key, algorithm in ((SECRET, "HS256"), (RSA_KEY, "RS256"), (OTHER_RSA_KEY, "PS512"), (P256, "ES256")):
        assert verify(signed(claims(), key, algorithm, kid="any"), keys, RULES, NOW)
    stranger = rsa.generate_private_key(65537, 2048)
    assert refusal(signed(claims(), stranger, "RS256"), keys) is Code.INVALID_TOKEN
    assert refusal(signed(claims(), P384, "ES384"), keys) is Code.INVALID_TOKEN


def test_a_certificate_is_a_public_key() -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, RSA_KEY.public_key(), 1, start, start + datetime.timedelta(days=1))
    certificate = builder.sign(RSA_KEY, SHA256()).public_bytes(Encoding.PEM)
    assert verify(signed(claims(), RSA_KEY, "RS256"), Keys(public_keys=[certificate]), RULES, NOW)


def private_pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"secrets": "x" * 31}, "at least 32 bytes"),
        ({"public_keys": [""]}, "no public key"),
        ({"public_keys": ["ssh-rsa AAAA"]}, "no public key"),
        ({"public_keys": [private_pem(P256)]}, "private key"),
        ({"public_keys": ["-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"]}, "cannot be read"),
        ({"public_keys": [b"\xff"]}, "no public key"),
        ({"public_keys": [pem(rsa.generate_private_key(65537, 1024))]}, "2048 bits"),
        ({"public_keys": [pem(ec.generate_private_key(ec.SECP224R1()))]}, "no token algorithm"),
    ],
)
def test_what_is_no_key(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Keys(**arguments)


def jwk(private_key: Any, **more: Any) -> dict[str, Any]:
    algorithm = {"RSAPrivateKey": "RS256", "ECPrivateKey": "ES256"}.get(type(private_key).__name__, "EdDSA")
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key.public_key(), as_dict=True)
    return {**found, **more}


def test_a_jwk_set() -> None:
    document = {
        "keys": [
            {"kty": "oct", "k": segment(b"s" * 40), "kid": "hmac"},
            {"kty": "mystery", "kid": "m"},
            {},
            jwk(OTHER_RSA_KEY, kid="enc", use="enc"),
            jwk(RSA_KEY, kid="a", use="sig", alg="RS256"),
            jwk(OTHER_RSA_KEY, kid="b"),
            jwk(P256, kid="c"),
            jwk(ED25519),
            jwk(RSA_KEY, kid="odd", alg=["RS256"]),
        ]
    }
    keys = Keys.from_jwks(json.dumps(document).encode())
    assert {"RS256", "PS256", "ES256", "EdDSA"} <= keys.algorithms
    assert not keys.algorithms & tokens.HMAC_ALGORITHMS
    assert verify(signed(claims(), RSA_KEY, "RS256", kid="a"), keys, RULES, NOW)
    assert verify(signed(claims(), RSA_KEY, "RS256"), keys, RULES, NOW)
    assert verify(signed(claims(), OTHER_RSA_KEY, "PS256", kid="b"), keys, RULES, NOW)
    assert verify(signed(claims(), P256, "ES256", kid="c"), keys, RULES, NOW)
    assert verify(signed(claims(), ED25519, "EdDSA", kid="whatever"), keys, RULES, NOW)
    assert refusal(signed(claims(), RSA_KEY, "RS512", kid="a"), keys) is Code.INVALID_TOKEN
    assert refusal(signed(claims(), RSA_KEY, "RS256", kid="b"), keys) is Code.INVALID_TOKEN
    assert refusal(signed(claims(), OTHER_RSA_KEY, "RS256", kid="enc"), keys) is Code.INVALID_TOKEN
    assert keys.candidates("RS256", "unknown") == []
    assert refusal(signed(claims(), b"s" * 40, "HS256", kid="hmac"), keys) is Code.INVALID_TOKEN


def test_the_private_half_in_a_jwk_set_is_not_used() -> None:
    leaked = jwt.get_algorithm_by_name("RS256").to_jwk(RSA_KEY, as_dict=True)
    keys = Keys.from_jwks(json.dumps({"keys": [leaked]}).encode())
    assert isinstance(keys.candidates("RS256", None)[0], rsa.RSAPublicKey)
    assert verify(signed(claims(), RSA_KEY, "RS256"), keys, RULES, NOW)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys":5}', b'{"keys":[]}', b'{"keys":[{"kty":"oct","k":"AAAA"}]}']
)
def test_what_is_no_jwk_set(document: bytes) -> None:
    with pytest.raises(ValueError, match="JWK set"):
        Keys.from_jwks(document)


def test_keys_of_ones_own_making() -> None:
    class Resolver:
        def candidates(self, algorithm: str, key_id: str | None) -> list[Any]:
            assert (algorithm, key_id) == ("RS256", "k")
            return [RSA_KEY.public_key()]

    assert verify(signed(claims(), RSA_KEY, "RS256", kid="k"), Resolver(), RULES, NOW)


@pytest.mark.parametrize("algorithm", ["none", "ES521", "HS1", ""])
def test_keys_are_not_even_asked_for_an_algorithm_that_nobody_should_use(algorithm: str) -> None:
    class Unasked:
        def candidates(self, algorithm: str, key_id: str | None) -> list[Any]:
            raise AssertionError(algorithm)

    assert refusal(f"{segment({'alg': algorithm})}.{segment(claims())}.", Unasked()) is Code.INVALID_TOKEN


def test_an_identity_is_a_value() -> None:
    one, two = (verify(signed(claims()), KEYS, RULES, NOW) for _ in range(2))
    assert one == two
    assert one.grants is two.grants
    with pytest.raises(AttributeError):
        one.user_id = "43"  # type: ignore[misc]
    assert isinstance(one, msgspec.Struct)


# -- claims of Centrifugo's tokens ------------------------------------------------------------------------------------

THEIRS = TokenRules(more_claims=True, max_token_lifetime=24 * HOUR)
ENDLESS = TokenRules(more_claims=True, without_exp=True, max_token_lifetime=24 * HOUR)


def b64(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_a_connection_ends_when_its_token_says_so() -> None:
    for expire_at, rules, end in (
        (NOW_S + 60, THEIRS, NOW + 60_000),
        (NOW_S + 20 * 3600, THEIRS, NOW + 20 * HOUR),
        (0, THEIRS, NOW + 24 * HOUR),
        (0, ENDLESS, tokens.NEVER),
        (..., THEIRS, NOW + HOUR),
        # What means nothing here is passed over.
        (NOW_S + 60, RULES, NOW + HOUR),
    ):
        assert verify(signed(claims(expire_at=expire_at)), KEYS, rules, NOW).expires_at == end
    assert refusal(signed(claims(expire_at=NOW_S + 25 * 3600)), rules=THEIRS) is Code.INVALID_TOKEN
    assert refusal(signed(claims(expire_at=NOW_S - 10)), rules=THEIRS) is Code.TOKEN_EXPIRED
    # The token itself is over, whatever it says of the connection.
    assert refusal(signed(claims(exp=NOW_S - 10, expire_at=NOW_S + 60)), rules=THEIRS) is Code.TOKEN_EXPIRED


def test_a_token_may_be_without_an_end_where_that_is_allowed() -> None:
    token = signed(claims(exp=...))
    assert verify(token, KEYS, ENDLESS, NOW + 10**9 * 1000).expires_at == tokens.NEVER
    assert refusal(token, rules=THEIRS) is Code.INVALID_TOKEN
    assert verify(signed(claims(exp=..., expire_at=NOW_S + 60)), KEYS, ENDLESS, NOW).expires_at == NOW + 60_000
    # One that has an end keeps to it.
    assert refusal(signed(claims(exp=NOW_S + 25 * 3600)), rules=ENDLESS) is Code.INVALID_TOKEN
    assert refusal(signed(claims(exp=NOW_S - 10)), rules=ENDLESS) is Code.TOKEN_EXPIRED


def test_channels_that_a_token_names_and_what_it_says_of_them() -> None:
    subs = {
        "news:a": {"info": {"seat": 1}, "b64data": b64([1]), "override": {}},
        "user:7": {},
        "news:b": {"data": None},
    }
    identity = verify(signed(claims(subs=subs, channels=["x:*", "y:a"], b64info=b64({"n": 1}))), KEYS, THEIRS, NOW)
    assert identity.named == ("y:a", "news:a", "news:b")
    assert identity.subs is not None
    assert identity.subs["news:a"] == tokens.NamedChannel(b'{"seat":1}', b"[1]")
    assert identity.subs["news:b"] == tokens.NamedChannel()
    assert identity.info == b'{"n":1}'
    assert set(identity.grants.strings) == {f"subscribe:{name}" for name in ("x:*", "y:a", *subs)}
    ours = verify(signed(claims(subs=subs, b64info=b64(1), info=2)), KEYS, RULES, NOW)
    assert (ours.named, ours.subs, ours.info, ours.grants.strings) == ((), None, b"2", ())


@pytest.mark.parametrize(
    "changed",
    [
        {"expire_at": "soon"},
        {"expire_at": None},
        {"expire_at": 1e300},
        {"subs": ["news:a"]},
        {"subs": {"news:*": {}}},
        {"subs": {"": {}}},
        {"subs": {"news:a": 1}},
        {"subs": {"news:a": {"info": "x" * 1100}}},
        {"subs": {"news:a": {"b64info": "!"}}},
        {"subs": {"news:a": {"b64data": 7}}},
        {"b64info": "é"},
        {"b64info": base64.b64encode(b"{").decode()},
        {"b64info": b64("x" * 1100)},
        {"b64info": 7},
        {"channels": "news:a", "subs": {"news:b": {}}},
        {"channel": "news:a"},
    ],
)
def test_malformed_claims_of_centrifugo(changed: dict[str, Any]) -> None:
    assert refusal(signed(claims(**changed)), rules=THEIRS) is Code.INVALID_TOKEN


def test_a_token_of_nobody_is_for_who_asks_for_it() -> None:
    for changed in ({"sub": ...}, {"sub": ""}):
        token = signed(claims(**changed))
        assert verify(token, KEYS, THEIRS, NOW, anonymous=True).user_id == ""
        assert refusal(token, rules=THEIRS) is Code.INVALID_TOKEN
    for changed in ({"sub": None}, {"sub": "a b"}, {"sub": ..., "exp": ...}, {"sub": ..., "info": "x" * 1100}):
        with pytest.raises(Refused):
            verify(signed(claims(**changed)), KEYS, THEIRS, NOW, anonymous=True)


def test_a_token_for_one_channel_may_name_a_connection_and_say_something() -> None:
    given = {"channel": "news:a", "client": "c1", "data": {"hello": 1}, "expire_at": NOW_S + 60, "b64info": b64(1)}
    found = tokens.verify_channel(signed(claims(**given)), KEYS, THEIRS, NOW)
    assert (found.connection_id, found.data, found.expires_at) == ("c1", b'{"hello":1}', NOW + 60_000)
    assert found.info == b"1"
    ours = tokens.verify_channel(signed(claims(**given)), KEYS, RULES, NOW)
    assert (ours.connection_id, ours.data, ours.expires_at, ours.info) == (None, None, NOW + HOUR, None)
    with pytest.raises(Refused):
        tokens.verify_channel(signed(claims(**(given | {"client": 7}))), KEYS, THEIRS, NOW)
