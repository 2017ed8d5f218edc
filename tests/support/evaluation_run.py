"""Question files, a tiny model that answers, and an evaluation step by step without Prefect: what test files share."""

import json
import shutil
from contextlib import closing
from pathlib import Path

from deita_core.config.evaluation import JudgeSettings
from deita_core.llm.cache import Answers, Usage, usage_of
from deita_core.stages.evaluation.export import answer_rows, export_evaluation, judge_report
from deita_core.stages.evaluation.job import prepare_job
from deita_core.stages.evaluation.run import answer_questions, judge_answers, plan_answers, plan_judgements
from deita_core.store import Store
from tests.support.evolution_run import KEY, llm_settings, seed_row

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CATEGORIES = ("writing", "math", "coding")


def write_rows(file, rows):
    """A file of JSON Lines; returns its path."""
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def mt_bench(n):
    """So many questions of two turns, in MT-Bench's form; those of math have references."""
    rows = []
    for i in range(n):
        category, first, second = CATEGORIES[i % 3], seed_row(i), seed_row(i + 1_000)
        row = {"question_id": 81 + i, "category": category, "turns": [first["instruction"], second["instruction"]]}
        rows.append(row | ({"reference": [first["output"], second["output"]]} if category == "math" else {}))
    return rows


def alpaca_eval(n):
    """So many rows of alpaca_eval's form, with a reference model's answers; their lengths differ widely."""
    rows = [seed_row(i) for i in range(n)]
    return [
        {
            "dataset": CATEGORIES[i % 3],
            "instruction": row["instruction"],
            "output": row["output"] * (1 + i % 2),
            "generator": "davinci",
        }
        for i, row in enumerate(rows)
    ]


def with_template(folder, target, template=TEMPLATE):
    """A copy of a model with a chat template."""
    shutil.copytree(folder, target)
    (target / "chat_template.jinja").write_text(template)
    return target


class Evaluation:
    """An evaluation over a store in a folder; every step can be taken again, against another server or otherwise."""

    def __init__(self, folder, model, judge_url, questions, reference=None, llm=None, **settings):
        self.store = Store(folder)
        chosen = {"max_tokens": 12, "precision": "float32", **settings}
        self.settings = JudgeSettings(
            model=str(model), llm=llm_settings(judge_url, **(llm or {})), store=str(folder), **chosen
        )
        self.job = prepare_job(self.settings, questions, reference)
        self.failures = []

    def answer(self):
        return [f for _ in plan_answers(self.store, self.job) for f in answer_questions(self.store, self.job, KEY)]

    def judge(self):
        return [f for _ in plan_judgements(self.store, self.job) for f in judge_answers(self.store, self.job, KEY)]

    def run(self):
        self.failures = [*self.answer(), *self.judge()]
        return self

    def said(self):
        """The answers to each question, after having the model answer."""
        self.answer()
        with closing(Answers(self.store.side)) as answers:
            return [row["answers"] for row in answer_rows(self.job, answers.get, self.failures)]

    def usage(self):
        ids = {"answers": self.job.answers_id, "judge": self.job.id}
        return {name: usage_of(self.store.side, id_) for name, id_ in ids.items()}

    def report(self):
        before = {"answers": Usage(), "judge": Usage()}
        return judge_report(self.store, self.job, self.failures, self.usage(), before, {})

    def export(self, folder):
        export_evaluation(self.store, self.report(), self.failures, Path(folder))
        return Path(folder)
