"""Commands that fine-tune a language model: on a selection, and on preference pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deita_core.literals import AlignmentPreset, Method
from deita_core.models.distributed import is_main_process
from flows.cli.options import ConfigOption, LimitOption, given_settings
from flows.cli.server import start_server

if TYPE_CHECKING:
    from deita_core.alignment.records import TrainingMetrics

app = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Fine-tune a language model on a selection, or on preference pairs.")
app.add_typer(commands, name="align")

OutOption = Annotated[Path, typer.Option(help="Folder for the model.")]
PresetOption = Annotated[AlignmentPreset | None, typer.Option(help="paper: the settings of the paper. Default: LoRA.")]
TemplateOption = Annotated[
    str | None, typer.Option(help="vicuna, chatml, or a file with a template. Default: the model's own.")
]
MethodOption = Annotated[Method | None, typer.Option(help="lora: an adapter; full: all weights. Default lora.")]
HeldoutOption = Annotated[str | None, typer.Option(help="File to measure on. Default: a tenth of the data.")]
EpochsOption = Annotated[int | None, typer.Option(help="Times each row is seen. Default 3, with pairs 1.")]
BatchOption = Annotated[int | None, typer.Option(help="Rows that a step learns from. Default 16, with pairs 32.")]
RateOption = Annotated[float | None, typer.Option(help="Highest learning rate. Default by method.")]
TokensOption = Annotated[int | None, typer.Option(help="Where a row is cut. Default 2048.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of all that is drawn. Default 0.")]


@commands.command(
    epilog="Examples:  deita align sft out/demo --base-model smollm2-135m --out out/sft   ·   "
    "deita align sft out/6k --base-model mistralai/Mistral-7B-v0.1 --preset paper --out out/sft-7b"
)
def sft(
    data: Annotated[str, typer.Argument(help="Output folder of `deita select`, or any file that it reads.")],
    out: OutOption,
    base_model: Annotated[str | None, typer.Option(help="smollm2-135m, a folder, or a hub name.")] = None,
    preset: PresetOption = None,
    method: MethodOption = None,
    chat_template: TemplateOption = None,
    heldout: HeldoutOption = None,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    learning_rate: RateOption = None,
    max_tokens: TokensOption = None,
    packing: Annotated[bool | None, typer.Option("--packing", help="Put several rows into one sequence.")] = None,
    seed: SeedOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """Fine-tune a language model on the answers of a selection, and measure its loss before and after.

    Only answers carry loss, with the token that ends them; metrics.json has the figures, and dropped.jsonl names the
    rows that were not trained on. A run that was stopped goes on from its last checkpoint. More settings (micro_batch,
    lora_rank, gradient_checkpointing and so on) go into --config, or into variables such as DEITA_MICRO_BATCH.
    """
    flags = given_settings(locals())
    from deita_core.alignment.settings import SftSettings
    from deita_core.config.loader import load

    settings = load(SftSettings, config, flags)
    if not is_main_process():
        from deita_core.alignment.sft import align_sft

        align_sft(data, out, settings)
        return
    server = start_server()
    from flows.align import sft as sft_flow

    server.join()
    _print(sft_flow(data, str(out), settings), out)


@commands.command(
    epilog="Examples:  deita align dpo out/pairs.jsonl --model out/sft --out out/dpo   ·   "
    "deita align dpo hf://datasets/HuggingFaceH4/ultrafeedback_binarized --model out/sft-7b --preset paper --out out/7b"
)
def dpo(
    pairs: Annotated[str, typer.Argument(help="Rows with prompt, chosen and rejected, as texts or messages.")],
    out: OutOption,
    model: Annotated[str | None, typer.Option(help="Folder of `deita align sft`, or any model.")] = None,
    preset: PresetOption = None,
    method: MethodOption = None,
    chat_template: TemplateOption = None,
    heldout: HeldoutOption = None,
    count: Annotated[int | None, typer.Option("--pairs", help="How many pairs to sample. Default all.")] = None,
    beta: Annotated[float | None, typer.Option(help="Larger stays closer to the model. Default 0.1.")] = None,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    learning_rate: RateOption = None,
    max_tokens: TokensOption = None,
    seed: SeedOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """Train a fine-tuned model to prefer the better one of two answers (DPO), and measure it on held-out pairs.

    `deita pairs` makes such pairs of several answers to one instruction. A run that was stopped goes on from its last
    checkpoint.
    """
    flags = given_settings(locals())
    from deita_core.alignment.settings import DpoSettings
    from deita_core.config.loader import load

    flags["pairs"] = flags.pop("count")
    settings = load(DpoSettings, config, flags)
    if not is_main_process():
        from deita_core.alignment.dpo import align_dpo

        align_dpo(pairs, out, settings)
        return
    server = start_server()
    from flows.align import dpo as dpo_flow

    server.join()
    _print(dpo_flow(pairs, str(out), settings), out)


def _print(metrics: "TrainingMetrics", out: Path) -> None:
    from deita_core.alignment.records import figure_lines

    for line in figure_lines(metrics):
        typer.echo(line)
    typer.echo(f"The model is in {out}.")
