"""Commands that create scorers: evolve, train."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from deita_core.literals import Axes, Axis, Method, TrainedKind
from flows.cli.options import ConfigOption, Files, LayoutOption, LimitOption, StoreOption, given_settings, taken
from flows.cli.server import start_server

app = typer.Typer()


@app.command(
    epilog="Examples:  deita evolve seeds.jsonl --model gpt-4o-mini --out out/evolved   ·   "
    "deita evolve seeds.jsonl --base-url http://localhost:8000/v1 --model my-model --dry-run"
)
def evolve(
    seeds: Files,
    out: Annotated[Path | None, typer.Option(help="Folder for the ranked chains. Needed unless --dry-run.")] = None,
    model: Annotated[str | None, typer.Option(help="Model that evolves and ranks.")] = None,
    judge: Annotated[str | None, typer.Option(help="Model that ranks. Default: the same.")] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, to /v1. Default: OpenAI.")] = None,
    axis: Annotated[Axes | None, typer.Option(help="What to evolve. Default both.")] = None,
    count: Annotated[int | None, typer.Option("--seeds", help="Seeds to draw. Default 2000.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of evolution. Default 5.")] = None,
    audit: Annotated[int | None, typer.Option(help="Chains of each axis to rank twice. Default 20.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight. Default 16.")] = None,
    spend_cap: Annotated[float | None, typer.Option(help="Spend at which to stop; needs prices.")] = None,
    input_price: Annotated[float | None, typer.Option(help="Price of a million prompt tokens.")] = None,
    output_price: Annotated[float | None, typer.Option(help="Price of a million answer tokens.")] = None,
    store: StoreOption = None,
    layout: LayoutOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and the cost.")] = False,
) -> None:
    """Evolve seed instructions and answers with a language model, and have it rank them: data to train scorers on.

    The key comes from DEITA_LLM__API_KEY or OPENAI_API_KEY. Every answer is stored when it arrives, so a run that is
    interrupted or repeated pays for nothing twice. More settings (temperature, max_tokens, requests_per_minute,
    tokens_per_minute, timeout and so on) go under `llm:` in --config, or in variables such as DEITA_LLM__MAX_TOKENS.
    """
    flags = given_settings(locals())
    from deita_core.config.loader import load
    from deita_core.config.settings import EvolutionSettings

    flags["seeds"] = flags.pop("count")
    flags["llm"] = taken(flags, "model", "judge", "base_url", "concurrency", "spend_cap", "input_price", "output_price")
    settings = load(EvolutionSettings, config, flags)
    if dry_run:
        from deita_core.stages.evolution.estimate import estimate_evolution
        from flows.cli.summary import print_evolution_estimate

        print_evolution_estimate(estimate_evolution(seeds, settings), settings)
        return
    if out is None:
        raise typer.BadParameter("Give a folder for the chains' files, or --dry-run.", param_hint="--out")
    server = start_server()
    from flows.cli.summary import print_evolution
    from flows.evolve import evolve as evolve_flow

    import_module("lancedb")
    server.join()
    print_evolution(evolve_flow(seeds, str(out), settings), out)


@app.command(
    epilog="Examples:  deita train out/evolved/quality.jsonl --axis quality --out scorers/quality   ·   "
    "deita train chains.jsonl --axis complexity --kind causal --base-model mistralai/Mistral-7B-v0.1 --out scorers/7b"
)
def train(
    chains: Annotated[list[str], typer.Argument(help="Files of ranked chains, as `deita evolve` writes them.")],
    axis: Annotated[Axis, typer.Option(help="What the scorer scores.")],
    out: Annotated[Path, typer.Option(help="Folder for the scorer.")],
    kind: Annotated[TrainedKind | None, typer.Option(help="head: on stored vectors; causal: a language model.")] = None,
    encoder: Annotated[str | None, typer.Option(help="For a head: a sentence-transformers model.")] = None,
    base_model: Annotated[str | None, typer.Option(help="For a causal scorer: hub name or folder.")] = None,
    method: Annotated[Method | None, typer.Option(help="For a causal scorer: lora or full. Default lora.")] = None,
    epochs: Annotated[int | None, typer.Option(help="For a causal scorer. Default 6, or until it stops early.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="For a causal scorer. Default by method.")] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Train a scorer on ranked chains, and show its figures on held-out chains.

    Use it with `deita select --complexity-scorer FOLDER` or `--quality-scorer FOLDER`. A head trains in a minute or two
    on a CPU; vectors that the store holds are not computed again. More settings of a causal scorer go under `tuning:`
    in --config, or in variables such as DEITA_TUNING__BATCH.
    """
    flags = given_settings(locals())
    from deita_core.config.loader import load
    from deita_core.config.settings import TrainingSettings

    flags["tuning"] = taken(flags, "base_model", "method", "epochs", "learning_rate")
    settings = load(TrainingSettings, config, flags)
    server = start_server()
    from flows.cli.summary import print_trained
    from flows.train import train as train_flow

    import_module("lancedb")
    server.join()
    print_trained(train_flow(chains, str(out), settings), axis)
