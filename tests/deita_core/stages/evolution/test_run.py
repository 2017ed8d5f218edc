import json
from collections import Counter
from itertools import pairwise

import polars as pl
import pytest

from deita_core.config.settings import EvolutionSettings
from deita_core.errors import LLMError
from deita_core.evolution.chains import PASSING_REASONS
from deita_core.stages.evolution import run as evolving
from deita_core.stages.evolution.estimate import estimate_evolution
from deita_core.stages.evolution.export import chain_fates
from deita_core.stages.evolution.run import plan_evolution, plan_ranking, read_seeds, usable_chains
from deita_core.store import Store
from tests.support.evolution_run import KEY, Evolution, holders, seed_row, write_seeds
from tests.support.llm_server import LLMServer, evenly

NOWHERE = "http://127.0.0.1:9/v1"
# What the seed of seed_row(3) and no other has in its texts.
THIRD = seed_row(3)["instruction"]


@pytest.fixture
def pool(tmp_path):
    return write_seeds(tmp_path / "pool.jsonl", 10)


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def beginnings(evolution, axis="complexity"):
    return [seed.instruction for seed in read_seeds(evolution.store, evolution.job.seeds[axis])]


# -- seeds


def test_seeds_are_drawn_by_their_content_and_not_by_their_place(tmp_path):
    file, other = write_seeds(tmp_path / "a.jsonl", 40), tmp_path / "b.jsonl"
    other.write_text("".join(file.read_text().splitlines(keepends=True)[::-1]))
    one = Evolution(tmp_path / "one", [file], NOWHERE, seeds=10)
    two = Evolution(tmp_path / "two", [other], NOWHERE, seeds=10)
    assert one.job == two.job.model_copy(update={"settings": one.settings})
    assert beginnings(one) != [seed_row(n)["instruction"] for n in range(10)], "nor are they the first ones"
    assert one.job.seeds != Evolution(tmp_path / "three", [file], NOWHERE, seeds=10, draw=1).job.seeds


def test_a_pool_that_grows_keeps_its_seeds_but_for_the_new_ones(tmp_path):
    files = [write_seeds(tmp_path / "old.jsonl", 60), write_seeds(tmp_path / "new.jsonl", 15, first=1_000)]
    old = Evolution(tmp_path / "store", files[:1], NOWHERE, seeds=20).job.seeds["complexity"]
    grown = Evolution(tmp_path / "store", files, NOWHERE, seeds=20).job.seeds["complexity"]
    kept = [seed for seed in grown if seed in old]
    assert kept == list(old[: len(kept)]), "those drawn first stay"
    assert len(grown) == 20 and 10 <= len(kept) < 20


def test_more_seeds_are_the_same_and_some_more(tmp_path, pool):
    few = Evolution(tmp_path / "store", [pool], NOWHERE, seeds=3).job.seeds["complexity"]
    assert Evolution(tmp_path / "store", [pool], NOWHERE, seeds=7).job.seeds["complexity"][:3] == few


def test_fewer_seeds_than_asked_for_are_all_there_are(tmp_path, pool):
    job = Evolution(tmp_path / "store", [pool], NOWHERE, seeds=2_000, axis="both").job
    assert len(job.seeds["complexity"]) == len(job.seeds["quality"]) == 10


def test_each_instruction_is_one_seed_and_each_answer_to_it_is_another(tmp_path):
    rows = [{"instruction": f"Question {n % 4}?", "output": f"Answer {n % 8}."} for n in range(24)]
    file = write_rows(tmp_path / "rows.jsonl", [{**row, "n": n} for n, row in enumerate(rows)])
    both = Evolution(tmp_path / "store", [file], NOWHERE, seeds=100, axis="both")
    assert sorted(beginnings(both)) == [f"Question {n}?" for n in range(4)]
    assert sorted(beginnings(both, "quality")) == sorted(2 * [f"Question {n}?" for n in range(4)])
    few = Evolution(tmp_path / "store", [file], NOWHERE, seeds=3, axis="both")
    assert len(set(beginnings(few))) == 3


