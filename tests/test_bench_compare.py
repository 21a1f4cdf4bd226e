"""`dlperf bench --compare`: what counts as worse, exit codes, files that are no results."""

import argparse
import json
from dataclasses import replace

import pytest

from dlperf.benchmarks import compare
from dlperf.benchmarks.bench import add_arguments, options_from
from dlperf.benchmarks.results import Results, Row
from dlperf.cli import main


def row(engine, ms, passed=True, **more):
    fields = {"suite": "models", "name": "resnet18", "mode": "inference", "dtype": "f32", "batch": 1, **more}
    return Row(engine=engine, median_ms=ms, passed=passed, **fields)


def results(*rows, **settings) -> Results:
    machine = {"cpu": "Test CPU", "threads": 2, "torch": "2", "date": "2026-01-02 03:04 UTC"}
    return Results(machine, {"quick": False, "suites": ["models"], **settings}, list(rows))


@pytest.fixture
def run(tmp_path, capsys):
    """Writes two runs, compares them by the command; gives (exit code, stdout, stderr)."""

    def run(old, new, *options):
        for name, its in (("old.json", old), ("new.json", new)):
            its.save(tmp_path / name)
        arguments = ["--compare", str(tmp_path / "old.json"), "--results", str(tmp_path / "new.json")]
        try:
            code = main(["bench", *arguments, *options])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


def test_the_same_run_is_no_worse(run):
    same = results(row("dlperf", 1.0), row("eager-nhwc", 2.0))
    code, out, _ = run(same, same)
    assert code == 0
    assert "0 worse" in out


@pytest.mark.parametrize(("ms", "options", "code"), [(1.05, [], 0), (1.2, [], 1), (1.2, ["--threshold", "25"], 0)])
def test_past_the_threshold_is_exit_code_1(run, ms, options, code):
    base = row("eager-nhwc", 2.0)
    got, out, _ = run(results(row("dlperf", 1.0), base), results(row("dlperf", ms), base), *options)
    assert got == code
    assert ("resnet18 inference f32 batch 1" in out) == bool(code)
    assert ("+20%" in out) == bool(code)


def test_a_slower_machine_is_no_slower_kernel(run):
    old = results(row("dlperf", 1.0), row("eager-nhwc", 2.0))
    assert run(old, results(row("dlperf", 3.0), row("eager-nhwc", 6.0)))[0] == 0
    assert run(old, results(row("dlperf", 1.0), row("eager-nhwc", 1.0)))[0] == 1
    assert run(results(row("dlperf", 1.0)), results(row("dlperf", 3.0)))[0] == 1  # no peer: the time itself


def test_a_peer_that_became_slower_is_no_matter(run):
    old = results(row("dlperf", 1.0), row("eager-nhwc", 2.0), row("compile", 1.0))
    new = results(row("dlperf", 1.0), row("eager-nhwc", 2.0), row("compile", 9.0))
    assert run(old, new)[0] == 0


def test_what_fails_now_is_worse(run):
    old = results(row("dlperf", 1.0))
    failed = replace(row("dlperf", None, passed=None), error="killed by SIGSEGV")
    code, out, _ = run(old, results(failed))
    assert code == 1
    assert "fails" in out
    assert run(old, results(row("dlperf", 0.1, passed=False)))[0] == 1
    other = row("dlperf-optimize", 1.0)
    assert run(results(other, failed), results(other, row("dlperf", 1.0)))[0] == 0


def test_points_of_a_curve_are_held_against_each_other(run):
    points = [row("dlperf-optimize", float(n), suite="scaling", axis="resolution", value=n) for n in (160, 224)]
    assert run(results(*points), results(*points))[0] == 0
    code, out, _ = run(results(*points), results(points[0], replace(points[1], median_ms=500.0)))
    assert code == 1
    assert "resolution 224" in out
    assert "resolution 160" not in out


def test_memory_is_compared_by_its_peak(run):
    old = results(row("dlperf", 1.0, suite="memory", peak_mem_mb=100.0))
    assert run(old, results(row("dlperf", 9.0, suite="memory", peak_mem_mb=101.0)))[0] == 0
    assert run(old, results(row("dlperf", 1.0, suite="memory", peak_mem_mb=150.0)))[0] == 1


def test_another_machine_is_mentioned(run):
    old = results(row("dlperf", 1.0))
    old.machine["threads"] = 64
    assert "threads was 64, is 2" in run(old, results(row("dlperf", 1.0)))[1]


