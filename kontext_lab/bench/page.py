"""The page of a benchmark: one HTML file with everything in it, light or dark as the reader's."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..world.tasks import TASKS
from .chart import Chart, Line
from .sheet import Shown, picture, strip, verdict_text
from .tables import label, success, tables

if TYPE_CHECKING:
    from PIL import Image

_STYLE = """
:root{color-scheme:light dark;--ink:#24292f;--quiet:#59636e;--paper:#fff;--card:#f6f8fa;
--rule:#d8dee4;--right:#12803c;--wrong:#c02b3c}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--quiet:#9aa4af;--paper:#14161a;
--card:#1d2026;--rule:#343941;--right:#4cc27b;--wrong:#ff7b89}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:24px 20px 80px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:28px;margin:8px 0}h2{font-size:20px;margin:44px 0 10px}h3{font-size:16px;margin:26px 0 8px}
a{color:inherit}nav a{margin-right:14px}
.quiet,.note{color:var(--quiet)}.note{font-size:13px;max-width:80ch}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child,.words{text-align:left}th{font-weight:600;color:var(--quiet)}
tr.sum td{font-weight:600}
.bars{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:8px 28px;
margin-bottom:20px}
.bar{display:grid;grid-template-columns:104px 1fr 96px;gap:8px;align-items:center;font-size:13px}
.track{position:relative;height:14px;background:var(--card);border-radius:3px}
.fill{position:absolute;inset:0 auto 0 0;background:#3b82f6;border-radius:3px}
.span{position:absolute;top:6px;height:2px;background:currentColor}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--min)),1fr));gap:14px}
.case{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 12px;margin:0}
.case p{margin:0 0 8px}.pictures{display:flex;flex-wrap:wrap;gap:8px}
figure{margin:0}figcaption{font-size:12px;color:var(--quiet)}
.pictures img{width:112px;height:auto;display:block;border-radius:4px}
.result img{outline:3px solid var(--right);outline-offset:-1px}
.wrong .result img{outline:3px dashed var(--wrong)}
.verdict{font-size:13px;margin-top:6px;color:var(--right)}.wrong .verdict{color:var(--wrong)}
body:has(#only:checked) .case.right{display:none}
.charts{display:flex;flex-wrap:wrap;gap:24px}.charts svg{max-width:100%;height:auto}

.loop img{max-width:100%;display:block;margin:6px 0;border-radius:4px}
"""


def page(
    results: Mapping[str, Any], shown: Mapping[str, Sequence[Shown]], loop: Sequence[Tensor]
) -> str:
    """HTML text.

    Args:
        results, shown, loop: as in `bench.Bench`.
    """
    found = tables(results)
    settings = results["settings"]
    about = (
        f"model {results['model']}, {settings['cases']} cases per task and set of wordings, "
        f"{settings['steps']} steps, guidance {settings['guidance']:g}, seed {settings['seed']}, "
        f"{results['timing']['seconds']:.0f} s on {results['timing']['device']}"
    )
    parts = [
        "<h1>What the model can do</h1>",
        f'<p class="quiet">{escape(about)}</p>',
        '<nav><a href="#success">success</a><a href="#checks">checks</a>'
        '<a href="#steps">steps and guidance</a><a href="#drift">drift</a>'
        '<a href="#autoencoder">autoencoder</a><a href="#cases">cases</a></nav>',
        '<h2 id="success">Success</h2>',
        "<p>Share of answers that the judge finds right in every attribute, with its 95 % "
        "interval. Sentences: as in training (grammar); by the same authors but never trained "
        "(held out); by somebody who saw neither (blind). Every case shows a thing in a colour that it never had in training.</p>",
        *_bars(results),
        found["tasks"].html(),
        '<h2 id="checks">Checks</h2>',
        *(f"<h3>{escape(found[n].title)}</h3>{found[n].html()}"
          for n in ("exchanged", "probes", "failures", "elsewhere")),
        '<h2 id="steps">Steps and guidance</h2><div class="charts">',
        sweep_chart(results, "steps").svg(), sweep_chart(results, "guidance").svg(), "</div>",
        found["steps"].html(), found["guidance"].html(),
        f'<h2 id="drift">Drift</h2><p>{escape(found["drift"].title)}.</p><div class="charts">',
        *(chart.svg() for chart in drift_charts(results)), "</div>",
        *_loop(loop), found["drift"].html(),
        f'<h2 id="autoencoder">Autoencoder</h2>{found["autoencoder"].html()}',
        f"<h2>Latency</h2><p>{escape(found['latency'].title)}.</p>{found['latency'].html()}",
        '<h2 id="cases">Cases</h2>',
        f"<p>The first {settings['shown']} of each task in held-out wordings, in the order drawn: "
        "none is picked. Blind sentences are not shown, to keep them blind.</p>"
        '<p><label><input type="checkbox" id="only"> only what went wrong</label></p>',
        *(_task(task, some, results) for task, some in shown.items()),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Benchmark of {escape(str(results['model']))}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def sweep_chart(results: Mapping[str, Any], key: str) -> Chart:
    """Success of all and of each category against "steps" or "guidance"."""
    swept = {float(value): found for value, found in results[key].items()}
    lines = [
        Line(
            "all",
            [(x, found["all"]["success"]) for x, found in swept.items()],
            [(found["all"]["low"], found["all"]["high"]) for found in swept.values()],
        )
    ]
    for category in dict.fromkeys(results["categories"].values()):
        points = [
            (x, found["categories"][category]["success"])
            for x, found in swept.items()
            if category in found["categories"]
        ]
        if points:
            lines.append(Line(label(category), points))
    return Chart(
        lines, key, "success", x_ticks=list(swept), x_log=key == "steps", y_range=(0, 1),
        percent=True,
    )  # fmt: skip


def drift_charts(results: Mapping[str, Any]) -> list[Chart]:
    """Success and the untouched area, turn by turn."""
    rows = results["drift"]
    ticks = [row["turn"] for row in rows]
    success_ = Chart(
        [
            Line("all so far right", [(row["turn"], row["success"]) for row in rows],
                 [(row["low"], row["high"]) for row in rows]),
            Line("same edit, right picture", [(row["turn"], row["clean"]) for row in rows]),
        ],
        "turn", "success", x_ticks=ticks, y_range=(0, 1), percent=True,
    )  # fmt: skip
    kept = [(row["turn"], row["untouched"]) for row in rows if row["untouched"] is not None]
    if not kept:
        return [success_]
    return [success_, Chart([Line("", kept)], "turn", "untouched area, dB", x_ticks=ticks)]


def _bars(results: Mapping[str, Any]) -> list[str]:
    parts = ['<div class="bars">']
    for wordings, found in results["sets"].items():
        parts.append(f"<div><h3>{escape(label(wordings))} wordings</h3>")
        rows = {"all": found["all"], **found["categories"]}
        for name, row in rows.items():
            low, high = 100 * row["low"], 100 * row["high"]
            parts.append(
                f'<div class="bar"><span>{escape(label(name))}</span>'
                f'<div class="track"><div class="fill" style="width:{100 * row["success"]:.1f}%">'
                f'</div><div class="span" style="left:{low:.1f}%;width:{high - low:.1f}%"></div>'
                f"</div><span>{escape(success(row))}</span></div>"
            )
        parts.append("</div>")
    return [*parts, "</div>"]


def _loop(loop: Sequence[Tensor], count: int = 3) -> list[str]:
    """The first few chains, one strip each: the first picture, then every turn's."""
    strips = [strip([turn[i] for turn in loop]) for i in range(min(count, len(loop[0])))]
    images = [_image(one, f"drift, chain {i + 1}") for i, one in enumerate(strips)]
    return ['<div class="loop">', *images, "</div>"]


def _task(task: str, shown: Sequence[Shown], results: Mapping[str, Any]) -> str:
    most = max(len(one.case.references) for one in shown) + 2
    row = results["sets"]["held_out"]["tasks"][task]
    head = f"{label(task)}: {success(row)}"
    cards = "".join(_card(one) for one in shown)
    category = label(TASKS[task].category)
    return (
        f'<h3>{escape(head)} <span class="quiet">({escape(category)})</span></h3>'
        f'<div class="cases" style="--min:{most * 120 + 30}px">{cards}</div>'
    )


def _card(one: Shown) -> str:
    kind = "right" if one.score.verdict.right else "wrong"
    named = [(f"image {i + 1}", "", r) for i, r in enumerate(one.case.references)]
    named += [("result", "result", one.picture), ("right answer", "", one.case.target)]
    figures = "".join(
        f'<figure class="{css}">{_image(picture(tensor), name)}'
        f"<figcaption>{name}</figcaption></figure>"
        for name, css, tensor in named
    )
    said = f"{verdict_text(one)} · {one.score.psnr:.1f} dB · seed {one.case.seed}"
    return (
        f'<div class="case {kind}"><p>{escape(one.case.sample.prompt)}</p>'
        f'<div class="pictures">{figures}</div><div class="verdict">{escape(said)}</div></div>'
    )


def _image(image: Image.Image, text: str) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    code = base64.b64encode(data.getvalue()).decode()
    return (
        f'<img src="data:image/png;base64,{code}" width="{image.width}" height="{image.height}" '
        f'alt="{escape(text)}">'
    )
