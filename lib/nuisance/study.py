"""The run of a chapter: parameters checked, parts computed or found, results recorded.

    run = study.start("01_learning_not_to_learn", globals(), defaults={...})
    outcomes = run.parts(experiment, cases)
    run.record(accuracy=0.9)
    run.claim("C3.2", "Unlearning beats the baseline.", [Condition(...)])
    run.finish()

The record is ``results/<scale>/<stem>.json``; ``<stem>@<dataset>.json`` on a data set that is not the
scale's own; and with ``+<hash>`` behind it if a parameter differs from the defaults, so that a
trial never overwrites a published record.
"""

import difflib
import hashlib
import inspect
import json
import math
import os
import platform
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import torch
import yaml
from IPython import get_ipython
from IPython.display import Markdown, display

from nuisance import paths, store
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.files import replace_file
from nuisance.limits import Limit, one_of
from nuisance.metrics.intervals import Condition, Interval, Verdict, joint_verdict
from nuisance.seeding import deterministic

SLIP = 0.75
"""How like a parameter's name another must be to be taken for a slip of the pen (see difflib)."""

COMMON = ("scale", "dataset", "seeds", "device", "data_root")
PROVENANCE_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "nuisance")

Defaults = Mapping[tuple[str, str], Mapping[str, Any]]
_started: set[str] = set()


def start(
    stem: str,
    namespace: Mapping[str, Any],
    *,
    defaults: Defaults,
    limits: Mapping[str, Limit] | None = None,
    record_path: Path | None = None,
) -> "Run":
    """Check a chapter's parameters and make ready its run.

    Parameters
    ----------
    stem : the chapter's name, ``NN_stem``.
    namespace : the notebook's ``globals()``, with the parameters as the first cell or papermill set them.
    defaults : for every pair of scale and data set that the chapter knows, the values of its own
        parameters, which hold wherever the notebook says None; their types are the types that a
        parameter may have. The first data set of a scale is that scale's own.
    limits : by name of a parameter, what its value (if it is a list, each of its values) must be.
    record_path : where the record goes, if it is not a chapter's own.

    Raises
    ------
    ParameterError
        If a parameter is unknown (names the nearest right one), of the wrong type or impossible.
    InputError
        If the results or the store cannot be written.
    """
    known = list(dict.fromkeys([*COMMON, *(name for values in defaults.values() for name in values)]))
    _refuse_unknown(stem, namespace, known)
    limits = {**(limits or {}), "scale": one_of(*dict.fromkeys(scale for scale, _ in defaults))}
    scale = namespace["scale"]
    _check_value("scale", scale, "reduced", limits["scale"])
    datasets = [dataset for of, dataset in defaults if of == scale]
    dataset = datasets[0] if namespace["dataset"] is None else namespace["dataset"]
    _check_value(f"dataset at scale {scale!r}", dataset, datasets[0], one_of(*datasets))
    chosen = dict(defaults[scale, dataset])
    for name, default in list(chosen.items()):
        given = namespace[name]
        if given is not None:
            if isinstance(default, list) and isinstance(given, str):
                given = _as_list(given)
            _check_value(name, given, default, limits.get(name))
            chosen[name] = given
    device = _check_device(namespace["device"])
    data_root = namespace["data_root"]
    if data_root is not None:
        _check_value("data_root", data_root, "~/data")
    for folder, variable in ((paths.results() / scale, "RESULTS"), (paths.store(), "STORE")):
        _check_writable(folder, variable)
    deterministic()
    suffix = "" if dataset == datasets[0] else f"@{dataset}"
    if chosen != dict(defaults[scale, dataset]):
        suffix += "+" + hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
    _started.add(stem)
    return Run(
        record_path=record_path or paths.results() / scale / f"{stem}{suffix}.json",
        stem=stem,
        parameters=SimpleNamespace(
            scale=scale, dataset=dataset, device=device, data_root=paths.data_root(data_root), **chosen
        ),
    )


