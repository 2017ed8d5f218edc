"""The `deita` command: one thin function per flow. Heavy libraries are imported inside the commands."""

import io
import os
import sys
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from flows.options import (
    Axes,
    Axis,
    ConfigOption,
    EncoderOption,
    Files,
    Format,
    Kind,
    LayoutOption,
    LimitOption,
    Method,
    PresetOption,
    ScorerOption,
    StoreOption,
    Turns,
)

app = typer.Typer(
    name="deita",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pick the few thousand conversations worth fine-tuning on, and say why for each one.",
)


INTERRUPTED = 130


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's log as well.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    prepare_environment(verbose)
    if debug:
        os.environ["DEITA_DEBUG"] = "1"


def prepare_environment(verbose: bool) -> None:
    """Set what Prefect reads when it is first imported: quiet, private, and no waiting for a heartbeat at exit."""
    quiet = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_FLOWS": '{"heartbeat_frequency": null}',
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING" if verbose else "CRITICAL",
        # A busy machine takes longer than the default to start the temporary server.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "LANCEDB_LOG": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    # What a library will call otherwise some day is not for the user to read.
    warnings.filterwarnings("ignore", category=FutureWarning)


@app.command(
    epilog="Examples:  deita select pool.jsonl --budget 6000 --out out/   ·   "
    "deita select data/ 'more/*.parquet' --threshold auto --budget 10000 --out out/"
)
def select(
    pool: Files,
    out: Annotated[Path | None, typer.Option(help="Folder for the selection's files. Needed unless --dry-run.")] = None,
    budget: Annotated[int | None, typer.Option(help="How many conversations to select. Default: no limit.")] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Largest cosine similarity to a kept one, or auto. Default 0.9.")
    ] = None,
    store: StoreOption = None,
    preset: PresetOption = None,
    turns: Annotated[Turns | None, typer.Option(help="How turns make a sample's score. Default mean.")] = None,
    training_tokens: Annotated[int | None, typer.Option(help="Where training cuts. Default 2048.")] = None,
    encoder: EncoderOption = None,
    complexity_scorer: ScorerOption = None,
    quality_scorer: ScorerOption = None,
    layout: LayoutOption = None,
    format: Annotated[Format | None, typer.Option(help="Layout of selected.jsonl. Default same.")] = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")] = False,
) -> None:
    """Select the best and most diverse conversations of a pool.

    Writes selected.jsonl (your rows, with a `deita` object that says why), selected.parquet, decisions.parquet (the
    fate of every row), README.md (a dataset card) and manifest.json. Run again, it does only what is new.
    """
    from deita_core.settings import load_settings

    settings = load_settings(
        config,
        preset=preset,
        budget=budget,
        threshold=threshold,
        store=store,
        turns=turns,
        layout=layout,
        training_tokens=training_tokens,
        encoder=encoder,
        complexity_scorer=complexity_scorer,
        quality_scorer=quality_scorer,
        format=format,
        limit=limit,
    )
    if dry_run:
        from deita_core.stages.estimate import estimate
        from flows.summary import print_estimate

        print_estimate(estimate(pool, settings))
        return
    if out is None:
        raise typer.BadParameter("Give a folder for the selection's files, or --dry-run.", param_hint="--out")
    server = _start_server()
    from flows.selection import select as select_flow
    from flows.summary import print_report

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
    layout: LayoutOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """Score every turn of a pool for complexity and quality, 1 to 6, and write the scores to a file.

    They are kept in the store as well, where `deita select` finds them. A score that could not be read is empty, and
    its status says so.
    """
    from deita_core.settings import load_settings

    settings = load_settings(
        config,
        store=store,
        preset=preset,
        encoder=encoder,
        complexity_scorer=complexity_scorer,
        quality_scorer=quality_scorer,
        layout=layout,
        limit=limit,
    )
    server = _start_server()
    from flows.measure import score as score_flow
    from flows.summary import print_statuses

    import_module("lancedb")
    server.join()
    print_statuses(score_flow(pool, str(out), settings), out)


