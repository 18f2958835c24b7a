"""Writes what was measured: Markdown tables, a picture of the ratios, and everything as JSON."""
import json
import math
import os
from xml.sax.saxutils import escape

from measure import NAMES, US, verdict

WORDS = {"ahead": "**ahead**", "even": "even", "behind": "behind", "unknown": "not known"}


def figure(x):
    """A number with three digits that count."""
    if x is None:
        return "-"
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(x) >= least:
            return f"{x:.{digits}f}"
    return f"{x:.3g}"


def interval(r):
    if not r:
        return "-"
    bounds = f" [{r['low']:.2f}, {r['high']:.2f}]" if r["low"] is not None else ""
    return f"{r['median']:.2f}{bounds}"


def threads(n):
    return f"{n} thread" + "s" * (n != 1)


def grid(head, rows):
    """A Markdown table: text to the left, figures to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def shown(row, name):
    """The cells of all engines for one figure."""
    return lambda e: "failed" if e in row["failed"] else figure(row["median"].get(e, {}).get(name))


def speed(run):
    order, rows = run["engines"], []
    for row in run["rows"]:
        best, cell = row["ratio"].get("p50_ms", {}).get("best"), shown(row, "p50_ms")
        errors = [x for e, x in row["errors"].items() if x is not None and e not in row["failed"]]
        roof = row.get("roofline")
        share = "-"
        if roof and US in roof["share"]:
            theirs = max((s for e, s in roof["share"].items() if e != US), default=None)
            share = f"{100 * roof['share'][US]:.0f}" + (f" / {100 * theirs:.0f}" if theirs else "") + " %"
            share += " (memory)" if roof["by"] == "memory" else ""
        unit = "" if row["unit"] == "ms" else f" ({row['unit']})"
        rows.append([row["model"] + unit, row["threads"], *map(cell, order), interval(best), WORDS[row["verdict"]],
                     f"{max(errors):.0e}" if any(errors) else "0" if errors else "-", share])
    head = ["model", "threads", *(NAMES[e] for e in order), "ratio [95%]", "", "error", "of the limit"]
    if not any("roofline" in row for row in run["rows"]):
        head, rows = head[:-1], [r[:-1] for r in rows]
    return grid(head, rows)


def start(run):
    order, rows = run["engines"], []
    for row in run["rows"]:
        cells = [" / ".join(shown(row, name)(e) for e in order) for name in ("load_ms", "first_ms", "output_ms")]
        best = row["ratio"].get("output_ms", {}).get("best")
        rows.append([row["model"], row["threads"], *cells, interval(best), WORDS[verdict(best)]])
    return grid(["model", "threads", "load, ms", "first run, ms", "load to first output, ms", "ratio [95%]", ""], rows)


def memory(run):
    order, rows = run["engines"], []
    for row in run["rows"]:
        best = row["ratio"].get("peak_rss_mb", {}).get("best")
        rows.append([row["model"], row["threads"], *map(shown(row, "peak_rss_mb"), order), interval(best),
                     WORDS[verdict(best)]])
    return grid(["model", "threads", *(f"{NAMES[e]}, MiB" for e in order), "ratio [95%]", ""], rows)


def conditions(run):
    """What it ran on, with what, and how."""
    hardware, versions, settings = run["hardware"], run["versions"], run["settings"]
    lines = [f"- {name}: {'yes' if value is True else 'no' if value is False else value}"
             for name, value in hardware.items()]
    for row in run["limits"]:
        rates = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in row["multiply_add_gflops"].items())
        lines.append(f"- limits, {threads(row['threads'])}: {rates}; memory is read at {row['read_gbs']:.1f} GB/s")
    shapes = {row["model"]: row["inputs"] for row in run["rows"]}
    lines.append("- inputs: " + "; ".join(f"{name} {shape}" for name, shape in shapes.items()))
    shipped = ", ".join(f"{NAMES[e]} {size / (1 << 20):.1f} MiB" for e, size in run["on_disk"].items())
    lines.append(f"- on disk, the program and the peers' libraries for a processor: {shipped}")
    lines.append("- versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()))
    lines.append(f"- {run['date']}, {run['minutes']:.0f} minutes; {settings['rounds']} rounds of "
                 f"{settings['seconds']:g} s after a warm-up of ten runs and a second")
    busy = run["busy"]
    if busy:
        lines.append(f"- while it ran, other processes used {100 * busy['others']:.1f}% of the processors and other "
                     f"systems on the machine {100 * busy['stolen']:.1f}%")
    return [*lines, "", "```", run["command"], "```"]


def notes(run):
    """What did not run, and why."""
    lines = [f"- {name}" for name in run["missing"]]
    for row in run["rows"]:
        place = f"{row['model']}, {threads(row['threads'])}"
        lines += [f"- {place}, {NAMES[e]}: {why}" for e, why in row["failed"].items()]
    return ["", "## What is missing", "", *lines] if lines else []


def markdown(run, title, picture):
    won = [row["verdict"] for row in run["rows"]]
    counts = ", ".join(f"{won.count(v)} {word}" for v, word in (
        ("ahead", "ahead"), ("even", "even"), ("behind", "behind"), ("unknown", "not known")) if won.count(v))
    lines = [f"# {title}", "", f"Tensormill against the fastest of its peers: {counts}.", ""]
    taken = sum((run["busy"] or {}).values())
    if taken > 0.05:
        lines += [f"Other work took {100 * taken:.0f}% of the processors while this ran: times are too long and the "
                  "parts of the limit are rough; only ratios mean something.", ""]
    if picture:
        lines += [f"![How many times faster]({picture})", ""]
    lines += ["Median milliseconds of one run unless a unit is given. The ratio is the fastest peer's time over "
              "Tensormill's inside one round: its median over the rounds and a bootstrap 95% interval. Above 1 "
              "Tensormill is faster; a row counts as ahead or behind only when the interval leaves 1 out. The error "
              "is the largest relative one of the outputs against the first peer's.", "", *speed(run), ""]
    if any("roofline" in row for row in run["rows"]):
        lines += ["\"Of the limit\" is the least time that the run could take over the time it took, for "
                  "Tensormill / the fastest peer. The least time is that of its floating-point operations at "
                  "the rate of multiply-adds in registers, or, where marked, of reading from memory what the largest "
                  "cache cannot hold of the constants. Winograd convolutions do fewer operations than are counted, so "
                  "that it can be passed.", ""]
    slashes = " / ".join(NAMES[e] for e in run["engines"])
    lines += ["## Start", "", f"{slashes}.", "", *start(run), "", "## Peak memory", "",
              "Of the whole process; for the peers less what Python and the inputs held before the library was "
              "imported.", "", *memory(run), "", "## How it was measured", "", *conditions(run), *notes(run)]
    return "\n".join(lines) + "\n"


# Colours with enough contrast on both grounds.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.ground { fill: #ffffff } .faint { fill: #59636e } .line { stroke: #d1d9e0 } .one { stroke: #59636e }
.p0 { fill: #0969da; stroke: #0969da } .p1 { fill: #bc4c00; stroke: #bc4c00 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .ground { fill: #0d1117 } .faint { fill: #9198a1 } .line { stroke: #3d444d }
.one { stroke: #9198a1 } .p0 { fill: #4493f8; stroke: #4493f8 } .p1 { fill: #f0883e; stroke: #f0883e }
}
"""


