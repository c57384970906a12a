"""Measure Lodge against a peer, alternating in one run.

usage: bench.py [NAME] [--rounds N] [--json] [--list]     (no name: boot, loops, nbd)
       bench.py cpu|img [OPTION...]                       (--help: their own options)
"""
import argparse
import difflib
import json
import statistics
import sys

import assets
import bench_boot
import bench_cpu
import bench_img
import bench_loops
import bench_nbd

BENCHES = {"boot": bench_boot, "loops": bench_loops, "nbd": bench_nbd}
OWN = {"cpu": bench_cpu, "img": bench_img}  # with options of their own


def parse():
    parser = argparse.ArgumentParser(prog="./dev bench", allow_abbrev=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.name and options.name not in BENCHES:
        near = difflib.get_close_matches(options.name, [*BENCHES, *OWN], 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        parser.error(f"no benchmark '{options.name}'{hint} (./dev bench --list)")
    return options


def summary(values):
    """Median and extremes of the values that there are; None without any."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "min": min(known), "max": max(known),
            "values": known}


def measure(bench, rounds):
    """{side: {metric: summary}}: round by round, every side in turn."""
    sides = bench.sides()
    samples = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for side in sides:
            sample = bench.sample(side)
            print(f"round {number} of {rounds}: {side}: {bench.describe(sample)}",
                  file=sys.stderr, flush=True)
            samples[side].append(sample)
    return {side: {metric: summary([s[metric] for s in samples[side]])
                   for metric in bench.METRICS} for side in sides}


def show(bench, results):
    names = list(results)
    for metric, (unit, scale, better) in bench.METRICS.items():
        print(f"{metric} [{unit}, {better} is better]")
        for name in names:
            one = results[name][metric]
            text = "n/a" if one is None else (
                f"{one['median'] / scale:.2f}  ({one['min'] / scale:.2f}"
                f" to {one['max'] / scale:.2f}, {len(one['values'])} runs)")
            print(f"  {name:10} {text}")
        first, peer = (results[n][metric] for n in names[:2])
        if first and peer and peer["median"]:
            ratio = first["median"] / peer["median"]
            print(f"  {names[0]} / {names[1]} = {ratio:.2f}")


def main():
    if sys.argv[1:] and sys.argv[1] in OWN:
        return OWN[sys.argv[1]].main(sys.argv[2:])
    options = parse()
    if options.list:
        for name, bench in (BENCHES | OWN).items():
            print(f"{name}: {bench.__doc__.splitlines()[0]}")
        return 0
    everything = {}
    for name in [options.name] if options.name else BENCHES:
        everything[name] = measure(BENCHES[name], options.rounds)
        if not options.json:
            show(BENCHES[name], everything[name])
    if options.json:
        json.dump(everything, sys.stdout, indent=2)
        print()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (assets.AssetError, bench_boot.vm.Timeout) as error:
        sys.exit(f"dev: {error}")
