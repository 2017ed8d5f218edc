"""Commands that read a pool: select, score, calibrate, pairs."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from deita_core.literals import Format, Turns
from flows.cli.options import (
    ConfigOption,
    EncoderOption,
    Files,
    JudgeVotesOption,
    LayoutOption,
    LeaveOutOption,
    LimitOption,
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


@app.command(
    epilog="Examples:  deita select pool.jsonl --budget 6000 --out out/   ·   "
    "deita select data/ 'more/*.parquet' --threshold auto --budget 10000 --out out/"
)
def select(
    pool: Files,
    out: Annotated[Path | None, typer.Option(help="Folder for the selection's files. Needed unless --dry-run.")] = None,
    budget: Annotated[int | None, typer.Option(help="How many conversations to select. Default: no limit.")] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Largest cosine similarity to a selected one, or auto. Default 0.9.")
    ] = None,
    store: StoreOption = None,
    preset: PresetOption = None,
    turns: Annotated[Turns | None, typer.Option(help="How turns make a sample's score. Default mean.")] = None,
    training_tokens: Annotated[int | None, typer.Option(help="Where training cuts. Default 2048.")] = None,
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
    format: Annotated[Format | None, typer.Option(help="Layout of selected.jsonl. Default same.")] = None,
    limit: LimitOption = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")] = False,
) -> None:
    """Select the best and most diverse conversations of a pool.

    Writes selected.jsonl (your rows, with a `deita` object that says why), selected.parquet, decisions.parquet (the
    fate of every row), README.md (a dataset card), manifest.json and report.html (a page to look at). A second run
    computes only what is new.
    """
    flags = given_settings(locals())
    from deita_core.config.settings import load_settings

    settings = load_settings(config, **flags)
    if dry_run:
        from deita_core.stages.estimate import estimate
        from flows.cli.summary import print_estimate

        print_estimate(estimate(pool, settings))
        return
    if out is None:
        raise typer.BadParameter("Give a folder for the selection's files, or --dry-run.", param_hint="--out")
    server = start_server()
    from flows.cli.summary import print_report
    from flows.selection import select as select_flow

    import_module("lancedb")
    server.join()
    print_report(select_flow(pool, str(out), settings), out)


@app.command(epilog="Example:  deita score pool.jsonl --out scores.parquet")
def score(
    pool: Files,
    out: Annotated[Path, typer.Option(help="File for the scores: .parquet, .csv or .jsonl.")],
    store: StoreOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = None,
    complexity_scorer: ScorerOption = None,
    quality_scorer: ScorerOption = None,
    judge_votes: JudgeVotesOption = None,
    layout: LayoutOption = None,
    map: MapOption = None,
    preference: PreferenceOption = None,
    modality: ModalityOption = None,
    reasoning: ReasoningOption = None,
    leave_out: LeaveOutOption = None,
    limit: LimitOption = None,
    runner: RunnerOption = None,
    config: ConfigOption = None,
) -> None:
    """Score every turn of a pool for complexity and quality, 1 to 6, and write the scores to a file.

    The scores are also kept in the store, where `deita select` finds them. A score that could not be read is empty, and
    its status says why.
    """
    flags = given_settings(locals())
    from deita_core.config.settings import load_settings

    settings = load_settings(config, **flags)
    server = start_server()
    from flows.cli.summary import print_statuses
    from flows.score import score as score_flow

    import_module("lancedb")
    server.join()
    print_statuses(score_flow(pool, str(out), settings), out)


@app.command(epilog="Example:  deita calibrate pool.jsonl --keep 0.9")
def calibrate(
    pool: Files,
    share: Annotated[float, typer.Option("--keep", min=0.001, max=1, help="Share of the pool to keep.")] = 0.9,
    samples: Annotated[int, typer.Option(min=2, help="Samples to measure on, drawn from the pool.")] = 5_000,
    store: StoreOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = None,
    layout: LayoutOption = None,
    map: MapOption = None,
    preference: PreferenceOption = None,
    modality: ModalityOption = None,
    reasoning: ReasoningOption = None,
    leave_out: LeaveOutOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what a similarity threshold means for this encoder and this pool, and which one selects a given share.

    A threshold belongs to an encoder: 0.9 selects nearly everything with one encoder and very little with another.
    """
    flags = given_settings(locals())
    from deita_core.config.settings import load_settings

    settings = load_settings(config, **flags)
    server = start_server()
    from deita_core.selection.calibration import calibration_text
    from flows.score import calibrate as calibrate_flow

    import_module("lancedb")
    server.join()
    typer.echo(calibration_text(calibrate_flow(pool, settings, share, samples), settings.encoder))


@app.command(
    epilog="Examples:  deita pairs answers.jsonl --out pairs.jsonl   ·   "
    "deita pairs answers/ --out pairs.parquet --margin 1 --per-instruction 2 --decisions fates.parquet"
)
def pairs(
    pool: Files,
    out: Annotated[Path, typer.Option(help="File for the pairs: .jsonl or .parquet.")],
    margin: Annotated[
        float, typer.Option(min=0.001, max=5, help="Least difference of the two scores, which are 1 to 6.")
    ] = 0.5,
    similarity: Annotated[
        float, typer.Option(min=-1, max=1, help="Largest cosine similarity to a better answer; others are skipped.")
    ] = 0.95,
    per_instruction: Annotated[
        int, typer.Option(min=1, help="Pairs of an instruction: best and worst, second best and second worst, ...")
    ] = 1,
    decisions: Annotated[Path | None, typer.Option(help="File for what came of each row: .parquet.")] = None,
    store: StoreOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = None,
    quality_scorer: ScorerOption = None,
    judge_votes: JudgeVotesOption = None,
    layout: LayoutOption = None,
    map: MapOption = None,
    preference: PreferenceOption = None,
    modality: ModalityOption = None,
    reasoning: ReasoningOption = None,
    leave_out: LeaveOutOption = None,
    limit: LimitOption = None,
    runner: RunnerOption = None,
    config: ConfigOption = None,
) -> None:
    """Make preference pairs from several answers to one instruction: the best against the worst, by quality.

    The instruction is all that comes before the last answer. Answers that are near-identical to a better one are
    skipped. Each pair has `prompt`, `chosen` and `rejected` as messages, as trainers for DPO read them, and a `deita`
    object with ids, scores and similarity.
    """
    flags = given_settings(locals())
    from deita_core.config.settings import load_settings

    settings = load_settings(config, **flags)
    server = start_server()
    from deita_core.selection.pairs import PairRules
    from flows.cli.summary import print_pairs
    from flows.pairs import pairs as pairs_flow

    import_module("lancedb")
    server.join()
    rules = PairRules(margin=margin, similarity=similarity, per_instruction=per_instruction)
    print_pairs(pairs_flow(pool, str(out), settings, rules, str(decisions) if decisions else None), out)
