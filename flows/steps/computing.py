"""Compute what the store lacks of a pool: vectors, scores, tokens, languages, likelihoods, likeness."""

from collections.abc import Sequence
from functools import partial

from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.job import Job
from deita_core.stages.judging import unread_lines
from deita_core.stages.scoring import in_passes
from deita_core.store import Store
from tasks.contamination import compare_vectors, compare_words
from tasks.embed import encode_texts, plan_texts
from tasks.languages import detect_languages, plan_detection
from tasks.losses import encode_tasks, losses_alone, losses_asked, losses_shown, plan_answers, plan_demonstrations
from tasks.runtime.progress import Progress
from tasks.runtime.runners import Given, Submit
from tasks.score import plan_refining, plan_turns, score_turns
from tasks.tokens import count_tokens_of, plan_token_counts


def encode_pool(
    progress: Progress, submit: Submit, store: str, encoder: EncoderFiles, file_ids: Sequence[str]
) -> int:  # fmt: skip
    """Encode the texts without a vector; returns their number."""
    shards = plan_texts(store, encoder, file_ids)
    given: Given = {"store": store, "encoder": encoder}
    return progress.shards("encoding", shards, partial(submit, encode_texts, given))


def score_pool(
    progress: Progress,
    submit: Submit,
    store: str,
    encoder: EncoderFiles,
    scorers: Sequence[ScorerFiles],
    file_ids: Sequence[str],
) -> int:
    """Score the turns without a score on each axis; returns the number of new scores.

    Warns of turns to which a judge gave no score, and says why.
    """
    scored = 0
    axes = [scorer.axis for scorer in scorers]
    for group in in_passes(Store(store), scorers):
        shards = plan_turns(store, group, file_ids)
        given: Given = {"store": store, "scorers": group, "encoder": encoder}
        names = [one.axis + (f" with {one.name}" if axes.count(one.axis) > 1 else "") for one in group]
        name = f"scoring {' and '.join(names)}"
        scored += progress.shards(name, shards, partial(submit, score_turns, given))
    for line in unread_lines(Store(store), scorers, file_ids):
        progress.warn(line)
    return scored


def count_tokens(progress: Progress, submit: Submit, store: str, job: Job) -> int:
    """Count the tokens of the samples that are not counted, if the job asks for tokens; returns their number."""
    if job.tokenizer is None:
        return 0
    shards = plan_token_counts(store, job.tokenizer, job.file_ids)
    given: Given = {"store": store, "tokenizer": job.tokenizer}
    return progress.shards("counting tokens", shards, partial(submit, count_tokens_of, given))


def find_languages(progress: Progress, submit: Submit, store: str, file_ids: Sequence[str]) -> int:
    """Find the languages that are not known; returns the number of samples."""
    given: Given = {"store": store}
    return progress.shards("languages", plan_detection(store, file_ids), partial(submit, detect_languages, given))


def compare_with_benchmarks(progress: Progress, store: str, job: Job) -> int:
    """Compare the samples that were not compared with the benchmarks of the job; returns their number."""
    if job.exclude is None:
        return 0
    with progress.step("excluding"):
        return compare_words(store, job) + compare_vectors(store, job)


def order_pool(progress: Progress, submit: Submit, store: str, job: Job) -> int:
    """Compute what the job's order needs and the store lacks; returns the number of losses of answers.

    Of an order by likeness to examples it is their vectors.
    """
    if job.examples is not None:
        with progress.step("encoding examples"):
            encode_tasks(store, job)
    if job.rank_model is None:
        return 0
    given: Given = {"store": store, "model": job.rank_model}
    done = progress.shards("reading answers", plan_answers(store, job, "asked"), partial(submit, losses_asked, given))
    if job.settings.rank == "perplexity":
        return done
    shards = plan_answers(store, job, "alone")
    done += progress.shards("reading answers alone", shards, partial(submit, losses_alone, given))
    if job.settings.rank == "ifd":
        return done
    shards = plan_demonstrations(store, job)
    return done + progress.shards("reading after others", shards, partial(submit, losses_shown, given))


def refine_best(progress: Progress, submit: Submit, store: str, job: Job) -> int:
    """Score the best samples again with the job's scorer `refine`, those that it has not scored; returns the turns."""
    if job.refine is None:
        return 0
    given: Given = {"store": store, "scorers": [job.refine], "encoder": job.encoder}
    refined = progress.shards("refining", plan_refining(store, job), partial(submit, score_turns, given))
    for line in unread_lines(Store(store), [job.refine], job.file_ids):
        progress.warn(line)
    return refined
