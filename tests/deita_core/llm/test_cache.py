import multiprocessing
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import StoreError
from deita_core.llm.cache import FILE, Answer, Answers, Usage, usage_of

ANSWER = Answer("a", "text", "stop", 10, 5, 0.5, 0.25)
COUNT = st.none() | st.integers(0, 2**40)


@pytest.fixture
def answers(tmp_path):
    answers = Answers(tmp_path / "store")
    yield answers
    answers.close()


def test_an_answer_comes_back_as_it_was_put(answers):
    assert answers.get("a") is None
    answers.put("job", "m", ANSWER)
    assert answers.get("a") == ANSWER and answers.get("b") is None


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])), prompt=COUNT, completion=COUNT,
    cost=st.none() | st.floats(0, 1e6), seconds=st.floats(0, 1e6),
)  # fmt: skip
def test_any_text_and_any_count_comes_back(tmp_path_factory, text, prompt, completion, cost, seconds):
    answer = Answer("a", text, "stop", prompt, completion, seconds, cost)
    answers = Answers(tmp_path_factory.mktemp("store"))
    answers.put("job", "m", answer)
    assert answers.get("a") == answer
    answers.close()


def test_the_first_answer_to_a_request_stays(answers):
    answers.put("job", "m", ANSWER)
    answers.put("another", "n", Answer("a", "other", "length", 1, 1, 1.0, 9.0))
    assert answers.get("a") == ANSWER
    assert answers.usage("another") == Usage()


def test_what_a_job_used_is_the_sum_of_its_answers(answers, tmp_path):
    answers.put("job", "m", ANSWER)
    answers.put("job", "n", Answer("b", "", "length", 1, 2, 0.25, 0.5))
    answers.put("job", "n", Answer("c", "", "stop", None, None, 0.25, None))
    answers.put("another", "m", Answer("d", "", "stop", 100, 100, 100.0, 100.0))
    assert answers.usage("job") == Usage(3, 11, 7, 0.75, 1.0) == usage_of(tmp_path / "store", "job")
    assert answers.usage("no such job") == Usage()


def test_to_look_at_what_was_used_makes_no_file(tmp_path):
    assert usage_of(tmp_path / "store", "job") == Usage()
    assert not (tmp_path / "store").exists()


def test_an_answer_is_there_for_others_at_once(answers, tmp_path):
    answers.put("job", "m", ANSWER)
    other = Answers(tmp_path / "store")
    assert other.get("a") == ANSWER
    other.close()


def put_many(store, name):
    answers = Answers(store)
    for i in range(200):
        answers.put("job", "m", Answer(f"{name}-{i}", "x" * 500, "stop", 1, 1, 0.0, 0.0))
    answers.close()


def test_several_processes_put_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=put_many, args=(tmp_path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert usage_of(tmp_path, "job").requests == 600


def test_a_file_that_holds_something_else_is_refused_with_a_sentence(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database, and long enough to be read as one" * 100)
    with pytest.raises(StoreError, match=r"answers\.db") as error:
        Answers(tmp_path)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Answers(tmp_path / "file")


def test_a_table_of_another_form_is_refused_with_a_sentence(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("CREATE TABLE answers (id TEXT PRIMARY KEY)")
    with pytest.raises(StoreError):
        answers = Answers(tmp_path)
        answers.put("job", "m", ANSWER)


def test_a_full_disk_is_told_in_a_sentence(answers):
    # As full as a file that may not grow.
    answers._db.execute("PRAGMA max_page_count=8")
    with pytest.raises(StoreError):
        for i in range(100):
            answers.put("job", "m", Answer(str(i), "x" * 5_000, "stop", 1, 1, 0.0, 0.0))


def test_a_batch_is_put_as_a_whole_or_not_at_all(answers, tmp_path):
    batch = [replace(ANSWER, id=f"{i:032x}") for i in range(3)]
    answers.put_all("job", "m", batch)
    assert [answers.get(answer.id) for answer in batch] == batch

    def broken():
        yield replace(ANSWER, id="f" * 32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers.put_all("job", "m", broken())
    assert answers.get("f" * 32) is None and answers.usage("job").requests == 3
    answers.put("job", "m", replace(ANSWER, id="e" * 32))
    assert usage_of(tmp_path / "store", "job").requests == 4
