"""Blocks as one HTML page that needs no other file and no network; every text is escaped here."""

from collections.abc import Sequence
from html import escape

from jrobust.evaluation._report._blocks import (
    Block,
    Cell,
    Chip,
    Code,
    Columns,
    Figure,
    Figures,
    Fold,
    Heading,
    Links,
    Picture,
    Shade,
    Table,
    Text,
)
from jrobust.evaluation._report._svg import PALETTE, style

_COLOURS = {
    "page": ("#fbfaf7", "#1b1a18"), "rule": ("#cfc8b6", "#4a4842"), "faint": ("#ebe6da", "#2c2a27"), "ground": ("#f1eee5", "#26241f"),
    "red": ("#fdecea", "#3d1f1c"), "green": ("#e9f3ec", "#1c2f23"), "chip": ("#ffffff", "#141311"), **PALETTE,
}  # fmt: skip

_STYLE = """
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:66rem;padding:1.5rem}
h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .6rem}h1,h2,h3,td,th,figcaption,p,a{overflow-wrap:anywhere}
h2{font-size:1.35rem;margin:2.8rem 0 .5rem;border-bottom:2px solid var(--rule);padding-bottom:.2rem}
h3{font-size:1rem;margin:1.5rem 0 .35rem}p{max-width:46rem;margin:.5rem 0}
.small,figcaption,summary{color:var(--soft);font-size:.9rem}.missing{color:var(--soft);font-style:italic}
.alarm{background:var(--red);border-left:4px solid var(--attack);padding:.5rem .9rem;font-weight:600}
.note{background:var(--ground);border-left:4px solid var(--soft);padding:.5rem .9rem}
.calm{background:var(--green);border-left:4px solid var(--proof);padding:.5rem .9rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:1rem 0}a{color:var(--s0)}
.scroll{overflow-x:auto;margin:.4rem 0}table{border-collapse:collapse;font-size:.87rem}
th{text-align:left;font-weight:600;border-bottom:2px solid var(--rule)}td{border-bottom:1px solid var(--faint)}
th,td{padding:.25rem .9rem .25rem 0;vertical-align:top}th,td.num{white-space:nowrap}table{width:max-content}td{max-width:17rem}
table.plain{width:auto}table.plain td{max-width:none;min-width:8rem}table.plain td:first-child{color:var(--soft)}
tr.first:not(:first-child) td{border-top:2px solid var(--rule)}.num{text-align:right;font-variant-numeric:tabular-nums}
.side{display:inline-block;border-radius:.6rem;padding:0 .55rem;font-size:.78rem;color:var(--chip);background:var(--soft)}
.lower{background:var(--attack)}.upper{background:var(--proof)}
td.shade{background:color-mix(in srgb,var(--attack) calc(var(--e)*75%),var(--page));padding:.25rem .6rem;border:1px solid var(--page)}
td.picture,.pictures th{max-width:80px;white-space:normal;text-align:center}td.picture{font-size:.8rem}
td.picture{padding:.15rem .3rem .15rem 0;border:0;vertical-align:bottom}
.pictures td,.pictures th{border:0}td.picture img{display:block;margin:auto;width:72px;min-height:12px;image-rendering:pixelated}
td.picture img{border:1px solid var(--faint)}
.wrong{color:var(--attack);font-weight:600}
.row{display:flex;flex-wrap:wrap;gap:1rem 1.5rem}figure{margin:.4rem 0;flex:1 1 19rem;max-width:30rem}
.columns{gap:.2rem 3rem}.columns>div{max-width:100%}
svg{display:block;width:100%;height:auto}
pre{background:var(--ground);padding:.7rem;overflow-x:auto;font-size:.8rem;border-radius:.3rem;white-space:pre-wrap;overflow-wrap:anywhere}
details{margin:.4rem 0}summary{cursor:pointer}
@media(max-width:40rem){body{padding:.9rem}h1{font-size:1.4rem}}
@media print{body{max-width:none;padding:0;font-size:11px}.scroll{overflow:visible}td,th{white-space:normal}
figure,tr,pre{break-inside:avoid}}
"""


def html(blocks: Sequence[Block], title: str) -> str:
    """The page."""
    light, dark = ("".join(f"--{k}:{pair[i]};" for k, pair in _COLOURS.items()) for i in (0, 1))
    themes = f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    themes += f"@media print{{:root{{color-scheme:light;{light}}}}}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{themes}{_STYLE}{style()}</style></head><body>\n"
        + "\n".join(_block(b) for b in blocks)
        + "\n</body></html>\n"
    )


def _block(b: Block) -> str:
    match b:
        case Heading(level, text, name):
            return f"<h{level}{_id(name)}>{escape(text)}</h{level}>"
        case Text(text, kind):
            return f'<p class="{kind}">{escape(text)}</p>'
        case Links(items):
            return "<nav>" + "".join(f'<a href="#{escape(to)}">{escape(text)}</a>' for text, to in items) + "</nav>"
        case Table():
            return _table(b)
        case Figures(figures):
            return f'<div class="row">{"".join(map(_block, figures))}</div>'
        case Figure(svg, caption):
            return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        case Columns(items):
            inside = (f'<div><p class="small">{escape(name)}</p>{_table(t)}</div>' for name, t in items)
            return f'<div class="row columns">{"".join(inside)}</div>'
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Fold(title, blocks):
            return f"<details><summary>{escape(title)}</summary>{''.join(map(_block, blocks))}</details>"


def _id(name: str) -> str:
    return f' id="{escape(name)}"' if name else ""


def _table(t: Table) -> str:
    pictures = any(isinstance(cell, Picture) for row in t.rows for cell in row)
    kind = ' class="pictures"' if pictures else "" if any(t.columns) else ' class="plain"'
    right = {i: ' class="num"' for i in t.numeric}
    head = "".join(f"<th{right.get(i, '')}>{escape(c)}</th>" for i, c in enumerate(t.columns))
    body = []
    for k, row in enumerate(t.rows):
        first = ' class="first"' if k in t.lines else ""
        body.append(f"<tr{first}>{''.join(_cell(c, right.get(i, '')) for i, c in enumerate(row))}</tr>")
    top = f"<thead><tr>{head}</tr></thead>" if any(t.columns) else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{"".join(body)}</tbody></table></div>'


def _cell(c: Cell, right: str) -> str:
    match c:
        case Chip(text, side):
            return f'<td><span class="side {escape(side)}">{escape(text)}</span></td>'
        case Shade(text, share):
            return f'<td class="num shade" style="--e:{min(max(share, 0.0), 1.0):.3f}">{escape(text)}</td>'
        case Picture(uri, text, wrong):
            said = f"<span{' class=wrong' if wrong else ''}>{escape(text)}</span>" if text else ""
            return f'<td class="picture">{said}<img src="{uri}" alt="{escape(text) or "difference"}"></td>'
        case _:
            return f"<td{right}>{escape(c)}</td>"
