"""The planted faults (tests/faults/plant.py, `make faults`) still fit the source and the tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import ROOT


@pytest.fixture(scope="module")
def plant() -> Any:
    path = ROOT / "tests/faults/plant.py"
    spec = importlib.util.spec_from_file_location("plant", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plant"] = module
    spec.loader.exec_module(module)
    return module


def test_every_fault_has_its_place_and_its_test(plant: Any) -> None:
    assert len(plant.FAULTS) >= 13
    for fault in plant.FAULTS:
        text = (ROOT / "nodes/native" / fault.file).read_text(encoding="utf-8")
        assert plant.planted(text, fault) != text
        path, _, name = fault.test.partition("::")
        assert f"def {name.partition('[')[0]}(" in Path(ROOT / path).read_text(encoding="utf-8")


def test_a_fault_without_a_place_is_loud(plant: Any) -> None:
    fault = plant.Fault("gone", "forward.py", "old", "new", "test")
    for text in ("", "old old"):
        with pytest.raises(SystemExit, match="renew the fault"):
            plant.planted(text, fault)
