"""Runs whose disk fills up at random moments and has room again later: what comes out is what an undisturbed run gives.

    python -m benchmarks.full_disk [--times 10] [--rows 5000] [--seed 0]

Store and results lie on a small file system in memory of their own (mounting it needs root on Linux). While a selection
runs, all that is free is taken at a random moment, until the run has ended; then there is room, and the same command
must end with the files of an undisturbed run. A selection that stood there before must still stand after a failure.
Ends with an error as soon as anything differs.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from benchmarks.kills import ROOT, make_models, server, write_pool

FILES = ("selected.jsonl", "selected.parquet", "decisions.parquet")
SIZE = "400m"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in memory at a folder, for as long as the context lasts."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Disk:
    """The small disk, which can be filled up."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self) -> None:
        """Take all that is free, again and again for a moment: what is deleted meanwhile is taken as well."""
        with self._filler.open("ab") as file:
            for _ in range(3):
                while free := shutil.disk_usage(self.folder).free:
                    try:
                        file.write(b"\0" * min(free, 1 << 20))
                        file.flush()
                    except OSError:
                        break

    def empty(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)


def files_of(out: Path) -> dict[str, bytes]:
    """The files of a selection, none where there is no finished one."""
    return {name: (out / name).read_bytes() for name in FILES} if (out / "manifest.json").exists() else {}


def run(words: list[str], folder: Path, api: str, disk: Disk | None = None, at: float = 0.0) -> tuple[int, str, float]:
    """Run `deita`, filling the disk after so many seconds; its exit code, last line on stderr, and seconds."""
    env = {**os.environ, "PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "flows.cli", *words]
    started = monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        program = subprocess.Popen(line, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=errors)
        while program.poll() is None:
            if disk and monotonic() - started > at:
                disk.fill()
            sleep(0.02)
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if disk:
        disk.empty()
    return program.returncode, said[-1] if said else "", monotonic() - started


def main() -> None:
    """Print one line for each time."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "prefect") as api:
        folder = Path(name)
        write_pool(folder / "pool", asked.rows, asked.seed)
        (folder / "models").mkdir()
        options = make_models(folder / "models", api)
        with small_disk(folder / "disk") as small:
            disk = Disk(small)

            def words(budget: int) -> list[str]:
                places = ["--out", str(small / "out"), "--store", str(small / "store")]
                return ["select", "pool", "--threshold", "0.98", "--budget", str(budget), *places, *options]

            def lay() -> None:
                for child in (small / "out", small / "store"):
                    shutil.rmtree(child, ignore_errors=True)

            assert run(words(asked.rows // 10), folder, api)[0] == 0
            expected = files_of(small / "out")
            lay()
            _, _, whole = run(words(asked.rows // 20), folder, api)
            earlier = files_of(small / "out")
            shutil.copytree(small / "out", folder / "earlier")
            print(f"undisturbed: {whole:.1f} s")
            for time in range(asked.times):
                lay()
                # Every other time over a selection that stands there; its store is gone, so that there is work to do.
                over = time % 2 == 1
                if over:
                    shutil.copytree(folder / "earlier", small / "out")
                at = draw.uniform(0.1, 0.95) * whole
                code, said, seconds = run(words(asked.rows // 10), folder, api, disk, at)
                assert code != 0 or files_of(small / "out") == expected, "done, but different"
                stood = code == 0 or files_of(small / "out") == (earlier if over else {})
                assert stood, "failed, and what stood before does not stand"
                again, _, _ = run(words(asked.rows // 10), folder, api)
                assert again == 0, "there was room, and the same command failed"
                assert files_of(small / "out") == expected, "other files than those of an undisturbed run"
                where = "over an earlier selection" if over else "into an empty folder"
                print(
                    f"full after {at:5.1f} s, {where}: exit code {code} after {seconds:5.1f} s; then the same files",
                    flush=True,
                )
                print(f"    {said[:200]}", flush=True)


if __name__ == "__main__":
    main()
