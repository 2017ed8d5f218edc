"""What becomes of rows in every layout and kind of file: read, selected, written as messages, and read again.

    python -m benchmarks.layouts [--samples FOLDER]

Each file is read, encoded and scored with tiny random models, and selected from with threshold
1, so that every row that can be selected is; selected.jsonl is then written as messages and read again. FOLDER: files
of other people, beside those that are made here.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from benchmarks.tiny import make_head, make_tiny_model
from deita_core.config.settings import SelectionSettings
from deita_core.errors import InputError
from deita_core.export.files import selected_row
from deita_core.models.encoder_spec import EncoderFiles, find_encoder
from deita_core.reading.files import SUPPORTED
from deita_core.reading.pool import read_pool
from deita_core.scorers import ScorerFiles, find_scorer, load_found
from deita_core.stages.encoding import encode_shard, load_encoder, plan_encoding
from deita_core.stages.exporting import all_decisions, selected_rows
from deita_core.stages.ingest import Ingested, describe_file, ingest_file
from deita_core.stages.job import Job
from deita_core.stages.scoring import plan_scoring, score_shard
from deita_core.stages.selecting import select
from deita_core.store import Store
from deita_core.tables import SOURCES
from tests.support.dialects import CHOSEN, PLAIN


def main() -> None:
    """Print the table. Ends with an error if a row that was read does not come back with its id."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=Path, help="folder of further files")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, (encoder, scorers) = Store(folder / "store"), _models(folder)
        print(f"{'file':<44}{'layout':<17}{'read':>7}{'rejected':>10}{'ids':>7}{'selected':>10}{'same ids':>10}")
        read = {}
        for title, path in [*_made(folder), *_kinds(folder), *_given(asked.samples)]:
            try:
                read[title] = ingest_file(store, describe_file(str(path)))
            except InputError as error:
                print(f"{title:<44}{str(error)[:100]}")
        _compute(store, encoder, scorers, [file.file_id for file in read.values()])
        for title, file in read.items():
            print(_line(store, folder, title, file, encoder, scorers), flush=True)


def _models(folder: Path) -> tuple[EncoderFiles, list[ScorerFiles]]:
    path = make_tiny_model(folder / "encoder")
    encoder = find_encoder(str(path), "float32")
    return encoder, [
        find_scorer(str(make_head(folder / axis, axis, path)), axis, encoder) for axis in ("complexity", "quality")
    ]


def _made(folder: Path) -> Iterator[tuple[str, Path]]:
    """One file of each layout."""
    for number, (title, row) in enumerate([*PLAIN.items(), *((f"preference: {t}", r) for t, r in CHOSEN.items())]):
        path = folder / f"made-{number}.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        yield title, path


def _kinds(folder: Path) -> Iterator[tuple[str, Path]]:
    """Twelve rows in one file or folder of each kind."""
    rows = [{"instruction": f"Name {i} rivers.", "output": f"The first of {i} is the Rhine."} for i in range(12)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    frame = pl.DataFrame(columns)
    (folder / "kinds").mkdir()

    def at(name: str) -> Path:
        return folder / "kinds" / name

    at("a.parquet").write_bytes(_bytes(frame.write_parquet))
    at("a.feather").write_bytes(_bytes(frame.write_ipc))
    at("stream.arrow").write_bytes(_bytes(frame.write_ipc_stream))
    for name, separator in (("a.csv", ","), ("semicolons.csv", ";"), ("tabs.csv", "\t"), ("a.tsv", "\t")):
        frame.write_csv(at(name), separator=separator)
    at("sep-line.csv").write_text("sep=;\n" + frame.write_csv(separator=";"))
    for name, line_end in (("cr.csv", "\r"), ("cr.jsonl", "\r")):
        text = lines if name.endswith("jsonl") else frame.write_csv()
        at(name).write_bytes(text.replace("\n", line_end).encode())
    for name, encoding in (("bom.jsonl", "utf-8-sig"), ("utf-16.jsonl", "utf-16")):
        at(name).write_bytes(lines.encode(encoding))
    at("one-line.jsonl").write_text(lines.replace("\n", " "))
    at("array.jsonl").write_text(json.dumps(rows, indent=2))
    at("columns.json").write_text(json.dumps(columns))
    at("splits.json").write_text(json.dumps({"train": rows[:8], "test": rows[8:]}))
    for name, packed in (("a.jsonl.gz", gzip), ("a.jsonl.bz2", bz2), ("a.jsonl.xz", lzma)):
        at(name).write_bytes(packed.compress(lines.encode()))
    with zipfile.ZipFile(at("a.zip"), "w") as archive:
        archive.writestr("one.jsonl", lines)
    with tarfile.open(at("webdataset.tar"), "w") as tar:
        for number, row in enumerate(rows):
            member = tarfile.TarInfo(f"{number:03}.json")
            data = json.dumps(row).encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for path in sorted(at("").iterdir()):
        yield path.name, path


def _bytes(write: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _given(samples: Path | None) -> Iterator[tuple[str, Path]]:
    files = sorted(samples.iterdir()) if samples else []
    return ((path.name, path) for path in files if path.name.endswith(SUPPORTED))


def _compute(store: Store, encoder: EncoderFiles, scorers: list[ScorerFiles], file_ids: list[str]) -> None:
    loaded = load_encoder(encoder)
    for shard in plan_encoding(store, encoder, file_ids):
        encode_shard(store, loaded, shard)
    for scorer in scorers:
        for shard in plan_scoring(store, [scorer], file_ids):
            score_shard(store, [(load_found(scorer, encoder), scorer)], encoder, shard)


def _line(
    store: Store, folder: Path, title: str, file: Ingested, encoder: EncoderFiles, scorers: list[ScorerFiles]
) -> str:
    complexity, quality = scorers
    job = Job(
        run_id=file.file_id,
        file_ids=(file.file_id,),
        encoder=encoder,
        complexity=complexity,
        quality=quality,
        settings=SelectionSettings(threshold=1),
    )
    decided = select(store, job)
    rows = selected_rows(store, all_decisions(store, job))
    written = folder / "selected.jsonl"
    lines = [json.dumps(selected_row(row, "messages")) + "\n" for row in rows.iter_rows(named=True)]
    written.write_text("".join(lines), encoding="utf-8")
    again = read_pool(written)[0]["id"].sort()
    assert again.equals(rows["id"].sort()), f"{title}: rows came back with other ids"
    layouts = ", ".join(_layouts(store, file.file_id))
    return (
        f"{title:<44}{layouts:<17}{file.rows:>7,}{file.rejects:>10,}{decided.samples:>7,}{len(rows):>10,}"
        f"{len(again):>10,}"
    )


def _layouts(store: Store, file_id: str) -> list[str]:
    return store.fetch(SOURCES, "file_id", [file_id], ["layout"])["layout"].unique().sort().to_list()


if __name__ == "__main__":
    main()