def picture(run):
    """Each peer's time over ours, a row a model, with intervals; None without ratios."""
    peers = [e for e in run["engines"] if e != US]
    rows = [(f"{row['model']}, {row['threads']}T", [row["ratio"]["p50_ms"].get(e) for e in peers])
            for row in run["rows"] if row["ratio"]]
    values = [v for _, points in rows for r in points if r for v in (r["low"], r["median"], r["high"]) if v]
    if not values:
        return None
    right, top, step, width = 24, 58, 24, 760
    left = 34 + 7 * max(len(name) for name, _ in rows)
    # A scale of doublings: twice as fast and half as fast lie equally far from the middle line.
    low, high = math.log2(min([*values, 0.8])) - 0.05, math.log2(max([*values, 1.6])) + 0.05
    height = top + step * len(rows) + 34

    def x(ratio):
        return left + (math.log2(ratio) - low) / (high - low) * (width - left - right)

    bottom = top + step * len(rows)
    body = [f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
            '<text x="16" y="24" font-weight="bold">How many times faster than each peer (more is better)</text>']
    for i, e in enumerate(peers):
        body += [f'<circle class="p{i}" cx="{22 + 130 * i}" cy="41" r="4"/>',
                 f'<text x="{32 + 130 * i}" y="45">{escape(NAMES[e])}</text>']
    ticks = [t for t in (0.25, 0.5, 0.8, 1, 1.2, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64) if low <= math.log2(t) <= high]
    last = -100.0
    for t in ticks:
        # A label too close to the one before would run into it; 1 always has its own.
        if t != 1 and (x(t) - last < 26 or abs(x(t) - x(1)) < 26):
            continue
        last = x(t)
        kind = "one" if t == 1 else "line"
        body += [f'<line class="{kind}" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top - 6}" y2="{bottom}"/>',
                 f'<text class="faint" x="{x(t):.1f}" y="{bottom + 18}" text-anchor="middle">{t:g}×</text>']
    for k, (name, points) in enumerate(rows):
        y = top + step * k + step / 2
        body.append(f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for i, r in enumerate(points):
            if not r:
                continue
            at = y + (i - (len(points) - 1) / 2) * 8
            if r["low"]:
                body.append(f'<line class="p{i}" stroke-width="2" x1="{x(r["low"]):.1f}" x2="{x(r["high"]):.1f}" '
                            f'y1="{at:.1f}" y2="{at:.1f}"/>')
            body.append(f'<circle class="p{i}" cx="{x(r["median"]):.1f}" cy="{at:.1f}" r="3.5"/>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}"><style>{STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n")


def write(run, out, title):
    """Writes NAME.md, NAME.svg and NAME.json; to the terminal only the text when no name is given."""
    drawn = picture(run)
    if not out:
        print("\n" + markdown(run, title, None))
        return
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    if drawn:
        with open(out + ".svg", "w") as file:
            file.write(drawn)
    with open(out + ".md", "w") as file:
        file.write(markdown(run, title, os.path.basename(out) + ".svg" if drawn else None))
    with open(out + ".json", "w") as file:
        json.dump(run, file, indent=1)
        file.write("\n")
