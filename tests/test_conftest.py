"""The look around after each test sees what it is there for."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CASES = {
    "delayed call": "from twisted.internet import reactor; reactor.callLater(60, print)",
    "open: <": "from twisted.internet import reactor, protocol; reactor.listenTCP(0, protocol.Factory())",
    "logged failure": "from twisted.internet.defer import fail; fail(ValueError('lost'))",
    "process * sleep 600": "import subprocess; subprocess.Popen(['sleep', '600'])",
    # The shell waits until it is what it shall be: while a process changes its program, nobody can read whose it is.
    "process * sleep 700": (
        "import subprocess; subprocess.run("
        "'setsid sleep 700 >/dev/null 2>&1 & until grep -qs sleep /proc/$!/comm; do :; done', shell=True)"
    ),
    "process * sleep 800": "import subprocess; subprocess.Popen(['sh', '-c', 'sleep 800; true'], env={})",
    "temporary: *planted": "import tempfile; tempfile.mkdtemp(suffix='planted')",
}


@pytest.mark.parametrize("sign", CASES)
def test_what_a_test_leaves_behind_fails_it(
    sign: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harness import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Nobody told what is planted to end.
    pytester.makeconftest(
        "from tests import conftest\nfrom tests.conftest import *\nfrom tests.conftest import _logged_errors\n"
        "conftest._ENDING = 0.1\n"
    )
    pytester.makepyfile(f"def test_it():\n    {CASES[sign]}\n\ndef test_next(): pass\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"*{sign}*"])


def test_of_a_test_that_failed_nothing_is_left_either(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harness import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from tests.conftest import *\nfrom tests.conftest import _logged_errors\n")
    pytester.makepyfile(
        """
        import os, pathlib, subprocess, tempfile

        def test_it():
            process = subprocess.Popen(["sleep", "1000"])
            pathlib.Path("left").write_text(f"{process.pid} {tempfile.mkdtemp()}")
            assert False

        def test_next():
            pid, folder = pathlib.Path("left").read_text().split()
            assert not os.path.exists(folder)
            stat = pathlib.Path(f"/proc/{pid}/stat")
            # It has ended, whether or not its end was taken note of.
            assert not stat.exists() or "Z" in stat.read_text().rpartition(")")[2]
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(failed=1, passed=1)


def test_what_a_fixture_of_several_tests_starts_is_not_left_by_the_first(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harness import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from tests.conftest import *\nfrom tests.conftest import _logged_errors\n")
    pytester.makepyfile(
        """
        import subprocess, tempfile
        import pytest

        @pytest.fixture(scope="module")
        def shared():
            with tempfile.TemporaryDirectory(), subprocess.Popen(["sleep", "900"]) as process:
                yield process
                process.kill()

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(request, number):
            assert request.getfixturevalue("shared").poll() is None
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


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
