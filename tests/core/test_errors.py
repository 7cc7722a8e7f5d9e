from __future__ import annotations

import pytest

from pushserver.core import errors
from pushserver.core.errors import HTTP_STATUS, Close, Code


def closes() -> list[Close]:
    return [value for value in vars(errors).values() if isinstance(value, Close)]


def test_every_code_has_an_http_status() -> None:
    assert set(HTTP_STATUS) == set(Code)
    assert set(HTTP_STATUS.values()) <= {400, 401, 403, 404, 409, 413, 429, 500, 503}


def test_close_codes_are_those_of_the_protocol() -> None:
    codes = sorted(close.code for close in closes())
    assert codes == [
        *(1000, 1002, 1007, 1009),
        *(3000, 3001, 3004, 3005, 3008, 3011, 3012, 3013),
        *(3500, 3501, 3502, 3503, 3504, 3507, 3509),
    ]


def test_the_code_alone_says_whether_to_come_back() -> None:
    assert {close.code for close in closes() if close.reconnect} == {3000, 3001, 3004, 3005, 3008, 3011, 3012, 3013}


@pytest.mark.parametrize("close", closes(), ids=str)
def test_a_reason_fits_a_control_frame(close: Close) -> None:
    # RFC 6455 section 5.5: 125 bytes, two of which are the code.
    assert len(close.reason.encode()) <= 123


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.PushError, Code.INTERNAL_ERROR),
        (errors.CallerError, Code.INVALID_MESSAGE),
        (errors.Invalid, Code.INVALID_MESSAGE),
        (errors.Refused, Code.PERMISSION_DENIED),
        (errors.NotFound, Code.NOT_FOUND),
        (errors.Conflict, Code.CONFLICT),
        (errors.Unavailable, Code.UNAVAILABLE),
    ],
)
def test_exceptions_carry_their_code(kind: type[errors.PushError], code: Code) -> None:
    error = kind("why")
    assert (str(error), error.message, error.code, error.retry_after) == ("why", "why", code, None)
    other = kind("why", Code.RATE_LIMITED, 250)
    assert (other.code, other.retry_after) == (Code.RATE_LIMITED, 250)


def test_a_callers_mistake_and_our_own_trouble_are_different_branches() -> None:
    for kind in (errors.Invalid, errors.Refused, errors.NotFound, errors.Conflict):
        assert issubclass(kind, errors.CallerError)
    assert not issubclass(errors.Unavailable, errors.CallerError)
    assert not issubclass(errors.ConfigError, errors.PushError)
