"""The run of a chapter: parameters, parts, records, verdicts."""

import difflib
import json
import math
import os
import re
import subprocess
import symtable
import sys
import warnings

import joblib
import pytest

from nuisance import paths, render, store, study
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.limits import above, one_of
from nuisance.metrics.intervals import Condition, Interval, joint_verdict, mean_interval

DEFAULTS = {
    ("reduced", "small"): {"seeds": [0, 1, 2], "epochs": 2, "rate": 0.1, "variances": [0.02], "mode": "a"},
    ("reduced", "real"): {"seeds": [0], "epochs": 3, "rate": 0.1, "variances": [0.02], "mode": "a"},
    ("full", "real"): {"seeds": [0], "epochs": 100, "rate": 0.1, "variances": [0.02, 0.03], "mode": "b"},
}
LIMITS = {"variances": above(0), "epochs": above(0), "mode": one_of("a", "b")}
CELL = {"scale": "reduced", "dataset": None, "seeds": None, "device": "cpu", "data_root": None}
CELL |= {"epochs": None, "rate": None, "variances": None, "mode": None}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NUISANCE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NUISANCE_RESULTS", str(tmp_path / "results"))
    study._started.clear()


def start(**given):
    return study.start("09_test", CELL | given, defaults=DEFAULTS, limits=LIMITS)


def test_none_means_as_the_scale_says():
    assert start().parameters.epochs == 2
    assert start(scale="full").parameters.epochs == 100
    assert start(scale="full").parameters.dataset == "real"
    assert start(epochs=7).parameters.epochs == 7


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sede": [1]}, "no parameter 'sede'. Did you mean 'seeds'"),
        ({"varainces": [1]}, "Did you mean 'variances'"),
        ({"scale": "reducd"}, "Did you mean 'reduced'"),
        ({"dataset": "reel"}, "one of 'small', 'real'. Did you mean 'real'"),
        ({"scale": "full", "dataset": "small"}, "must be one of 'real'"),
        ({"seeds": []}, "empty list"),
        ({"seeds": 7}, "must be a list"),
        ({"seeds": [1.5]}, "whole number"),
        ({"seeds": [True]}, "whole number"),
        ({"seeds": [3, 3]}, "twice"),
        ({"seeds": "[7"}, "must be a list"),
        ({"epochs": "many"}, "whole number"),
        ({"epochs": 0}, "above 0"),
        ({"rate": math.nan}, "finite"),
        ({"variances": [0.02, 0.0]}, "a value of variances is 0.0 but must be above 0"),
        ({"variances": [-0.1]}, "above 0"),
        ({"mode": "c"}, "one of 'a', 'b'"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not here"),
        ({"device": "gpu"}, "device 'gpu' is not here"),
        ({"device": 3.5}, "device 3.5 is not here"),
        ({"device": "meta"}, "device 'meta' is not here"),
        ({"data_root": 5}, "must be a text"),
    ],
)
def test_what_is_impossible_is_refused_in_one_sentence(given, words):
    with pytest.raises(ParameterError) as caught:
        start(**given)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert caught.value._render_traceback_() == [f"ParameterError: {message}"]


def test_a_list_may_come_as_the_text_that_papermill_hands_on():
    assert start(seeds="[7]", variances="[0.03, 0.04]").parameters.variances == [0.03, 0.04]
    assert start(seeds="[7]").parameters.seeds == [7]


def test_a_whole_number_will_do_for_a_number():
    assert start(rate=1).parameters.rate == 1


def test_a_second_start_in_one_session_minds_only_slips_of_the_pen():
    start()
    start(table=[1, 2])
    with pytest.raises(ParameterError, match="Did you mean 'seeds'"):
        start(sedes=[1])


@pytest.mark.parametrize("stem", render.stems())
def test_no_variable_of_a_chapter_looks_like_a_slip_of_a_parameter(stem):
    """Else running the first cells a second time in one session would be refused."""
    source = (paths.NOTEBOOKS / f"{stem}.py").read_text(encoding="utf-8")
    cells = re.split(r"(?m)^# %%", source)
    parameters = re.findall(r"(?m)^(\w+):", next(cell for cell in cells if 'tags=["parameters"]' in cell))
    top = symtable.symtable(source, stem, "exec")
    stored = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()}
    assert stored > set(parameters)
    for name in stored - set(parameters):
        assert not difflib.get_close_matches(name, parameters, n=1, cutoff=study.SLIP), name


