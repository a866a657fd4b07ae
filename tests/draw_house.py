"""Draws who imports whom: `python tests/draw_house.py` writes docs/house.svg and the table in docs/house.md.

An arrow that points up would be red; a test refuses one anyway. `tests/test_house_drawing.py` checks that both are current.
"""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape

from test_house import CORE, FILES, PLUGINS, ROOT, floor, ours

SVG, PAGE = ROOT / "docs" / "house.svg", ROOT / "docs" / "house.md"
BOX, GAP, ROW, LEFT, WIDTH = 22, 10, 92, 70, 1180
NAMES = [
    "records, errors", "contracts, registry", "backbone, objectives, …", "plan, run folder, plugins", "stages",
    "pipeline, report", "doors",
]  # fmt: skip


def room(module: str) -> str:
    """Modules of one folder are one room: the picture shows the house, not every drawer."""
    return "plugins" if module in PLUGINS else module.split(".")[1] if "." in module else "rlhf_lora"


def rooms() -> dict[str, set[str]]:
    """Room → the rooms it imports from, the package's front door and the configuration's folder left out."""
    graph: dict[str, set[str]] = defaultdict(set)
    for module in [*CORE, *PLUGINS]:
        if module != "rlhf_lora":
            graph[room(module)] |= {
                room(name)
                for name, _ in ours(module)
                if name in FILES and room(name) not in (room(module), "rlhf_lora")
            }
    return {name: graph[name] for name in sorted(graph)}


def place(graph: dict[str, set[str]]) -> dict[str, tuple[float, float, float]]:
    """Room → (x, y, width): floors from the bottom up, names side by side."""
    found = {}
    for number in range(7):
        names = [name for name in graph if floor(f"rlhf_lora.{name}") == number]
        widths = [7.2 * len(name) + 16 for name in names]
        gap = max(GAP, (WIDTH - LEFT - sum(widths)) / (len(names) + 1)) if names else GAP
        x = LEFT + gap
        for name, width in zip(names, widths, strict=True):
            found[name] = (x, (6 - number) * ROW + 30, width)
            x += width + gap
    return found


def svg() -> str:
    graph = rooms()
    at = place(graph)
    width = max(x + w for x, _, w in at.values()) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {7 * ROW}" font-family="system-ui, sans-serif" '
        'font-size="12" role="img"><title>who imports whom; every line goes down or stays on its floor</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for name, below in graph.items():
        parts += [line(at[name], at[other]) for other in sorted(below)]
    for number, title in enumerate(NAMES):
        y = (6 - number) * ROW + 30
        parts.append(
            f'<text x="8" y="{y + 15}" fill="#333" font-weight="600">{number}<title>{escape(title)}</title></text>'
        )
    for name, (x, y, w) in at.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="{w:.0f}" height="{BOX}" rx="4" fill="#eef3f7" stroke="#5b7083"/>'
        )
        parts.append(f'<text x="{x + w / 2:.0f}" y="{y + 15}" text-anchor="middle">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def line(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    """A curve from one room's floor to another's roof; along its own floor it sags below. Upwards it would be red."""
    (x1, y1, w1), (x2, y2, w2) = start, end
    level = y1 == y2
    bend, foot = (y1 + BOX + 14, y2 + BOX) if level else ((y1 + BOX + y2) / 2, y2)
    a, b = x1 + w1 / 2, x2 + w2 / 2
    colour = 'stroke="#c00"' if y2 < y1 else 'stroke="#5b7083" stroke-opacity="0.28"'
    return f'<path d="M{a:.0f} {y1 + BOX} C{a:.0f} {bend:.0f} {b:.0f} {bend:.0f} {b:.0f} {foot}" fill="none" {colour}/>'


def table() -> str:
    graph = rooms()
    lines = ["| floor | room | imports |", "|---|---|---|"]
    for number in range(6, -1, -1):
        for name in (n for n in graph if floor(f"rlhf_lora.{n}") == number):
            below = sorted(graph[name], key=lambda n: (-floor(f"rlhf_lora.{n}"), n))
            lines.append(f"| {number} | `{name}` | {', '.join(below) or '–'} |")
    return "\n".join(lines)


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"(<!-- rooms -->\n).*?(<!-- /rooms -->)", lambda m: f"{m[1]}{table()}\n{m[2]}", text, flags=re.S)


if __name__ == "__main__":
    SVG.write_text(svg(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
