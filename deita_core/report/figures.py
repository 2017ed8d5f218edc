"""The figures of the report, a dataclass for each section, computed from the fates of all rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from deita_core.literals import LEFT_OUT, Fate

# A change of the threshold whose effect is shown.
STEP = 0.02
SCORES = ("score", "complexity", "quality")
TURNS = ((1, 1), (2, 2), (3, 4), (5, None))
LENGTHS = ((0, 199), (200, 999), (1_000, 3_999), (4_000, None))
# Bins of a histogram, and of the grid of scores and lengths.
BINS = 30
ACROSS, UP = 40, 16
# Files, and languages, that are listed by their names.
LISTED = 20
# The order in which rows leave.
FUNNEL: tuple[Fate, ...] = (
    "rejected", "filtered", "contaminated", "near_duplicate", "redundant", "over_quota", "over_budget", "selected"
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A number of rows of the funnel and its share of the rows read."""

    name: str
    label: str
    rows: int
    share: float


def funnel(decisions: pl.DataFrame) -> list[Step]:
    """Where every row read went. `decisions`: fate, copies (null for a row that is no sample)."""
    merged = int((decisions["copies"].drop_nulls() - 1).sum())
    fates = dict(decisions.group_by("fate").len().iter_rows())
    read = len(decisions) + merged
    labels = {"near_duplicate": "near-duplicates", "over_quota": "over quota", "over_budget": "over budget"}
    usual = ("rejected", "near_duplicate", "over_budget", "selected")
    left = [fate for fate in FUNNEL if fate in usual or fates.get(fate)]
    counted = [("read", "read", read), ("merged", "exact duplicates", merged)]
    counted += [(fate, labels.get(fate, fate), fates.get(fate, 0)) for fate in left]
    return [Step(name, label, rows, rows / read if read else 0.0) for name, label, rows in counted]


@dataclass(frozen=True)
class Profile:
    """What a set of rows is like; None where there is nothing to compute it from."""

    rows: int
    tokens: int
    median_tokens: float | None
    median_chars: float | None
    mean_turns: float | None
    multi_turn: float | None
    complexity: float | None
    quality: float | None


