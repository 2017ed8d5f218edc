"""The command that proves a selection: a small model fine-tuned on it and on its rivals."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    ConfigOption,
    EncoderOption,
    Files,
    JudgeVotesOption,
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
    taken,
)
from flows.cli.server import start_server

app = typer.Typer()


@app.command(
    epilog="Examples:  deita prove pool.jsonl --budget 300 --base-model smollm2-135m --heldout good.jsonl --out out/a"
    "   ·   deita prove data/ --budget 6000 --base-model mistralai/Mistral-7B-v0.1 --chat-template vicuna --heldout "
    "good.jsonl --weaker weak.jsonl --arm mine=mine.jsonl --out out/b"
)
def prove(
    pool: Files,
    out: Annotated[Path, typer.Option(help="Folder for the table, the subsets and the losses.")],
    base_model: Annotated[str | None, typer.Option(help="smollm2-135m, a folder, or a hub name.")] = None,
    heldout: Annotated[str | None, typer.Option(help="File of good answers to measure on.")] = None,
    weaker: Annotated[str | None, typer.Option(help="File of weaker answers to the same instructions.")] = None,
    budget: Annotated[int | None, typer.Option(help="How many conversations to select.")] = None,
    token_budget: Annotated[int | None, typer.Option(help="Training tokens of each subset, in one epoch.")] = None,
    against: Annotated[
        str | None, typer.Option(help="random, longest and full, separated by commas. Default random,longest.")
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="One more subset, of a file or folder; repeat it.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Times each subset is trained on. Default 3.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times each row is seen. Default 3.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows that a step learns from. Default 16.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate. Default by method.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Where a row is cut. Default 2048.")] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="vicuna, chatml, or a file with a template. Default: the model's own.")
    ] = None,
    threshold: Annotated[str | None, typer.Option(help="As for deita select. Default 0.9.")] = None,
    store: StoreOption = None,
    preset: PresetOption = None,
    encoder: EncoderOption = None,
    complexity_scorer: ScorerOption = None,
    quality_scorer: ScorerOption = None,
    judge_votes: JudgeVotesOption = None,
    layout: LayoutOption = None,
    map: MapOption = None,
    leave_out: LeaveOutOption = None,
    limit: LimitOption = None,
    runner: RunnerOption = None,
    config: ConfigOption = None,
) -> None:
    """Prove whether selecting was worth it: fine-tune a small model on the selection and on its rivals, and compare.

    Every subset has the same number of training tokens, and every training starts from the same model. Rows that stand
    in the held-out file, or nearly, are taken out of all subsets first. Each model is measured by how likely it finds
    the held-out answers. The table has means, standard errors over seeds, and intervals over held-out rows.

    A file given by --arm is one more subset, such as the rows that another tool chose. More settings of the training go
    under `training:` in --config, or into variables such as DEITA_TRAINING__LORA_RANK. What was trained is kept in the
    store, and an interrupted run goes on from its last checkpoint.
    """
    flags = given_settings(locals())
    from deita_core.config.loader import load
    from deita_core.config.proof import ProofSettings

    flags["against"] = names_in(against)
    flags["arms"] = dict(map_arm(given) for given in flags.pop("arm") or [])
    flags["training"] = taken(flags, "epochs", "batch", "learning_rate", "max_tokens")
    settings = load(ProofSettings, config, flags)
    server = start_server()
    from flows.cli.evaluation_summary import print_proof
    from flows.prove import prove as prove_flow

    import_module("lancedb")
    server.join()
    print_proof(prove_flow(pool, str(out), settings), out)


def map_arm(given: str) -> tuple[str, str]:
    """The name and the file of NAME=FILE."""
    name, _, file = given.partition("=")
    if not name.strip() or not file.strip():
        raise typer.BadParameter(f"{given!r} is not of the form NAME=FILE.", param_hint="--arm")
    return name.strip(), file.strip()
