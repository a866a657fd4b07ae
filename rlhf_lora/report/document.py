"""What every page of ours is: one file with its style in it, no script, nothing from outside, and a head that says so."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy: the page's own style and nothing else, whatever text of a model stands in it."""


def document(title: str, status: str, lede: str, body: str) -> str:
    """A whole page.

    Args:
        title, status: text, escaped here; every status but `finished` is shown as one to look at.
        lede: HTML of the header, below the title. body: HTML of what follows, the footer included.
    """
    style = Path(__file__).with_name("style.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · rlhf_lora</title><style>{style}</style></head>\n<body><main>"
        f'<header><div class="top"><h1>{escape(title)}</h1>'
        f'<span class="{"status finished" if status == "finished" else "status"}">{escape(status)}</span></div>'
        f"{lede}</header>{body}</main></body></html>\n"
    )


def table(header: Sequence[str], lines: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """Text in rows and columns, escaped here; wider than the page, it scrolls.

    Args:
        heads: HTML that stands for the first cell of each line and heads its row; without them no cell does.

    Raises:
        ValueError: there are heads, and not one for each line.
    """
    names = "".join(f"<th>{escape(name)}</th>" for name in header)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in line[1 if heads else 0 :]) for line in lines]
    if heads:
        rows = [f'<th scope="row">{head}</th>{row}' for head, row in zip(heads, rows, strict=True)]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
