"""Plants faults in nodes/native, one at a time, in a throw-away copy, and expects the tests to turn red.

    .venv/bin/python tests/faults/plant.py [WORD ...]     all, or those with a WORD in their name

The checkout itself is never touched, and the tests named here need no ComfyUI. A fault whose text is no
longer in its file, or is there twice, stops everything: renew it, or the net has a hole nobody sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL, PARTS = "tests/native/test_stand_in_model.py", "tests/native/test_stand_in_parts.py"
RUN = "tests/native/test_stand_in_run.py"


@dataclass(frozen=True)
class Fault:
    """`old` stands once in nodes/native/`file`; with `new` in its place `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


FAULTS = (
    Fault(
        "forward: text tokens are given out as the picture",
        "forward.py",
        "else x[:, keep]",
        "else x[:, : keep.stop - keep.start]",
        f"{MODEL}::test_velocity_is_the_cores[with gradients-none-offset]",
    ),
    Fault(
        "forward: a ControlNet's second list is added where the first belongs",
        "forward.py",
        '"input", index, 0), out["txt"]',
        '"output", index, 0), out["txt"]',
        f"{MODEL}::test_outputs_of_a_controlnet_are_added_to_the_images_tokens",
    ),
    Fault(
        "forward: strengths are added to the text's keys",
        "forward.py",
        "F.pad(image.bias, (text, length - text - image.bias.shape[1]))",
        "F.pad(image.bias, (0, length - image.bias.shape[1]))",
        f"{MODEL}::test_velocity_is_the_cores[with gradients-strength-offset]",
    ),
    Fault(
        "forward: an interrupt is not heard",
        "forward.py",
        "        comfy.model_management.throw_exception_if_processing_interrupted()\n",
        "",
        f"{MODEL}::test_an_interrupt_ends_a_forward",
    ),
    Fault(
        "forward: of a region a ControlNet adds what belongs to other tokens",
        "forward.py",
        "add[:, self.picked.to(add.device)]",
        "add[:, : len(self.picked)]",
        f"{RUN}::test_a_region_takes_of_a_controlnet_what_belongs_to_it",
    ),
    Fault(
        "run: it outlives its end",
        "run.py",
        "        network.run = before\n",
        "",
        f"{RUN}::test_a_run_leaves_nothing",
    ),
    Fault(
        "run: another text of the same length counts as the same",
        "run.py",
        "alike and torch.equal(one, other)",
        "alike",
        f"{RUN}::test_a_change_is_noticed_whatever_the_host_calls_it",
    ),
    Fault(
        "run: a change of weights is not heard",
        "run.py",
        "        self._sides.clear()\n        self.saving.reset()\n",
        "",
        f"{RUN}::test_a_change_is_noticed_whatever_the_host_calls_it",
    ),
    Fault(
        "run: a part of the latent is compared with the whole reference",
        "run.py",
        "token_grid(*self.shape[-2:]) != image.grid",
        "False",
        f"{RUN}::test_areas_take_no_region",
    ),
    Fault(
        "run: patches of attention see trimmed keys",
        "run.py",
        'WATCHING = ("post_input", "attn1_patch", "attn1_output_patch")',
        'WATCHING = ("post_input",)',
        f"{RUN}::test_whoever_looks_at_blocks_sees_all_of_them",
    ),
    Fault(
        "guider: a step off by one",
        "guider.py",
        "callback(step + 1, total, x0)",
        "callback(step, total, x0)",
        f"{MODEL}::test_a_guided_run_and_what_it_tells",
    ),
    Fault(
        "guider: the preview is the noisy latent",
        "guider.py",
        "total, x0)",
        "total, x)",
        f"{MODEL}::test_a_guided_run_and_what_it_tells",
    ),
    Fault(
        "guider: the host's schedule is run from its beginning",
        "guider.py",
        "[-(steps + 1) :]",
        "[: steps + 1]",
        f"{MODEL}::test_the_hosts_schedule_is_cut_at_its_end",
    ),
    Fault(
        "guider: the widget's guidance wins over the conditioning's",
        "guider.py",
        "{**values, **extra}",
        "{**extra, **values}",
        f"{MODEL}::test_what_each_side_of_a_guided_run_is_given",
    ),
    Fault(
        "guider: negative keeps its own references",
        "guider.py",
        "if k not in REFERENCE_KEYS} | shared",
        "}",
        f"{MODEL}::test_what_each_side_of_a_guided_run_is_given",
    ),
    Fault(
        "patcher: a stale LoRA is kept",
        "patcher.py",
        "set_loras(network_of(self), loras_of(self))",
        "loras_of(self) and set_loras(network_of(self), loras_of(self))",
        f"{PARTS}::test_a_model_has_its_own_loras_whatever_ran_before",
    ),
    Fault(
        "patcher: changes of packed weights outlive the MODEL that made them",
        "patcher.py",
        'layer.changes.pop("own", None)',
        "pass",
        f"{PARTS}::test_patches_of_the_hosts_act_while_loaded_and_no_longer",
    ),
    Fault(
        "modulation: every picture gets the first one's rows",
        "modulation.py",
        "[wanted.index(key) for key in keys]",
        "[0 for key in keys]",
        f"{MODEL}::test_kept_modulations_are_those_asked_for",
    ),
    Fault(
        "modulation: rows outlive the weights they were made of",
        "modulation.py",
        "        self._tables.clear()\n",
        "        pass\n",
        f"{MODEL}::test_kept_modulations_are_those_asked_for",
    ),
    Fault(
        "conds: texts with different references share a call",
        "conds.py",
        " and self.cond == other.cond",
        "",
        f"{PARTS}::test_references_of_two_texts_are_sampled_together_only_when_equal",
    ),
    Fault(
        "references: latents are given to their places in the wrong order",
        "references.py",
        "_checked(next(queue)",
        "_checked(latents.pop()",
        f"{MODEL}::test_velocity_is_the_cores[with gradients-plain-offset]",
    ),
    Fault(
        "references: a pause of one step at the start",
        "references.py",
        "step / options.get(",
        "max(step - 1, 0) / options.get(",
        f"{MODEL}::test_references_that_come_and_go",
    ),
    Fault(
        "wrapper: references of strength 0 reach the model",
        "wrapper.py",
        "for r in references if r.strength > 0]",
        "for r in references]",
        f"{PARTS}::test_what_a_conditioning_carries_to_the_model",
    ),
    Fault(
        "wrapper: the method is lost",
        "wrapper.py",
        "if method is not None:",
        "if method is None:",
        f"{PARTS}::test_what_a_conditioning_carries_to_the_model",
    ),
    Fault(
        "host_clip: the last layer that was set is not heeded",
        "host_clip.py",
        "layer=self._last(),",
        "layer=None,",
        f"{PARTS}::test_clip_is_the_cores_encoders",
    ),
    Fault(
        "host_vae: pictures come out in -1..1",
        "host_vae.py",
        "image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)",
        "image.clamp_(-1.0, 1.0)",
        f"{PARTS}::test_vae_is_the_cores_autoencoder",
    ),
    Fault(
        "layers: changes of a packed layer are not applied",
        "layers.py",
        "changes = list(self.changes.values())",
        "changes = []",
        f"{PARTS}::test_patches_of_the_hosts_act_while_loaded_and_no_longer",
    ),
    Fault(
        "lora: the strength is left out where the host merges",
        "lora.py",
        ".add_(part, alpha=strength)",
        ".add_(part)",
        f"{PARTS}::test_a_lora_as_patches_of_the_hosts",
    ),
)


def copy_of(root: Path, folder: Path) -> Path:
    """The files that git knows or would, in a folder of their own."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file() and not name.startswith("docs/images/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)
    return folder


def run_tests(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Those tests, in that copy."""
    command = [str(Path(sys.executable).with_name("pytest")), "-x", "-q"]
    command += ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    return subprocess.run(
        [*command, *tests],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def planted(text: str, fault: Fault) -> str:
    """A file's text with the fault in it.

    Raises:
        SystemExit: its place is not there, or not only once.
    """
    found = text.count(fault.old)
    if found != 1:
        raise SystemExit(
            f"{fault.name!r}: {fault.old!r} stands {found} times in nodes/native/{fault.file}; "
            "expected once. The source has changed: renew the fault in tests/faults/plant.py"
        )
    return text.replace(fault.old, fault.new)


def main(words: list[str]) -> int:
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    if not chosen:
        print(f"no fault has one of {words} in its name", file=sys.stderr)
        return 2
    for fault in chosen:
        planted((ROOT / "nodes/native" / fault.file).read_text(encoding="utf-8"), fault)
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = copy_of(ROOT, Path(temporary) / "checkout")
        whole = run_tests(folder, *dict.fromkeys(fault.test for fault in chosen))
        if whole.returncode:
            print(whole.stdout[-4000:], "red before any fault is planted", file=sys.stderr)
            return 2
        for fault in chosen:
            path = folder / "nodes/native" / fault.file
            good = path.read_text(encoding="utf-8")
            begun = time.monotonic()
            path.write_text(planted(good, fault), encoding="utf-8")
            done = run_tests(folder, fault.test)
            path.write_text(good, encoding="utf-8")
            # 1: tests failed. Anything else is trouble of pytest's own.
            caught = done.returncode == 1
            taken = time.monotonic() - begun
            print(f"{'caught' if caught else 'MISSED'}  {fault.name} ({taken:.0f} s)", flush=True)
            if not caught:
                missed.append(fault.name)
                print(done.stdout[-2000:], flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
