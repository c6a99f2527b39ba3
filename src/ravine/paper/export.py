"""What leaves a machine lent for minutes: results in an archive, solutions in pieces, a log."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import ravine
from ravine.paper import training
from ravine.paper.figures import Study
from ravine.paper.training.files import whole

#: Bytes of a piece of a solution, and how many pieces there are at most.
PIECE: Final = 15_000_000
PIECES: Final = 6

RESULTS: Final = "results.zip"
LOG: Final = "log.txt"
_SOLUTION: Final = "solution.safetensors"
#: Bytes that an archive may unpack to.
_MOST: Final = 1 << 29

_CONTENTS: Final = "export.json"  # in the archive: the pieces, and the hash of what they make


class Log:
    """Says lines on, and keeps them with the time at which they came.

    Args:
        say: told each line.

    Attributes:
        lines: what was said, each after the seconds since the first.
    """

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say = say
        self._began = time.monotonic()
        self.lines: list[str] = [f"begun {datetime.now(UTC).isoformat(timespec='seconds')}"]

    def __call__(self, line: str) -> None:
        """Say a line, and keep it."""
        self.lines.append(f"{time.monotonic() - self._began:8.1f} s  {line}")
        self._say(line)


def export(folder: Path, study: Study, figures: Iterable[Path], lines: Sequence[str]) -> list[Path]:
    """Write what a study made, to be carried away: ``results.zip``, solutions in pieces, a log.

    The archive holds measurements and histories as ``.nc``, recipes and outcomes as JSON, and
    pictures as PNG. A solution θ_f is cut into pieces of 15 MB, six for all of them together; one
    that would need more is left out, and the log says so. Initial parameters are not among them:
    they are made again from the seed.

    Args:
        folder: to write into; made if need be.
        study: what it has measured and trained since it was made goes into the archive.
        figures: folders of figures.
        lines: of the log.

    Returns:
        What was written.

    Raises:
        ravine.InputError: it cannot be written.
    """
    runs = [run for run in study.runs.values() if run.there]
    said = list(lines)
    written: list[Path] = []
    contents: dict[str, Any] = {}
    left = PIECES
    for run in runs:
        content = run.solution.read_bytes()
        count = -(-len(content) // PIECE)
        name = run.recipe.folder
        if count > left:
            said.append(f"θ_f of {name} is left out: it has {len(content):,} bytes")
            continue
        left -= count
        names = [f"{name}.solution.{place + 1}of{count}" for place in range(count)]
        for place, piece in enumerate(names):
            part = content[place * PIECE : (place + 1) * PIECE]
            written.append(_write(folder / piece, part))
        contents[name] = {"pieces": names, "sha256": hashlib.sha256(content).hexdigest()}
    with whole(folder / RESULTS) as partial:
        _archive(partial, study, runs, figures, contents)
    log = _write(folder / LOG, ("\n".join(said) + "\n").encode())
    return [folder / RESULTS, *written, log]


def unpack(folder: Path, out: Path) -> list[Path]:
    """Put what ``export`` wrote back to where ``ravine paper check`` looks for it.

    Args:
        folder: with the exported files.
        out: the output root.

    Returns:
        The folders of the runs whose solutions were among them. Their initial parameters are not
        there: ``training.restart`` makes them.

    Raises:
        ravine.InputError: a file is missing or damaged.
    """
    archive = folder / RESULTS
    if not archive.is_file():
        msg = f"{str(folder)!r} lacks {RESULTS}; expected a folder that --export wrote"
        raise ravine.InputError(msg)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            _require_bounded(archive, members)
            held = {one.filename: packed.read(one) for one in members if not one.is_dir()}
        contents = json.loads(held.pop(_CONTENTS))
        _require_inside(contents, held, out)
    except ravine.InputError:
        raise
    except Exception as problem:  # damaged bytes: zipfile raises whatever they make it raise
        msg = (
            f"{str(archive)!r} cannot be unpacked into {str(out)!r} ({type(problem).__name__}: "
            f"{problem})"
        )
        raise ravine.InputError(msg) from problem
    solutions = {f"{name}/{_SOLUTION}": _joined(folder, known) for name, known in contents.items()}
    for name, content in {**held, **solutions}.items():
        _write(out / name, content)
    return [out / name for name in contents]


def _archive(
    path: Path,
    study: Study,
    runs: Sequence[training.Run],
    figures: Iterable[Path],
    contents: dict[str, Any],
) -> None:
    files = [path for path in dict.fromkeys(study.measured) if path.exists()]
    for run in runs:
        files += [run.folder / "history.nc", run.folder / "recipe.json"]
    for made in figures:
        files += sorted([*made.glob("*.png"), *made.glob("*.json")])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(_CONTENTS, json.dumps(contents, indent=1))
        for file in files:
            packed.write(file, file.relative_to(study.out))


def _require_bounded(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse an archive of a few bytes that fills the disk."""
    size = sum(one.file_size for one in members)
    if size > _MOST:
        msg = f"{str(archive)!r} unpacks to {size:,} bytes; expected at most {_MOST:,}"
        raise ravine.InputError(msg)


def _require_inside(contents: Any, held: Iterable[str], out: Path) -> None:
    """Refuse names that lead elsewhere, and contents that are no runs with their pieces.

    Raises:
        ValueError: there are such.
    """
    for name, known in contents.items():
        pieces = known["pieces"]
        plain = isinstance(pieces, list) and all(Path(piece).name == piece for piece in pieces)
        if not plain or not pieces or not isinstance(known["sha256"], str):
            msg = f"{name[:80]!r} is no run with its pieces"
            raise ValueError(msg)
    root = out.resolve()
    strange = [name for name in (*held, *contents) if not _is_below(root, name)]
    if strange:
        msg = f"it names {strange[0][:80]!r}, outside its folder"
        raise ValueError(msg)


def _is_below(root: Path, name: str) -> bool:
    place = (root / name).resolve()
    return place != root and place.is_relative_to(root)


def _joined(folder: Path, known: dict[str, Any]) -> bytes:
    """A solution of its pieces."""
    lacking = [piece for piece in known["pieces"] if not _is_there(folder / piece)]
    if lacking:
        msg = (
            f"{str(folder)!r} lacks {lacking[0][:80]} ({len(lacking)} of {len(known['pieces'])} "
            "pieces)"
        )
        raise ravine.InputError(msg)
    content = b"".join((folder / piece).read_bytes() for piece in known["pieces"])
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        msg = f"the pieces {known['pieces'][0]} … in {str(folder)!r} are damaged: fetch them again"
        raise ravine.InputError(msg)
    return content


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name
        return False


def _write(path: Path, content: bytes) -> Path:
    with whole(path) as partial:
        partial.write_bytes(content)
    return path