@app.command(epilog="Example:  deita calibrate pool.jsonl --keep 0.9")
def calibrate(
    pool: Files,
    keep: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the pool to keep.")] = 0.9,
    samples: Annotated[int, typer.Option(min=2, help="Samples to measure on, drawn from the pool.")] = 5_000,
    store: StoreOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = None,
    layout: LayoutOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """Say what a similarity threshold means for this encoder and this pool, and which one keeps a wanted share.

    A threshold belongs to an encoder: 0.9 keeps nearly all with one and next to nothing with another.
    """
    from deita_core.settings import load_settings

    settings = load_settings(config, store=store, preset=preset, encoder=encoder, layout=layout, limit=limit)
    server = _start_server()
    from deita_core.selection.calibration import calibration_text
    from flows.measure import calibrate as calibrate_flow

    import_module("lancedb")
    server.join()
    typer.echo(calibration_text(calibrate_flow(pool, settings, keep, samples), settings.encoder))


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

    The key comes from DEITA_LLM__API_KEY or OPENAI_API_KEY. Every answer is kept as it comes: a run that broke off, or
    a second one, pays for nothing twice. More settings (temperature, max_tokens, requests_per_minute,
    tokens_per_minute, timeout and so on) stand under `llm:` in --config, or in DEITA_LLM__MAX_TOKENS and the like.
    """
    from deita_core.loading import load
    from deita_core.settings import EvolutionSettings

    llm = {
        "model": model,
        "judge": judge,
        "base_url": base_url,
        "concurrency": concurrency,
        "spend_cap": spend_cap,
        "input_price": input_price,
        "output_price": output_price,
    }
    flags = {
        "axis": axis,
        "seeds": count,
        "rounds": rounds,
        "audit": audit,
        "store": store,
        "layout": layout,
        "limit": limit,
    }
    settings = load(EvolutionSettings, config, {**flags, "llm": llm})
    if dry_run:
        from deita_core.stages.evolution_estimate import estimate_evolution
        from flows.summary import print_evolution_estimate

        print_evolution_estimate(estimate_evolution(seeds, settings), settings)
        return
    if out is None:
        raise typer.BadParameter("Give a folder for the chains' files, or --dry-run.", param_hint="--out")
    server = _start_server()
    from flows.evolve import evolve as evolve_flow
    from flows.summary import print_evolution

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
    kind: Annotated[Kind | None, typer.Option(help="head: on stored vectors; causal: a language model.")] = None,
    encoder: Annotated[str | None, typer.Option(help="For a head: a sentence-transformers model.")] = None,
    base_model: Annotated[str | None, typer.Option(help="For a causal scorer: hub name or folder.")] = None,
    method: Annotated[Method | None, typer.Option(help="For a causal scorer: lora or full. Default lora.")] = None,
    epochs: Annotated[int | None, typer.Option(help="For a causal scorer. Default 6, or until it stops early.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="For a causal scorer. Default by method.")] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Train a scorer on ranked chains, and say how good it is on chains it did not see.

    Use it with `deita select --complexity-scorer FOLDER` or `--quality-scorer FOLDER`. A head trains in a minute or two
    on a CPU and needs no vector that the store holds already. More settings of a causal scorer stand under `tuning:` in
    --config, or in DEITA_TUNING__BATCH and the like.
    """
    from deita_core.loading import load
    from deita_core.settings import TrainingSettings

    tuning = {"base_model": base_model, "method": method, "epochs": epochs, "learning_rate": learning_rate}
    flags = {"axis": axis, "kind": kind, "encoder": encoder, "store": store, "tuning": tuning}
    settings = load(TrainingSettings, config, flags)
    server = _start_server()
    from flows.summary import print_trained
    from flows.train import train as train_flow

    import_module("lancedb")
    server.join()
    print_trained(train_flow(chains, str(out), settings), axis)


def _start_server() -> Thread:
    """Start Prefect's temporary server, if no other is configured, in a process of its own.

    That takes seconds, in which the caller can import the rest. The flow uses the server that is there by then, and
    reports it if none could be started.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    def start() -> None:
        with suppress(Exception):
            get_client(sync_client=True)

    if not PREFECT_API_URL.value():
        # Before the thread, with which importing would only take turns.
        import_module("prefect.server.api.server")
    thread = Thread(target=start)
    thread.start()
    return thread


@app.command()
def doctor() -> None:
    """Say what is installed, which presets can run here, and why not."""
    from flows.summary import print_doctor

    print_doctor()


def main() -> None:
    """Run the command; an error the user can act on is one sentence, with its exit code."""
    from deita_core.errors import DeitaError

    # A terminal that cannot show a letter shows a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except DeitaError as error:
        if os.environ.get("DEITA_DEBUG"):
            traceback.print_exc()
        typer.echo(f"deita: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        # What Typer makes of ctrl-C.
        if end.code == INTERRUPTED:
            typer.echo("deita: stopped; what is done is kept, run the same command to go on.", err=True)
            sys.exit(1)
        raise
    except OSError as error:
        if os.environ.get("DEITA_DEBUG"):
            raise
        typer.echo(f"deita: {type(error).__name__}: {error}; with --debug there is more.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
