"""docs/hosts.md says what was run and how it ended, and nothing that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hosts_table import PAGE, RECORD, draw, merge, read, write

XML = """<testsuites><testsuite name="pytest" timestamp="2026-11-{day}T10:00:00.1">
<testcase classname="tests.api.test_conformance_run" name="test_a[comfyui-0.33.0-two]"/>
<testcase classname="tests.api.test_conformance_run" name="test_b[comfyui-0.33.0]">{end}</testcase>
<testcase classname="tests.api.test_conformance_run" name="test_c[standalone]"><skipped/></testcase>
<testcase classname="tests.core.test_x" name="test_d[standalone]"/>
<testcase classname="tests.api.test_conformance_run" name="test_e"/>
<testcase classname="tests.web.test_every_node" name="test_f[comfyui-0.33.0-1.58.1-vue]"/>
<testcase classname="tests.web.test_every_node" name="test_f[comfyui-0.33.0-own-1.49.6-canvas-x]"/>
<testcase classname="tests.web.test_browser" name="test_nodes_2[comfyui-0.33.0-1.58.1]"/>
</testsuite></testsuites>
"""


@pytest.fixture
def record(tmp_path: Path) -> dict[str, dict[str, dict[str, object]]]:
    first, second = tmp_path / "1.xml", tmp_path / "2.xml"
    first.write_text(XML.format(day="20", end=""), encoding="utf-8")
    second.write_text(XML.format(day="21", end="<failure/>"), encoding="utf-8")
    return merge(merge({}, read(first)), read(second)[:2])


def test_later_runs_replace_only_what_they_touched(record: dict[str, object]) -> None:
    new = {"pass": 1, "fail": 1, "skip": 0, "date": "2026-11-21"}
    old = {"pass": 1, "fail": 0, "skip": 0, "date": "2026-11-20"}
    skipped = {"pass": 0, "fail": 0, "skip": 1, "date": "2026-11-20"}
    assert record == {
        "comfyui-0.33.0": {
            "1.49.6 canvas": old,
            "1.58.1 vue": {**old, "pass": 2},
            "nodes and runs": new,
        },
        "standalone": {"nodes and runs": skipped},
    }


def test_a_failure_can_be_seen(record: dict[str, object]) -> None:
    tables = draw(record)
    assert "| ComfyUI 0.33.0 | **1 failed**, 1 passed (2026-11-21) |" in tables
    assert "| embedded host | skipped |" in tables
    assert "| ComfyUI 0.33.0 | 1.49.6 | 1 passed (2026-11-20) | not run |" in tables


def test_the_page_is_the_record_drawn() -> None:
    page = PAGE.read_text(encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert page == write(page, draw(record))