class Run:
    """One run of a chapter; made by `start`.

    Attributes
    ----------
    parameters : the values that hold, by name: scale, dataset, device, data_root, and the chapter's own.
    """

    def __init__(self, *, record_path: Path, stem: str, parameters: SimpleNamespace) -> None:
        self.record_path = record_path
        self.stem = stem
        self.parameters = parameters
        self._data: dict[str, str] = {}
        self._numbers: dict[str, float] = {}
        self._tables: dict[str, list[dict[str, Any]]] = {}
        self._claims: list[dict[str, Any]] = []
        self._seconds = 0.0
        self._started = time.perf_counter()

    def __repr__(self) -> str:
        """What holds, for the reader of the notebook; without what differs from machine to machine."""
        shown = {k: v for k, v in vars(self.parameters).items() if k not in ("device", "data_root")}
        lines = [f"{name:>20} : {value}" for name, value in shown.items()]
        return "\n".join([f"run of chapter {self.stem}", *lines])

    def use_data(self, checksums: Mapping[str, str]) -> None:
        """State the data that the run reads: SHA-256 by file name. They are part of every part's key."""
        self._data.update(checksums)

    def parts(self, function: Callable[..., Any], cases: Sequence[Mapping[str, Any]]) -> list[Any]:
        """``function(**case)`` for every case, each from the store or computed, in the order of the cases.

        On a CPU they are computed side by side, one process a core; equal cases are computed once. A function
        of the notebook's own will do too; whatever it needs must come in through its arguments, which must be
        plain values.
        """
        (found,) = self.together((function, cases))
        return found

    def together(
        self, *work: tuple[Callable[..., Any], Sequence[Mapping[str, Any]]]
    ) -> tuple[list[Any], ...]:
        """The `parts` of several functions that do not need each other, side by side, so that no core waits.

        They are begun in the order given: the longest should come first.
        """
        calls = [(function, case) for function, cases in work for case in cases]
        device = self.parameters.device
        keys = [store.part_key(function, case, self._data, device) for function, case in calls]
        progress = _Progress(" and ".join(function.__name__ for function, _ in work), len(set(keys)))
        finished = {key: part for key in dict.fromkeys(keys) if (part := store.find(key)) is not None}
        progress.show(len(finished), f"{len(finished)} found in the store")
        missing = list({key: i for i, key in enumerate(keys) if key not in finished}.values())
        labels = [label for function, cases in work for label in _labels(function, cases)]
        workers = min(store.cores(), len(missing)) if device == "cpu" else 1
        if missing:
            codes = {function: store.code_digest(function) for function, _ in work}
            jobs = (
                joblib.delayed(_indexed)(i, *calls[i], keys[i], codes[calls[i][0]], os.getpid())
                for i in missing
            )
            with (
                warnings.catch_warnings(),
                joblib.Parallel(n_jobs=workers, return_as="generator_unordered") as parallel,
            ):
                # a worker that has idled for long is replaced; of that a notebook need not tell, with a path of this machine
                warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
                for i, part in parallel(jobs):
                    finished[keys[i]] = part
                    progress.show(len(finished), f"{part.seconds:.1f} s for {labels[i]}")
        progress.close()
        self._seconds += sum(part.seconds for part in finished.values())
        values = iter(finished[key].value for key in keys)
        return tuple([next(values) for _ in cases] for _, cases in work)

    def record(self, **numbers: float) -> None:
        """Record numbers for the results file, the tests, and the book's prose (by `myst_nb.glue`)."""
        for name, number in numbers.items():
            self._numbers[name] = float(number)
            _glue(name, float(number))

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record a table: a row has method, setting, metric, value, low, high and printed (or None)."""
        wanted = {"method", "setting", "metric", "value", "low", "high", "printed"}
        for row in rows:
            if set(row) != wanted:
                raise ValueError(f"a row of {title!r} has {sorted(row)}, not {sorted(wanted)}")
        self._tables[title] = [{name: _finite(cell) for name, cell in row.items()} for row in rows]

    def claim(self, identity: str, statement: str, conditions: Sequence[Condition]) -> Verdict:
        """Test a claim of the study, and record its verdict with the numbers it rests on."""
        verdict = joint_verdict(conditions)
        self._claims.append(
            {
                "id": identity,
                "statement": statement,
                "verdict": verdict,
                "evidence": "; ".join(str(condition) for condition in conditions),
            }
        )
        _glue(f"{identity}_verdict", verdict)
        return verdict

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The claims tested so far: id, statement, verdict, evidence."""
        return list(self._claims)

    def finish(self) -> Path:
        """Write the record in one step, and return where it is.

        A run that found all its parts in the store and came to the same results leaves the record as it
        is: it tells of the run that computed them.
        """
        parameters = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(self.parameters).items()
            if name not in ("seeds", "scale", "dataset", "device", "data_root")
        }
        body = {
            "stem": self.stem,
            "scale": self.parameters.scale,
            "dataset": self.parameters.dataset,
            "parameters": parameters,
            "seeds": self.parameters.seeds,
            "numbers": self._numbers,
            "tables": self._tables,
            "claims": self._claims,
        }
        provenance = {
            "versions": {"python": platform.python_version()} | _versions(),
            "data": dict(sorted(self._data.items())),
            "device": self.parameters.device,
            "processor": processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": store.cores(),
        }
        times = {
            "wall_s": round(time.perf_counter() - self._started, 1),
            "parts_s": round(self._seconds, 1),
        }
        if not _same_record(self.record_path, body, provenance):
            record = {**body, "provenance": provenance | times}
            text = json.dumps(record, indent=1, allow_nan=False) + "\n"
            replace_file(self.record_path, text.encode())
        return self.record_path


