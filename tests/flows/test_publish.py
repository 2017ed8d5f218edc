"""`deita publish` against a hub on loopback: what is uploaded and what is not, and what a refusal says."""

import shutil
import subprocess
import sys

import orjson
import polars as pl
import pytest

from deita_core.errors import InputError
from deita_core.export.card import dataset_card, with_pictures
from deita_core.export.files import PICTURES, REPORT, SELECTED_SCHEMA, place_selection, prepare_selection
from deita_core.stages.publishing import plan_publication
from deita_core.store import Store
from deita_core.tables import REMOVALS
from tests.support.hub_server import TOKEN, Hub
from tests.support.installation import environment, free_port
from tests.support.paths import ROOT

COUNTS = {"read": 3, "selected": 2, "near_duplicate": 1, "over_budget": 0, "rejected": 0, "merged": 0}
SETTINGS = {
    "budget": 2,
    "threshold": 0.9,
    "turns": "mean",
    "training_tokens": 2_048,
    "rank": "evol",
    "diversity": "threshold",
}
NEEDED = {"selected.jsonl", "selected.parquet", "decisions.parquet", "README.md", "manifest.json"}


@pytest.fixture
def out(tmp_path):
    """The folder of a selection with its report and pictures, and a file of someone's own."""
    folder = tmp_path / "out"
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    facts = {"score": 12.5, "complexity": 2.5, "quality": 5.0, "n_scored": 1, "copies": 1, "file": "a", "fields": "{}"}
    rows = [{"id": f"{n:032x}", "rank": n, "line": n, "messages": messages, **facts} for n in (1, 2)]
    selected = pl.DataFrame(rows, schema=SELECTED_SCHEMA)
    decisions = pl.DataFrame({"file": ["a"] * 3, "line": [1, 2, 3], "fate": ["selected", "near_duplicate", "selected"]})
    manifest = {
        "counts": COUNTS,
        "settings": SETTINGS,
        "threshold": 0.9,
        "encoder": {"name": "an/encoder", "precision": "float32"},
        "scorers": {},
        "store": {"uri": str(tmp_path / "store")},
    }
    card = with_pictures(dataset_card(selected, manifest), *PICTURES)
    place_selection(folder, prepare_selection(folder, selected, decisions, manifest, card, "messages"))
    for name in (*PICTURES, REPORT, "notes.txt", ".env"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


def publish(out, *words, endpoint, token=TOKEN):
    """Run the command in a process of its own: the hub's library reads its variables when it is imported."""
    home = out.parent / "home"
    given = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": 0, "HF_HOME": home, "HF_HUB_DISABLE_XET": 1, "PYTHONPATH": ROOT}
    env = environment(home, **given, **({"HF_TOKEN": token} if token else {}))
    line = [sys.executable, "-m", "flows.cli", "publish", str(out), *words]
    done = subprocess.run(line, env=env, cwd=out.parent, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr and TOKEN not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_files_of_a_selection_and_no_others_are_uploaded_in_one_commit(out, hub):
    done = publish(out, "--repo", "acme/best", "--private", endpoint=hub.url)
    assert done.returncode == 0, done.stderr
    assert f"Published at {hub.url}/datasets/acme/best." in done.stdout
    found = hub.datasets["acme/best"]
    assert found["private"] and hub.commits == ["2 conversations selected from 3"]
    assert found["files"] == {name: (out / name).read_bytes() for name in {*NEEDED, *PICTURES}}
    assert "Not report.html" in done.stdout


@pytest.mark.slow
def test_publishing_again_replaces_the_selection_and_leaves_what_is_not_of_it(out, hub):
    old = dict.fromkeys(["added.jsonl", "CHANGES.md", REPORT, "scores.svg", "LICENSE"], b"old")
    hub.datasets["acme/best"] = {"private": False, "files": dict(old)}
    for name in PICTURES:
        (out / name).unlink()
    assert publish(out, "--repo", "acme/best", endpoint=hub.url).returncode == 0
    assert hub.datasets["acme/best"]["files"].keys() == {*NEEDED, "LICENSE"}
    assert publish(out, "--repo", "acme/best", "--with-report", endpoint=hub.url).returncode == 0
    assert hub.datasets["acme/best"]["files"].keys() == {*NEEDED, "LICENSE", REPORT}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "token"), [([], None), (["--dry-run"], TOKEN)])
