"""tests/js/stage.mjs in a process of its own: a browser, a proxy, a server for files, a crowd of clients."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from typing import Any

from tests.harness import ROOT


class Stage:
    """``stage("open", url=…)`` has it done and returns its answer; commands and answers stand in stage.mjs."""

    def __init__(self) -> None:
        node = shutil.which("node")
        assert node is not None, "node is needed for the tests of the browser client"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        script = str(ROOT / "tests" / "js" / "stage.mjs")
        self._process = subprocess.Popen([node, script], text=True, cwd=ROOT, **pipes)
        self._lock = threading.Lock()

    def __call__(self, name: str, **options: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"do": name, **options}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, f"the stage fell at {name}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
