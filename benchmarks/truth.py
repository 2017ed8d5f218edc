"""Do the scorers agree with judges and with known defects? Every figure stands beside text length alone and random.

    python -m benchmarks.truth [--data ../shared/data] [--rows 1000] [--cache FOLDER]
                               [--quality-scorer laptop --quality-scorer FOLDER] [--complexity-scorer laptop]

A figure is averaged within an instruction first. The difference from length has a 95 % bootstrap interval over
instructions. Nothing is fitted on this data: it measures the scorers as they are. Without a scorer, those of both axes
named laptop are measured. `--cache` keeps text vectors, so that a second run with other heads takes seconds.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.truth_figures import AUC, ORDER, RANK, RANK_OVER, Question, Values, compare
from deita_core.conversation import content_id
from deita_core.export.markdown import markdown_table
from deita_core.literals import Axis
from deita_core.models.encoder_spec import find_encoder
from deita_core.models.static_encoder import TextEncoder, load_text_encoder
from deita_core.scorers import HeadScorer, Scorer, load_scorer

ROOT = Path(__file__).parents[1]
# Authored and graded, and never trained on: answers, single instructions, and instructions with more and more
# constraints.
HELD_OUT = ROOT / "examples" / "evolution"
ANSWERS_PER_INSTRUCTION = 8
# The labels of usefulness with several answers to one instruction.
RATINGS = ("pairwise_shown_score_1_10", "rubric_score_1_5", "pointwise_score_1_10")
DEFECTS = ("weak", "wrong_pair", "truncated", "mid")


def main() -> None:
    """Print the tables of both axes."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--rows", type=int, default=None, help="about so many rows of each figure, of many instructions"
    )
    parser.add_argument("--cache", type=Path, default=None, help="folder of text vectors")
    parser.add_argument("--quality-scorer", action="append", metavar="NAME")
    parser.add_argument("--complexity-scorer", action="append", metavar="NAME")
    options = parser.parse_args()
    vectors = Vectors(options.cache)
    laptop = None if options.quality_scorer or options.complexity_scorer else ["laptop"]
    axes: tuple[tuple[Axis, list[str] | None, Iterator[Question]], ...] = (
        ("quality", options.quality_scorer or laptop, quality_questions(options.data)),
        ("complexity", options.complexity_scorer or laptop, complexity_questions(options.data)),
    )
    for axis, names, questions in axes:
        if names:
            scorers = [load_scorer(name, axis) for name in names]
            print(f"\n{header(names)}", flush=True)
            for question in questions:
                line = figures(question.head(options.rows), scorers, vectors)
                print(markdown_table(line, []).partition("\n")[0], flush=True)


def figures(question: Question, scorers: Sequence[Scorer], vectors: "Vectors") -> list[str]:
    """One line of the table."""
    rows = question.rows
    length = rows[question.scored].str.len_chars().to_numpy().astype(float)
    random = np.random.default_rng(0).random(len(rows))
    found = [vectors.score(scorer, rows) for scorer in scorers]
    compared = [compare(question, values, length) for values in found]
    line = [question.name, f"{len(rows):,}", f"{rows['group'].n_unique():,}"]
    line += [f"{compare(question, random, length).figure:.3f}", f"{compared[0].length:.3f}"]
    for one, values in zip(compared, found, strict=True):
        unreadable = f" ({np.isnan(values).sum()} unreadable)" if np.isnan(values).any() else ""
        line += [
            f"{one.figure:.3f}{unreadable}",
            f"{one.above.mean:+.3f} ({one.above.low:+.3f} to {one.above.high:+.3f})",
        ]
    return line


def header(names: Sequence[str]) -> str:
    """The first two lines of an axis's Markdown table."""
    columns = ["figure", "rows", "instructions", "random", "length"]
    return markdown_table([*columns, *(part for name in names for part in (name, f"{name} above length"))], [])


def quality_questions(data: Path) -> Iterator[Question]:
    """Pairs, rankings and ratings of answers to one instruction, and answers with planted defects."""
    judged = pl.read_parquet(data / "quality_pairs_dev.parquet")
    judged = judged.filter((pl.col("judge") == "derived_v2") & pl.col("length_matched"))
    yield pairs("pairs of like length, GPT-4 judge: right order", judged, "pref_b")
    checked = pl.read_parquet(data / "pairs_extra_dev.parquet").with_columns(instruction_id="instruction")
    yield pairs("pairs, human-checked: right order", checked, "label")
    yield pairs("the same, of like length: right order", checked.filter("length_matched"), "label")
    ranked = pl.read_parquet(data / "quality_rank_dev.parquet")
    some = pl.int_range(pl.len()).shuffle(seed=0).over("instruction_id") < ANSWERS_PER_INSTRUCTION
    ranked = ranked.sort("instruction_id", "model").filter(some)
    yield answers("44 models, the answer's preference: rank", ranked, "instruction_id", "item_pref_v2")
    yield answers("44 models, the model's win rate: rank", ranked, "instruction_id", "win_rate_lc")
    rated = pl.read_parquet(data / "ratings_dev.parquet")
    ratings = rated.group_by("label", "instruction", "response", maintain_order=True).agg(pl.col("value").mean())
    for label in RATINGS:
        yield answers(f"ratings, {label}: rank", ratings.filter(pl.col("label") == label), "instruction", "value")
    yield from planted(data)
    rows = pl.read_ndjson(HELD_OUT / "held_out_quality.jsonl").explode("variants").unnest("variants")
    rows = rows.select("instruction", response="text", truth="score", group="id", chain="id")
    yield Question("answers, authored, never trained on: right order", ORDER, rows)


