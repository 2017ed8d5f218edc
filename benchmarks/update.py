"""An update of a grown pool: seconds of each stage, beside the first selection; nothing old is computed again.

    python -m benchmarks.update [--rows 50000] [--share 0.01]

Rows are random words, and the encoder and the heads are tiny, so the seconds are those of everything but the models.
Ends with an error if an old text is encoded or an old turn scored, or if the files differ from those of a selection
from scratch.
"""

import shutil
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.kills import FILES, STAGES, TOLD, Commands, Ended, make_models, server, write_pool


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--share", type=float, default=0.01, help="of the rows, that come later")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "prefect") as api:
        folder, commands = Path(name), Commands(Path(name), api, shows=True)
        write_pool(folder / "pool", asked.rows, 0)
        write_pool(folder / "more", int(asked.rows * asked.share), 1)
        (folder / "models").mkdir()
        options = [*make_models(folder / "models"), "--budget", str(asked.rows // 10), "--threshold", "0.98"]

        def run(title: str, *words: str) -> Ended:
            print(f"{title}:", flush=True)
            return commands.run([*words, *options])

        first = run("first selection", "select", "pool", "--out", "out", "--store", "store")
        for file in (folder / "more").iterdir():
            shutil.copy(file, folder / "pool" / f"more-{file.name}")
        update = run("update", "update", "--out", "out", "--store", "store")
        scratch = run("selection from scratch", "select", "pool", "--out", "scratch", "--store", "fresh")
        same = [(folder / "out" / file).read_bytes() == (folder / "scratch" / file).read_bytes() for file in FILES]
        assert all(same), "the files of the update are not those of a selection from scratch"
        print(f"{'seconds':<22}{'first':>10}{'update':>10}{'from scratch':>14}")
        for stage in STAGES:
            seconds = [ended.stages.get(stage, 0.0) for ended in (first, update, scratch)]
            print(f"{stage:<22}{seconds[0]:>10.1f}{seconds[1]:>10.1f}{seconds[2]:>14.1f}")
        known, new, anew = (
            [int(count.replace(",", "")) for count in TOLD.findall(ended.printed)[0]]
            for ended in (first, update, scratch)
        )
        assert [a + b for a, b in zip(known, new, strict=True)] == anew, "something old was computed again"
        print(f"texts encoded, turns scored: {known}, then {new}; from scratch {anew}")


if __name__ == "__main__":
    main()
