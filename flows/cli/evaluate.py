"""Commands that evaluate a language model: by a judge, and on benchmarks."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import ConfigOption, given_settings, names_in, taken
from flows.cli.server import start_server

app = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Evaluate a language model by a judge, or on benchmarks.")
app.add_typer(commands, name="evaluate")

KeptOption = Annotated[str | None, typer.Option(help="Folder in which everything asked is kept. Default .deita")]
PrecisionOption = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16. Default auto.")]
BatchOption = Annotated[int | None, typer.Option(help="Rows that a model on this machine computes at once. Default 8.")]


@commands.command(
    epilog="Examples:  deita evaluate judge out/sft --questions mt_bench.jsonl --judge "
    "http://localhost:8000/v1#my-judge --out out/judged   ·   "
    "deita evaluate judge out/sft --questions alpaca_eval.json --reference alpaca_eval.json --judge gpt-4o "
    "--out out/compared"
)
def judge(
    model: Annotated[str, typer.Argument(help="A folder, a hub name, smollm2-135m, or URL#MODEL.")],
    questions: Annotated[str, typer.Option(help="File of questions: MT-Bench's, alpaca_eval's, or plain rows.")],
    out: Annotated[Path, typer.Option(help="Folder for answers, judgements and figures.")],
    judge: Annotated[str | None, typer.Option(help="URL#MODEL, or the name of a model at OpenAI.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="File with another model's answers to compare with. Default: scores of 1 to 10.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens. Default 1024.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the answers. Default 0.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of sampled answers. Default 0.")] = None,
    batch: BatchOption = None,
    precision: PrecisionOption = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight to the judge. Default 16.")] = None,
    spend_cap: Annotated[float | None, typer.Option(help="The judge's spend at which to stop; needs prices.")] = None,
    input_price: Annotated[float | None, typer.Option(help="The judge's price of a million prompt tokens.")] = None,
    output_price: Annotated[float | None, typer.Option(help="The judge's price of a million answer tokens.")] = None,
    limit: Annotated[int | None, typer.Option(help="Ask only the first questions.")] = None,
    store: KeptOption = None,
    config: ConfigOption = None,
) -> None:
    """Have a model answer questions, and another model judge the answers.

    Without --reference the judge gives each answer a score from 1 to 10, over all turns of a question: MT-Bench's form.
    With it, the judge chooses between the model's answer and the reference's, in both orders: AlpacaEval's form, with
    win rate, ties, position bias and the length-controlled win rate. answers.jsonl of another run is a reference too.

    A reply that cannot be read is quarantined and counted. Every answer and reply is kept when it arrives, so a run
    that is interrupted or repeated asks nothing twice.

    The judge's key comes from DEITA_LLM__API_KEY or OPENAI_API_KEY, that of a MODEL at another address from
    DEITA_ANSWERING__API_KEY. More settings go under `llm:` (the judge) and
    `answering:` (a served MODEL) in --config, or in variables such as DEITA_LLM__TIMEOUT.
    """
    flags = given_settings(locals())
    from deita_core.config.evaluation import JudgeSettings, endpoint_of
    from deita_core.config.loader import load

    flags["llm"] = taken(flags, "concurrency", "spend_cap", "input_price", "output_price")
    named = flags.pop("judge")
    flags["llm"]["base_url"], flags["llm"]["model"] = endpoint_of(named) if named else (None, None)
    settings = load(JudgeSettings, config, flags)
    server = start_server()
    from flows.cli.evaluation_summary import print_judgement
    from flows.evaluate import judge as judge_flow

    import_module("lancedb")
    server.join()
    print_judgement(judge_flow(questions, str(out), settings, reference), out)


@commands.command(
    epilog="Examples:  deita evaluate benchmarks out/sft --tasks arc_challenge,hellaswag --out out/benchmarks   ·   "
    "deita evaluate benchmarks smollm2-135m --tasks my_task --task-folder tasks/ --out out/mine"
)
def benchmarks(
    model: Annotated[str, typer.Argument(help="A folder, a hub name, or smollm2-135m.")],
    tasks: Annotated[str, typer.Option(help="Tasks and groups of lm-evaluation-harness, separated by commas.")],
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    task_folder: Annotated[Path | None, typer.Option(help="Folder of your own tasks; only these are known.")] = None,
    shots: Annotated[int | None, typer.Option(help="Examples before each question. Default: the task's.")] = None,
    chat_template: Annotated[
        bool | None, typer.Option("--chat-template", help="Ask with the model's chat template.")
    ] = None,
    batch: BatchOption = None,
    precision: PrecisionOption = None,
    limit: Annotated[int | None, typer.Option(help="Only the first documents of each task.")] = None,
    store: KeptOption = None,
    config: ConfigOption = None,
) -> None:
    """Run tasks of lm-evaluation-harness on a model, and keep its figures.

    Needs the extra `eval`. Tasks that come with the harness fetch their data from the hub. With --task-folder only the
    tasks in that folder are known, and nothing is fetched that they do not name. A repeated run computes nothing again.
    """
    flags = given_settings(locals())
    from deita_core.config.evaluation import BenchmarkSettings
    from deita_core.config.loader import load

    flags["tasks"] = names_in(tasks)
    settings = load(BenchmarkSettings, config, flags)
    server = start_server()
    from flows.cli.evaluation_summary import print_benchmarks
    from flows.evaluate import benchmarks as benchmarks_flow

    import_module("lancedb")
    server.join()
    print_benchmarks(benchmarks_flow(str(out), settings), out)