def test_a_first_turn_is_one_seed_however_the_conversation_goes_on(tmp_path):
    first = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So too."}]
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": first}, {"messages": [*first, *more]}])
    job = Evolution(tmp_path / "store", [file], NOWHERE, seeds=10, axis="both").job
    assert len(job.seeds["complexity"]) == len(job.seeds["quality"]) == 1


# -- a whole evolution, in shards


@pytest.mark.parametrize("axis", ["complexity", "quality"])
def test_shards_leave_no_mark_on_what_comes_out(axis, tmp_path, pool, monkeypatch):
    faults = evenly(0.2, ["refusal", "cut_off", "missing_score", "500"])
    with LLMServer(faults=faults) as server:
        whole = Evolution(tmp_path / "whole", [pool], server.url, axis=axis, audit=3)
        assert whole.evolve() == [10]
        assert whole.rank() == [len(usable_chains(whole.store, whole.job, axis)) + 3]
    monkeypatch.setattr(evolving, "CHAINS_PER_SHARD", 3)
    with LLMServer(faults=faults, jitter=0.02) as server:
        parts = Evolution(tmp_path / "parts", [pool], server.url, {"concurrency": 2}, axis=axis, audit=3)
        assert parts.evolve() == [3, 3, 3, 1]
        parts.rank()
    assert parts.chains.equals(whole.chains) and parts.rankings.equals(whole.rankings)


def test_what_is_done_is_planned_no_more_and_asked_no_more(tmp_path, pool):
    with LLMServer() as server:
        first = Evolution(tmp_path / "store", [pool], server.url, audit=2).run()
        asked = len(server.log)
        assert plan_evolution(first.store, first.job, "complexity") == []
        assert plan_ranking(first.store, first.job, "complexity") == []
        again = Evolution(tmp_path / "store", [pool], server.url, audit=2)
        assert (again.evolve(), again.rank()) == ([], [])
        assert len(server.log) == asked == 10 * 3 + 2


def test_chains_lost_from_the_store_come_back_from_the_answers(tmp_path, pool):
    with LLMServer(faults={"refusal": 0.2}) as server:
        first = Evolution(tmp_path / "store", [pool], server.url).run()
        chains, rankings, asked = first.chains, first.rankings, len(server.log)
        first.store.delete(evolving.CHAINS, "step > 0")
        first.store.delete(evolving.CHAINS, "true")
        first.store.delete(evolving.RANKINGS, "true")
        first.run()
        assert len(server.log) == asked
    assert first.chains.equals(chains) and first.rankings.equals(rankings)


def test_more_seeds_cost_only_what_is_new(tmp_path, pool):
    with LLMServer() as server:
        Evolution(tmp_path / "store", [pool], server.url, seeds=4).run()
        assert len(server.log) == 4 * 3
        more = Evolution(tmp_path / "store", [pool], server.url, seeds=9).run()
        assert len(server.log) == 9 * 3
        assert set(server.answered().values()) == {1}
    assert more.chains["chain"].n_unique() == 9


def test_an_audit_asked_for_later_costs_only_the_audit(tmp_path, pool):
    with LLMServer() as server:
        Evolution(tmp_path / "store", [pool], server.url).run()
        asked = len(server.log)
        audited = Evolution(tmp_path / "store", [pool], server.url, audit=4).run()
        assert len(server.log) == asked + 4
    [found] = audited.report().audits.values()
    assert (found.chains, found.spearman) == (4, 1)


# -- the spend cap

PRICES = {"input_price": 10.0, "output_price": 10.0, "max_tokens": 200}


