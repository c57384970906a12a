"""docs/bench-cpu.md's tables and picture: `./dev bench cpu --docs FILE.json...`.

Each file is what `./dev bench cpu --json` printed. The tables replace what stands
between the marks in the document; the picture is of the first file.
"""
import json
import math
import re

import assets

DOC, PICTURE = assets.ROOT / "docs/bench-cpu.md", assets.ROOT / "docs/bench-cpu.svg"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
COLOURS = {"integer": "#4477aa", "calls": "#66ccee", "memory": "#228833",
           "fp": "#ccbb44", "os": "#ee6677", "app": "#aa3377"}
LEFT, WIDTH, LINE, TOP = 120, 620, 16, 40  # of the picture, in pixels


def times(value, digits=2):
    return "failed" if value == 0 else "-" if value is None else f"{value:.{digits}f}"


def title(report):
    return f"`-accel {report['accel']}`, `-smp {report['smp']}`"


def table(report, classes):
    host = report["host"]
    lines = [f"### {title(report)}", "",
             f"{host['cpu']}, {host['cpus']} processors, Linux {host['kernel']}, "
             f"QEMU {host['qemu']}; medians of {report['repeat']}.", "",
             "| workload | native s | TCG s | Lodge s | faster than TCG | slower than "
             "native |", "|---|--:|--:|--:|--:|--:|"]
    for kind, name in classes.items():
        mean = report["means"].get(kind)
        if not mean:
            continue
        lines.append(f"| **{name}** | | | | **{times(mean['lodge_over_tcg'])}** | "
                     f"**{times(mean['lodge_over_native'])}** |")
        for r in report["rows"]:
            if r["class"] == kind:
                lines.append(f"| {r['name']} | {times(r['native'], 3)} | "
                             f"{times(r['tcg'], 3)} | {times(r['lodge'] or 0, 3)} | "
                             f"{times(r['lodge_over_tcg'])} | "
                             f"{times(r['lodge_over_native'])} |")
    mean = report["means"]["all"]
    lines.append(f"| **all {mean['workloads']}** | | | | "
                 f"**{times(mean['lodge_over_tcg'])}** | "
                 f"**{times(mean['lodge_over_native'])}** |")
    return "\n".join([*lines, ""])


def overview(reports, classes):
    lines = ["| times faster than TCG | " + " | ".join(map(title, reports)) + " |",
             "|---|" + "--:|" * len(reports)]
    for kind, name in {**classes, "all": "**all**"}.items():
        lines.append(f"| {name} | " + " | ".join(
            times(r["means"].get(kind, {}).get("lodge_over_tcg")) for r in reports) + " |")
    lines.append("| workloads slower than TCG | " + " | ".join(
        str(len(r["means"]["all"]["slower_than_tcg"])) for r in reports) + " |")
    return "\n".join([*lines, ""])


def picture(report, classes):
    """An SVG of bars on a logarithmic scale: times faster than TCG."""
    rows = [r for r in report["rows"] if r["lodge_over_tcg"]]
    low, high = 0.1, 1000
    height = TOP + LINE * len(rows) + 50

    def x(value):
        value = min(max(value, low), high)
        return LEFT + WIDTH * math.log(value / low) / math.log(high / low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" '
           f'height="{height}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="16" font-size="13">Times faster than QEMU\'s TCG: '
           f'{title(report).replace("`", "")}</text>']
    for tick in (0.1, 1, 5, 10, 100, 1000):
        out.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 8}" '
                   f'y2="{height - 50}" stroke="{"#000" if tick == 1 else "#ccc"}"/>'
                   f'<text x="{x(tick):.1f}" y="{TOP - 10}" text-anchor="middle">{tick}'
                   f'</text>')
    for i, r in enumerate(rows):
        y, value = TOP + LINE * i, r["lodge_over_tcg"]
        begin, end = sorted((x(1), x(value)))
        out.append(f'<text x="{LEFT - 6}" y="{y + 11}" text-anchor="end">{r["name"]}</text>'
                   f'<rect x="{begin:.1f}" y="{y + 2}" width="{max(end - begin, 1):.1f}" '
                   f'height="{LINE - 4}" fill="{COLOURS[r["class"]]}"/>'
                   f'<text x="{end + 4:.1f}" y="{y + 11}">{value:.2f}</text>')
    for i, (kind, name) in enumerate(classes.items()):
        at = LEFT + i * 118
        out.append(f'<rect x="{at}" y="{height - 30}" width="10" height="10" '
                   f'fill="{COLOURS[kind]}"/><text x="{at + 14}" y="{height - 21}">{name}'
                   f'</text>')
    return "\n".join([*out, "</svg>", ""])


def write(paths, classes):
    reports = []
    for path in paths:
        with open(path) as file:
            reports.append(json.load(file))
    measured = "\n".join([overview(reports, classes),
                          *(table(r, classes) for r in reports)])
    text = DOC.read_text()
    DOC.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: BEGIN + "\n" + measured + "\n" + END,
                          text, flags=re.S))
    PICTURE.write_text(picture(reports[0], classes))
