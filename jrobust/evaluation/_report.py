"""One self-contained HTML page: every number with its n, side and confidence, plots, and how to get them again."""

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jrobust._statistics import reads
from jrobust.evaluation import _plots
from jrobust.evaluation._results import Curve, Evaluation
from jrobust.evaluation._sections import Row, Section

_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fbfaf7;margin:0 auto;max-width:64rem;padding:1.5rem}
h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .5rem;border-bottom:1px solid #ddd7c8;padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p{max-width:46rem;margin:.5rem 0}.lead,figcaption,.small{color:#5c5c5c;font-size:.9rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.87rem}
th{text-align:left;font-weight:600;border-bottom:2px solid #cfc8b6;padding:.3rem .7rem .3rem 0;white-space:nowrap}
td{border-bottom:1px solid #ebe6da;padding:.25rem .7rem .25rem 0;white-space:nowrap}
tr.first td{border-top:2px solid #cfc8b6}.num{text-align:right;font-variant-numeric:tabular-nums}
.side{display:inline-block;border-radius:.6rem;padding:0 .55rem;font-size:.78rem;color:#fff}
.lower{background:#c0392b}.upper{background:#2e7d4f}.exact{background:#555}
figure{margin:1rem 0}img{max-width:100%;height:auto;display:block}.row{display:flex;flex-wrap:wrap;gap:1rem}
.row figure{flex:1 1 17rem;margin:0}.note{background:#fdecea;border-left:4px solid #c0392b;padding:.4rem .8rem}
pre{background:#f1eee5;padding:.7rem;overflow-x:auto;font-size:.78rem;border-radius:.3rem}summary{cursor:pointer;color:#5c5c5c}
@media print{body{background:#fff;max-width:none;padding:0;font-size:11px}.scroll{overflow:visible}td,th{white-space:normal}
figure,tr,pre{break-inside:avoid}}
@media(max-width:40rem){body{padding:.9rem}}
"""

_SIDES = """<p class="lead">Robust accuracy is never measured, only bounded. An attack found that much of the worst case, so the true
robust accuracy is <span class="side lower">at most</span> this number. A proof shows that the true robust accuracy is
<span class="side upper">at least</span> this number. <span class="side exact">exact</span> is counted. Intervals are about the choice of
the n examples; <i>confidence</i> is that of each single statement (1 = deterministic, up to rounding).</p>"""


def report(
    sections: Section | Sequence[Any], path: str | os.PathLike[str], *, title: str = "Robustness report"
) -> Path:
    """Write one HTML page that needs no other file and no network.

    Args:
      sections: a `Section`, or several, one a model: ``Section(title, rows_of(evaluation, model=title, seed=seed))`` of an
        `Evaluation` or `Curve`; `read_sections` finds them in directories.
      path: of the page; its directory is made.
      title: of the page.

    Returns:
      The path.

    Raises:
      TypeError: something else than sections.
      ValueError: no sections.
      ImportError: matplotlib is missing.

    >>> import tempfile
    >>> row = Row("net", "pgd", "linf", 0.1, "lower", 0.5, 0.4, 0.6, 100, 1.0, 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     "at most" in report([Section("net", (row,))], Path(folder) / "r.html").read_text()
    True
    """
    sections = (sections,) if isinstance(sections, Section) else sections
    if isinstance(sections, Evaluation | Curve) or not all(isinstance(s, Section) for s in sections):
        raise TypeError(
            f"report takes sections, got {type(sections).__name__}; an Evaluation or Curve becomes one by "
            "Section(title, rows_of(evaluation, model=title, seed=seed))"
        )
    if not sections:
        raise ValueError("a report needs at least one section")
    parts = [f"<h1>{escape(title)}</h1>", _SIDES]
    parts += [f'<p class="note">{escape(s.title)}: {escape(note)}</p>' for s in sections for note in s.notes]
    rows = [r for s in sections for r in s.rows]
    if rows:
        parts += ["<h2>Numbers</h2>", _table(rows)]
    parts += _figures(sections)
    parts += ["<h2>How to get this again</h2>", *(_origin(s) for s in sections)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _table(rows: Sequence[Row]) -> str:
    head = ("model", "method", "threat", "true value", "value", "interval", "n", "confidence", "seed")
    numeric = {4, 5, 6, 7, 8}
    lines = ["".join(f'<th class="num">{h}</th>' if i in numeric else f"<th>{h}</th>" for i, h in enumerate(head))]
    body, before = [], None
    for r in rows:
        value, interval = cells(r)
        proof = r.quantity == "radius" and r.side == "lower"  # coloured as what it is: a radius is proven from below
        side = f'<span class="side {"upper" if proof else escape(r.side)}">{reads(r.side, r.quantity)}</span>'
        texts = [
            escape(r.model if r.model != before else ""), escape(r.name), escape(threat_of(r)), side, value, interval,
            f"{r.n}", f"{r.confidence:g}", f"{r.seed}",
        ]  # fmt: skip
        tds = "".join(f'<td class="num">{t}</td>' if i in numeric else f"<td>{t}</td>" for i, t in enumerate(texts))
        body.append(f'<tr class="first">{tds}</tr>' if r.model != before else f"<tr>{tds}</tr>")
        before = r.model
    return f'<div class="scroll"><table><thead><tr>{lines[0]}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def cells(r: Row) -> tuple[str, str]:
    """A row's value and interval as text."""
    return f"{r.value:.3f}", f"{r.level:.0%} [{r.low:.3f}, {r.high:.3f}]"


def threat_of(r: Row) -> str:
    """A row's threat as text."""
    if r.threat == "none":
        return "none"
    return r.threat if r.quantity == "radius" else f"{r.threat} {r.eps:.4g}"


def _figures(sections: Sequence[Section]) -> list[str]:
    parts = []
    if uris := _plots.sandwich(sections):
        caption = "Accuracy over the radius: what no attack broke (red) above what is proven (green); the truth lies in the band."
        figures = "".join(_figure(uri, "") for uri in uris)
        parts += [
            "<h2>Between attack and proof</h2>",
            f'<div class="row">{figures}</div><p class="small">{caption}</p>',
        ]
    curves = [
        (_plots.radius_curve(sections), "Certified accuracy of the smoothed classifiers over the radius."),
        (_plots.loss_curves(sections), "Training losses; each model minimises its own, so heights do not compare."),
    ]
    if any(uri for uri, _ in curves):
        figures = "".join(_figure(uri, caption) for uri, caption in curves if uri)
        parts += ["<h2>Smoothing and training</h2>", f'<div class="row">{figures}</div>']
    shown = [s for s in sections if s.gallery is not None and len(s.gallery.clean)]
    if shown:
        parts.append("<h2>Witnesses</h2>")
        for s in shown:
            assert s.gallery is not None
            caption = f"{s.title}, {s.gallery.caption}: clean, witness and their amplified difference, predictions above (red: wrong)."
            parts.append(_figure(_plots.gallery(s.gallery), caption))
    return parts


def _figure(uri: str, caption: str) -> str:
    text = escape(caption, quote=True)
    below = f"<figcaption>{text}</figcaption>" if text else ""
    return f'<figure><img src="{uri}" alt="{text or "plot"}">{below}</figure>'


def _origin(s: Section) -> str:
    parts = [f"<h3>{escape(s.title)}</h3>"]
    if s.command:
        parts.append(f"<pre>{escape(s.command)}</pre>")
    if s.versions:
        parts.append(f'<p class="small">{escape(", ".join(f"{k} {v}" for k, v in s.versions.items()))}</p>')
    if s.config:
        config = escape(json.dumps(s.config, indent=1, default=str))
        parts.append(f"<details><summary>configuration</summary><pre>{config}</pre></details>")
    return "".join(parts)
