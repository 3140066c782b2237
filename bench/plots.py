"""Draws the tables in bench/results as SVG, beside them: python3 bench/plots.py

A drawing has no other numbers than its table, and a table that is not there gives no drawing. Needs nothing
but Python's own library.
"""

import argparse
import math
import re
from html import escape
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
STYLE = """<style>
text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } .small { font-size: 11px; fill: #555 }
.bar { fill: #9aa7b5 } .ours { fill: #1769aa } .line { fill: none; stroke: #1769aa; stroke-width: 2 }
.dot { fill: #1769aa } .axis { stroke: #999 } .grid { stroke: #999; stroke-opacity: 0.3 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .small { fill: #aaa } .bar { fill: #5c6773 } .ours, .dot { fill: #5ab0f0 } .line { stroke: #5ab0f0 }
}
</style>"""


def number(text):
    """The number in a cell, or None."""
    found = re.fullmatch(r"\**(-?[0-9.]+)\**%?", text.strip())
    return float(found.group(1)) if found else None


def tables(text):
    """(title, header, rows) of every table; the title is the heading or bold line before it."""
    found, title, header, rows = [], "", None, []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if header is None:
                header = cells
            elif not set("".join(cells)) <= set("-: "):
                rows.append(cells)
            continue
        if header:
            found.append((title, header, rows))
            header, rows = None, []
        if line.startswith("#") or (line.startswith("**") and line.endswith("**")):
            title = line.strip("#* ")
    return found


def made(text):
    """Machine and date, as the script of the table wrote them."""
    found = re.search(r"^Made by .*", text, re.MULTILINE)
    return found.group(0).replace("`", "") if found else ""


def document(width, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, STYLE, *parts, "</svg>"]) + "\n"


def label(x, y, text, kind="", anchor="start"):
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(str(text))}</text>'


def bars(text, unit):
    """Horizontal bars: the second column of every table that has this unit there."""
    parts, y, left, width = [], 24, 290, 760
    for title, header, rows in tables(text):
        if not header[1].startswith(unit):
            continue
        values = [(row[0].strip("* "), row[0].strip("* ").startswith("p8"), number(row[1])) for row in rows]
        values = [value for value in values if value[2] is not None]
        if not values:
            continue
        most = max(value for _, _, value in values)
        parts.append(label(8, y, f"{title}, {unit}", "title"))
        for name, is_ours, value in values:
            y += 22
            length = (width - left - 70) * value / most
            parts.append(label(left - 8, y, name, anchor="end"))
            kind = "ours" if is_ours else "bar"
            parts.append(f'<rect x="{left}" y="{y - 12:g}" width="{length:.1f}" height="15" class="{kind}"/>')
            parts.append(label(left + length + 6, y, f"{value:g}"))
        y += 36
    parts.append(label(8, y, made(text), "small"))
    return document(width, y + 14, parts)


def ticks(most):
    """0 and three to seven round numbers above it, the last one at least `most`."""
    for exponent in range(-3, 9):
        for digit in (1, 2, 5):
            step = digit * 10.0**exponent
            if most <= 6 * step:
                return [step * i for i in range(math.ceil(most / step) + 1)]
    raise ValueError(f"{most} is too large to draw")


def curve(text, name, column):
    """A line over the first column of the table that begins with `name`; both axes begin at 0."""
    for title, header, rows in tables(text):
        if header[0] != name:
            continue
        where = header.index(column)
        points = [(number(row[0]), number(row[where])) for row in rows]
        width, height, left, bottom = 760, 350, 60, 290
        right, top = width - 40, 50
        most_x, scale = max(x for x, _ in points), ticks(max(y for _, y in points))

        def place(x, y):
            return left + (right - left) * x / most_x, bottom - (bottom - top) * y / scale[-1]

        parts = [label(8, 24, f"{column} over {name} ({title})", "title")]
        for y in scale:
            line = place(0, y)[1]
            parts.append(f'<path class="grid" d="M{left} {line:.1f}H{right}"/>')
            parts.append(label(left - 8, line + 4, f"{y:g}", "small", "end"))
        parts.append(f'<path class="axis" fill="none" d="M{left} {top}V{bottom}H{right}"/>')
        spots = [place(x, y) for x, y in points]
        parts.append('<polyline class="line" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in spots) + '"/>')
        for (x, y), (px, py) in zip(points, spots):
            parts.append(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
            parts.append(label(px, py - 9, f"{y:g}", "small", "middle"))
            parts.append(label(px, bottom + 18, f"{x:g}", "small", "middle"))
        parts.append(label(right, bottom + 34, name, "small", "end"))
        parts.append(label(8, height - 8, made(text), "small"))
        return document(width, height, parts)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the tables [bench/results]")
    parser.add_argument("--output", type=Path, help="folder for the drawings [that of the tables]")
    options = parser.parse_args()
    output = options.output or options.results
    output.mkdir(parents=True, exist_ok=True)
    drawings = [
        ("featurize.md", "featurize.svg", lambda text: bars(text, "images/s")),
        ("pca.md", "pca.svg", lambda text: bars(text, "seconds")),
        ("notebook.md", "notebook.svg", lambda text: bars(text, "seconds")),
        ("scaling.md", "scaling-ranks.svg", lambda text: curve(text, "ranks", "images/s")),
        ("scaling.md", "scaling-images.svg", lambda text: curve(text, "images", "whole run, seconds")),
    ]
    for table, name, draw in drawings:
        source = options.results / table
        drawing = draw(source.read_text(encoding="utf-8")) if source.exists() else None
        if drawing is None:
            print(f"{name}: no table {table} to draw")
            continue
        (output / name).write_text(drawing, encoding="utf-8")
        print(output / name)


if __name__ == "__main__":
    main()
