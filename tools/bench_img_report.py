"""The lines and tables of `./dev bench img`; docs/bench-img.md is made of them.

Each file given to --docs is what `--json` printed; a row measured in several files is
taken from the last. The tables replace what stands between the marks.
"""
import json

import assets

DOC = assets.ROOT / "docs/bench-img.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
MIB = 1 << 20


def notes(one):
    """What a row has beside its times."""
    words = []
    if "size_ratio" in one:
        words.append(f"size {one['size_ratio']:.3f} (aim {one['size_aim']})")
    if "memory" in one:
        most = [one["memory"][side]["VmHWM"] / MIB for side in ("lodge", "qemu")]
        own = [one["memory"][side]["Private_Dirty"] / MIB for side in ("lodge", "qemu")]
        words.append(f"most memory {most[0]:.1f} and {most[1]:.1f} MiB, its own at the "
                     f"end {own[0]:.1f} and {own[1]:.1f}")
    return "; ".join(words)


def line(one):
    if one is None:
        return (f"{'row':20} {'place':6} {'wall s':>15}  {'CPU s':>15}  {'wall':>6} "
                f"{'CPU':>6}  {'spread':>11}   aim")
    if "failed" in one:
        return f"{one['row']:20} {one['place']:6} FAILED: {one['failed']}"
    ours, theirs = one["lodge"], one["qemu"]
    low, high = one["spread"]
    aim = "-" if one["aim"] is None else f"{one['aim']}"
    missed = "" if one["reached"] else "  missed"
    more = notes(one)
    return (f"{one['row']:20} {one['place']:6} "
            f"{ours['median_wall']:7.3f}/{theirs['median_wall']:7.3f}  "
            f"{ours['median_cpu']:7.3f}/{theirs['median_cpu']:7.3f}  "
            f"{one['ratio']:6.3f} {one['cpu_ratio']:6.3f}  {low:5.3f}-{high:5.3f}   "
            f"{aim}{missed}{'  ' + more if more else ''}")


def table(place, rows):
    title = {"tmpfs": "In memory (tmpfs)", "disk": "On a disk",
             "xfs": "On a file system that shares extents (XFS)"}[place]
    lines = [f"### {title}", "",
             "| row | CPU s | qemu-img's | ratio | wall s | qemu-img's | ratio | aim | |",
             "|---|--:|--:|--:|--:|--:|--:|--:|---|"]
    for one in rows:
        if "failed" in one:
            lines.append(f"| {one['row']} | | | **failed** | | | | | |")
            continue
        ours, theirs = one["lodge"], one["qemu"]
        aim = "" if one["aim"] is None else one["aim"]
        low, high = one["spread"]
        ratio = f"{one['ratio']:.2f}" if one["reached"] else f"**{one['ratio']:.2f}**"
        more = f" ({low:.2f} to {high:.2f})" if low != high else ""
        lines.append(f"| {one['row']} | {ours['median_cpu']:.3f} | "
                     f"{theirs['median_cpu']:.3f} | {one['cpu_ratio']:.2f} | "
                     f"{ours['median_wall']:.3f} | {theirs['median_wall']:.3f} | "
                     f"{ratio}{more} | {aim} | {notes(one)} |")
    return "\n".join([*lines, ""])


def write(files):
    reports = [json.loads(open(name).read()) for name in files]
    rows = {}
    for report in reports:
        for one in report["rows"]:
            rows[one["place"], one["row"]] = one
    host = reports[-1]["host"]
    text = [f"{host['cpu']}, {host['cpus']} processors, Linux {host['kernel']}, "
            f"qemu-img {host['qemu']}; rounds of each row: {reports[-1]['repeat']}.", ""]
    for place in ("tmpfs", "disk", "xfs"):
        mine = [one for (where, _), one in rows.items() if where == place]
        if mine:
            text.append(table(place, mine))
    document = DOC.read_text()
    head, rest = document.split(BEGIN)
    DOC.write_text(head + BEGIN + "\n" + "\n".join(text) + "\n" + END +
                   rest.split(END)[1])