def load_record(stem: str, scale: str = "reduced") -> dict[str, Any]:
    """A committed record of another run, ``results/<scale>/<stem>.json`` of this repository.

    Raises
    ------
    DataError
        If it is not there or cannot be read.
    """
    path = paths.ROOT / "results" / scale / f"{stem}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        mend = f"bring it back with `git checkout -- results/{scale}/{stem}.json`"
        raise DataError(f"The record {path} is missing or damaged; {mend}.") from error


def load_benchmark(name: str) -> list[dict[str, Any]]:
    """The cases of a committed benchmark, ``benchmarks/results/<name>.json``.

    Raises
    ------
    DataError
        If it is not there or cannot be read.
    """
    path = _benchmark_path(name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError) as error:
        mend = f"bring it back with `git checkout -- benchmarks/results/{name}.json`"
        raise DataError(f"The benchmark {path} is missing or damaged; {mend}.") from error


def save_benchmark(name: str, cases: list[dict[str, Any]]) -> Path:
    """Write the cases of a benchmark, with the name of this machine's processor, where `load_benchmark` finds them."""
    record = {"name": name, "machine": processor(), "cases": cases}
    path = _benchmark_path(name)
    replace_file(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def _benchmark_path(name: str) -> Path:
    return paths.ROOT / "benchmarks" / "results" / f"{name}.json"


def source(*functions: Callable[..., Any]) -> Markdown:
    """The library's own code, to be shown in a chapter: never a copy."""
    codes = (textwrap.dedent(inspect.getsource(function)).rstrip() for function in functions)
    return Markdown("```python\n" + "\n\n\n".join(codes) + "\n```")


def row(
    method: str, setting: Any, metric: str, interval: Interval, printed: float | None = None
) -> dict[str, Any]:
    """A row of `Run.table`."""
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {"method": method, "setting": setting, "metric": metric, **ends, "printed": printed}


def _labels(function: Callable[..., Any], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells each case from the others, or the function's name where nothing does."""
    scalar = (str, int, float, bool)
    varying = [
        name
        for name, value in (cases[0] if cases else {}).items()
        if isinstance(value, scalar) and any(case[name] != value for case in cases)
    ]
    return [", ".join(str(case[name]) for name in varying) or function.__name__ for case in cases]


def _indexed(
    index: int, function: Callable[..., Any], case: Mapping[str, Any], key: str, code: str, parent: int
) -> tuple[int, store.Part]:
    _end_with(parent)
    deterministic()  # in the worker: a process of its own, with settings of its own
    if function.__module__ != "__main__" and store.code_digest(function) != code:
        raise InputError("The library was edited while this run was under way; run the chapter again.")
    return index, store.compute(function, case, key)


@cache
def _end_with(parent: int) -> None:
    """End this worker as soon as the process that started it has ended: a killed run leaves nothing computing."""
    if parent == os.getpid():  # no worker: one process computes its parts itself
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _refuse_unknown(stem: str, namespace: Mapping[str, Any], known: Sequence[str]) -> None:
    missing = [name for name in known if name not in namespace]
    if missing:
        raise ParameterError(f"The parameters cell lacks {missing[0]!r}.")
    for name, value in namespace.items():
        if name in known or name.startswith("_") or name in ("In", "Out"):
            continue
        if not isinstance(value, store.PLAIN):
            continue
        # When the notebook is run a second time in one session its own variables stand in the
        # namespace too; then only what looks like a slip of the pen is refused.
        if stem in _started and not difflib.get_close_matches(name, known, n=1, cutoff=SLIP):
            continue
        raise ParameterError(
            f"There is no parameter {name!r}.{_nearest(name, known)} There are {', '.join(known)}."
        )


def _check_value(name: str, given: Any, like: Any, limit: Limit | None = None) -> None:
    """Refuse a value that is not of the type of ``like``, an empty list, a repeated value, and what is off limits."""
    if isinstance(like, list):
        if not isinstance(given, list):
            raise ParameterError(f"{name} is {given!r} but must be a list such as {like!r}.")
        if not given:
            raise ParameterError(f"{name} is an empty list but needs at least one value, such as {like!r}.")
        for item in given:
            _check_value(f"a value of {name}", item, like[0], limit)
        if len(set(given)) < len(given):
            raise ParameterError(f"{name} is {given!r} but must not name a value twice.")
        return
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not (number if isinstance(like, float) else type(given) is type(like)):
        kinds = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
        raise ParameterError(f"{name} is {given!r} but must be {kinds[type(like)]} such as {like!r}.")
    if number and not math.isfinite(given):
        raise ParameterError(f"{name} is {given!r} but must be a finite number such as {like!r}.")
    if limit is not None and not limit.allows(given):
        raise ParameterError(
            f"{name} is {given!r} but must be {limit.words}.{_nearest(given, limit.choices)}"
        )


def _as_list(given: str) -> Any:
    """``papermill -p seeds "[7]"`` hands the list on as a text; read it as the YAML that papermill's -y takes."""
    try:
        return yaml.safe_load(given)
    except yaml.YAMLError:
        return given


def _nearest(given: Any, right: Sequence[Any]) -> str:
    """`` Did you mean ...?``, or nothing where no right one is near."""
    near = difflib.get_close_matches(str(given), [str(value) for value in right], n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _check_device(given: Any) -> str:
    if given == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(given)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("nothing can be computed there")
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"device {given!r} is not here ({reason}); use 'auto' or 'cpu'.") from error
    return str(device)


def _check_writable(folder: Path, variable: str) -> None:
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); make it writable, or name another "
            f"folder in the environment variable NUISANCE_{variable}."
        ) from error