def test_an_edit_of_the_library_during_a_run_is_noticed(monkeypatch):
    digests = iter(["before", "before", "after"])
    monkeypatch.setattr(store, "code_digest", lambda function: next(digests, "after"))
    with pytest.raises(InputError, match="edited while this run"):
        start().parts(square, [{"x": 5, "seed": 0}])


@pytest.mark.parametrize("variable", ["NUISANCE_RESULTS", "NUISANCE_STORE"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(tmp_path, monkeypatch, variable):
    (tmp_path / "file").touch()  # a file in the folder's place: refused to root, too
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"cannot be written .*{variable}"):
        start()


def test_records_of_trials_do_not_overwrite_the_published_one():
    names = [
        start(**given).finish().relative_to(paths.results()).as_posix()
        for given in ({}, {"epochs": 2}, {"epochs": 3}, {"dataset": "real"}, {"scale": "full"})
    ]
    assert names[0] == names[1] == "reduced/09_test.json"
    assert names[2].startswith("reduced/09_test+")
    assert names[3:] == ["reduced/09_test@real.json", "full/09_test.json"]


def square(x, seed):
    return {"square": x * x, "seed": seed}


def test_parts_come_in_the_order_of_their_cases_and_from_the_store_again(capsys):
    cases = [{"x": x, "seed": 0} for x in (3, 1, 2)]
    assert [part["square"] for part in start().parts(square, cases)] == [9, 1, 4]
    assert "3 of 3 parts finished" in capsys.readouterr().err
    assert all(store.find(store.part_key(square, case, {}, "cpu")) for case in cases)
    assert [part["square"] for part in start().parts(square, cases[::-1])] == [4, 1, 9]


def test_equal_cases_are_computed_once(capsys):
    cases = [{"x": x, "seed": 0} for x in (5, 6, 5, 5)]
    assert [part["square"] for part in start().parts(square, cases)] == [25, 36, 25, 25]
    assert "2 of 2 parts finished" in capsys.readouterr().err


def cube(x):
    return x**3


def test_parts_of_several_functions_come_by_function_and_in_the_order_of_their_cases(capsys):
    squares, none, cubes = start().together(
        (square, [{"x": 3, "seed": 0}, {"x": 2, "seed": 0}, {"x": 3, "seed": 0}]),
        (cube, []),
        (cube, [{"x": 2}]),
    )
    assert [part["square"] for part in squares] == [9, 4, 9]
    assert none == []
    assert cubes == [8]
    shown = capsys.readouterr().err
    assert "square and cube and cube: 3 of 3 parts finished" in shown
    assert "s for cube" in shown
    assert "s for 2" in shown


def failing(x):
    if x == 1:
        raise ValueError("one is impossible")
    return x


def test_a_worker_that_is_replaced_leaves_no_warning_in_a_notebook(monkeypatch, recwarn):
    class Warns(joblib.Parallel):
        def __call__(self, jobs):
            warnings.warn("A worker stopped while some jobs were given to the executor.", stacklevel=1)
            return super().__call__(jobs)

    monkeypatch.setattr(joblib, "Parallel", Warns)
    assert [part["square"] for part in start().parts(square, [{"x": 12, "seed": 0}])] == [144]
    assert not recwarn.list


def test_a_failing_part_raises_and_the_finished_ones_are_kept():
    with pytest.raises(ValueError, match="one is impossible"):
        start().parts(failing, [{"x": 0}, {"x": 1}])
    assert start().parts(failing, [{"x": 0}]) == [0]


def test_parts_depend_on_the_data_that_the_run_uses():
    one, other = start(), start()
    one.use_data({"file": "abc"})
    one.parts(square, [{"x": 2, "seed": 0}])
    other.use_data({"file": "abd"})
    assert store.find(store.part_key(square, {"x": 2, "seed": 0}, {"file": "abc"}, "cpu"))
    assert not store.find(store.part_key(square, {"x": 2, "seed": 0}, {"file": "abd"}, "cpu"))


def test_the_record_has_the_stated_form():
    run = start()
    run.use_data({"digits.npz": "abc"})
    run.record(accuracy=1, share=0.5)
    row = study.row("erm", 0.02, "accuracy", Interval(0.5, -math.inf, math.inf), printed=0.4)
    run.table("Accuracy", [row])
    condition = Condition("accuracy", Interval(0.5, 0.4, 0.6), at_least=0.3)
    assert run.claim("C9.1", "It works.", [condition]) == "holds"
    record = json.loads(run.finish().read_text())
    assert record["stem"] == "09_test"
    assert record["scale"] == "reduced"
    assert record["seeds"] == [0, 1, 2]
    assert record["parameters"] == {"epochs": 2, "rate": 0.1, "variances": [0.02], "mode": "a"}
    assert record["numbers"] == {"accuracy": 1.0, "share": 0.5}
    expected = {"method": "erm", "setting": 0.02, "metric": "accuracy", "value": 0.5}
    assert record["tables"]["Accuracy"] == [expected | {"low": None, "high": None, "printed": 0.4}]
    assert record["claims"][0]["verdict"] == "holds"
    assert "accuracy 0.500 [0.400, 0.600], wanted >= 0.3" in record["claims"][0]["evidence"]
    assert record["provenance"]["data"] == {"digits.npz": "abc"}
    assert {"versions", "device", "wall_s", "parts_s", "processor"} <= set(record["provenance"])


def test_a_repeated_run_leaves_the_record_as_it_is_and_a_different_one_replaces_it():
    def once(value):
        run = start()
        run.record(accuracy=value)
        return run.finish()

    before = once(0.5).stat().st_mtime_ns
    assert once(0.5).stat().st_mtime_ns == before
    assert once(0.6).stat().st_mtime_ns != before


def test_a_table_without_the_stated_columns_is_refused():
    with pytest.raises(ValueError, match="a row of 'Accuracy'"):
        start().table("Accuracy", [{"method": "erm"}])


def test_mean_interval_of_a_case_worked_by_hand():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    assert interval.high - 2.0 == pytest.approx(4.302653 * 1.0 / math.sqrt(3), abs=1e-6)
    assert interval.low == pytest.approx(4.0 - interval.high)
    assert mean_interval([0.7]) == Interval(0.7, -math.inf, math.inf)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most", "verdict"),
    [
        (0.2, 0.4, 0.1, None, "holds"),
        (0.2, 0.4, 0.3, None, "inconclusive"),
        (0.2, 0.4, 0.5, None, "fails"),
        (0.2, 0.4, None, 0.5, "holds"),
        (0.2, 0.4, None, 0.1, "fails"),
        (-0.01, 0.01, -0.03, 0.03, "holds"),
        (-0.05, 0.01, -0.03, 0.03, "inconclusive"),
        (-math.inf, math.inf, 0.0, None, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, at_least, at_most, verdict):
    assert Condition("x", Interval(0.3, low, high), at_least, at_most).verdict() == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "holds"), (0.0, 0.2, "inconclusive"), (0.0, 0.0, "fails"), (-0.2, -0.1, "fails")],
)
def test_above_is_strict(low, high, verdict):
    condition = Condition("x", Interval((low + high) / 2, low, high), above=0)
    assert condition.verdict() == verdict
    assert str(condition).endswith("wanted > 0")


