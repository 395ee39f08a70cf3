"""Results as tables: for a terminal, for Markdown and for a page, all from the same dictionary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_LABELS = {
    "text_to_image": "text to image",
    "two_references": "two references",
    "recolour_all": "recolour two things",
    "grammar": "grammar",
    "held_out": "held out",
    "blind": "blind",
}

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text; rows in `strong` sum up those below, columns in `words` hold no numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    strong: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset()

    def plain(self) -> str:
        """Aligned columns."""
        every = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in every) for i in range(len(self.header))]
        lines = [self.title, *(self._line(row, widths) for row in [self.header])]
        lines.append("  ".join("-" * width for width in widths))
        lines += [self._line(row, widths) for row in self.rows]
        return "\n".join(lines)

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        first = row[0].ljust(widths[0])
        rest = (
            cell.ljust(width) if i in self.words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row[1:], widths[1:], strict=True), 1)
        )
        return "  ".join((first, *rest)).rstrip()

    def markdown(self) -> str:
        """A table as GitHub reads it, the note below."""
        lines = [
            "| " + " | ".join(self.header) + " |",
            "|---" + "|--:" * (len(self.header) - 1) + "|",
        ]
        for number, row in enumerate(self.rows):
            cells = [f"**{cell}**" if number in self.strong and cell else cell for cell in row]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + (f"\n\n{self.note}" if self.note else "")

    def _cell(self, tag: str, column: int, text: str) -> str:
        kind = ' class="words"' if column in self.words else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    def html(self) -> str:
        """A <table>, its note below."""
        head = "".join(self._cell("th", i, cell) for i, cell in enumerate(self.header))
        body = []
        for number, row in enumerate(self.rows):
            kind = ' class="sum"' if number in self.strong else ""
            cells = "".join(self._cell("td", i, cell) for i, cell in enumerate(row))
            body.append(f"<tr{kind}>{cells}</tr>")
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>{note}"
        )


def tables(results: Mapping[str, Any]) -> dict[str, Table]:
    """Every table, by name: tasks, exchanged, probes, failures, steps, guidance, elsewhere,
    autoencoder, drift, latency."""
    return {
        "tasks": _tasks(results),
        "exchanged": _exchanged(results),
        "probes": _probes(results),
        "failures": _failures(results),
        "steps": _swept(results, "steps", "Success against the number of steps"),
        "guidance": _swept(results, "guidance", "Success against guidance"),
        "elsewhere": _swept(results, "elsewhere", "Beside the nine places, and in oblong pictures"),
        "autoencoder": _autoencoder(results),
        "drift": _drift(results),
        "latency": _latency(results),
    }


def success(row: Figures | None) -> str:
    """ "93 % (88-96)", the share and its interval."""
    if not row or row.get("success") is None:
        return ""
    share, low, high = (100 * row[key] for key in ("success", "low", "high"))
    return f"{share:.0f} % ({low:.0f}-{high:.0f})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def label(name: str) -> str:
    """A task, category, set or attribute in words."""
    return _LABELS.get(name, name.replace("_", " "))


def _tasks(results: Mapping[str, Any]) -> Table:
    sets, batched = results["sets"], results["timing"]["batched"]

    def cells(
        name: str, of: Callable[[Figures], Figures | None], seconds: float | None
    ) -> list[str]:
        rows = [of(each) for each in sets.values()]
        shown = of(sets["held_out"])
        if shown is None:
            return [name, *(success(row) for row in rows), "", "", "", ""]
        return [
            name, *(success(row) for row in rows), _number(shown["psnr"]),
            _number(shown["ssim"], 3), _number(shown["untouched"]), _number(seconds, 3),
        ]  # fmt: skip

    rows, strong = [], {0}
    mean = sum(batched.values()) / max(1, len(batched))
    rows.append(cells("all", lambda each: each["all"], mean))
    categories = results["categories"]
    for category in dict.fromkeys(categories.values()):
        tasks = [task for task, its in categories.items() if its == category]
        if len(tasks) > 1:
            strong.add(len(rows))
            mean = sum(batched[task] for task in tasks) / len(tasks)
            rows.append(
                cells(label(category), lambda each, c=category: each["categories"].get(c), mean)
            )
        else:
            strong.add(len(rows))
        rows += [
            cells(
                ("" if len(tasks) == 1 else "· ") + label(task),
                lambda each, t=task: each["tasks"].get(t),
                batched.get(task),
            )
            for task in tasks
        ]
    settings = results["settings"]
    return Table(
        "Success by task: share judged right, with its 95 % interval",
        ["task", *(label(name) for name in sets), "PSNR", "SSIM", "untouched", "s/picture"],
        rows,
        f"{settings['cases']} cases per task and set of wordings, {settings['steps']} steps, "
        f"guidance {settings['guidance']:g}, seed {settings['seed']}. PSNR (dB) and SSIM to the "
        "right answer and PSNR of the area an edit leaves alone: held-out wordings. Seconds: in "
        f"batches, {results['timing']['threads']} threads, {results['timing']['device']}.",
        frozenset(strong),
    )


def _exchanged(results: Mapping[str, Any]) -> Table:
    rows = []
    tasks = [t for t, c in results["categories"].items() if c == "two_references"]
    for task in tasks:
        row = [label(task)]
        for each in results["sets"].values():
            found = [each["exchanged"].get(what, {}).get(task) for what in ("words", "pictures")]
            row += [_with_nearer(one) for one in found]
        if any(row[1:]):
            rows.append(row)
    header = ["task"]
    for name in results["sets"]:
        header += [f"{label(name)}: words", "pictures"]
    return Table(
        "References exchanged: share that gives the exchanged answer; share nearer to it",
        header,
        rows,
        "Either the images' numbers are exchanged in the words, or the two pictures; the answer "
        "has to change with them. First the share judged right, then the share nearer (PSNR) to the "
        "right answer than to the one before the exchange. Only cases in which that has one right "
        "answer.",
    )


def _with_nearer(row: Figures | None) -> str:
    near = _share((row or {}).get("nearer"))
    return f"{success(row)}; {near}" if near else success(row)


def _probes(results: Mapping[str, Any]) -> Table:
    probes = results["probes"]
    rows = []
    for category in dict.fromkeys(results["categories"].values()):
        row = [label(category)]
        for probe in ("blank", "scrambled"):
            found = probes.get(probe, {}).get("categories", {}).get(category)
            row += [_share(found["asked"]) if found else "", success(found)]
        if any(row[1:]):
            rows.append(row)
    row = ["all"]
    for probe in ("blank", "scrambled"):
        found = probes.get(probe, {}).get("all")
        row += [_share(found["asked"]) if found else "", success(found)]
    return Table(
        "Does it look, does it read: success with blank references, with scrambled words",
        ["category", "as asked", "blank references", "as asked", "scrambled words"],
        [row, *rows],
        "Grey sheets in place of the references; the words of order-critical cases shuffled. "
        'Beside each, the same cases "as asked". Grammar wordings.',
        frozenset({0}),
    )


def _failures(results: Mapping[str, Any]) -> Table:
    rows = []
    for category, row in results["sets"]["held_out"]["categories"].items():
        wrong = row["n"] - row["right"]
        worst = list(row["failed"].items())[:6]
        named = ", ".join(f"{label(name)} {count}" for name, count in worst)
        rows.append([label(category), f"{wrong} of {row['n']}", named or "-"])
    return Table(
        "What is wrong when it is wrong",
        ["category", "wrong", "attributes (an answer may fail several)"],
        rows,
        "Held-out wordings; how many answers fail each attribute, the six most frequent.",
        words=frozenset({2}),
    )


def _swept(results: Mapping[str, Any], key: str, title: str) -> Table:
    swept = results[key]
    rows = [["all", *(success(found["all"]) for found in swept.values())]]
    rows += [
        [label(category), *(success(found["categories"].get(category)) for found in swept.values())]
        for category in dict.fromkeys(results["categories"].values())
    ]
    rows.append(["PSNR, all", *(_number(found["all"]["psnr"]) for found in swept.values())])
    rows.append(["SSIM, all", *(_number(found["all"]["ssim"], 3) for found in swept.values())])
    count = results["settings"]["probes"]
    return Table(
        title,
        ["category", *(_column(key, value) for value in swept)],
        rows,
        f"Grammar wordings, the first {count} cases of each task"
        + (", the same ones in every column." if key != "elsewhere" else "."),
        frozenset({0}),
    )


def _column(key: str, value: str) -> str:
    if key != "steps":
        return value
    return f"{value} step" if value == "1" else f"{value} steps"


def _autoencoder(results: Mapping[str, Any]) -> Table:
    found = dict(results["autoencoder"])
    every = found.pop("all")

    def cells(name: str, row: Figures) -> list[str]:
        return [
            name, _number(row["psnr"]), _number(row["psnr_p10"]), _number(row["ssim"], 3),
            _number(row["distance"], 4),
        ]  # fmt: skip

    return Table(
        "Autoencoder: held-out pictures there and back",
        ["scene", "PSNR", "lowest tenth", "SSIM", "1 - MS-SSIM"],
        [cells("all", every), *(cells(name, row) for name, row in found.items())],
        f"{results['settings']['rebuilt']} pictures of each kind. 1 - MS-SSIM (Wang et al. 2003, "
        "the three scales that fit 64 px, 0 is equal) is a structural distance; no learned metric "
        f"is used. Spread of the latents in the model's space: {every['latent_std']:.2f}.",
        frozenset({0}),
    )


def _drift(results: Mapping[str, Any]) -> Table:
    rows = [
        [
            str(row["turn"]), success(row), _share(row["clean"]), _number(row["untouched"]),
            _number(row["psnr"]), _share(row["area"]),
        ]
        for row in results["drift"]
    ]  # fmt: skip
    return Table(
        "Drift: edit after edit on its own pictures",
        ["turn", "all so far right", "from a right picture", "untouched", "PSNR", "area untouched"],
        rows,
        f"{results['settings']['chains']} chains of local edits, the naive loop. Untouched: PSNR "
        "(dB) to the first picture where no edit so far was about. PSNR: to the right picture.",
    )


def _latency(results: Mapping[str, Any]) -> Table:
    timing = results["timing"]
    size = "x".join(str(side) for side in results["size"])
    return Table(
        f"Seconds for one picture of {size}",
        ["references", "seconds"],
        [[count, _number(value, 3)] for count, value in timing["latency"].items()],
        f"Median of {results['settings']['timed']}, from words to pixels, "
        f"{results['settings']['steps']} steps, {timing['threads']} threads, {timing['device']}.",
    )
