"""Options of the order, the rule of diversity and the limits, shared by the commands that select."""

from typing import Annotated

import typer

from deita_core.literals import ClusterDraw, Diversity, Rank, Strategy

ORDER, LIMITS, ROWS = "Order and diversity", "Budgets and quotas", "Rows taken in or left out"

StrategyOption = Annotated[
    Strategy | None, typer.Option(help="A known pair of rank and diversity. Default deita.", rich_help_panel=ORDER)
]
RankOption = Annotated[
    Rank | None, typer.Option(help="What the conversations are ranked by. Default evol.", rich_help_panel=ORDER)
]
DiversityOption = Annotated[
    Diversity | None,
    typer.Option(help="The rule that keeps those selected apart. Default threshold.", rich_help_panel=ORDER),
]
SeedOption = Annotated[
    int | None, typer.Option(help="Of the random order, of clusters and draws. Default 0.", rich_help_panel=ORDER)
]
ClustersOption = Annotated[
    int | None,
    typer.Option(help="Number of clusters. Default: a tenth of the rows to select.", rich_help_panel=ORDER),
]
ClusterDrawOption = Annotated[
    ClusterDraw | None,
    typer.Option(help="Rows of a cluster: drawn by score, or the best. Default score.", rich_help_panel=ORDER),
]
TagsFieldOption = Annotated[
    str | None, typer.Option(help="Field of the rows with their tags, for mig and instag.", rich_help_panel=ORDER)
]
RankModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The language model of perplexity, ifd and wici: a folder or hub name. Default smollm2-135m.",
        rich_help_panel=ORDER,
    ),
]
LikeOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Examples of the tasks you want, rows or lines of text, for rds.", rich_help_panel=ORDER
    ),
]
LikeTaskOption = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="Field of --like that names the task. Default task.", rich_help_panel=ORDER),
]
LikeWeightOption = Annotated[
    float | None,
    typer.Option(help="Weight of the likeness, 0 to 1; the rest is evol's. Default 1.", rich_help_panel=ORDER),
]
TokenBudgetOption = Annotated[
    int | None,
    typer.Option(help="How many training tokens to select. Default: no limit.", rich_help_panel=LIMITS),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(help="Counts tokens: the model to train. Default: the encoder's.", rich_help_panel=LIMITS),
]
PerOption = Annotated[
    str | None,
    typer.Option(
        help="What --cap and --floor are of: source, layout, turns, language, cluster, or a field. Default source.",
        rich_help_panel=LIMITS,
    ),
]
CapOption = Annotated[
    float | None, typer.Option(help="Largest share of the budget of a group, such as 0.2.", rich_help_panel=LIMITS)
]
FloorOption = Annotated[
    int | None, typer.Option(help="Rows that each group has at least, taken first.", rich_help_panel=LIMITS)
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID|FILE", help="Rows always selected: an id, or a file of ids or rows.", rich_help_panel=ROWS
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="Benchmark questions; rows that hold one are contaminated. Repeat it.",
        rich_help_panel=ROWS,
    ),
]
ExcludeSimilarityOption = Annotated[
    float | None,
    typer.Option(
        help="Cosine to a question from which on a row is contaminated, such as 0.9. Default: words only.",
        rich_help_panel=ROWS,
    ),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ID|FILE", help="Rows never selected: an id, or a file of ids or rows.", rich_help_panel=ROWS),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        help="SQL on file, line, layout, fields, sample_id: what a row must meet. Default: nothing.",
        rich_help_panel=ROWS,
    ),
]
MinScoreOption = Annotated[
    float | None, typer.Option(help="Smallest score (complexity x quality).", rich_help_panel=ROWS)
]
LanguageOption = Annotated[
    str | None,
    typer.Option(metavar="CODES", help="Languages of the rows, such as en,de. Default: any.", rich_help_panel=ROWS),
]
MaxRepetitionOption = Annotated[
    float | None,
    typer.Option(help="Largest share of repeated 4-grams of the answers, such as 0.3.", rich_help_panel=ROWS),
]
MinAnswerTokensOption = Annotated[int | None, typer.Option(help="Fewest tokens of the answers.", rich_help_panel=ROWS)]
MaxAnswerTokensOption = Annotated[int | None, typer.Option(help="Most tokens of the answers.", rich_help_panel=ROWS)]