@dataclass(frozen=True)
class Share:
    """The share of a group in the pool, in the selected and in the random rows; None: not computed."""

    name: str
    pool: float
    selected: float
    random: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as frequent the group is among the selected as in the pool."""
        return self.selected / self.pool if self.pool else None


@dataclass(frozen=True)
class Composition:
    """Section 2: profiles and shares. Writing systems and clusters are those of the rows drawn on the map.

    `languages`: empty if they were not looked for.
    """

    pool: Profile
    selected: Profile
    random: Profile
    files: list[Share]
    turns: list[Share]
    lengths: list[Share]
    languages: list[Share]
    scripts: list[Share]
    clusters: list[Share]


def random_at_equal_tokens(samples: pl.DataFrame) -> pl.DataFrame:
    """Rows in an order that depends on nothing but their ids, until they have as many tokens as the selected ones.

    `samples`: id, fate, tokens; those left out before the ranking are not drawn. Ids are hashes of the content.
    """
    wanted = samples.filter(pl.col("fate") == "selected")["tokens"].sum()
    drawn = samples.filter(~pl.col("fate").is_in(LEFT_OUT)).sort(pl.col("id").str.slice(16), "id")
    return drawn.filter(pl.col("tokens").cum_sum() - pl.col("tokens") < wanted)


def compose(samples: pl.DataFrame, drawn: pl.DataFrame) -> Composition:
    """Section 2.

    `samples`: id, fate, file, tokens, n_chars, n_turns, the scores, and language if languages are known; `drawn`: fate,
    weight, script, cluster.
    """
    selected, random = samples.filter(pl.col("fate") == "selected"), random_at_equal_tokens(samples)
    sets = (samples, selected, random)
    files = _shares([_parts(rows, pl.col("file")) for rows in sets])
    known = pl.col("language").fill_null("not known")
    languages = _shares([_parts(rows, known) for rows in sets]) if "language" in samples.columns else []
    chosen = drawn.filter(pl.col("fate") == "selected")

    def of_drawn(column: str) -> list[Share]:
        pairs = [_parts(rows.filter(pl.col(column).is_not_null()), pl.col(column)) for rows in (drawn, chosen)]
        return _shares(pairs)

    return Composition(
        pool=profile(samples),
        selected=profile(selected),
        random=profile(random),
        files=[*files[:LISTED], *_rest(files[LISTED:], "files")],
        turns=_ranges(sets, "n_turns", TURNS),
        lengths=_ranges(sets, "n_chars", LENGTHS),
        languages=[*languages[:LISTED], *_rest(languages[LISTED:], "languages")],
        scripts=of_drawn("script"),
        clusters=sorted(of_drawn("cluster"), key=lambda share: -(share.ratio or 0)),
    )


def profile(rows: pl.DataFrame) -> Profile:
    """The profile of rows: tokens, n_chars, n_turns, complexity, quality."""

    def middle(column: str, how: str) -> float | None:
        found = getattr(rows[column].drop_nulls(), how)()
        return None if found is None else float(found)

    multi = (rows["n_turns"] > 1).mean()
    return Profile(
        rows=len(rows),
        tokens=int(rows["tokens"].sum()),
        median_tokens=middle("tokens", "median"),
        median_chars=middle("n_chars", "median"),
        mean_turns=middle("n_turns", "mean"),
        multi_turn=None if multi is None else float(multi),  # type: ignore[arg-type]
        complexity=middle("complexity", "mean"),
        quality=middle("quality", "mean"),
    )


def _parts(rows: pl.DataFrame, name: pl.Expr) -> dict[str, float]:
    """The share of each name; rows may have a `weight`."""
    size = pl.col("weight").sum() if "weight" in rows.columns else pl.len()
    # In order: the order of its terms changes the last bit of a sum.
    counted = rows.group_by(name.alias("name"), maintain_order=True).agg(n=size)
    total = counted["n"].sum()
    return {name: n / total for name, n in counted.iter_rows()}


def _shares(parts: Sequence[dict[str, float]]) -> list[Share]:
    """Shares by name, most frequent in the pool first."""
    names = sorted(parts[0], key=lambda name: (-parts[0][name], name))
    return [Share(name, *(part.get(name, 0.0) for part in parts)) for name in names]


def _rest(shares: Sequence[Share], what: str) -> Iterable[Share]:
    if shares:
        sums = (sum(getattr(share, name) or 0.0 for share in shares) for name in ("pool", "selected", "random"))
        yield Share(f"{len(shares):,} more {what}", *sums)


def _ranges(sets: Sequence[pl.DataFrame], column: str, ranges: Sequence[tuple[int, int | None]]) -> list[Share]:
    def share(rows: pl.DataFrame, low: int, high: int | None) -> float:
        inside = rows.filter(pl.col(column).is_between(low, high) if high is not None else pl.col(column) >= low)
        return len(inside) / len(rows) if len(rows) else 0.0

    return [Share(_named(low, high), *(share(rows, low, high) for rows in sets)) for low, high in ranges]


def _named(low: int, high: int | None) -> str:
    if high is None:
        return f"{low:,} or more"
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins between `low` and `high`: of two series, and where a line is drawn."""

    name: str
    low: float
    high: float
    first: list[int]
    second: list[int]
    line: float | None

    @property
    def top(self) -> int:
        """The largest count of both series together."""
        return max((a + b for a, b in zip(self.first, self.second, strict=True)), default=0) or 1


def histogram(
    name: str, first: pl.Series, second: pl.Series, line: float | None, within: tuple[float, float] | None = None
) -> Histogram:
    """A histogram of two series over the same bins, by default from the lowest to the highest value."""
    parts = [series.drop_nulls().to_numpy() for series in (first, second)]
    low, high = within or _limits(np.concatenate(parts))
    counts = [np.histogram(part, BINS, (low, high))[0].tolist() for part in parts]
    return Histogram(name, low, high, counts[0], counts[1], line)


@dataclass(frozen=True)
class Grid:
    """Counts of rows by the logarithm of their characters (across) and score (up): column, row, count."""

    shortest: float
    longest: float
    lowest: float
    highest: float
    cells: list[tuple[int, int, int]]

    @property
    def top(self) -> int:
        """The largest count."""
        return max((count for _, _, count in self.cells), default=1)


@dataclass(frozen=True)
class Rewards:
    """Section 3: `cut` is the lowest score selected; correlations are Spearman's over all scored rows."""

    cut: float | None
    histograms: list[Histogram]
    by_length: Grid
    with_length: float | None
    with_turns: float | None
    between_axes: float | None


