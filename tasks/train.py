"""Tasks that train a scorer on ranked chains; a result is cached by its inputs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from prefect import task
from prefect.artifacts import create_markdown_artifact

from deita_core.config.settings import TrainingSettings
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.models.fine_tuning import TuningProgress
from deita_core.scorers.training.metrics import figures_table
from deita_core.stages.shards import Shard
from deita_core.stages.training import (
    Trained,
    encode_vectors,
    is_trained,
    plan_vectors,
    recipe,
    train_language_model,
    train_on_vectors,
)
from deita_core.store import Store
from tasks.artifacts import ProgressArtifact, shown_if_possible
from tasks.embed import loaded_encoder
from tasks.runtime.policy import RETRIES, recipe_key, results_folder

Watch = Callable[[float, str], None]

# A step may take a fraction of a second, so not every step is reported.
ARTIFACT_SECONDS = 5.0


@task(task_run_name="plan encoding of chains", **RETRIES)
def plan_chain_texts(
    store: str, encoder: EncoderFiles, files: Sequence[str], settings: TrainingSettings
) -> list[Shard]:  # fmt: skip
    """Return shards of the chains' texts without a vector."""
    return plan_vectors(Store(store), encoder, files, settings)


@task(task_run_name="encode {shard.rows} texts of chains", **RETRIES)
def encode_chain_texts(
    store: str, encoder: EncoderFiles, files: Sequence[str], settings: TrainingSettings, shard: Shard
) -> int:
    """Encode a shard; loads the model once per process."""
    return encode_vectors(Store(store), loaded_encoder(encoder), files, settings, shard)


@task(
    task_run_name="train {settings.kind} of {settings.axis}",
    cache_key_fn=recipe_key,
    persist_result=True,
    result_serializer="json",
    **RETRIES,
)
def train_once(
    encoder: EncoderFiles | None,
    files: Sequence[str],
    settings: TrainingSettings,
    out: str,
    made_by: str,
    watch: Watch,
) -> Trained:
    """Train a scorer into a folder; cached by `made_by`."""
    if encoder is not None:
        return train_on_vectors(Store(settings.store), encoder, files, settings, Path(out))
    return train_language_model(files, settings, Path(out), step_reporter(f"training {settings.axis}", watch))


def train_scorer(
    encoder: EncoderFiles | None, files: Sequence[str], settings: TrainingSettings, out: str, watch: Watch
) -> Trained:
    """Train the scorer of these chains and settings into a folder, unless it is already there.

    `watch` gets the percentage done and a note; it is called in the caller's thread.
    """
    made_by = recipe(files, settings)
    train = train_once.with_options(
        result_storage=results_folder(settings.store), refresh_cache=not is_trained(Path(out), made_by)
    )
    trained = train(encoder, files, settings, out, made_by, watch)
    with shown_if_possible(f"in {out}"):
        create_markdown_artifact(
            key=f"scorer-{settings.axis}",
            markdown=f"{figures_table(trained.figures)}\n\nFolder: `{out}`",
            description=f"Held-out figures of a {settings.kind} of {settings.axis}",
        )
    return trained


def step_reporter(name: str, watch: Watch) -> Callable[[TuningProgress], None]:
    """Return the callback for each training step; it updates a progress artifact and the caller's display."""
    artifact, said_at = ProgressArtifact(name), 0.0

    def report(now: TuningProgress) -> None:
        nonlocal said_at
        found = {"loss": now.loss, "held-out loss": now.held_out_loss}
        losses = "".join(f", {name} {value:.4f}" for name, value in found.items() if value is not None)
        note, percent = f"step {now.step} of {now.steps}{losses}", 100 * now.step / max(now.steps, 1)
        watch(percent, note)
        if monotonic() - said_at > ARTIFACT_SECONDS or now.held_out_loss is not None:
            artifact.update(percent, f"{note}, {now.seconds:.0f} s")
            said_at = monotonic()

    return report
