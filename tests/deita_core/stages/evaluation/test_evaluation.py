"""An evaluation on a store: answers of a tiny model and of an endpoint, both protocols, and what is asked again."""

import json
from collections import Counter

import pytest

from deita_core.errors import InputError, LLMError, ModelError
from deita_core.evaluation.questions import read_reference
from deita_core.stages.evaluation import run as stage
from tests.support.evaluation_run import Evaluation, alpaca_eval, mt_bench, with_template, write_rows
from tests.support.evolution_run import lines
from tests.support.llm_rules import RANK_FAULTS
from tests.support.llm_server import QUICK_FAULTS, LLMServer, evenly

# An address that no request is sent to.
NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def model(tiny_llama, tmp_path_factory):
    return with_template(tiny_llama, tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def two_turns(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("questions") / "question.jsonl", mt_bench(9))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("questions") / "alpaca_eval.jsonl", alpaca_eval(12))


# -- single answers


def test_every_turn_has_an_answer_and_a_score(model, two_turns, tmp_path):
    with LLMServer() as server:
        done = Evaluation(tmp_path / "store", model, server.url, two_turns).run()
    report = done.report()
    assert (report.questions, report.answers, report.verdicts) == (9, 18, 18)
    assert report.quarantined == report.of_answers == {} and report.failure() is None
    assert {turn: figure.n for turn, figure in report.figures.turns.items()} == {1: 9, 2: 9}
    assert list(report.figures.categories) == ["writing", "math", "coding"]
    rows = lines(done.export(tmp_path / "out") / "judgements.jsonl")
    scores = [row["score"] for row in rows]
    assert report.figures.overall.mean == pytest.approx(sum(scores) / 18) and len(set(scores)) > 2


def test_the_second_turn_sees_the_first_ones_answer_and_its_own_template(model, two_turns, tmp_path):
    with LLMServer() as server:
        done = Evaluation(tmp_path / "store", model, server.url, two_turns)
        done.answer()
    question = done.job.questions[0]
    request = done.job.answerer.request(question, ["What I said."])
    assert request.messages == (
        ("user", question.turns[0]), ("assistant", "What I said."), ("user", question.turns[1]),
    )  # fmt: skip
    chat = stage.ChatModel(stage.find_model(model), "float32", "cpu")
    said = chat._tokenizer.decode(chat.prompt([{"role": role, "content": text} for role, text in request.messages]))
    assert said == f"[user] {question.turns[0]}\n[assistant] What I said.\n[user] {question.turns[1]}\n[assistant] "


def test_nothing_is_asked_or_computed_twice(model, two_turns, tmp_path, monkeypatch):
    with LLMServer() as server:
        first = Evaluation(tmp_path / "store", model, server.url, two_turns).run()
        asked = len(server.log)
        monkeypatch.setattr(stage, "ChatModel", None)
        again = Evaluation(tmp_path / "store", model, server.url, two_turns)
        assert stage.plan_answers(again.store, again.job) == stage.plan_judgements(again.store, again.job) == []
        again.run()
        assert len(server.log) == asked == 18
    assert again.report() == first.report()


def test_a_run_killed_between_batches_has_the_answers_of_an_undisturbed_one(model, two_turns, tmp_path, monkeypatch):
    with LLMServer() as server:
        calm = Evaluation(tmp_path / "calm", model, server.url, two_turns, batch=2).run()
        killed = Evaluation(tmp_path / "killed", model, server.url, two_turns, batch=2)
        generate, calls = stage.ChatModel.generate, Counter()

        def dying(self, *arguments):
            calls["batches"] += 1
            if calls["batches"] == 4:
                raise KeyboardInterrupt
            return generate(self, *arguments)

        monkeypatch.setattr(stage.ChatModel, "generate", dying)
        with pytest.raises(KeyboardInterrupt):
            killed.run()
        assert killed.usage()["answers"].requests == 6
        killed.run()
    # Five batches of each turn, and the one that was lost.
    assert calls["batches"] == 11
    for name in ("answers.jsonl", "judgements.jsonl"):
        assert (killed.export(tmp_path / "b") / name).read_bytes() == (calm.export(tmp_path / "a") / name).read_bytes()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_depend_on_the_seed_only_where_they_are_sampled(temperature, model, two_turns, tmp_path):
    def answers(seed):
        store = tmp_path / f"store-{seed}-{len(list(tmp_path.iterdir()))}"
        return Evaluation(store, model, NOBODY, two_turns, temperature=temperature, seed=seed).said()

    assert answers(1) == answers(1)
    assert (answers(1) == answers(2)) == (temperature == 0)


def test_a_prompt_beyond_the_window_is_quarantined_with_its_length(model, tmp_path):
    rows = [{"prompt": "Why tea?"}, {"prompt": "rain " * 600}]
    questions = write_rows(tmp_path / "q.jsonl", rows)
    with LLMServer() as server:
        report = Evaluation(tmp_path / "store", model, server.url, questions).run().report()
    assert (report.of_answers, report.verdicts) == ({"too_long": 1}, 1)


def test_a_model_without_a_template_is_refused(tiny_llama, two_turns, tmp_path):
    done = Evaluation(tmp_path / "store", tiny_llama, NOBODY, two_turns)
    with pytest.raises(ModelError, match="no chat template"):
        done.answer()


