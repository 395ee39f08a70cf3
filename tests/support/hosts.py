"""Starts the hosts that the API and browser tests run on: `standalone` and real ComfyUI checkouts.

A checkout is named by COMFYUI_DIRS (several, separated as in PATH), by COMFYUI_DIR, or found in
~/ComfyUI. It runs with its own Python: COMFYUI_PYTHON, or the venv or .venv folder inside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The name under which the pack lies in a checkout's custom_nodes, as after a real installation.
PACK_NAME = "kontext-studio"
# Generous: the slowest start seen was 40 s, on 2 cores that were also training a model.
START_SECONDS = 600.0
STOP_SECONDS = 30.0


class HostFailed(RuntimeError):
    """The server ended or stayed silent before it answered its first request."""


@dataclass(frozen=True)
class Host:
    """A kind of server: its name in test ids, and how to call it (checkout None: standalone)."""

    name: str
    python: Path
    checkout: Path | None = None

    @property
    def is_comfyui(self) -> bool:
        return self.checkout is not None


@dataclass(frozen=True)
class Missing:
    """A host that the tests would use if it were there, and why it is not."""

    name: str
    reason: str


@dataclass(frozen=True)
class Server:
    """A running host. `base` holds its input, output, temp and user folders.

    `log` is the file of its output, `boot_log` what it had said when it answered first, `pid` the
    process to watch.
    """

    host: Host
    port: int
    base: Path
    log: Path
    boot_log: str = ""
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def all_hosts() -> list[Host | Missing]:
    """Standalone first, then every ComfyUI checkout, or one `Missing` that says what to set."""
    hosts: list[Host | Missing] = [Host("standalone", Path(sys.executable))]
    folders = _checkout_folders()
    if not folders:
        reason = "no ComfyUI: set COMFYUI_DIR to a checkout, or COMFYUI_DIRS to several"
        return [*hosts, Missing("comfyui", reason)]
    return [*hosts, *(_checkout_host(folder) for folder in folders)]


def _checkout_folders() -> list[Path]:
    named = os.environ.get("COMFYUI_DIRS") or os.environ.get("COMFYUI_DIR")
    if named:
        return [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    default = Path.home() / "ComfyUI"
    return [default] if (default / "main.py").is_file() else []


def _checkout_host(folder: Path) -> Host | Missing:
    version_file = folder / "comfyui_version.py"
    if not (folder / "main.py").is_file() or not version_file.is_file():
        return Missing("comfyui", f"{folder} is no ComfyUI checkout: no main.py in it")
    found = re.search(r'"([^"]+)"', version_file.read_text(encoding="utf-8"))
    name = f"comfyui-{found.group(1)}" if found else "comfyui"
    named = os.environ.get("COMFYUI_PYTHON")
    candidates = [Path(named)] if named else [folder / v / "bin/python" for v in ("venv", ".venv")]
    for python in candidates:
        if python.is_file():
            return Host(name, python, folder)
    return Missing(name, f"no Python for {folder}: set COMFYUI_PYTHON or make {folder}/venv")


def frontends() -> dict[str, Path]:
    """Frontend versions in this environment, newest first: {version: folder with index.html}.

    The newest is the installed comfyui-frontend-package; older ones lie in <venv>/frontends, each
    put there by `pip install --no-deps --target <venv>/frontends/VERSION`.
    """
    found: dict[str, Path] = {}
    sites = [Path(p) for p in sys.path if p.endswith("site-packages")]
    extra = sorted((Path(sys.prefix) / "frontends").glob("*"), reverse=True)
    for site in [*sites, *extra]:
        static = site / "comfyui_frontend_package/static"
        for info in site.glob("comfyui_frontend_package-*.dist-info"):
            if (static / "index.html").is_file():
                found.setdefault(info.name.split("-")[1].removesuffix(".dist"), static)
    return found


def own_frontend(host: Host) -> str:
    """The version of the frontend that a checkout's environment holds, "unknown" without one."""
    sites = host.python.parent.parent.glob("lib/python*/site-packages")
    for site in sites:
        for info in site.glob("comfyui_frontend_package-*.dist-info"):
            return info.name.split("-")[1].removesuffix(".dist")
    return "unknown"


@contextlib.contextmanager
def running(
    host: Host,
    base: Path,
    frontend: Path | None = None,
    *,
    packs: tuple[dict[str, Path], ...] = ({PACK_NAME: ROOT},),
    flags: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Starts the host on a free port with all its folders below `base`; stops it afterwards.

    Sample pictures are there when the pack is: it brings them.

    Args:
        packs: of a ComfyUI, its folders of custom nodes, {name: folder or file} each. All of one
            are imported before the next; within one the order is the file system's. Standalone
            runs from the pack's folder among them.
        flags: more options of ComfyUI's main.py.
        env: more environment variables.

    Raises HostFailed with the end of the server's output when it does not come up.
    """
    for name in ("input", "output", "temp", "user", "custom_nodes", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    server = Server(host, free_port(), base, base / "server.log")
    command = _command(host, base, packs)
    command += ["--listen", "127.0.0.1", "--port", str(server.port), *flags]
    if frontend is not None:
        command += ["--front-end-root", str(frontend)]
    quiet = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=host.checkout or packs[0].get(PACK_NAME, ROOT),
            env=os.environ | quiet | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(server, process)
        yield replace(server, boot_log=server.log_text(), pid=process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(host: Host, base: Path, packs: tuple[dict[str, Path], ...]) -> list[str]:
    if host.checkout is None:
        command = [str(host.python), "-m", "standalone", "serve"]
        return [*command, "--base-directory", str(base)]
    command = [str(host.python), "main.py", "--cpu", "--disable-auto-launch", "--disable-api-nodes"]
    # Without its own database the checkout would write into its user folder.
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    _link(base / "custom_nodes", packs[0])
    for number, layer in enumerate(packs[1:], 2):
        folder = base / f"custom_nodes_{number}"
        _link(folder, layer)
        config = base / f"custom_nodes_{number}.yaml"
        # JSON is YAML too.
        config.write_text(json.dumps({"more": {"custom_nodes": str(folder)}}), encoding="utf-8")
        command += ["--extra-model-paths-config", str(config)]
    return command


def _link(folder: Path, packs: dict[str, Path]) -> None:
    folder.mkdir(exist_ok=True)
    for name, source in packs.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(source, target_is_directory=source.is_dir())


def trouble_of(log: str, ours: str) -> list[str]:
    """Lines of a server's log that tell of a failure, and whole tracebacks, that name a path of ours.

    Args:
        ours: what such a path has in it.
    """
    found, trace = [], ""
    for line in log.splitlines():
        if "Traceback (most recent call last)" in line:
            trace = line
        elif trace:
            trace += "\n" + line
            # The error itself stands in the first column again.
            if line and not line[0].isspace():
                found += [trace] if ours in trace else []
                trace = ""
        elif ("IMPORT FAILED" in line or "Cannot import" in line) and ours in line:
            found.append(line)
    return found + ([trace] if trace and ours in trace else [])


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{server.url}/system_stats", timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    state = "stayed silent" if process.poll() is None else f"ended with {process.returncode}"
    raise HostFailed(f"{server.host.name} {state}; its output ends:\n{server.log_text()[-4000:]}")