def test_at_the_spend_cap_what_is_done_is_kept_and_a_higher_cap_goes_on(tmp_path, pool):
    with LLMServer() as server:
        free = Evolution(tmp_path / "free", [pool], server.url, PRICES, axis="quality").run()
    full = free.usage().cost
    with LLMServer() as server:

        def capped(cap):
            llm = {**PRICES, "spend_cap": cap, "concurrency": 2}
            return Evolution(tmp_path / "store", [pool], server.url, llm, axis="quality")

        poor = capped(0.55 * full)
        with pytest.raises(LLMError, match="--spend-cap"):
            poor.run()
        done = poor.chains["chain"].n_unique()
        assert 0 < done < 10, "some chains were finished at the cap, and they are written"
        assert set(poor.chains.group_by("chain").agg(pl.col("step").max())["step"]) == {2}
        assert poor.usage().cost <= 0.55 * full
        with pytest.raises(LLMError, match="--spend-cap"):
            capped(0.55 * full).run()
        rich = capped(2 * full).run()
        assert set(server.answered().values()) == {1}, "nothing is paid twice"
        assert len(server.log) == 10 * 3
    assert rich.chains.equals(free.chains) and rich.rankings.equals(free.rankings)
    assert rich.usage().cost == pytest.approx(full)


# -- requests without an answer


def counts(evolution):
    found = evolution.report().counts["complexity"]
    assert found.seeds == found.complete + found.short + found.quarantined
    return found


@pytest.fixture
def disturbed(tmp_path, pool):
    """An evolution in which the third seed was met by a broken endpoint."""
    with LLMServer(poison={THIRD: "500"}) as server:
        # One at a time, so that others are answered before.
        llm = {"attempts": 2, "concurrency": 1}
        return Evolution(tmp_path / "store", [pool], server.url, llm).run()


def test_a_seed_without_an_answer_is_quarantined_with_the_reason(disturbed):
    found = counts(disturbed)
    assert (found.complete, found.short, found.quarantined) == (9, 0, 1)
    assert found.reasons == {"no_answer": 1}
    [row] = chain_fates(disturbed.store, disturbed.job, "complexity").filter(fate="quarantined").to_dicts()
    assert read_seeds(disturbed.store, [row["seed_id"]])[0].instruction == THIRD
    assert row["reason"] in PASSING_REASONS and "500" in row["detail"]


def test_a_seed_without_an_answer_is_tried_again_and_nothing_else_is(disturbed, tmp_path, pool):
    with LLMServer() as server:
        healed = Evolution(tmp_path / "store", [pool], server.url).run()
        assert len(server.log) == 3
    assert counts(healed).complete == 10
    with LLMServer() as server:
        fresh = Evolution(tmp_path / "fresh", [pool], server.url).run()
    assert healed.chains.equals(fresh.chains) and healed.rankings.equals(fresh.rankings)


def test_a_chain_cut_short_for_want_of_an_answer_is_whole_after_the_next_run(tmp_path, pool):
    with LLMServer() as server:
        fresh = Evolution(tmp_path / "fresh", [pool], server.url, rounds=3).run()
    texts = fresh.texts(THIRD)
    # The clause that the first round adds, so that the second round is the first to have it in its prompt.
    clause = texts[1].removeprefix(texts[0])
    llm = {"attempts": 2, "concurrency": 1}
    with LLMServer(poison={clause: "500"}) as server:
        Evolution(tmp_path / "store", [pool], server.url, llm, rounds=3).evolve()
    with LLMServer() as server:
        # The endpoint is well again by the time of the ranking.
        cut = Evolution(tmp_path / "store", [pool], server.url, llm, rounds=3)
        cut.rank()
        assert len(cut.texts(THIRD)) == 2 and counts(cut).short == 1
        cut.export(tmp_path / "out")
        healed = Evolution(tmp_path / "store", [pool], server.url, rounds=3).run()
        assert set(server.answered().values()) == {1}
    assert healed.texts(THIRD) == texts
    assert counts(healed).complete == 10
    assert healed.chains.equals(fresh.chains)
    # The ranking of two variants says nothing of the four there are now.
    assert healed.rankings.equals(fresh.rankings)
    healed.export(tmp_path / "out")


