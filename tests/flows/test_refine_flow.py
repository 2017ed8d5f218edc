"""Selecting with a cascade; tests/deita_core/stages/test_refining.py has what it does."""

import json

from deita_core.stages.estimate import estimate
from tests.support.pools import ALPACA, MESSAGES, MORE, Place
from tests.support.tiny_classifiers import make_reward_llama

ROWS = [*ALPACA, *MESSAGES[::2]]


def test_a_flow_scores_the_best_again_and_an_update_only_what_is_new_among_them(
    prefect_server, tiny_models, tmp_path
):  # fmt: skip
    slow = str(make_reward_llama(tmp_path / "slow"))
    models = {**tiny_models, "budget": 2, "refine": slow, "refine_factor": 3}
    place = Place(tmp_path / "place").write("a.jsonl", ROWS)
    assert estimate([str(place.pool)], place.settings(**models)).to_refine == 6
    report = place.select(**models)
    assert (report.scored, report.chosen.refined) == (2 * len(ROWS) + 6, 6)
    assert place.decisions.sort("rank")["scorer"].head(6).to_list() == [slow] * 6
    manifest = json.loads((place.out / "manifest.json").read_text())
    assert manifest["scorers"]["refining"]["name"] == slow
    place.write("b.jsonl", MORE)
    again = place.update()
    assert again.job.settings.refine == slow and 2 * len(MORE) <= again.scored <= 3 * len(MORE)
    assert place.decisions.drop("quality_refined").equals(
        place.from_scratch(**models).decisions.drop("quality_refined")
    )
    assert place.update().scored == 0
