"""Fills the disk at random moments of a run, frees it later, and checks that the result is that of an undisturbed run.

    python -m benchmarks.full_disk [--times 10] [--rows 5000] [--seed 0]

Store and results are on a small file system in memory (mounting it needs root on Linux). At a random moment of a
selection, all free space is taken until the run ends. Then the space is freed, and the same command must give the files
of an undisturbed run. An earlier selection must be unchanged after a failure. Ends with an error at the first
difference.
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
    """Mount a file system in memory on a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Disk:
    """The small disk, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self) -> None:
        """Take all free space, three times, to include space freed meanwhile."""
        with self._filler.open("ab") as file:
            for _ in range(3):
                while free := shutil.disk_usage(self.folder).free:
                    try:
                        file.write(b"\0" * min(free, 1 << 20))
                        file.flush()
                    except OSError:
                        break

    def empty(self) -> None:
        """Free the space."""
        self._filler.unlink(missing_ok=True)


def files_of(out: Path) -> dict[str, bytes]:
    """The files of a finished selection; empty if there is none."""
    return {name: (out / name).read_bytes() for name in FILES} if (out / "manifest.json").exists() else {}


def run(words: list[str], folder: Path, api: str, disk: Disk | None = None, at: float = 0.0) -> tuple[int, str, float]:
    """Run `deita`, and fill the disk after `at` seconds; returns exit code, last line of stderr, and seconds."""
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
    """Print the result of each run."""
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
        options = make_models(folder / "models")
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
            _, _, seconds = run(words(asked.rows // 20), folder, api)
            earlier = files_of(small / "out")
            shutil.copytree(small / "out", folder / "earlier")
            print(f"undisturbed: {seconds:.1f} s")
            for time in range(asked.times):
                lay()
                # Every second time over an earlier selection, but without its store, so that there is work to do.
                over = time % 2 == 1
                if over:
                    shutil.copytree(folder / "earlier", small / "out")
                at = draw.uniform(0.1, 0.95) * seconds
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
