"""LoRAs that were trained here, in a real ComfyUI's own loader, on our MODEL and on ComfyUI's."""

from __future__ import annotations

from pathlib import Path

import pytest
from native_host import native_hosts, run_in_host
from packed_flux import write_case

SCRIPT = Path(__file__).with_name("scripts") / "trained.py"


@pytest.mark.parametrize("host", native_hosts())
def test_trained_loras_act_alike_in_every_loader(host: object, tmp_path: Path) -> None:
    write_case(tmp_path)
    found = run_in_host(host, SCRIPT, tmp_path)
    # 3 kinds of weights, 4 choices of layers, 2 namings, 2 loaders on 2 MODELs; and the 2 afterwards.
    assert len(found) == 3 * (4 * 2 * 2 * 2 + 2)
    # Measured: 1.9e-6, where the LoRAs change outputs by 1 and more.
    assert {name: row for name, row in found.items() if not (row[0] <= 2e-5 and row[1] > 0.1)} == {}