def test_a_ranking_without_an_answer_is_quarantined_and_asked_for_again(tmp_path, pool):
    with LLMServer() as server:
        Evolution(tmp_path / "store", [pool], server.url).evolve()
    with LLMServer(poison={THIRD: "500"}) as server:
        unranked = Evolution(tmp_path / "store", [pool], server.url, {"attempts": 2, "concurrency": 1})
        unranked.rank()
    assert counts(unranked).quarantined == 1 and counts(unranked).reasons == {"no_answer": 1}
    with LLMServer() as server:
        ranked = Evolution(tmp_path / "store", [pool], server.url).run()
        assert len(server.log) == 1
    assert counts(ranked).complete == 10


def test_an_endpoint_that_changes_its_mind_leaves_no_gap_in_a_chain(tmp_path, pool):
    """One request is refused for good, another for now; then the endpoint answers both."""
    other = seed_row(5)["instruction"]
    with LLMServer(poison={THIRD: "500", other: "filtered_prompt"}) as server:
        first = Evolution(tmp_path / "store", [pool], server.url, {"attempts": 2, "concurrency": 1}).run()
    [chain] = first.chains.filter(reason="content_filter")["chain"].unique()
    before = first.chains.filter(chain=chain)
    assert before["step"].to_list() == [0, 1, 1, 1]
    with LLMServer() as server:
        second = Evolution(tmp_path / "store", [pool], server.url).run()
    assert second.chains.filter(chain=chain).equals(before), "what failed for good stays as it is"
    for good in second.chains.filter(status="ok").partition_by("chain"):
        assert good["step"].to_list() == list(range(len(good)))
    assert counts(second).reasons == {"content_filter": 1}


def test_an_endpoint_that_answers_nothing_ends_the_run_with_nothing_lost(tmp_path, pool):
    with LLMServer(script=("",) * 8, keys=["another"]) as server, pytest.raises(LLMError, match="401"):
        Evolution(tmp_path / "store", [pool], server.url).run()
    assert Store(tmp_path / "store").count(evolving.CHAINS) == 0
    with LLMServer() as server:
        assert counts(Evolution(tmp_path / "store", [pool], server.url).run()).complete == 10


def test_the_key_is_nowhere_in_the_store(tmp_path, pool):
    with LLMServer(poison={THIRD: "400"}) as server:
        found = Evolution(tmp_path / "store", [pool], server.url, {"concurrency": 1}).run()
        found.export(tmp_path / "out")
        assert {entry.authorization for entry in server.log} == {f"Bearer {KEY}"}
    assert holders(tmp_path, KEY) == []
    assert holders(tmp_path, THIRD), "texts are found where they are"


# -- fates


def test_every_seed_has_one_fate_and_every_loss_a_reason(tmp_path):
    pool = write_seeds(tmp_path / "pool.jsonl", 60)
    faults = evenly(0.5, ["refusal", "empty", "cut_off", "unchanged", "missing_score", "no_json"])
    with LLMServer(faults=faults) as server:
        rough = Evolution(tmp_path / "store", [pool], server.url, rounds=3, tries=2).run()
    fates = chain_fates(rough.store, rough.job, "complexity")
    found = counts(rough)
    assert len(fates) == found.seeds == 60 and fates["chain"].n_unique() == 60
    assert min(found.complete, found.short, found.quarantined) > 0
    assert Counter(fates["fate"]) == {
        "complete": found.complete,
        "short": found.short,
        "quarantined": found.quarantined,
    }
    assert (fates["reason"].is_null() == (fates["fate"] == "complete")).all()
    assert sum(found.reasons.values()) == found.short + found.quarantined
    assert "unreadable" in found.reasons and "refusal" in found.reasons
    assert (fates.filter(fate="complete")["rounds"] == 3).all()
    assert fates.filter(fate="short")["rounds"].is_between(1, 2).all()
    numbers = list(found.reasons.values())
    assert all(a >= b for a, b in pairwise(numbers)), "the commonest reason first"