def test_rows_that_were_not_repeated_are_counted(run):
    old = results(row("dlperf", 1.0), row("dlperf", 1.0, batch=8))
    assert "1 of the earlier run were not repeated" in run(old, results(row("dlperf", 1.0)))[1]


def test_nothing_in_common_is_exit_code_2(run):
    code, out, _ = run(results(row("dlperf", 1.0)), results(row("dlperf", 1.0, batch=8)))
    assert code == 2
    assert "no measurement" in out


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "nested too deeply": "[" * 100_000,
    "another schema": json.dumps({"schema": 99, "machine": {}, "settings": {}, "rows": []}),
    "no rows": json.dumps({"schema": 1, "machine": {}, "settings": {}, "rows": []}),
    "rows that are no list": json.dumps({"schema": 1, "machine": {}, "settings": {}, "rows": 3}),
    "rows that are text": json.dumps({"schema": 1, "machine": {}, "settings": {}, "rows": ["fast"]}),
    "a machine that is text": json.dumps({"schema": 1, "machine": "fast", "settings": {}, "rows": []}),
    "unknown fields": json.dumps({"schema": 1, "machine": {}, "settings": {}, "rows": [], "extra": 1}),
    **{
        f"a time of {ms!r}": json.dumps(
            {"schema": 1, "machine": {}, "settings": {}, "rows": [{**vars(row("dlperf", 1.0)), "median_ms": ms}]}
        )
        for ms in ("fast", float("nan"), float("inf"), 0.0, -1.0, [1])
    },
}


@pytest.mark.parametrize("which", ["--compare", "--results"])
@pytest.mark.parametrize("what", BROKEN)
def test_bad_files_are_one_line_and_exit_code_2(tmp_path, capsys, which, what):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    results(row("dlperf", 1.0)).save(good)
    bad.write_text(BROKEN[what])
    if (what, which) == ("no rows", "--results"):
        pytest.skip("a run without rows is a results file: there is nothing in common, which another test has")
    files = {"--compare": good, "--results": good, which: bad}
    assert main(["bench", "--compare", str(files["--compare"]), "--results", str(files["--results"])]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert which in printed.err
    assert "bad.json" in printed.err


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "folder"])
def test_files_that_can_not_be_read(tmp_path, capsys, content):
    path = tmp_path / "old.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert main(["bench", "--compare", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "ten"])
def test_thresholds_that_are_none(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--compare", "old.json", "--threshold", text])
    assert stopped.value.code == 2
    assert "percentage" in capsys.readouterr().err


def test_results_need_a_run_to_be_compared_with(capsys):
    assert main(["bench", "--results", "new.json"]) == 2
    assert "--compare" in capsys.readouterr().err


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return lambda *arguments: parser.parse_args(arguments)


def test_the_earlier_run_is_repeated(parse):
    first = parse(
        "scaling", "--quick", "--model", "resnet18", "--batch", "1", "2", "--mode", "train", "--peers", "eager"
    )
    old = results(row("dlperf", 1.0), given=json.loads(json.dumps(compare.given(first))))
    again, other, more = parse(), parse("kernels"), parse("--model", "resnet50", "--threads", "1")
    for args in (again, other, more):
        compare.repeat(args, old)
    assert replace(options_from(again), threads=0) == replace(options_from(first), threads=0)
    assert options_from(other) == options_from(parse("kernels"))
    assert options_from(more).models == ("resnet50",)
    assert (options_from(more).suites, options_from(more).batches) == (("scaling",), (1, 2))
    compare.repeat(again, None)
    compare.repeat(again, results(row("dlperf", 1.0)))


@pytest.mark.parametrize(
    "given", [{"suite": "poems"}, {"batch": "8"}, {"batch": [1.5]}, {"model": [3]}, {"threads": "all"}, {"quick": 1}]
)
def test_settings_that_no_run_has(parse, given):
    args = parse("--compare", "old.json")
    with pytest.raises(compare.BadArgument, match=next(iter(given))):
        compare.repeat(args, results(row("dlperf", 1.0), given=given))


def test_a_change_is_named_by_what_it_measures():
    base = row("eager-nhwc", 1.0)
    (change,) = compare.changes(results(row("dlperf", 1.0), base), results(row("dlperf", 2.0), base))
    assert (change.ratio, change.what) == (2.0, "time relative to torch")