class _Progress:
    """How many parts are finished: one changing line in a notebook, lines in the renderer's log or on stderr.

    The notebook's line ends the same in every run, whatever was found and however long it took,
    so that a rendered notebook is byte for byte the same.
    """

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._log = os.environ.get("NUISANCE_PROGRESS")
        in_notebook = get_ipython() is not None
        self._line = display(_Text(f"{name}: {total} parts"), display_id=True) if in_notebook else None

    def show(self, finished: int, detail: str) -> None:
        text = f"{self._name}: {finished} of {self._total} parts finished ({detail})"
        if self._line is not None:
            self._line.update(_Text(text))
        if self._log:
            with Path(self._log).open("a", encoding="utf-8") as log:
                log.write(f"{text}\n")
        elif self._line is None:
            print(text, file=sys.stderr)

    def close(self) -> None:
        if self._line is not None:
            self._line.update(_Text(f"{self._name}: {self._total} of {self._total} parts finished"))


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _glue(name: str, value: float | str) -> None:
    try:
        from myst_nb import glue
    except ModuleNotFoundError:  # on Colab, where the book's own packages are not needed
        return
    glue(name, value, display=False)


def _finite(cell: Any) -> Any:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PROVENANCE_PACKAGES}


def processor() -> str:
    """The processor's name, as far as the machine tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _same_record(path: Path, body: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    kept = old.pop("provenance", {})
    same_provenance = {name: kept.get(name) for name in provenance} == dict(provenance)
    return bool(old == json.loads(json.dumps(body)) and same_provenance)
