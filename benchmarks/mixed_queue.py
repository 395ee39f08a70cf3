"""A long queue of mixed jobs on real hosts, their memory watched from outside.

    COMFYUI_DIRS=~/ComfyUI PYTHONPATH=tests/support python benchmarks/mixed_queue.py --rounds 40

One round is nine jobs: the embedded model, plain, GGUF, float8 and all-in-one files, LoRAs as branch and
merged, our sampler and the host's, tiled decoding, a job that fails and one that is interrupted, each
with a seed and a size of its own, so that no cache answers. After every round the server's anonymous
memory (what belongs to no file) is read from /proc. Growth is the least-squares slope after the first
third. Results are added to benchmarks/results/mixed_queue.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host_client import Client, load_prompt, node_of
from hosts import ROOT, Host, Missing, Server, all_hosts, running
from model_folders import EXACT, LORA, ROUNDED, write_models

RESULTS = Path(__file__).parent / "results" / "mixed_queue.json"
SIZES = (64, 96, 128, 160, 192)

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def words(model_name: str, number: int, *, native: bool = False, lora: str = "") -> Graph:
    """Words to picture with files; `native` samples with KSampler, `lora` is a mode of ours."""
    size = SIZES[number % len(SIZES)]
    model = ["9", 0] if lora else ["1", 0]
    if native:
        sampler = node(
            "KSampler", model=model, positive=["4", 0], negative=["4", 0], latent_image=["5", 0],
            seed=number, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
    else:
        sampler = node(
            "KontextSampler", model=model, positive=["4", 0], latent_image=["5", 0], seed=number,
            steps=2, guidance=2.5, cfg=1.0, solver="euler", schedule="kontext", denoise=1.0,
        )  # fmt: skip
    graph = {
        "1": node("KontextLoadModel", model_name=model_name, precision="auto"),
        "2": node(
            "KontextLoadTextEncoders", t5_name="t5.safetensors", clip_l_name="clip_l.safetensors"
        ),
        "3": node("KontextLoadVAE", model_name="ae.safetensors", precision="auto"),
        "4": node("CLIPTextEncode", clip=["2", 0], text=f"star number {number}"),
        "5": node("EmptySD3LatentImage", width=size, height=size, batch_size=1),
        "6": sampler,
        "7": node("VAEDecode", samples=["6", 0], vae=["3", 0]),
        "8": node("PreviewImage", images=["7", 0]),
    }
    if lora:
        graph["9"] = node(
            "KontextLoadLora", model=["1", 0], lora_file=LORA, strength=1.0, mode=lora
        )
    return graph


def embedded(number: int, steps: int = 2) -> Graph:
    prompt = load_prompt(ROOT / "workflows/api/two_references.json")
    prompt[node_of(prompt, "KontextSampler")]["inputs"] |= {"steps": steps, "seed": number}
    return prompt


def broken(number: int) -> Graph:
    graph = words(EXACT[0], number)
    graph["6"]["inputs"]["guidance"] = float("nan")
    return graph


def run(client: Client, graph: Graph) -> bool:
    return client.run(graph).ok


def fail(client: Client, graph: Graph) -> bool:
    """Fails in the sampler, or is refused by hosts that compare NaN with the limits."""
    status, answer = client.post("/prompt", {"prompt": graph})
    if status == 200:
        client.wait_for_history(answer["prompt_id"])
    return status in (200, 400)


def interrupt(client: Client, graph: Graph) -> bool:
    def stop(message: dict[str, Any]) -> None:
        if message["type"] == "progress":
            client.post("/interrupt", {})

    return not client.run(graph, on_message=stop).ok


def jobs(number: int) -> list[tuple[Callable[[Client, Graph], bool], Graph]]:
    """One round; `number` is the first of ten seeds."""
    tiled = words(ROUNDED[1], number + 4)
    tiled["7"] = node(
        "VAEDecodeTiled", samples=["6", 0], vae=["3", 0], tile_size=64, overlap=16,
        temporal_size=64, temporal_overlap=8,
    )  # fmt: skip
    return [
        (run, embedded(number)),
        (run, words(EXACT[0], number + 1, native=True)),
        (run, words(ROUNDED[0], number + 2, native=True, lora="branch")),
        (run, words(ROUNDED[0], number + 3, lora="branch")),
        (run, tiled),
        (run, words(EXACT[1], number + 5, lora="merge")),
        (run, words(EXACT[2], number + 6)),
        (fail, broken(number + 7)),
        (interrupt, embedded(number + 8, steps=200)),
    ]


def anonymous(pid: int) -> float:
    """MiB of the process's memory that belong to no file."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no RssAnon; this needs Linux 4.5 or later")


def slope(values: list[float]) -> float:
    """Least-squares change from one value to the next."""
    mean_x, mean_y = (len(values) - 1) / 2, sum(values) / len(values)
    over = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values))
    return over / sum((x - mean_x) ** 2 for x in range(len(values)))


def watch(server: Server, rounds: int) -> dict[str, Any]:
    client = Client(server.url)
    memory, failed, start = [anonymous(server.pid)], 0, time.monotonic()
    for index in range(rounds):
        for call, graph in jobs(1 + 10 * index):
            failed += not call(client, graph)
        memory.append(anonymous(server.pid))
        print(f"{server.host.name} round {index + 1}: {memory[-1]:.1f} MiB", flush=True)
    seconds = time.monotonic() - start
    client.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(3)
    late = memory[1 + rounds // 3 :]
    count = len(jobs(0))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "jobs": rounds * count,
        "jobs_with_the_wrong_end": failed,
        "seconds_per_job": round(seconds / (rounds * count), 2),
        "mib_idle": round(memory[0], 1),
        "mib_after_first_round": round(memory[1], 1),
        "mib_at_end": round(memory[-1], 1),
        "mib_after_free": round(anonymous(server.pid), 1),
        "kib_growth_per_job": round(slope(late) * 1024 / count, 2),
        "mib_each_round": [round(value, 1) for value in memory],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="of nine jobs each")
    parser.add_argument("--host", default="", help="only hosts whose name contains this")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for host in all_hosts():
        if isinstance(host, Missing) or options.host not in host.name:
            continue
        results[host.name] = _on(host, options.rounds)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        shown = {k: v for k, v in results[host.name].items() if k != "mib_each_round"}
        print(json.dumps(shown, indent=1))


def _on(host: Host, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_models(base / "models")
        with running(host, base) as server:
            return watch(server, rounds)


if __name__ == "__main__":
    main()