# -- what it would cost


@pytest.mark.parametrize("axis", ["complexity", "quality", "both"])
def test_a_dry_run_says_about_what_will_be_asked_and_writes_nothing(axis, tmp_path):
    pool = write_seeds(tmp_path / "pool.jsonl", 30)
    with LLMServer() as server:
        prices = {"input_price": 1.0, "output_price": 3.0}
        evolution = Evolution(tmp_path / "store", [pool], server.url, prices, axis=axis, rounds=5, audit=5, seeds=20)
        fresh = evolution.settings.model_copy(update={"store": str(tmp_path / "none")})
        before = sorted(tmp_path.rglob("*"))
        found = estimate_evolution([str(pool)], fresh)
        assert sorted(tmp_path.rglob("*")) == before and not server.log
        evolution.run()
        assert found.seeds == dict.fromkeys(evolution.settings.axes, 20)
        assert set(found.known.values()) == {0}
        assert found.requests == len(server.log)
        used = evolution.usage()
    assert found.cost == pytest.approx((found.prompt_tokens + 3 * found.completion_tokens) / 1e6)
    assert used.prompt_tokens / 1.5 < found.prompt_tokens < 1.5 * used.prompt_tokens
    # Answers grow by the rules of the test double, which know nothing of how far a model's grow.
    assert used.completion_tokens / 3 < found.completion_tokens < 3 * used.completion_tokens


def test_a_dry_run_names_the_files_of_a_folder_that_it_sets_aside(tmp_path):
    (tmp_path / "pool").mkdir()
    write_seeds(tmp_path / "pool" / "good.jsonl", 5)
    (tmp_path / "pool" / "empty.jsonl").write_text("")
    settings = EvolutionSettings(llm={"model": "m"}, store=str(tmp_path / "store"), seeds=3)
    found = estimate_evolution([str(tmp_path / "pool")], settings)
    assert found.seeds == {"complexity": 3, "quality": 3}
    assert [line.startswith("Set aside: ") and "empty.jsonl is empty" in line for line in found.warnings] == [True]


def test_a_dry_run_of_what_is_done_asks_nothing(tmp_path, pool):
    with LLMServer() as server:
        done = Evolution(tmp_path / "store", [pool], server.url, seeds=6, audit=2).run()
        found = estimate_evolution([str(pool)], done.settings)
        assert (found.requests, found.prompt_tokens, found.known) == (0, 0, {"complexity": 6})
        more = estimate_evolution([str(pool)], done.settings.model_copy(update={"seeds": 10}))
        assert (more.known, more.cost) == ({"complexity": 6}, None)
        asked = len(server.log)
        Evolution(tmp_path / "store", [pool], server.url, seeds=10, audit=2).run()
        # Which chains the audit takes depends on all of them.
        assert 4 * 3 <= len(server.log) - asked <= 4 * 3 + 2 and 4 * 3 <= more.requests <= 4 * 3 + 2


def test_a_dry_run_after_one_that_broke_off_counts_the_rankings_that_lack(tmp_path, pool):
    with LLMServer() as server:
        evolution = Evolution(tmp_path / "store", [pool], server.url)
        evolution.evolve()
        found = estimate_evolution([str(pool)], evolution.settings)
        asked = len(server.log)
        evolution.rank()
        assert found.requests == len(server.log) - asked


def test_a_dry_run_counts_what_will_be_tried_again(disturbed, tmp_path, pool):
    found = estimate_evolution([str(pool)], disturbed.settings)
    assert (found.known, found.requests) == ({"complexity": 9}, 3)