def rewards(samples: pl.DataFrame) -> Rewards:
    """Section 3. `samples`: fate, n_chars, n_turns and the scores."""
    scored = samples.filter(pl.col("score").is_not_null())
    selected = scored.filter(pl.col("fate") == "selected")
    others = scored.filter(pl.col("fate") != "selected")
    lowest = selected["score"].min()
    cut = None if lowest is None else float(lowest)  # type: ignore[arg-type]
    limits: dict[str, tuple[float, float]] = {"complexity": (1.0, 6.0), "quality": (1.0, 6.0)}
    return Rewards(
        cut=cut,
        histograms=[
            histogram(name, selected[name], others[name], cut if name == "score" else None, limits.get(name))
            for name in SCORES
        ],
        by_length=_grid(scored),
        with_length=spearman(scored, "score", "n_chars"),
        with_turns=spearman(scored, "score", "n_turns"),
        between_axes=spearman(scored, "complexity", "quality"),
    )


def spearman(rows: pl.DataFrame, one: str, other: str) -> float | None:
    """Spearman's rank correlation of two columns; None if one of them does not vary."""
    found = rows.select(pl.corr(one, other, method="spearman")).item() if len(rows) > 1 else None
    return None if found is None or not np.isfinite(found) else float(found)


def _grid(scored: pl.DataFrame) -> Grid:
    length, score = np.log10(scored["n_chars"].to_numpy()), scored["score"].to_numpy()
    sides = [_limits(length), _limits(score)]
    counts = np.histogram2d(length, score, (ACROSS, UP), sides)[0].astype(int)
    cells = [(int(x), int(y), int(counts[x, y])) for x, y in zip(*np.nonzero(counts), strict=True)]
    return Grid(*sides[0], *sides[1], cells)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value, and limits one apart if these are equal or there are none."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return low, high if high > low else low + 1


@dataclass(frozen=True)
class Threshold:
    """Section 4: similarities to the most similar selected row above.

    `looser`: near-duplicates that are not similar enough for a threshold higher by STEP; `tighter`: selected rows that
    are too similar for one lower by STEP. Both count against the rows selected now.
    """

    value: float
    similarities: Histogram
    near_duplicates: int
    compared: int
    looser: int
    tighter: int


def threshold_figures(samples: pl.DataFrame, threshold: float) -> Threshold:
    """Section 4. `samples`: fate, similarity."""
    compared = samples.filter(pl.col("similarity").is_not_null() & pl.col("fate").is_in(["selected", "near_duplicate"]))
    near, selected = (compared.filter(pl.col("fate") == fate)["similarity"] for fate in ("near_duplicate", "selected"))
    return Threshold(
        value=threshold,
        similarities=histogram("similarity", selected, near, threshold),
        near_duplicates=len(near),
        compared=len(compared),
        looser=int((near <= threshold + STEP).sum()),
        tighter=int((selected > threshold - STEP).sum()),
    )


@dataclass(frozen=True)
class RejectedFile:
    """Lines of a file that were rejected for one reason, such as 1, 4-6."""

    file: str
    rows: int
    lines: str


@dataclass(frozen=True)
class Reason:
    """Section 7: the rows rejected for a reason, and what was said of the first."""

    reason: str
    rows: int
    example: str
    files: list[RejectedFile]


def rejections(decisions: pl.DataFrame) -> list[Reason]:
    """Section 7: rows without a rank, most frequent reason first. `decisions`: fate, reason, file, line."""
    fate, reason = pl.col("fate"), pl.col("reason")
    rejected = decisions.filter(fate.is_in(LEFT_OUT)).with_columns(
        kind=pl.when(fate == "rejected").then(reason.str.split(": ").list.first())
        # Reasons of one filter differ in the number that the row has.
        .when(fate == "filtered").then(pl.format("filtered: {}", reason.str.replace(r"\d[\d.]*", "…")))
        .otherwise("fate")
    )  # fmt: skip
    found = []
    for (kind,), rows in rejected.group_by("kind", maintain_order=True):
        files = [
            RejectedFile(str(file), len(part), line_ranges(part["line"]))
            for (file,), part in rows.sort("file", "line").group_by("file", maintain_order=True)
        ]
        found.append(Reason(str(kind), len(rows), str(rows["reason"][0]), files))
    return sorted(found, key=lambda reason: (-reason.rows, reason.reason))


def line_ranges(lines: pl.Series) -> str:
    """Line numbers as text, with ranges: 1, 4-6."""
    runs: list[list[int]] = []
    for line in lines.unique().sort():
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
