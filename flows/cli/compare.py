"""The command that puts several strategies side by side."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    ConfigOption,
    EncoderOption,
    Files,
    LayoutOption,
    LeaveOutOption,
    LimitOption,
    MapOption,
    PresetOption,
    RunnerOption,
    ScorerOption,
    StoreOption,
    given_settings,
    names_in,
)
from flows.cli.rules import (
    CapOption,
    ClustersOption,
    FloorOption,
    LikeOption,
    LikeTaskOption,
    LikeWeightOption,
    PerOption,
    RankModelOption,
    SeedOption,
    TagsFieldOption,
    TokenBudgetOption,
    TokenizerOption,
)
from flows.cli.server import start_server

if TYPE_CHECKING:
    from deita_core.config.comparison import ComparisonSettings
    from deita_core.config.proof import ProofSettings

app = typer.Typer()


@app.command(
    epilog="Example:  deita compare pool.jsonl --budget 1000 --strategies deita,random,longest,kmq --out out/compared"
)
def compare(
    pool: Files,
    out: Annotated[Path, typer.Option(help="Folder for the table and the selections.")],
    budget: Annotated[int | None, typer.Option(help="How many conversations each strategy selects.")] = None,
    token_budget: TokenBudgetOption = None,
    strategies: Annotated[
        str | None, typer.Option(help="Names, separated by commas. Default deita,random,longest,kmq,mig.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Times a strategy that draws is repeated. Default 3.")] = None,
    truth: Annotated[
        str | None, typer.Option(help="Field of the rows that says how good, or of what kind, they are.")
    ] = None,
    threshold: Annotated[str | None, typer.Option(help="As for deita select. Default 0.9.")] = None,
    store: StoreOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = None,
    complexity_scorer: ScorerOption = None,
    quality_scorer: ScorerOption = None,
    layout: LayoutOption = None,
    map: MapOption = None,
    leave_out: LeaveOutOption = None,
    limit: LimitOption = None,
    runner: RunnerOption = None,
    config: ConfigOption = None,
    seed: SeedOption = None,
    clusters: ClustersOption = None,
    tags_field: TagsFieldOption = None,
    rank_model: RankModelOption = None,
    like: LikeOption = None,
    like_task: LikeTaskOption = None,
    like_weight: LikeWeightOption = None,
    tokenizer: TokenizerOption = None,
    per: PerOption = None,
    cap: CapOption = None,
    floor: FloorOption = None,
    prove: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML", help="Settings of deita prove (base_model, heldout, ...): prove each selection as well."
        ),
    ] = None,
) -> None:
    """Select from one pool with several strategies, and put the selections side by side.

    Texts are encoded and scored once. The table has tokens, turns, scores (also at equal length), the mix of sources
    and languages, clusters covered, diversity, and the rows in common; with --truth also what a field of the rows says.
    Each selection has a folder of its own in --out, with its report.
    """
    flags = given_settings(locals())
    from deita_core.config.comparison import ComparisonSettings
    from deita_core.config.loader import load

    flags["strategies"] = names_in(strategies)
    settings = load(ComparisonSettings, config, flags)
    proof = None if prove is None else proof_settings(prove, settings, out)
    server = start_server()
    from flows.compare import compare as compare_flow

    import_module("lancedb")
    server.join()
    typer.echo(compare_flow(pool, str(out), settings))
    if proof is not None:
        from flows.cli.evaluation_summary import print_proof
        from flows.prove import prove as prove_flow

        print_proof(prove_flow(pool, str(out / "proof"), proof), out / "proof")


def proof_settings(file: Path, settings: "ComparisonSettings", out: Path) -> "ProofSettings":
    """The settings of a proof whose arms are the selections."""
    from deita_core.config.loader import load
    from deita_core.config.proof import DEITA, ProofSettings
    from deita_core.config.settings import SelectionSettings

    others = {"strategy", "rank", "diversity", "like", "seed"}
    shared = settings.model_dump(include=set(SelectionSettings.model_fields), exclude=others)
    arms = {name: str(out / name) for name in settings.strategies if name != DEITA}
    return load(ProofSettings, file, {**shared, "against": [], "arms": arms})
