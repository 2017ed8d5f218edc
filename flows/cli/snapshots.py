"""Commands on a growing pool and its snapshots: update, remove, snapshots, diff, export."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from deita_core.literals import Format, Turns
from flows.cli.options import (
    ConfigOption,
    EncoderOption,
    JudgeVotesOption,
    LayoutOption,
    LeaveOutOption,
    MapOption,
    ModalityOption,
    PreferenceOption,
    PresetOption,
    ReasoningOption,
    RefineFactorOption,
    RefineOption,
    ReportOption,
    RunnerOption,
    ScorerOption,
    StoreOption,
    given_settings,
)
from flows.cli.rules import (
    CapOption,
    ClusterDrawOption,
    ClustersOption,
    DiversityOption,
    DropOption,
    ExcludeOption,
    ExcludeSimilarityOption,
    FloorOption,
    KeepOption,
    LanguageOption,
    LikeOption,
    LikeTaskOption,
    LikeWeightOption,
    MaxAnswerTokensOption,
    MaxRepetitionOption,
    MinAnswerTokensOption,
    MinScoreOption,
    PerOption,
    RankModelOption,
    RankOption,
    SeedOption,
    StrategyOption,
    TagsFieldOption,
    TokenBudgetOption,
    TokenizerOption,
    WhereOption,
)
from flows.cli.server import start_server

app = typer.Typer()

DEFAULT_STORE = ".deita"


@app.command(
    epilog="Examples:  deita update --out out/mine   ·   deita update new.jsonl --out out/mine   ·   "
    "deita update --budget 8000 --out out/mine"
)
def update(
    out: Annotated[Path, typer.Option(help="Folder that deita select wrote, or a new one.")],
    pool: Annotated[
        list[str] | None, typer.Argument(help="Further files, folders, globs. Default: only those it has.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="How many conversations to select.")] = None,
    threshold: Annotated[str | None, typer.Option(help="Largest cosine similarity to a selected one, or auto.")] = None,
    store: StoreOption = None,
    preset: PresetOption = None,
    turns: Annotated[Turns | None, typer.Option(help="How turns make a sample's score.")] = None,
    encoder: EncoderOption = None,
    complexity_scorer: ScorerOption = None,
    quality_scorer: ScorerOption = None,
    refine: RefineOption = None,
    refine_factor: RefineFactorOption = None,
    judge_votes: JudgeVotesOption = None,
    layout: LayoutOption = None,
    map: MapOption = None,
    preference: PreferenceOption = None,
    modality: ModalityOption = None,
    reasoning: ReasoningOption = None,
    leave_out: LeaveOutOption = None,
    format: Annotated[Format | None, typer.Option(help="Layout of selected.jsonl.")] = None,
    runner: RunnerOption = None,
    config: ConfigOption = None,
    strategy: StrategyOption = None,
    rank: RankOption = None,
    diversity: DiversityOption = None,
    seed: SeedOption = None,
    clusters: ClustersOption = None,
    cluster_draw: ClusterDrawOption = None,
    tags_field: TagsFieldOption = None,
    rank_model: RankModelOption = None,
    like: LikeOption = None,
    like_task: LikeTaskOption = None,
    like_weight: LikeWeightOption = None,
    token_budget: TokenBudgetOption = None,
    tokenizer: TokenizerOption = None,
    per: PerOption = None,
    cap: CapOption = None,
    floor: FloorOption = None,
    keep: KeepOption = None,
    drop: DropOption = None,
    where: WhereOption = None,
    min_score: MinScoreOption = None,
    language: LanguageOption = None,
    max_repetition: MaxRepetitionOption = None,
    min_answer_tokens: MinAnswerTokensOption = None,
    max_answer_tokens: MaxAnswerTokensOption = None,
    exclude: ExcludeOption = None,
    exclude_similarity: ExcludeSimilarityOption = None,
    report: ReportOption = None,
) -> None:
    """Select again from a pool that has grown; only new texts are encoded and scored.

    Reads the files and folders of the folder's last snapshot and those named here. Settings that are not given are
    taken from that snapshot. The result equals a run from scratch. It also writes added.jsonl, dropped.jsonl and
    CHANGES.md, which say what changed and why.
    """
    flags = given_settings(locals())
    from deita_core.config.loader import load
    from deita_core.config.settings import SelectionSettings

    settings = load(SelectionSettings, config, flags)
    server = start_server()
    from flows.cli.summary import print_report
    from flows.selection import update as update_flow

    import_module("lancedb")
    server.join()
    print_report(update_flow(pool or [], str(out), settings), out)


@app.command(
    epilog="Examples:  deita remove --ids 0f3c...   ·   deita remove --where \"file = 'data/a.jsonl' AND line = 12\""
)
def remove(
    ids: Annotated[list[str] | None, typer.Option(help="Id of a sample, as in decisions.parquet; repeat it.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL on file, line, layout, fields, sample_id.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    store: StoreOption = None,
    old_versions: Annotated[
        bool, typer.Option("--old-versions", help="Rows that files held in the past as well.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove conversations for good from the pool, the vectors, the scores and all later snapshots.

    Every copy of a conversation in the pool is removed, and reading a file again does not bring it back. The reports of
    earlier selections are deleted. Their other files are not changed: run deita update for a snapshot without the
    removed conversations.
    """
    from deita_core.config.settings import removal_settings
    from deita_core.errors import InputError
    from deita_core.stages.removal import counted, matching
    from deita_core.store import Store

    uri = store or DEFAULT_STORE
    settings = removal_settings(ids=ids or [], where=where, reason=reason, old_versions=old_versions)
    match = matching(Store(uri), settings)
    found = counted(Store(uri), match.ids)
    what = f"{found.samples:,} conversations, {found.rows:,} rows of the pool"
    if match.older and not old_versions:
        typer.echo(f"{match.older:,} more fit by what files held in the past; --old-versions removes them as well.")
    if not match.ids:
        raise InputError(
            "Nothing fits, so nothing is removed; name --ids, or a condition such as \"file = 'a.jsonl'\"."
        )
    if dry_run:
        typer.echo(f"Would remove {what}. Nothing was removed.")
        return
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Remove {what} for good?", abort=True)
    server = start_server()
    from flows.maintenance import remove as remove_flow

    server.join()
    remove_flow(uri, settings)
    typer.echo(f"Removed {what}. Run deita update --out DIR for a snapshot without them.")