def test_an_adapter_answers_with_its_base_model(model, two_turns, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    lora = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    lora.save_pretrained(tmp_path / "adapter")

    def answers(name):
        return Evaluation(tmp_path / "store", name, NOBODY, two_turns).said()

    lora.merge_and_unload().save_pretrained(tmp_path / "merged")
    for file in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "merged" / file).write_bytes((model / file).read_bytes())
    adapted = answers(tmp_path / "adapter")
    assert adapted != answers(model) and adapted == answers(tmp_path / "merged")


def test_a_model_that_is_not_there_is_named(two_turns, tmp_path):
    with pytest.raises(ModelError, match="There is no model nowhere"):
        Evaluation(tmp_path / "store", "nowhere", NOBODY, two_turns)
    with pytest.raises(InputError, match="without a model"):
        Evaluation(tmp_path / "store", NOBODY, NOBODY, two_turns)


# -- comparisons


def test_pairs_are_judged_in_both_orders(model, pairs, tmp_path):
    with LLMServer() as server:
        done = Evaluation(tmp_path / "store", model, server.url, pairs, pairs).run()
    rows = lines(done.export(tmp_path / "out") / "judgements.jsonl")
    assert len(rows) == 24 and [row["model_first"] for row in rows[:2]] == [True, False]
    report, lengths = (
        done.report(),
        {row["question_id"]: len(row["output"]) for row in lines(tmp_path / "out/answers.jsonl")},
    )
    reference = read_reference(pairs).outputs
    won = [lengths[q.id] > len(reference[q.turns[0]]) for q in done.job.questions]
    # The judge takes the longer answer, wherever it stands.
    assert (report.figures.wins, report.figures.losses, report.figures.split) == (sum(won), 12 - sum(won), 0)
    assert report.figures.position_bias.mean == 0
    assert report.figures.win_rate.mean == sum(won) / 12


def test_a_judge_with_a_bias_is_found_out(model, pairs, tmp_path):
    with LLMServer(noise=1.0) as server:
        figures = Evaluation(tmp_path / "store", model, server.url, pairs, pairs).run().report().figures
    assert (figures.split, figures.position_bias.mean, figures.win_rate.mean) == (12, 0.5, 0.5)


def test_answers_of_a_run_are_a_reference_for_another(model, pairs, tmp_path):
    with LLMServer() as server:
        base = Evaluation(tmp_path / "store", model, server.url, pairs).run().export(tmp_path / "base")
        same = Evaluation(tmp_path / "store", model, server.url, pairs, str(base / "answers.jsonl")).run().report()
    assert (same.figures.ties, same.figures.win_rate.mean) == (12, 0.5)
    assert json.loads((base / "figures.json").read_text())["protocol"] == "single" != same.protocol


def test_questions_that_cannot_be_compared_are_named(model, two_turns, pairs, tmp_path):
    with pytest.raises(InputError, match=r"question 81 .* several turns"):
        Evaluation(tmp_path / "store", model, NOBODY, two_turns, pairs)
    other = write_rows(tmp_path / "other.jsonl", [{"prompt": "Not there?"}])
    with pytest.raises(InputError, match=r"question 1 .* has no answer in"):
        Evaluation(tmp_path / "store", model, NOBODY, other, pairs)


# -- endpoints and faults


@pytest.mark.parametrize("compare", [False, True])
def test_faults_are_passed_or_quarantined_and_counted(compare, tmp_path):
    content = dict.fromkeys([*RANK_FAULTS, "cut_off", "content_filter", "empty"], 0.05)
    faults = {**evenly(0.3, set(QUICK_FAULTS) - {"429_date"}), **content}
    questions = write_rows(tmp_path / "q.jsonl", alpaca_eval(60) if compare else mt_bench(60))
    with LLMServer(faults=faults, retry_after=0.01) as server:
        llm = {"attempts": 20, "concurrency": 8}
        done = Evaluation(
            tmp_path / "store", f"{server.url}#m", server.url, questions, questions if compare else None, llm,
            answering={"attempts": 20, "first_pause": 0.01, "timeout": 10}, max_tokens=200,
        ).run()  # fmt: skip
        assert set(server.answered().values()) == {1} and len(server.log) > len(server.answered())
        said = {entry.did for entry in server.log if entry.answered}
    report, rows = done.report(), lines(done.export(tmp_path / "out") / "judgements.jsonl")
    assert set(content) <= said
    name = "verdict" if compare else "score"
    unread = [row for row in rows if row["reason"]]
    assert Counter(row["reason"] for row in unread) == report.quarantined and {"unreadable"} <= set(report.quarantined)
    assert all(row[name] is None and row["detail"] for row in unread)
    assert all(row[name] is not None for row in rows if not row["reason"])
    assert report.verdicts == len(rows) - len(unread) > 0
    if not compare:
        assert report.figures.overall.n == report.verdicts
        assert report.figures.overall.mean == pytest.approx(
            sum(row["score"] for row in rows if row["score"]) / report.verdicts
        )


def test_an_endpoint_that_never_answers_is_an_error_and_a_filter_is_not(pairs, tmp_path):
    with LLMServer(faults={"content_filter": 1.0}) as server:
        report = Evaluation(tmp_path / "store", f"{server.url}#m", server.url, pairs).run().report()
    assert (report.of_answers, report.verdicts, report.answers) == ({"content_filter": 12}, 0, 0)
    assert "content_filter 12" in report.failure()
    with LLMServer(keys=["another"]) as server, pytest.raises(LLMError, match="401"):
        Evaluation(tmp_path / "other", f"{server.url}#m", server.url, pairs).run()
