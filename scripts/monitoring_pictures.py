"""Draw systemd/monitoring/grafana/*.json with the data of a Prometheus: `monitoring_pictures.py URL FOLDER`.

This is not Grafana's renderer, which cannot be had here: it reads the same JSON, asks Prometheus what each
panel asks, and draws the charts in its own way, a page a dashboard in Chromium. tests/monitoring calls it.
"""

import html
import json
import math
import re
import shutil
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = ROOT / "systemd" / "monitoring" / "grafana"
SPAN_S = 120
STEP_S = 1
INTERVAL = "10s"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 430, 190, 56, 8, 22
COLOURS = ["#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#b7dbab", "#f4d598"]
LEGENDS_MAX = 6
PICTURE_BYTES_MAX = 150_000

Point = tuple[float, float]
Line = tuple[str, list[Point]]

PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title><style>
body {{ margin: 0; padding: 14px; background: #111217; color: #ccccdc; font: 12px sans-serif; width: 1380px }}
h1 {{ font-size: 18px; margin: 0 0 10px; font-weight: 500 }} h1 small {{ color: #8e8e99; font-size: 12px }}
main {{ display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px }}
section {{ background: #181b1f; border: 1px solid #2a2d33; padding: 6px 8px; height: 250px }}
h2 {{ font-size: 13px; margin: 0 0 4px; font-weight: 500 }} svg {{ display: block }}
p {{ margin: 2px 0; height: 30px; overflow: hidden; font-size: 11px }}
i {{ display: inline-block; width: 12px; height: 3px; margin: 0 4px 3px 8px }}
b {{ display: block; font-size: 52px; text-align: center; line-height: 190px; color: #73bf69 }}
text {{ fill: #8e8e99; font-size: 10px }}</style>
<h1>{title} <small>{file}, {span} s of data, drawn by scripts/monitoring_pictures.py</small></h1>
<main>{panels}</main>"""


def draw(prometheus: str, folder: Path) -> None:
    """Write one PNG a dashboard into `folder`, each of at most PICTURE_BYTES_MAX bytes."""
    from playwright.sync_api import sync_playwright

    until = time.time()
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1408, "height": 400})
            for file in sorted(DASHBOARDS.glob("*.json")):
                page.set_content(page_of(file, prometheus, until))
                shot = page.screenshot(full_page=True)
                (folder / f"monitoring-{file.stem}.png").write_bytes(smaller(shot))
        finally:
            browser.close()


def smaller(png: bytes) -> bytes:
    """The same picture with a palette: charts have few colours."""
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(png)).convert("RGB")
    for colours in (128, 64, 32):
        made = BytesIO()
        image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            made, "PNG", optimize=True
        )
        if made.tell() <= PICTURE_BYTES_MAX:
            break
    return made.getvalue()


def page_of(file: Path, prometheus: str, until: float) -> str:
    described = json.loads(file.read_text(encoding="utf-8"))
    cards = [card(panel, prometheus, until) for panel in described["panels"]]
    title = html.escape(described["title"])
    return PAGE.format(title=title, file=file.name, span=SPAN_S, panels="".join(cards))


def card(panel: dict[str, Any], prometheus: str, until: float) -> str:
    lines = [line for target in panel["targets"] for line in asked(prometheus, target, until)]
    defaults = panel["fieldConfig"]["defaults"]
    limits = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    if panel["type"] == "stat":
        body = f"<b>{number(lines[0][1][-1][1], defaults['unit'])}</b>" if lines else "<b>no data</b>"
    elif panel["type"] == "heatmap":
        body = heatmap(lines, until)
    else:
        body = chart(lines, defaults["unit"], limits, until)
    return f"<section><h2>{html.escape(panel['title'])}</h2>{body}</section>"


def asked(prometheus: str, target: dict[str, Any], until: float) -> list[Line]:
    """What Prometheus has for a query of a panel, series by series; what is no number is left out."""
    query = target["expr"]
    for variable, value in {"$job": "realtime", "$instance": ".*", "$__rate_interval": INTERVAL}.items():
        query = query.replace(variable, value)
    fields = {"query": query, "start": f"{until - SPAN_S}", "end": f"{until}", "step": f"{STEP_S}"}
    with urllib.request.urlopen(
        f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(fields)}", timeout=30
    ) as answer:
        result = json.load(answer)["data"]["result"]
    lines = []
    for each in result:
        name = target["legendFormat"]
        for label in re.findall(r"\{\{(\w+)\}\}", name):
            name = name.replace(f"{{{{{label}}}}}", each["metric"].get(label, ""))
        points = [(float(at), float(value)) for at, value in each["values"]]
        points = [(at, value) for at, value in points if math.isfinite(value)]
        if points:
            lines.append((name, points))
    return lines


def chart(lines: list[Line], unit: str, limits: list[float], until: float) -> str:
    if not lines:
        return '<svg width="430" height="190"><text x="190" y="95">no data</text></svg><p></p>'
    top = max((value for _, points in lines for _, value in points), default=1.0)
    low = min(0.0, *(value for _, points in lines for _, value in points))
    top = top * 1.1 if top > low else low + 1.0
    shown = "".join(
        path(points, COLOURS[place % len(COLOURS)], low, top, until)
        for place, (_, points) in enumerate(lines)
    )
    for limit in limits:
        if low <= limit <= top:
            at = height_of(limit, low, top)
            shown += f'<path d="M{LEFT} {at:.1f}H{WIDTH}" stroke="#e24d42" stroke-dasharray="4 4"/>'
    ranked = sorted(enumerate(lines), key=lambda each: -max(value for _, value in each[1][1]))[:LEGENDS_MAX]
    legend = "".join(
        f'<i style="background:{COLOURS[place % len(COLOURS)]}"></i>{html.escape(name)} '
        f"{number(points[-1][1], unit)}"
        for place, (name, points) in sorted(ranked)
    )
    return f'<svg width="{WIDTH}" height="{HEIGHT}">{axes(low, top, unit, until)}{shown}</svg><p>{legend}</p>'


def height_of(value: float, low: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (top - low))


def place_of(at: float, until: float) -> float:
    return LEFT + (WIDTH - LEFT) * (1 - (until - at) / SPAN_S)


def path(points: list[Point], colour: str, low: float, top: float, until: float) -> str:
    steps = [f"{place_of(at, until):.1f} {height_of(value, low, top):.1f}" for at, value in points]
    return f'<path d="M{" L".join(steps)}" fill="none" stroke="{colour}" stroke-width="1.4"/>'


def axes(low: float, top: float, unit: str, until: float) -> str:
    drawn = []
    for part in range(5):
        value = low + (top - low) * part / 4
        at = height_of(value, low, top)
        drawn.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH}" stroke="#2a2d33"/>')
        text = number(value, unit)
        drawn.append(f'<text x="{LEFT - 4}" y="{at + 3:.1f}" text-anchor="end">{text}</text>')
    for part in range(1, 4):
        moment = until - SPAN_S * (1 - part / 4)
        text = time.strftime("%H:%M:%S", time.gmtime(moment))
        at = place_of(moment, until)
        drawn.append(f'<text x="{at:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text}</text>')
    return "".join(drawn)


def heatmap(lines: list[Line], until: float) -> str:
    """Cumulated buckets as cells: what fell between two bounds, darker for less."""
    by_bound = sorted((float(name), dict(points)) for name, points in lines)
    cells, below = [], {}
    rows = len(by_bound)
    tall = (HEIGHT - TOP - BOTTOM) / max(rows, 1)
    own = []
    for bound, points in by_bound:
        own.append((bound, {at: value - below.get(at, 0.0) for at, value in points.items()}))
        below = points
    most = max((value for _, points in own for value in points.values()), default=0.0) or 1.0
    wide = (WIDTH - LEFT) / SPAN_S * STEP_S + 0.5
    for row, (bound, points) in enumerate(own):
        y = HEIGHT - BOTTOM - tall * (row + 1)
        text = "over" if math.isinf(bound) else number(bound, "s")
        if row % 2 == 0:
            cells.append(f'<text x="{LEFT - 4}" y="{y + tall - 1:.1f}" text-anchor="end">{text}</text>')
        for at, value in points.items():
            if value > 0:
                shade = 0.15 + 0.85 * math.sqrt(value / most)
                x = place_of(at, until)
                cells.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall - 1:.1f}" '
                    f'fill="#ef843c" fill-opacity="{shade:.2f}"/>'
                )
    return f'<svg width="{WIDTH}" height="{HEIGHT}">{"".join(cells)}</svg><p></p>'


def number(value: float, unit: str) -> str:
    """A value in its unit, as short as it can be read."""
    if unit == "s":
        scaled = ((1, " s"), (1e-3, " ms"), (1e-6, " µs"))
        for size, name in scaled:
            if abs(value) >= size:
                return f"{value / size:.3g}{name}"
        return "0"
    if unit == "percentunit":
        return f"{value:.3%}" if 0.99 < value < 1 else f"{value:.1%}"
    tail = {"bytes": "B", "Bps": "B/s", "cps": "/s"}.get(unit, "")
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}{tail}"
    return f"{value:.3g}{' ' if tail else ''}{tail}"


def main() -> int:
    draw(sys.argv[1], Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