@app.command(epilog="Example:  deita snapshots --store .deita")
def snapshots(store: StoreOption = None) -> None:
    """List the finished selections of a store."""
    from deita_core.store import Store
    from flows.cli.summary import print_snapshots

    print_snapshots(Store(store or DEFAULT_STORE))


@app.command(epilog="Examples:  deita diff   ·   deita diff 3 5")
def diff(
    before: Annotated[int | None, typer.Argument(help="Number of a snapshot. Default: the one before.")] = None,
    after: Annotated[int | None, typer.Argument(help="Number of a later one. Default: the last.")] = None,
    store: StoreOption = None,
) -> None:
    """Show what a snapshot selects that an earlier one did not, what it no longer selects, and why."""
    from deita_core.stages.diff import changes_text, compare_snapshots
    from deita_core.store import Store

    typer.echo(changes_text(compare_snapshots(Store(store or DEFAULT_STORE), before, after)))


@app.command(epilog="Example:  deita export 3 --out out/third")
def export(
    number: Annotated[int, typer.Argument(help="Number of the snapshot, as deita snapshots lists it.")],
    out: Annotated[Path, typer.Option(help="Folder for its files.")],
    store: StoreOption = None,
) -> None:
    """Write the files of a snapshot again; conversations removed since are not in them."""
    from deita_core.stages.exporting import export_selection
    from deita_core.stages.snapshots import read_snapshot
    from deita_core.store import Store

    held = Store(store or DEFAULT_STORE)
    export_selection(held, read_snapshot(held, number).report, out)
    typer.echo(f"Wrote snapshot {number} to {out}.")