def pairs(name: str, frame: pl.DataFrame, column: str) -> Question:
    """Which of two answers is better; a null and 0.5 express no preference."""
    frame = frame.filter(pl.col(column).is_not_null() & (pl.col(column) != 0.5)).with_row_index("chain")
    sides = [
        frame.select("chain", "instruction", group="instruction_id", response=f"response_{side}", truth=better)
        for side, better in (("a", pl.col(column) < 0.5), ("b", pl.col(column) > 0.5))
    ]
    return Question(name, ORDER, pl.concat(sides).sort("chain", maintain_order=True))


def answers(name: str, frame: pl.DataFrame, group: str, truth: str) -> Question:
    """How the values of several answers to one instruction rank them."""
    frame = frame.drop_nulls(truth).select(
        "instruction", "response", group=group, truth=truth, chain=pl.concat_str(group, pl.lit(""))
    )
    return Question(name, RANK, frame.filter(pl.col("truth").n_unique().over("group") > 1))


def planted(data: Path) -> Iterator[Question]:
    """Answers of strong models against weak, mid and defective ones."""
    pool = pl.read_parquet(data / "planted_pool.parquet").join(pl.read_parquet(data / "planted_truth.parquet"), on="id")
    first, last = pl.col("messages").list.first(), pl.col("messages").list.last()
    pool = pool.select(
        "kind",
        instruction=first.struct.field("content"),
        response=last.struct.field("content"),
        group=pl.coalesce("prompt_group", "id"),
        truth=pl.col("kind") == "strong",
        chain=pl.lit(""),
    ).filter(pl.col("response").str.strip_chars() != "")
    for kind in DEFECTS:
        yield Question(
            f"planted pool, strong above {kind}: AUC", AUC, pool.filter(pl.col("kind").is_in(["strong", kind]))
        )


def complexity_questions(data: Path) -> Iterator[Question]:
    """Levels of difficulty of instructions: within a chain, or over a source."""
    levels = pl.read_parquet(data / "difficulty_dev.parquet").rename({"level": "truth"})
    tiers = levels.filter(pl.col("label") == "coarse_tier").with_columns(chain=pl.lit(""), group="id")
    yield Question("arena-hard above plain seeds: AUC", AUC, tiers.with_columns(truth=pl.col("truth") > 0))
    for (source,), part in levels.filter(pl.col("label") != "coarse_tier").group_by("source", maintain_order=True):
        if part["group"].n_unique() > 1:
            part = part.filter(pl.col("truth").n_unique().over("group") > 1).with_columns(chain="group")
            yield Question(f"{source}, {part['label'][0]}: right order", ORDER, part)
        else:
            yield Question(
                f"{source}, {part['label'][0]}: rank", RANK_OVER, part.with_columns(group="id", chain=pl.lit(""))
            )
    for style, name in (("tidy", "complexity"), ("typed", "typed_complexity")):
        rows = held_out(name).select(instruction="text", truth="score", group="text", chain=pl.lit(""))
        yield Question(f"single instructions, {style}, authored, never trained on: rank", RANK_OVER, rows)
    rows = held_out("ladders_complexity").with_columns(truth=pl.int_range(pl.len()).over("id"))
    rows = rows.select("truth", instruction="text", group="id", chain="id")
    yield Question("one constraint more, authored, never trained on: right order", ORDER, rows)


def held_out(name: str) -> pl.DataFrame:
    """The variants of authored instructions: id, text, score."""
    chains = pl.read_ndjson(HELD_OUT / f"held_out_{name}.jsonl")
    return chains.select("id", "variants").explode("variants").unnest("variants")


class Vectors:
    """Text vectors of heads' encoders, kept in a folder if one is given."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, np.ndarray]] = {}
        self._encoders: dict[str, TextEncoder] = {}

    def score(self, scorer: Scorer, rows: pl.DataFrame) -> Values:
        """The scores of rows, NaN where a row is unreadable."""
        asked = rows["instruction"].to_list()
        answered = rows["response"].to_list() if scorer.axis == "quality" else None
        if not isinstance(scorer, HeadScorer):
            found = scorer.score(asked, answered)
            # Values on a scale of their own have the same order as the scores that a pool would give them.
            return found["raw" if "raw" in found.columns else "score"].fill_null(float("nan")).to_numpy()
        vector_of = self._of(scorer.card.encoder, [*asked, *(answered or [])])
        asked_vectors = np.array([vector_of[text] for text in asked])
        answer_vectors = None if answered is None else np.array([vector_of[text] for text in answered])
        return (
            scorer.score_vectors(asked, asked_vectors, answered, answer_vectors)["score"]
            .fill_null(float("nan"))
            .to_numpy()
        )

    def _of(self, encoder: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        files = find_encoder(encoder)
        file = None if self._folder is None else self._folder / f"vectors-{files.fingerprint[:16]}.npz"
        if encoder not in self._known:
            self._known[encoder] = read(file) if file and file.exists() else {}
            self._encoders[encoder] = load_text_encoder(files)
        known = self._known[encoder]
        id_of = {text: content_id(text.encode()) for text in texts}
        if missing := [text for text, id_ in id_of.items() if id_ not in known]:
            made = self._encoders[encoder].encode(missing).vectors
            known.update(zip((id_of[text] for text in missing), made, strict=True))
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, ids=np.array(list(known)), vectors=np.array(list(known.values())))
        return {text: known[id_] for text, id_ in id_of.items()}


def read(file: Path) -> dict[str, np.ndarray]:
    """Vectors by the ids of their texts."""
    with np.load(file) as saved:
        return dict(zip(saved["ids"].tolist(), saved["vectors"], strict=True))


if __name__ == "__main__":
    main()
