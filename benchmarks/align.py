"""Fine-tuning, preference optimisation and a proof with a language model of 135M parameters, on the planted pool.

    python -m benchmarks.align [--parts sft,dpo,prove] [--heldout 100] [--seeds 3] [--data ../shared/data] [--folder F]

Held out are strong answers to that many instructions, with the weak answers to the same instructions; no other row of
these instructions is in the pool. sft: a selection of 300 rows, and the same run killed after half of its steps and
resumed, whose weights must be the same to the byte. dpo: strong against weak answers, 100 pairs to train on and 40 of
other instructions to measure. prove: the selection against random rows, the longest, and answers to other questions, an
arm that must be the worst. All with the commands of `deita`, at 256 tokens a row. With --folder, what is finished there
is not computed again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from time import sleep

import polars as pl

MODEL = "smollm2-135m"
TRAIN_PAIRS, TEST_PAIRS = 100, 40
Rows = list[dict]


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.align")
    parser.add_argument("--parts", default="sft,dpo,prove")
    parser.add_argument("--heldout", type=int, default=100, help="Instructions that are held out.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_files(given.data, folder, given.heldout)
        parts = given.parts.split(",")
        if "sft" in parts or "dpo" in parts:
            selection = ("select", "pool.parquet", "--preset", "fast", "--budget", "300", "--store", "store")
            deita(folder, *selection, "--out", "selection")
            fine_tune(folder, killed="sft" in parts)
        if "dpo" in parts:
            prefer(folder)
        if "prove" in parts:
            prove(folder, given.seeds)


def write_files(data: Path, folder: Path, held_out: int) -> None:
    """Split the planted pool into what is held out and the rest, and make pairs of the rest."""
    rows = pl.read_parquet(data / "planted_pool.parquet").join(pl.read_parquet(data / "planted_truth.parquet"), on="id")
    short = rows.filter(pl.col("n_chars_response").is_between(80, 800)).sort("id")
    by_kind = {
        kind: short.filter(kind=kind).unique("prompt_group", keep="first", maintain_order=True)
        for kind in ("strong", "weak")
    }
    both = by_kind["strong"].join(by_kind["weak"], on="prompt_group", suffix="_weak").sort("prompt_group")
    found = both.to_dicts()
    random.Random(0).shuffle(found)
    held, rest = found[:held_out], found[held_out:]
    groups = [row["prompt_group"] for row in held]
    pool = rows.filter(~pl.col("prompt_group").is_in(groups) | pl.col("prompt_group").is_null())
    pool.select("id", "messages").write_parquet(folder / "pool.parquet")
    pool.filter(kind="wrong_pair").select("messages").write_parquet(folder / "wrong_pair.parquet")
    write_lines(folder / "good.jsonl", [{"messages": row["messages"]} for row in held])
    write_lines(folder / "weaker.jsonl", [{"messages": row["messages_weak"]} for row in held])
    pairs = [
        {"prompt": row["messages"][:-1], "chosen": row["messages"][-1:], "rejected": row["messages_weak"][-1:]}
        for row in rest
    ]
    write_lines(folder / "pairs.jsonl", pairs[:TRAIN_PAIRS])
    write_lines(folder / "test_pairs.jsonl", pairs[TRAIN_PAIRS : TRAIN_PAIRS + TEST_PAIRS])
    print(f"{len(pool):,} rows in the pool, {len(held)} held out, {len(pairs[: TRAIN_PAIRS + TEST_PAIRS])} pairs")


def write_lines(file: Path, rows: Rows) -> None:
    """Write rows as JSON Lines, unless they stand there."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *words]


def deita(folder: Path, *words: str) -> str:
    """What a command prints. Raises CalledProcessError if it fails."""
    return subprocess.run(command(*words), cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def fine_tune(folder: Path, killed: bool) -> None:
    """Fine-tune on the selection; then again, killed after half of the steps and resumed."""
    line = f"align sft selection --heldout good.jsonl --max-tokens 256 --epochs 1 --base-model {MODEL}"
    words = line.split()
    print(deita(folder, *words, "--out", "sft"))
    if not killed:
        return
    if not (folder / "killed/manifest.json").is_file():
        kill_halfway(
            folder, [*words, "--out", "killed"], steps=json.loads((folder / "sft/metrics.json").read_text())["steps"]
        )
    deita(folder, *words, "--out", "killed")
    same = all((folder / name / "adapter_model.safetensors").is_file() for name in ("sft", "killed"))
    same = same and weights(folder / "sft") == weights(folder / "killed")
    print("killed after half of its steps and resumed:", "the same weights" if same else "OTHER WEIGHTS")


def kill_halfway(folder: Path, words: list[str], steps: int) -> None:
    """Kill a training once a checkpoint of half of its steps is there."""
    process = subprocess.Popen(command(*words), cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL)
    wanted = folder / "killed" / "checkpoints"
    while process.poll() is None:
        there = [int(path.parent.name.split("-")[1]) for path in wanted.glob("checkpoint-*/trainer_state.json")]
        if max(there, default=0) >= steps // 2:
            os.killpg(process.pid, signal.SIGKILL)
            break
        sleep(0.5)
    process.wait()


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def prefer(folder: Path) -> None:
    """Train the fine-tuned model on pairs, and load both adapters with plain transformers."""
    words = "align dpo pairs.jsonl --model sft --heldout test_pairs.jsonl --batch 16 --max-tokens 256 --out dpo"
    print(deita(folder, *words.split()))
    from transformers import AutoModelForCausalLM

    for name in ("sft", "dpo"):
        AutoModelForCausalLM.from_pretrained(folder / name)
        print(f"{name} loads with plain transformers")


def prove(folder: Path, seeds: int) -> None:
    """The selection against its rivals, with 12,000 training tokens in every arm."""
    data = "prove pool.parquet --heldout good.jsonl --weaker weaker.jsonl --arm wrong_pair=wrong_pair.parquet"
    budget = "--preset fast --budget 300 --token-budget 12000 --store store --out proof"
    training = "--epochs 1 --batch 4 --learning-rate 1e-3 --max-tokens 256 --base-model"
    words = f"{data} {budget} {training} {MODEL} --seeds {seeds}"
    print(deita(folder, *words.split()))


if __name__ == "__main__":
    main()
