"""The look around after each test sees what it is there for."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CASES = {
    "delayed call": "from twisted.internet import reactor; reactor.callLater(60, print)",
    "open: <": "from twisted.internet import reactor, protocol; reactor.listenTCP(0, protocol.Factory())",
    "logged failure": "from twisted.internet.defer import fail; fail(ValueError('lost'))",
}


@pytest.mark.parametrize("sign", CASES)
def test_what_a_test_leaves_behind_fails_it(
    sign: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harness import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from tests.conftest import *\nfrom tests.conftest import _logged_errors\n")
    pytester.makepyfile(f"def test_it():\n    {CASES[sign]}\n\ndef test_next(): pass\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"*{sign}*"])


def test_a_failure_that_was_expected_is_taken_back(flush_errors: object) -> None:
    from twisted.internet.defer import fail

    fail(ZeroDivisionError("expected"))
    assert callable(flush_errors)
    assert len(flush_errors(ZeroDivisionError)) == 1


def test_a_skip_is_a_failure_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.harness import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CI", "true")
    pytester.makeconftest("from tests.conftest import *\nfrom tests.conftest import _logged_errors\n")
    pytester.makepyfile("import pytest\ndef test_it():\n    pytest.skip('no browser')\n")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(failed=1)