def test_without_a_token_or_in_a_dry_run_nothing_is_asked_of_the_hub(out, hub, words, token):
    done = publish(out, "--repo", "acme/best", *words, endpoint=hub.url, token=token)
    assert done.returncode == 0 and hub.asked == [] and "Nothing was uploaded." in done.stdout
    for name in {*NEEDED, *PICTURES}:
        assert any(
            name in line and f"{(out / name).stat().st_size:,} bytes" in line for line in done.stdout.splitlines()
        )
    assert "acme/best (public" in done.stdout and "notes.txt" not in done.stdout and ".env" not in done.stdout
    assert ("HF_TOKEN" in done.stdout) == (token is None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "token", "sentence", "code"),
    [
        (["--repo", "other/best"], TOKEN, "The token may not write to other/best (403: You may not write to other)", 1),
        (["--repo", "acme/best"], "hf_wrong", "The hub does not know the token (401: Invalid credentials", 1),
        (["--repo", "acme/open", "--private"], TOKEN, "acme/open is there and public; make it private", 2),
    ],
)
def test_a_refusal_is_one_sentence_and_uploads_nothing(out, hub, words, token, sentence, code):
    hub.datasets["acme/open"] = {"private": False, "files": {}}
    done = publish(out, *words, endpoint=hub.url, token=token)
    assert done.returncode == code and sentence in done.stderr and done.stderr.count("\n") == 1
    assert hub.commits == [] and list(hub.datasets) == ["acme/open"] and not hub.stored


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_said_in_one_sentence(out):
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = publish(out, "--repo", "acme/best", endpoint=endpoint)
    assert done.returncode == 1 and f"{endpoint} does not answer as a hub (" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_complete_selection_is_refused(out, tmp_path):
    def refused(folder, words):
        with pytest.raises(InputError, match=words):
            plan_publication(folder, "acme/best")

    refused(tmp_path / "nowhere", r"holds no selection, as it has no manifest\.json")
    (out / "decisions.parquet").rename(out / "aside")
    refused(out, r"lacks decisions\.parquet; write its files again")
    (out / "aside").rename(out / "decisions.parquet")
    manifest = orjson.loads((out / "manifest.json").read_bytes())
    (out / "manifest.json").write_bytes(orjson.dumps({**manifest, "counts": {**COUNTS, "selected": 5}}))
    refused(out, r"has 2 rows and manifest\.json says 5")
    (out / "manifest.json").write_bytes(orjson.dumps({**manifest, "counts": None}))
    refused(out, "holds no readable selection")


@pytest.mark.parametrize("repo", ["best", "acme/", "acme/best/more", "../best", "acme/be st", "acme/..", ""])
def test_a_name_that_is_no_dataset_is_refused(out, repo):
    with pytest.raises(InputError, match="write it as ORG/NAME"):
        plan_publication(out, repo)


def test_conversations_removed_since_are_not_published(out, tmp_path):
    plan_publication(out, "acme/best")
    assert not (tmp_path / "store").exists()
    row = {"id": f"{2:032x}", "status": "started", "removed": "2026-01-01", "reason": ""}
    Store(tmp_path / "store").write(REMOVALS, pl.DataFrame([row]))
    with pytest.raises(InputError, match="holds 1 conversations that were removed from its store since; run deita up"):
        plan_publication(out, "acme/best")
    shutil.rmtree(tmp_path / "store")
    plan_publication(out, "acme/best")