def test_a_saved_benchmark_is_the_one_that_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(study.paths, "ROOT", tmp_path)
    path = study.save_benchmark("two", [{"ratio": 3}])
    assert path == tmp_path / "benchmarks" / "results" / "two.json"
    assert json.loads(path.read_text()) == {
        "name": "two",
        "machine": study.processor(),
        "cases": [{"ratio": 3}],
    }
    assert study.load_benchmark("two") == [{"ratio": 3}]


def test_a_missing_or_damaged_benchmark_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(study.paths, "ROOT", tmp_path)
    with pytest.raises(DataError, match=r"git checkout -- benchmarks/results/one\.json"):
        study.load_benchmark("one")
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "one.json").write_text('{"cases": [{"ratio": 2}]}')
    assert study.load_benchmark("one") == [{"ratio": 2}]
    (folder / "one.json").write_text("{}")
    with pytest.raises(DataError):
        study.load_benchmark("one")


def test_one_failure_fails_a_claim_and_one_doubt_leaves_it_open():
    holds, open_, fails = (
        Condition("x", Interval(0, low, high), at_least=0) for low, high in ((1, 2), (-1, 1), (-2, -1))
    )
    assert joint_verdict([holds, holds]) == "holds"
    assert joint_verdict([holds, open_]) == "inconclusive"
    assert joint_verdict([holds, open_, fails]) == "fails"


def test_the_library_does_not_need_the_books_packages():
    """On Colab only the library's own dependencies are installed."""
    script = (
        "import sys\n"
        "for name in ('myst_nb', 'jupytext', 'papermill', 'nbformat'): sys.modules[name] = None\n"
        "from nuisance import study\n"
        "study._glue('x', 1.0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})
