"""A sweep on disk: its cells, their results, and the state of each cell.

A cell is a command line: the evaluation of one checkpoint with one seed, or one training of a recipe with its
evaluation. Everything about a sweep is in its folder, so that any number of processes and machines can work on it, and
a repeated command does what is missing::

    DIR/sweep.json               the cells
    DIR/NAME/                    the run of a finished evaluation; it appears in one step
    DIR/.sweep/data.json         digests of the data
    DIR/.sweep/NAME.json         attempts, duration and error of the last attempt
    DIR/.sweep/NAME.log          what the last attempt printed
    DIR/.sweep/NAME.TOKEN/       a run that is being made
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ccvae_eval import __version__
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.files import atomic_write, make_folder, require_folder, slug
from ccvae_eval.core.typed import Limits, Range, load_json, read
from ccvae_eval.data.spec import named_paths

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

SWEEP_FILE, WORK, JOBS, RUN_FILE, DATA_FILE = "sweep.json", ".sweep", "jobs", "run.json", "data.json"
RESULTS = frozenset({RUN_FILE, SWEEP_FILE, "calibration.json", "training.pt"})
"""Files by which a folder of results is known."""
NO_DATA = frozenset({".git", ".venv", ".ipynb_checkpoints", "__pycache__"})
"""Folders that other programs write beside the data."""
LIMITS = Limits(size=256 << 20, entries=8 << 20)
SUCCESS = (0, 4)
"""Exit codes of ``run`` that leave a run behind; 4: some metrics failed, and the run says why."""
STOPPED = (130, 143)
"""Exit codes of a command that was asked to stop."""
BEAT_SECONDS = 5.0
SMALLEST_SPACE = 16 << 10
"""Bytes that the record of an attempt takes at most."""
SILENT_SECONDS = 120.0
"""A cell whose worker has been silent for so long is no longer running."""

Command = Callable[[list[str]], int]
"""Runs ``ccvae-eval`` with arguments and returns its exit code."""
Status = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One evaluation, or one training of a recipe with its evaluation.

    Args:
        name: its name, which ends in a digest of all that its result depends on.
        checkpoint: path of the checkpoint.
        arguments: the arguments of ``ccvae-eval``, without ``--out``.
        files: files below the folder of the sweep that the command writes there itself and that make the cell done,
            the one of its run first; empty = the run is made elsewhere and gets the cell's name in one step.
        after: name of the cell that has to end before this one starts; "" = none.
    """

    name: str
    checkpoint: str
    arguments: tuple[str, ...]
    files: tuple[str, ...] = ()
    after: str = ""

    @property
    def run(self) -> Path:
        """Folder of its run, below that of the sweep."""
        return Path(self.files[0]).parent if self.files else Path(self.name)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last attempt of a cell.

    Args:
        attempts: number of attempts so far.
        seconds: duration of the last one; None while it runs, and after a crash.
        error: why it failed; "" otherwise.
    """

    attempts: Annotated[int, Range(least=0)] = 0
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class CellState:
    """State of a cell, read from its files."""

    cell: Cell
    status: Status
    attempt: Attempt


@dataclass(frozen=True)
class Sweep:
    """A folder of cells.

    Args:
        folder: the folder.
        cells: the cells, in order.
    """

    folder: Path
    cells: tuple[Cell, ...]

    @classmethod
    def of(
        cls,
        folder: Path,
        checkpoints: Sequence[str],
        seeds: Sequence[int],
        options: Sequence[str] = (),
        data: str = "",
    ) -> Sweep:
        """The cells of checkpoints and evaluation seeds.

        Args:
            folder: the folder of the sweep.
            checkpoints: files or folders; each is named by its content, so that a checkpoint that changes gets a new
                cell.
            seeds: evaluation seeds.
            options: options of ``run`` for every cell. The content of a file among them, such as a judge or a plugin,
                is part of the name of the cell.
            data: digest of the data, from :func:`data_digest`.

        Raises:
            InputError: a checkpoint is missing.
        """
        cells = []
        used = [content_digest(Path(option)) for option in options if Path(option).is_file()] + [data] * bool(data)
        for checkpoint in checkpoints:
            content = content_digest(Path(checkpoint))
            for seed in seeds:
                arguments = ("run", str(Path(checkpoint).absolute()), *options, "--seed", str(seed))
                identity = json.dumps([content, __version__, *options, seed, *used])
                key = sha256(identity.encode()).hexdigest()[:8]
                cells.append(Cell(f"{slug(Path(checkpoint).stem)}-seed{seed}-{key}", checkpoint, arguments))
        return cls(folder, tuple({cell.name: cell for cell in cells}.values()))

    @classmethod
    def open(cls, folder: Path) -> Sweep:
        """The sweep in a folder.

        Raises:
            InputError: the folder has no sweep, or its sweep.json is malformed.
        """
        file = folder / SWEEP_FILE
        if not file.is_file():
            raise InputError("is not the folder of a sweep", where=str(folder), why=f"it has no {SWEEP_FILE}")
        return cls(folder, read(_SweepFile, load_json(file, limits=LIMITS), str(file), extra=True).cells)

    def write(self) -> Sweep:
        """Creates the folder and writes sweep.json.

        Returns:
            The sweep with the cells of earlier commands in the same folder that have a run.

        Raises:
            InputError: the folder cannot be made or written, or its sweep.json is malformed.
        """
        require_folder(self.folder)
        make_folder(self.folder / WORK)
        earlier = Sweep.open(self.folder).cells if (self.folder / SWEEP_FILE).is_file() else ()
        names = {cell.name for cell in self.cells}
        kept = [cell for cell in earlier if cell.name not in names and is_done(self.folder, cell)]
        whole = replace(self, cells=(*kept, *self.cells))
        content = json.dumps(asdict(_SweepFile(whole.cells)), indent=1)
        atomic_write(self.folder / SWEEP_FILE, content.encode())
        for place, beat in self._places():
            if time.time() - beat > SILENT_SECONDS:  # left behind by a worker that was killed
                shutil.rmtree(place, ignore_errors=True)
        return whole

    def states(self) -> list[CellState]:
        """The state of every cell, from the files alone."""
        beats = {place.name.rpartition(".")[0]: beat for place, beat in sorted(self._places())}
        return [self._state(cell, beats) for cell in self.cells]

    def missing(self) -> list[Cell]:
        """The cells without a run."""
        return [cell for cell in self.cells if not is_done(self.folder, cell)]

    def _state(self, cell: Cell, beats: Mapping[str, float]) -> CellState:
        attempt = attempt_of(self.folder, cell)
        status: Status = "waiting"
        if is_done(self.folder, cell):
            status = "done"
        elif attempt.error:
            status = "failed"
        elif time.time() - beats.get(cell.name, 0.0) < SILENT_SECONDS:
            status = "running"
        return CellState(cell, status, attempt)

    def _places(self) -> Iterator[tuple[Path, float]]:
        """The folders of runs that are being made, with the last sign of life in seconds since the epoch."""
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.folder / WORK):
                if entry.is_dir() and entry.name != JOBS:
                    with suppress(FileNotFoundError):
                        yield Path(entry), entry.stat().st_mtime


@dataclass(frozen=True, slots=True)
class _SweepFile:
    """The content of sweep.json."""

    cells: tuple[Cell, ...]


def content_digest(path: Path) -> str:
    """SHA-256 of a checkpoint: a file with the TOML file beside it, or the files of a folder.

    Raises:
        InputError: the path is missing or unreadable, or is neither a file nor a folder.
    """
    digest = sha256()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        # settings of the model may stand in a TOML file beside the checkpoint
        files = [file for file in (path, path.with_suffix(".toml")) if file.is_file() and path.is_file()]
    if not files:
        raise InputError("is not a checkpoint", where=str(path), why="there is no such file" * (not path.exists()))
    for file in files:
        _add_file(digest, file.name, file)
    return digest.hexdigest()


def _add_file(digest: Hash, name: str, file: Path) -> None:
    digest.update(f"{name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)


def data_digest(
    folder: Path, spec: str, checkpoints: Sequence[str] = (), notify: Callable[[str], None] = lambda _: None
) -> str:
    """SHA-256 of the files that a data spec names; "" if it names none.

    All files are read, once: the folder of the sweep keeps the digest with their names, sizes and times.

    Args:
        folder: the folder of the sweep.
        spec: the data of the evaluations.
        checkpoints: files that are no data, even if they are in the folder of the data.
        notify: called with a sentence before the data are read.

    Raises:
        InputError: a file cannot be read, or the folder of the sweep cannot be written.
    """
    left_out = {Path(checkpoint).absolute() for checkpoint in checkpoints} | {folder.absolute()}
    files = [found for root in named_paths(spec) for found in _data_files(root, left_out)]
    if not files:
        return ""
    digest, record = sha256(), folder / WORK / DATA_FILE
    try:
        states = [(name, str(file), (state := file.stat()).st_size, state.st_mtime_ns) for name, file in files]
        key = sha256(json.dumps(states).encode()).hexdigest()
        known: dict[str, str] = {}
        with suppress(InputError):
            known = read(dict[str, str], load_json(record), str(record)) if record.is_file() else {}
        if key in known:
            return known[key]
        notify(f"reading the {len(files):,} files of the data once: the names of the cells depend on their content")
        for name, file in files:
            _add_file(digest, name, file)
    except OSError as error:
        raise InputError("data cannot be read", where=str(error.filename or spec), why=error.strerror or "") from None
    require_folder(folder)
    make_folder(folder / WORK)
    atomic_write(record, json.dumps({**known, key: digest.hexdigest()}).encode())
    return digest.hexdigest()


def _data_files(root: Path, left_out: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """The files under a root with their names below it, without results of this toolkit."""
    if root.is_file():
        yield "", root
    seen = set[str]()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        is_result = Path(place) != root and not RESULTS.isdisjoint(names)
        if real in seen or is_result or Path(place).absolute() in left_out:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(set(folders) - NO_DATA)
        for name in sorted(names):
            file = Path(place) / name
            if file.is_file() and file.absolute() not in left_out:
                yield str(file.relative_to(root)), file


def parse_shard(text: str | None, environment: Mapping[str, str], option: str = "--shard") -> tuple[int, int]:
    """Parses ``I/N`` with 1 <= I <= N; without a text, the position in Slurm's job array, else 1/1.

    >>> parse_shard("2/8", {}), parse_shard(None, {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "4",
    ...     "SLURM_ARRAY_TASK_COUNT": "5"})
    ((2, 8), (1, 5))
    """
    if text is None:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        values = [environment.get(name, "") for name in names]
        if not all(value.isdigit() for value in values):
            return 1, 1
        index, first, count = map(int, values)
        return index - first + 1, count
    first_part, _, second = text.partition("/")
    if first_part.isdigit() and second.isdigit() and 1 <= int(first_part) <= int(second):
        return int(first_part), int(second)
    raise UsageError(f"must be I/N with 1 <= I <= N, got {text!r}", where=option, hint=f"Example: {option} 2/8")


def is_done(folder: Path, cell: Cell) -> bool:
    """True if the cell has its results."""
    return all((folder / file).is_file() for file in cell.files or (cell.run / RUN_FILE,))


def attempt_of(folder: Path, cell: Cell) -> Attempt:
    """The last attempt of a cell; one that cannot be read counts as none."""
    file = folder / WORK / f"{cell.name}.json"
    with suppress(InputError):
        if file.is_file():
            return read(Attempt, load_json(file), str(file), extra=True)
    return Attempt()


def write_attempt(folder: Path, cell: Cell, attempt: Attempt) -> None:
    """Writes the last attempt of a cell. A full disk never stops a sweep: the attempt is then only not recorded."""
    with suppress(InputError):
        atomic_write(folder / WORK / f"{cell.name}.json", json.dumps(asdict(attempt)).encode())


def disk_state(folder: Path) -> str:
    """ " (no space left on device)" if the disk of a folder is full, so that no attempt can be recorded; else ""."""
    with suppress(OSError):
        if shutil.disk_usage(folder).free < SMALLEST_SPACE:
            return f" ({os.strerror(ENOSPC).lower()})"
    return ""


def perform(folder: Path, cell: Cell, command: Command) -> None:
    """Runs the command of a cell in this process, unless the cell is done. Errors are recorded, never raised.

    The run of an evaluation is written to a folder of its own and gets its name in one step. If another worker was
    faster, its run stays: both are equal. A cell with ``files`` writes them in place, each in one step.

    Args:
        folder: the folder of the sweep.
        cell: the cell.
        command: runs the command line.
    """
    if is_done(folder, cell):
        return
    attempt = replace(attempt_of(folder, cell), seconds=None, error="")
    attempt = replace(attempt, attempts=attempt.attempts + 1)
    write_attempt(folder, cell, attempt)
    place, log = folder / WORK / f"{cell.name}.{secrets.token_hex(4)}", folder / WORK / f"{cell.name}.log"
    start = time.monotonic()
    try:
        place.mkdir()
        with _beating(place), _output_to(log):
            code = command([*cell.arguments, "--out", str(folder if cell.files else place)])
        if code in SUCCESS and not cell.files:
            _publish(place, folder / cell.name)
    except (OSError, InputError) as error:
        code, reason = 3, str(error)
    else:
        reason = "" if code in STOPPED or is_done(folder, cell) else _reason(log, code)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if code not in STOPPED:
        write_attempt(folder, cell, replace(attempt, seconds=time.monotonic() - start, error=reason))


def _publish(place: Path, target: Path) -> None:
    """Gives a finished run its name, unless it is taken by a finished run."""
    try:
        place.rename(target)
    except OSError:
        if not (target / RUN_FILE).is_file():
            raise


def _reason(log: Path, code: int) -> str:
    """The error message at the end of a log."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("Error: ")]
    found = " ".join(lines[errors[-1] :]).removeprefix("Error: ") if errors else lines[-1] if lines else ""
    return found[:1000] or f"ended with exit code {code}"


def _tail(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        return file.read().decode(errors="replace")
    return ""


@contextmanager
def _beating(place: Path) -> Iterator[None]:
    """Touches a folder every few seconds, so that others see that its maker lives."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(place)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Sends stdout and stderr of this process and of its libraries to a file."""
    saved = [os.dup(number) for number in (1, 2)]
    try:
        with log.open("wb") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)
