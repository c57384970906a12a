"""Programs compute in the guest what they compute on the host: ./dev bench cpu's, small.

The judgement of the benchmark itself is tested here too.
"""
import types

import pytest

import bench_cpu
import bench_cpu_counters



def small_command(command, smaller):
    """The same with @smaller times fewer repetitions, and less memory."""
    *words, times = command.split(" ")
    sizes = [str(int(w) // 16) if w.isdigit() and int(w) > 4096 else w for w in words]
    return " ".join([*sizes, str(max(1, int(times) // smaller))])


def small_commands(smaller):
    """Those workloads whose last word is how often they do something."""
    return {w.name: small_command(w.command, smaller) for w in bench_cpu.workloads()
            if w.command.split(" ")[-1].isdigit()}


def options(accel):
    return types.SimpleNamespace(smp=2, native=True, tcg=False, accel=accel, tier=None)


@pytest.mark.parametrize("accel, smaller", [("bt,tier=0", 500), ("bt,tier=1", 50)])
def test_programs_compute_the_same_in_the_guest(accel, smaller, is_lodge):
    commands = small_commands(smaller)
    sides = bench_cpu.make_sides(options(accel if is_lodge else "tcg"))
    try:
        results = {name: {side: machine.run(command) for side, machine in sides.items()}
                   for name, command in commands.items()}
    finally:
        for machine in sides.values():
            machine.stop()

    assert len(results) > 35
    assert {name: runs for name, runs in results.items()
            if not all(r.ok for r in runs.values())
            or len({r.status for r in runs.values()}) != 1} == {}


def result(seconds, status="1", ok=True):
    return bench_cpu.Result(seconds, status, ok)


def test_wrong_result_is_a_failure_and_counts_as_zero(capsys):
    w = bench_cpu.Workload("fp", "w", "w 1")
    runs = {"native": result(1), "tcg": result(10), "lodge": result(2, "2")}

    bench_cpu.judge(runs)
    row = bench_cpu.row(w, {side: [run] for side, run in runs.items()})
    means = bench_cpu.summarize([row])

    assert row["lodge_over_tcg"] == 0 and "wrong result 2" in row["failures"]["lodge"][0]
    assert means["fp"]["lodge_over_tcg"] == 0 and means["all"]["failed"] == 1
    assert "wrong result" in capsys.readouterr().err


def test_means_are_geometric_over_medians():
    rows = [bench_cpu.row(bench_cpu.Workload(kind, kind, ""), {
        "native": [result(1)] * 3, "tcg": [result(t) for t in (8, 16, 99)],
        "lodge": [result(lodge)] * 3}) for kind, lodge in (("os", 1), ("app", 4))]

    means = bench_cpu.summarize(rows)

    assert [r["lodge_over_tcg"] for r in rows] == [16, 4]
    assert means["all"]["lodge_over_tcg"] == pytest.approx(8)
    assert means["all"]["lodge_over_native"] == pytest.approx(2)
    assert means["app"]["slower_than_tcg"] == []


def test_counters_of_all_processors_add_up():
    text = ("bt: 7 insns, 3 blocks built of 9 insns, cache 5 of 8 bytes, 2 flushes\n"
            "bt: 6 walks, 4 TLB flushes\n"
            "bt: translated 2 blocks, 10 of 20 bytes; 3 enters, 1 resolves\n"
            "bt: left to T0: mov 3 in 2\n"
            "bt: 1 walks, 1 TLB flushes\nbt: left to T0: mov 1\n")

    counters, left = bench_cpu_counters.parse(text)

    assert counters["walks"] == 7 and counters["TLB flushes"] == 5
    assert counters["blocks translated"] == 2 and counters["enters"] == 3
    assert left == {"mov": 4, "in": 2}
