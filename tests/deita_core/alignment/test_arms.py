"""One training of a proof: measured once, resumed after a kill, and of steps that learn from equally many tokens."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.alignment.arms import batch_of, run_arm
from deita_core.alignment.chat import load_chat_tokenizer
from deita_core.alignment.likelihood import answer_losses
from deita_core.alignment.rows import read_rows
from deita_core.alignment.settings import SftSettings
from deita_core.models.causal_lm import load_model
from tests.support.alignment import write_rows
from tests.support.paths import ROOT


def settings_of(model, **given):
    usual = {"chat_template": "vicuna", "batch": 8, "max_tokens": 256, "learning_rate": 5e-3, "epochs": 3}
    return SftSettings(base_model=str(model), **{**usual, **given})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_chat_tokenizer(tiny_llama, "vicuna")


@pytest.fixture(scope="module")
def rows(data, tokenizer):
    return read_rows(data, tokenizer, 256).rows


def test_an_arm_learns_and_is_trained_once(tiny_llama, rows, tokenizer, tmp_path):
    settings, reports = settings_of(tiny_llama), []
    train, held = rows[:20], rows[20:]
    base = run_arm([], held, tokenizer, settings, tmp_path)
    first = run_arm(train, held, tokenizer, settings, tmp_path, reports.append)
    assert (base.steps, first.steps) == (0, 9) and len(reports) == 9
    assert first.losses["loss"].sum() < base.losses["loss"].sum() - 0.5 * held[0].n_labels
    again = run_arm(train, held, tokenizer, settings, tmp_path, reports.append)
    assert again == first and len(reports) == 9
    # Other rows, another seed or other answers to measure are another run.
    others = [(train[1:], held, 0), (train, held, 1), (train, held[1:], 0)]
    runs = [run_arm(r, h, tokenizer, settings.model_copy(update={"seed": s}), tmp_path) for r, h, s in others]
    assert len({run.folder for run in [first, base, *runs]}) == 5
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_the_base_model_is_measured_as_it_is(tiny_llama, rows, tokenizer, tmp_path):
    base = run_arm([], rows, tokenizer, settings_of(tiny_llama), tmp_path)
    plain = answer_losses(load_model(tiny_llama, "float32"), rows)
    assert base.losses["id"].to_list() == plain["id"].to_list()
    assert base.losses["loss"].to_list() == pytest.approx(plain["loss"].to_list(), rel=0.01)


KILLED = """
import os, signal, sys
from pathlib import Path
from deita_core.alignment.arms import run_arm
from deita_core.alignment.chat import load_chat_tokenizer
from deita_core.alignment.rows import read_rows
from deita_core.alignment.settings import SftSettings

settings = SftSettings.model_validate_json(sys.argv[3])
tokenizer = load_chat_tokenizer(settings.base_model, settings.chat_template)
rows = read_rows(sys.argv[1], tokenizer, settings.max_tokens).rows

def report(progress):
    if progress.step == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

run_arm(rows[:20], rows[20:], tokenizer, settings, Path(sys.argv[2]), report)
"""


@pytest.mark.slow
def test_a_killed_run_measures_what_an_undisturbed_one_does(tiny_llama, data, tmp_path):
    settings = settings_of(tiny_llama)

    def run(folder, kill_at):
        given = [str(data), str(tmp_path / folder), settings.model_dump_json(), str(kill_at)]
        return subprocess.run([sys.executable, "-c", KILLED, *given], cwd=ROOT, capture_output=True, text=True)

    assert run("killed", 5).returncode == -9 and list((tmp_path / "killed").rglob("losses.parquet")) == []
    assert list((tmp_path / "killed").rglob("checkpoint-*"))
    for folder in ("killed", "undisturbed"):
        done = run(folder, 0)
        assert done.returncode == 0, done.stderr
    [one], [other] = (list((tmp_path / f).rglob("losses.parquet")) for f in ("killed", "undisturbed"))
    assert one.read_bytes() == other.read_bytes()
    assert list((tmp_path / "killed").rglob("checkpoint-*")) == []


@given(st.integers(1, 100_000), st.integers(0, 500), st.sampled_from([1, 2, 4]))
def test_a_batch_is_whole_and_an_epoch_has_about_as_many_steps_as_asked(rows, steps, micro):
    batch = batch_of(rows, steps, micro)
    assert batch >= micro and batch % micro == 0
    assert abs(batch - rows / max(steps, 1)) <= max(micro / 2, micro - rows / max(steps, 1))
