"""The store: what determines a key, and what a kill or damage may not do."""

import gzip
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nuisance import store
from nuisance.data.idx import read_idx
from nuisance.errors import DataError
from nuisance.files import Checkpoint, read_checked, replace_file, write_checked
from nuisance.seeding import generator


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("NUISANCE_STORE", str(tmp_path / "store"))


calls = []


def part(x, y=1):
    calls.append(x)
    return {"sum": x + y, "tensor": torch.arange(3.0) * x}


def test_a_part_is_computed_once_and_comes_back_equal():
    calls.clear()
    key = store.part_key(part, {"x": 2}, {}, "cpu")
    first, second = (store.compute(part, {"x": 2}, key) for _ in range(2))
    assert calls == [2]
    assert second.value["sum"] == 3
    assert torch.equal(second.value["tensor"], first.value["tensor"])
    assert second.seconds == first.seconds


def test_a_key_depends_on_arguments_data_and_device():
    base = store.part_key(part, {"x": 2}, {"file": "abc"}, "cpu")
    assert base == store.part_key(part, {"x": 2}, {"file": "abc"}, "cpu")
    others = [
        store.part_key(part, {"x": 3}, {"file": "abc"}, "cpu"),
        store.part_key(part, {"x": 2, "y": 1}, {"file": "abc"}, "cpu"),
        store.part_key(part, {"x": 2}, {"file": "abd"}, "cpu"),
        store.part_key(part, {"x": 2}, {"file": "abc"}, "meta"),
        store.part_key(part, {"x": torch.tensor(2)}, {"file": "abc"}, "cpu"),
        store.part_key(part, {"x": torch.tensor(3)}, {"file": "abc"}, "cpu"),
        store.part_key(write_checked, {"x": 2}, {"file": "abc"}, "cpu"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_a_key_depends_on_the_versions(monkeypatch):
    before = store.part_key(part, {"x": 2}, {}, "cpu")
    monkeypatch.setattr(store, "versions", lambda: {"torch": "another"})
    assert store.part_key(part, {"x": 2}, {}, "cpu") != before


def test_library_code_is_followed_through_its_imports():
    reached = store._reachable("nuisance.experiments.learning_not_to_learn")
    assert {"nuisance.losses", "nuisance.methods.bias_game", "nuisance.files"} <= reached
    assert "nuisance.study" not in reached  # the frame of a run may change without computing anew


def notebook_function(source, **names):
    """A function as a notebook has it: in __main__, with its source at hand."""
    import linecache

    filename = f"<cell {abs(hash(source))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"__name__": "__main__", **names}
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def test_a_notebooks_function_is_keyed_by_all_that_it_names():
    source = "def helper(x):\n    return x + shift\n\n\ndef f(x):\n    return helper(x)\n"
    digest = store.code_digest(notebook_function(source, shift=1)["f"])
    assert digest == store.code_digest(notebook_function(source, shift=1)["f"])
    assert digest != store.code_digest(notebook_function(source, shift=2)["f"])
    other = source.replace("x + shift", "x - shift")
    assert digest != store.code_digest(notebook_function(other, shift=1)["f"])


def test_a_function_that_uses_what_cannot_be_keyed_is_refused():
    source = "def f(x):\n    return x + settings.shift\n"
    with pytest.raises(TypeError, match="uses the variable 'settings', a SimpleNamespace"):
        store.code_digest(notebook_function(source, settings=SimpleNamespace(shift=1))["f"])


def test_a_part_that_cannot_be_read_back_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"\.tolist\(\)"):
        write_checked(tmp_path / "x", {"mean": np.float64(0.5)})
    assert not (tmp_path / "x").exists()


def test_a_function_that_closes_over_variables_is_refused():
    source = "def outer():\n    hidden = 3\n    def inner(x):\n        return x + hidden\n    return inner\n"
    with pytest.raises(TypeError, match="closes over"):
        store.code_digest(notebook_function(source)["outer"]())


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:50] + b"x" + raw[51:]]
)
def test_a_damaged_part_is_computed_again(damage):
    calls.clear()
    key = store.part_key(part, {"x": 2}, {}, "cpu")
    store.compute(part, {"x": 2}, key)
    path = store.paths.store() / f"{key}.part"
    path.write_bytes(damage(path.read_bytes()))
    assert store.find(key) is None
    assert store.compute(part, {"x": 2}, key).value["sum"] == 3
    assert calls == [2, 2]


def test_replacing_a_file_leaves_the_old_one_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full_disk(_descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_is_saved_only_now_and_then(tmp_path):
    seldom, often = (Checkpoint(tmp_path / str(every), every_seconds=every) for every in (1e6, 0))
    for checkpoint in (seldom, often):
        checkpoint.save(lambda: {"epochs": 3})
    assert seldom.load() is None
    assert often.load() == {"epochs": 3}


SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from nuisance import store

    def slow(marker, checkpoint):
        done = checkpoint.load() or 0
        checkpoint.every_seconds = 0
        for step in range(done, 4):
            with Path(marker).open("a") as log:
                log.write(f"{step}\\n")
            checkpoint.save(lambda: step + 1)
            time.sleep(0.3)
        return step

    print(store.compute(slow, {"marker": sys.argv[1]}, "a-key").value)
    """
)


def start(script, *arguments):
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], stdout=subprocess.PIPE)


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def test_a_killed_part_goes_on_from_its_checkpoint_and_leaves_nothing_half(tmp_path):
    script, marker = tmp_path / "slow.py", tmp_path / "marker"
    script.write_text(SLOW)
    process = start(script, marker)
    wait_for(lambda: marker.exists() and len(marker.read_text().split()) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert store.find("a-key") is None
    assert start(script, marker).communicate()[0].split() == [b"3"]
    steps = marker.read_text().split()
    assert steps[-1] == "3"
    assert steps.count("0") == 1  # the first step was not repeated
    assert not list(Path(os.environ["NUISANCE_STORE"]).glob("*.partial"))


def test_two_runs_at_once_compute_a_part_once(tmp_path):
    script, marker = tmp_path / "slow.py", tmp_path / "marker"
    script.write_text(SLOW)
    both = [start(script, marker) for _ in range(2)]
    assert [process.communicate()[0].split() for process in both] == [[b"3"], [b"3"]]
    assert marker.read_text().split() == ["0", "1", "2", "3"]


def test_a_checked_file_holds_what_was_written(tmp_path):
    write_checked(tmp_path / "x", {"weights": torch.eye(2), "epochs": 3})
    assert torch.equal(read_checked(tmp_path / "x")["weights"], torch.eye(2))
    assert read_checked(tmp_path / "absent") is None


def flipped(raw):
    """The same bytes with one of them damaged, in the middle of the compressed stream."""
    return raw[:20] + bytes([raw[20] ^ 255]) + raw[21:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "holds 3 values"),
        (b"\x1f\x8b not idx", "not an IDX file"),
        (b"", "not an IDX file"),
        (flipped(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 90]) + bytes(range(90)))), "cannot be unpacked"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, content, words):
    path = tmp_path / ("labels.gz" if content[:3] == b"\x1f\x8b\x08" else "labels")
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_idx(path)


def test_streams_of_one_seed_differ_by_purpose_and_repeat():
    def draw(*key):
        return torch.rand(4, generator=generator(*key)).tolist()

    keys = [(0,), (1,), (0, 1), (1, 0), (0, 0), (0, 1, 1), (2, 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert draw(3, 1) == draw(3, 1)
