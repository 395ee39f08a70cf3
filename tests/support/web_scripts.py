"""Runs one module of web/js alone, in Node.js or in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

Asked = Callable[[str], Any]


def asker(request: pytest.FixtureRequest, folder: Path, script: Path) -> Asked:
    """What an expression over the module's exports, `it`, gives; request.param is where it runs."""
    if request.param == "node":
        return partial(by_node, folder, script)
    return partial(by_browser, request.getfixturevalue("browser"), script)


def by_node(folder: Path, script: Path, expression: str) -> Any:
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node.js to run the script with")
    copy = folder / "script.mjs"
    shutil.copy(script, copy)
    code = f"import * as it from {json.dumps(copy.as_uri())}; console.log(JSON.stringify({expression}))"
    command = [program, "--input-type=module", "-e", code]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def by_browser(browser: Browser, script: Path, expression: str) -> Any:
    page = browser.new_page()
    load = """async (text) => {
        window.it = await import(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})));
    }"""
    page.evaluate(load, script.read_text(encoding="utf-8"))
    found = json.loads(page.evaluate(f"() => JSON.stringify({expression})"))
    page.close()
    return found
