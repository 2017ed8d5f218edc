"""The train flow: a scorer from ranked chains, with its held-out figures."""

from functools import partial
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from deita_core.config.settings import TrainingSettings
from deita_core.export.placing import check_folder
from deita_core.models.encoder_spec import find_encoder
from deita_core.stages.training import Trained
from flows.steps.store import holding
from tasks.runtime.progress import Progress
from tasks.train import encode_chain_texts, plan_chain_texts, train_scorer


@flow(name="train", flow_run_name="train {settings.axis} into {out}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def train(chains: list[str], out: str, settings: TrainingSettings) -> Trained:
    """Train a scorer on files of ranked `chains` into the folder `out`.

    A head learns from stored vectors; only missing ones are computed. A causal scorer resumes an interrupted training.
    A scorer trained before on the same chains with the same settings is not trained again.

    Args:
        chains: Files of ranked chains, as evolve writes them.
        out: The folder for the scorer.
        settings: The axis, the kind of scorer, and its training.
    """
    check_folder(Path(out))
    store = settings.store
    with holding(store), Progress() as progress:
        encoder = None
        if settings.kind == "head":
            encoder = find_encoder(settings.encoder, settings.precision)
            shards = plan_chain_texts(store, encoder, chains, settings)
            submit = partial(encode_chain_texts.submit, store, encoder, chains, settings)
            progress.shards("encoding", shards, submit)
        with progress.percent("training") as watch:
            return train_scorer(encoder, chains, settings, out, watch)
