"""The whole way from seeds to trained scorers on one machine: no key, no network, and no language model either.

    python examples/evolve_offline.py [FOLDER]

What answers is the tests' loopback server, which evolves and ranks by plain rules. It shows how `deita evolve` and
`deita train` go together, faults of an endpoint included; the scorers it makes are worth nothing. For real ones
give `deita evolve` the address of a real model.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 60


def main(folder: Path) -> None:
    """Evolve, rank and train into a folder."""
    sys.path.insert(0, str(ROOT))
    from flows.cli.main import prepare_environment

    prepare_environment(verbose=False)
    from deita_core.config.settings import EvolutionSettings, TrainingSettings
    from deita_core.llm.client import LLMSettings
    from flows.cli.summary import print_evolution, print_trained
    from flows.evolve import evolve
    from flows.train import train
    from tests.support.llm_server import LLMServer

    os.environ.setdefault("DEITA_LLM__API_KEY", "any")
    store, evolved = str(folder / "store"), folder / "evolved"
    with LLMServer(latency=0.05, faults={"429": 0.05, "500": 0.05, "refusal": 0.05, "no_json": 0.05}) as server:
        llm = LLMSettings(base_url=server.url, model="plain rules", first_pause=0.1)
        settings = EvolutionSettings(llm=llm, store=store, seeds=SEEDS)
        print_evolution(evolve([str(ROOT / "examples" / "pool")], str(evolved), settings), evolved)
    for axis in settings.axes:
        chosen = TrainingSettings(axis=axis, store=store)
        trained = train([str(evolved / f"{axis}.jsonl")], str(folder / "scorers" / axis), chosen)
        print(f"\n{axis}: the figures of a scorer that has learned plain rules")
        print_trained(trained, axis)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("out/offline"))
