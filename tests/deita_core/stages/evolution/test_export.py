import json
import os

import pytest

from deita_core.errors import InputError
from deita_core.scorers.training.examples import read_chains
from deita_core.stages.evolution.export import chain_fates, export_chains
from deita_core.stages.evolution.run import read_seeds
from deita_core.store import Store
from tests.support.evolution_run import KEY, Evolution, holders, lines, seed_row, write_seeds
from tests.support.llm_server import LLMServer, evenly

AXES = ("complexity", "quality")
NAMES = [
    *(f"{axis}{end}.jsonl" for axis in AXES for end in ("", "_scorer", "_messages")),
    "quarantined.jsonl",
    "manifest.json",
]
FAULTS = evenly(0.4, ["refusal", "empty", "cut_off", "missing_score", "no_json"])
LLM = {"input_price": 1.0, "output_price": 2.0, "temperature": 0.3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("chains")


@pytest.fixture(scope="module")
def rough(place):
    """An evolution of both axes in which much went wrong, exported into a folder."""
    pool = write_seeds(place / "pool.jsonl", 40)
    with LLMServer(faults=FAULTS) as server:
        evolution = Evolution(place / "store", [pool], server.url, LLM, axis="both", rounds=3, tries=2, audit=5).run()
    names = evolution.export(place / "out")
    assert names == NAMES
    return evolution


@pytest.fixture(scope="module")
def out(rough, place):
    return place / "out"


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def kept(evolution, axis):
    """Chains with something to learn from, by id: their rows of the chains table that worked."""
    fates = chain_fates(evolution.store, evolution.job, axis).filter(fate="quarantined")["chain"]
    good = evolution.chains.filter(axis=axis, status="ok")
    return {rows["chain"][0]: rows.to_dicts() for rows in good.partition_by("chain") if rows["chain"][0] not in fates}


# -- chains


@pytest.mark.parametrize("axis", AXES)
def test_chains_hold_every_variant_with_its_score(axis, rough, out):
    chains = lines(out / f"{axis}.jsonl")
    good, seeds = kept(rough, axis), {seed.id: seed for seed in read_seeds(rough.store, rough.job.seeds[axis])}
    assert [chain["id"] for chain in chains] == sorted(good)
    scores = {(row["chain"], row["step"]): row["score"] for row in rough.rankings.filter(repeat=0).to_dicts()}
    for chain in chains:
        seed = seeds[chain["seed"]]
        assert chain["axis"] == axis
        assert chain.get("instruction") == (seed.instruction if axis == "quality" else None)
        assert [(v["step"], v["operation"], v["text"]) for v in chain["variants"]] == [
            (row["step"], row["operation"], row["text"]) for row in good[chain["id"]]
        ]
        assert chain["variants"][0]["text"] == seed.text(axis)
        assert [v["score"] for v in chain["variants"]] == [
            scores[chain["id"], step] for step in range(len(chain["variants"]))
        ]
        # The plain rule of the server: longer is better, from 1 to 6.
        given = [v["score"] for v in chain["variants"]]
        assert given == sorted(given) and (given[0], given[-1]) == (1, 6)


@pytest.mark.parametrize("axis", AXES)
def test_trainers_read_the_chains(axis, rough, out):
    examples = read_chains([out / f"{axis}.jsonl"], axis)
    assert len(examples) == sum(len(rows) for rows in kept(rough, axis).values())
    assert {example.seed for example in examples} <= set(rough.job.seeds[axis])
    assert {example.response is None for example in examples} == {axis == "complexity"}
    other = AXES[axis == AXES[0]]
    with pytest.raises(InputError, match=axis):
        read_chains([out / f"{axis}.jsonl"], other)


# -- scoring prompts


def expected_prompt(axis, chain, text):
    """The released scorers' prompts, written out once more."""
    if axis == "complexity":
        return (
            "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
            f"##Query: {text}  \n##Complexity: "
        )
    return (
        "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
        f"Question. \n #Question#:\n{chain['instruction']}\n#Response#:\n{text} \n##Quality: "
    )


@pytest.mark.parametrize("axis", AXES)
def test_each_variant_is_a_scoring_prompt_to_the_letter_and_one_digit(axis, out):
    pairs = [
        (expected_prompt(axis, chain, variant["text"]), str(variant["score"]))
        for chain in lines(out / f"{axis}.jsonl")
        for variant in chain["variants"]
    ]
    assert {digit for _, digit in pairs} <= set("123456")
    assert lines(out / f"{axis}_scorer.jsonl") == [
        {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": digit}]}
        for prompt, digit in pairs
    ]
    assert lines(out / f"{axis}_messages.jsonl") == [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": digit}]}
        for prompt, digit in pairs
    ]


# -- what was lost


def test_what_was_lost_is_listed_with_the_reason(rough, out):
    lost = lines(out / "quarantined.jsonl")
    assert {row["axis"] for row in lost} == set(AXES)
    for axis in AXES:
        rows = [row for row in lost if row["axis"] == axis]
        good = {chain["id"] for chain in lines(out / f"{axis}.jsonl")}
        assert {row["chain"] for row in rows} == set(rough.job.chains(axis)) - good
        assert len(rows) + len(good) == 40
        assert all(row["seed_id"] == rough.job.chains(axis)[row["chain"]] for row in rows)
    assert {row["fate"] for row in lost} == {"quarantined"}
    assert all(row["reason"] for row in lost)
    unread = [row for row in lost if row["reason"] == "unreadable"]
    assert unread and all(row["detail"] and row["rounds"] > 0 for row in unread)


def test_an_evolution_of_which_nothing_is_left_is_empty_files_and_reasons(tmp_path):
    pool = write_seeds(tmp_path / "pool.jsonl", 4)
    with LLMServer(faults={"refusal": 1.0}) as server:
        barren = Evolution(tmp_path / "store", [pool], server.url).run()
    barren.export(tmp_path / "out")
    assert lines(tmp_path / "out/complexity.jsonl") == lines(tmp_path / "out/complexity_scorer.jsonl") == []
    assert [row["reason"] for row in lines(tmp_path / "out/quarantined.jsonl")] == ["refusal"] * 4
    counts = manifest(tmp_path / "out")["counts"]["complexity"]
    assert (counts["complete"], counts["short"], counts["quarantined"]) == (0, 0, 4)
    assert counts["reasons"] == {"refusal": 4}


# -- the manifest, and the folder


def test_the_manifest_has_what_it_takes_to_run_and_to_judge_it_again(rough, out):
    found = manifest(out)
    assert found["settings"] == json.loads(rough.settings.model_dump_json())
    assert found["job"] == rough.job.id
    for axis in AXES:
        counts = found["counts"][axis]
        assert counts["seeds"] == counts["complete"] + counts["short"] + counts["quarantined"] == 40
        assert found["audits"][axis]["spearman"] == 1
    usage = found["usage"]
    assert usage["requests"] == found["requests_of_this_run"] > 0
    assert usage["cost"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6)


def test_the_manifest_is_written_last(rough, tmp_path):
    rough.export(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert max(times, key=times.get) == "manifest.json"


def test_an_export_that_cannot_be_made_leaves_the_one_before_whole(rough, tmp_path):
    rough.export(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # A folder where the file is prepared breaks the second export on its way.
    (tmp_path / ".quality.jsonl.partial").mkdir()
    with pytest.raises(OSError, match="quality"):
        rough.export(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_second_export_is_the_same_to_the_byte(rough, out, tmp_path):
    rough.export(tmp_path / "again")
    for name in NAMES[:-1]:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_files_are_the_same_whatever_the_way_to_them(rough, out, tmp_path, place):
    with LLMServer(faults={**FAULTS, "500": 0.1, "truncated": 0.1}, jitter=0.01, seed=5) as server:
        llm = {**LLM, "concurrency": 3}
        settings = {"axis": "both", "rounds": 3, "tries": 2, "audit": 5}
        Evolution(tmp_path / "store", [place / "pool.jsonl"], server.url, llm, **settings).run().export(tmp_path)
    for name in NAMES[:-1]:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_texts_of_any_script_come_out_as_they_were(tmp_path):
    texts = [
        "介绍长城 (the Great Wall)，并说明它为什么重要。",
        "Erkläre „Föhn“ – kurz & klar",
        'Say "\\n" and \u2028 aloud \U0001f994',
    ]
    rows = [{"instruction": text, "output": f"So be it, as you asked: {text}"} for text in texts]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with LLMServer() as server:
        evolution = Evolution(tmp_path / "store", [tmp_path / "pool.jsonl"], server.url, axis="both").run()
    evolution.export(tmp_path / "out")
    chains = lines_by_newline(tmp_path / "out/complexity.jsonl")
    assert sorted(chain["variants"][0]["text"] for chain in chains) == sorted(texts)
    assert sorted(chain["instruction"] for chain in lines_by_newline(tmp_path / "out/quality.jsonl")) == sorted(texts)
    assert len(read_chains([tmp_path / "out/quality.jsonl"], "quality")) == 3 * 3


def lines_by_newline(file):
    """Rows of a file, ended by newlines and nothing else that a text may hold."""
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]


def test_a_folder_that_cannot_be_written_to_is_refused(rough, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        rough.export(tmp_path / "out")
    if os.geteuid():
        (tmp_path / "sealed").mkdir(mode=0o500)
        with pytest.raises(InputError, match="not writable"):
            rough.export(tmp_path / "sealed/out")


# -- the report


def test_a_report_goes_through_json(rough):
    report = rough.report()
    assert type(report).model_validate_json(report.model_dump_json()) == report


def test_the_key_is_in_no_file(rough, place, out):
    assert holders(place, KEY) == []
    assert holders(out, seed_row(0)["instruction"])


def test_what_was_made_by_another_run_is_exported_without_asking(rough, out, tmp_path):
    store = Store(rough.store.uri)
    names = export_chains(store, rough.report(), tmp_path / "out")
    assert names == NAMES
