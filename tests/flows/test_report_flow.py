"""The report of a selection: its figures are those of decisions.parquet, its texts are data, and it stops no run."""

import base64
import hashlib
import json
import re
import shutil
from unittest.mock import patch

import polars as pl
import pytest

from deita_core.errors import InputError
from deita_core.export.files import PICTURES, REPORT
from deita_core.stages.encoding import encoder_table
from deita_core.stages.explaining import explain, rows_at_the_cut
from deita_core.stages.reporting import MAPS, snapshot_of_folder
from deita_core.stages.snapshots import folder_key, read_snapshot
from deita_core.store import Store
from deita_core.tables import SAMPLES, scores_table
from flows.ops.report_server import serving_reports
from tests.support.browser import CHROMIUM, Browser
from tests.support.commands import deita
from tests.support.pools import ALPACA, MESSAGES, MORE, Place, talk
from tests.support.report_page import read_page

SCRIPT = "<script>document.title = 'run'; fetch('https://example.org/stolen')</script>"
HOSTILE = [
    talk(f"Hostile one {SCRIPT}", "</script></textarea></title><script>document.title = 'run'</script>"),
    talk("Hostile two <img src=x onerror=\"document.title='run'\">", "<svg onload=document.title='run'>"),
    talk("Hostile three javascript:alert(1) data:text/html,<b>x</b>", "<a href='javascript:document.title=1'>x</a>"),
    talk("Hostile four \u202eesrever\u202c \u2066isolated\u2069", "<!-- <!CDATA[ {{ page }} {% raw %}"),
    talk("Hostile five " + "x" * 900_000, "y"),
    talk("Hostile six \\u003cscript\\u003e &lt;b&gt; &#60;i&#62;", "\x00\x1b[31m\x7f"),
]
LONG = {
    "messages": [
        {"role": role, "content": f"{role} number {i} says something of its own."}
        for i in range(3)
        for role in ("user", "assistant")
    ]
}
# Exact and near copies, so that rows are merged and skipped.
NEAR = [{**row, "output": row["output"] + " "} for row in ALPACA[:4]]
BUDGET = 5
NAME = "<b onclick=x>'&.jsonl"


@pytest.fixture(scope="module")
def place(tmp_path_factory, prefect_server, tiny_models):
    place = Place(tmp_path_factory.mktemp("report") / "place")
    place.write("a.jsonl", [*ALPACA, *ALPACA[:2], *NEAR, *MORE]).write("b.jsonl", [*MESSAGES, *HOSTILE, LONG])
    place.write(NAME, [{"instruction": None, "output": "x"}, {"x": SCRIPT}, *ALPACA[5:]])
    place.select(budget=BUDGET, **tiny_models)
    return place


@pytest.fixture(scope="module")
def page(place):
    return read_page(place.out / REPORT)


@pytest.fixture(scope="module")
def sized(place):
    """The decisions on samples, with sizes counted here from the store's rows: n_turns, n_chars, tokens."""
    store = Store(place.store)
    job = snapshot_of_folder(store, place.out).report.job
    counts = dict(store.read(encoder_table(job.encoder), ["text_id", "n_tokens"]).iter_rows())
    rows = []
    for id_, index, turns, chars in store.read(SAMPLES, ["id", "message_index", "n_turns", "n_chars"]).iter_rows():
        rows.append((id_, turns, chars, sum(counts[message["text_id"]] for message in index if not message["blank"])))
    sizes = pl.DataFrame(rows, schema=["id", "n_turns", "n_chars", "tokens"], orient="row")
    return place.decisions.filter(pl.col("id").is_not_null()).join(sizes, on="id", how="left", maintain_order="left")


# -- figures


def test_the_funnel_is_that_of_the_decisions(place, page):
    decisions = place.decisions
    merged = sum(copies - 1 for copies in decisions["copies"].drop_nulls())
    shown = {name.removeprefix("funnel."): v for name, v in page.figures.items() if name.startswith("funnel.")}
    assert shown.pop("read") == len(decisions) + merged
    assert shown.pop("merged") == merged > 0
    assert shown == {fate: sum(f == fate for f in decisions["fate"]) for fate in shown}
    assert min(shown.values()) > 0


def test_the_profiles_are_those_of_the_rows(page, sized):
    def check(name, rows):
        middle = sorted(rows["tokens"])
        half = len(middle) // 2
        median = middle[half] if len(middle) % 2 else (middle[half - 1] + middle[half]) / 2
        scored = [value for value in rows["complexity"] if value is not None]
        wanted = {
            "rows": len(rows),
            "tokens": sum(middle),
            "median_tokens": median,
            "mean_turns": sum(rows["n_turns"]) / len(rows),
            "multi_turn": sum(turns > 1 for turns in rows["n_turns"]) / len(rows),
            "complexity": sum(scored) / len(scored),
        }
        for field, value in wanted.items():
            assert page.figures[f"profile.{name}.{field}"] == pytest.approx(value), (name, field)

    selected = sized.filter(pl.col("fate") == "selected")
    check("pool", sized)
    check("selected", selected)
    # Ids are hashes, so that their ends are a random order.
    order = sorted(sized.filter(pl.col("fate") != "rejected").rows(named=True), key=lambda row: row["id"][16:])
    drawn, tokens = [], 0
    while tokens < selected["tokens"].sum():
        drawn.append(order[len(drawn)])
        tokens += drawn[-1]["tokens"]
    check("random", pl.DataFrame(drawn))


def test_shares_are_of_rows_and_add_up(page, sized):
    for group in ("files", "turns", "lengths", "scripts", "clusters"):
        for of in ("pool", "selected"):
            shares = [v for name, v in page.figures.items() if name.startswith(f"{group}.") and name.endswith(of)]
            assert sum(shares) == pytest.approx(1), (group, of)
    single = sum(sized["n_turns"] == 1) / len(sized)
    assert page.figures["turns.0.pool"] == pytest.approx(single)


def test_the_cut_and_the_correlations_are_those_of_the_decisions(page, sized):
    scored = [row for row in sized.rows(named=True) if row["score"] is not None]
    assert page.figures["rewards.cut"] == min(row["score"] for row in scored if row["fate"] == "selected")

    def ranks(values):
        return [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]

    def correlation(one, other):
        a, b = ranks([row[one] for row in scored]), ranks([row[other] for row in scored])
        a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
        return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5

    for name, pair in {
        "with_length": ("score", "n_chars"),
        "with_turns": ("score", "n_turns"),
        "between_axes": ("complexity", "quality"),
    }.items():
        assert page.figures[f"rewards.{name}"] == pytest.approx(correlation(*pair), abs=1e-9)


def test_the_threshold_counts_are_those_of_the_decisions(place, page):
    rows = [row for row in place.decisions.rows(named=True) if row["similarity"] is not None]
    threshold = 0.99
    near = [row["similarity"] for row in rows if row["fate"] == "near_duplicate"]
    selected = [row["similarity"] for row in rows if row["fate"] == "selected"]
    assert page.figures["threshold.value"] == threshold
    assert page.figures["threshold.near_duplicates"] == len(near) > 0
    assert page.figures["threshold.compared"] == len(near) + len(selected)
    assert page.figures["threshold.looser"] == sum(s <= threshold + 0.02 for s in near)
    assert page.figures["threshold.tighter"] == sum(s > threshold - 0.02 for s in selected)


def test_every_reject_is_listed_by_reason_and_line(place, page):
    rejected = place.decisions.filter(pl.col("fate") == "rejected")
    assert page.figures["rejects.rows"] == len(rejected)
    reasons = {reason.split(": ")[0] for reason in rejected["reason"]}
    words = "".join(page.words)
    assert all(reason in words for reason in reasons)
    assert sum(v for name, v in page.figures.items() if name.startswith("rejects.") and name[8:].isdigit()) == len(
        rejected
    )


def test_scorers_are_told_with_the_turns_that_could_not_be_read(place, page):
    store = Store(place.store)
    job = snapshot_of_folder(store, place.out).report.job
    for scorer in (job.complexity, job.quality):
        statuses = store.read(scores_table(scorer.slug), ["status"])["status"].to_list()
        assert page.figures[f"scorer.{scorer.axis}.turns"] == len(statuses)
        for status in ("truncated", "unreadable"):
            assert page.figures[f"scorer.{scorer.axis}.{status}"] == statuses.count(status)


def test_the_rows_of_the_map_are_those_of_the_decisions(place, page):
    points, files = page.content["points"], page.content["files"]
    decisions = {row["id"][:10]: row for row in place.decisions.rows(named=True) if row["id"]}
    assert page.figures["map.drawn"] == len(points["id"]) == len(decisions) == len(set(points["id"]))
    for i, id_ in enumerate(points["id"]):
        row = decisions[id_]
        assert (points["fate"][i], points["rank"][i], points["line"][i]) == (row["fate"], row["rank"], row["line"])
        assert files[points["file"][i]] == row["file"]
        assert points["score"][i] == (None if row["score"] is None else pytest.approx(row["score"], abs=5.1e-3))
        assert points["x"][i] is not None and points["cluster"][i] is not None


# -- hostile rows


def test_nothing_of_a_row_is_an_element_of_the_page(page):
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2 and tags.count("style") == 1 and tags.count("title") == 1
    assert not {"img", "iframe", "object", "embed", "link", "base", "b onclick"} & set(tags)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)


def test_the_policy_allows_only_the_pages_own_script_and_style(page):
    def hashed(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert page.policy["default-src"] == ["'none'"]
    assert page.policy["script-src"] == [hashed(page.texts["script"])]
    assert page.policy["style-src"] == [hashed(page.texts["style"])]
    assert page.policy["base-uri"] == page.policy["form-action"] == ["'none'"]


def test_hostile_texts_are_on_the_page_as_they_are_but_cut(page):
    texts = json.dumps(list(page.content["texts"].values()), ensure_ascii=False)
    for talk_ in HOSTILE:
        said = talk_["messages"][0]["content"]
        assert json.dumps(said[:200], ensure_ascii=False)[1:-1] in texts
    assert NAME in "".join(page.words)


def test_a_page_is_small_however_long_its_rows_are(place):
    assert (place.out / REPORT).stat().st_size < 300_000


# -- runs


@pytest.fixture
def small(tmp_path, prefect_server, tiny_models):
    """A place of its own, with the settings of a selection."""
    place = Place(tmp_path / "small").write("a.jsonl", [*ALPACA, *MESSAGES])
    place.models = {"budget": 5, **tiny_models}
    return place


def test_a_report_that_fails_costs_a_warning_and_nothing_else(small, capfd):
    with patch("tasks.export.write_report", side_effect=ValueError("no room left")):
        report = small.select(**small.models)
    assert report.counts.selected == 5
    names = {path.name for path in small.out.iterdir()}
    assert names == {"selected.jsonl", "selected.parquet", "decisions.parquet", "README.md", "manifest.json"}
    said = [line for line in capfd.readouterr().err.splitlines() if REPORT in line]
    assert len(said) == 1 and "no room left" in said[0] and f"deita report {small.out}" in said[0]


def test_a_report_never_stays_beside_files_of_another_selection(small):
    small.select(**small.models)
    assert (small.out / REPORT).is_file()
    small.update(small.pool, report=False)
    assert not {REPORT, *PICTURES} & {path.name for path in small.out.iterdir()}
    assert shown_in_card(small.out) == []
    done = deita("report", small.out, cwd=small.folder)
    assert (done.returncode, done.stdout) == (0, f"Wrote {small.out / REPORT}.\n")
    assert read_page(small.out / REPORT).figures["funnel.selected"] == 5
    assert shown_in_card(small.out) == list(PICTURES)


def shown_in_card(folder):
    """The pictures that a dataset card shows."""
    return re.findall(r"^!\[.+\]\((.+)\)$", (folder / "README.md").read_text(), re.MULTILINE)


def test_the_card_shows_pictures_of_the_scores_and_the_map_beside_it(place, page):
    assert shown_in_card(place.out) == list(PICTURES)
    scores, map_ = ((place.out / name).read_text() for name in PICTURES)
    selected = place.decisions.filter(pl.col("fate") == "selected")
    assert f"lowest selected: {selected['score'].min():.2f}<" in scores
    points = page.content["points"]
    spots = {
        (round(x / 4095 * 480), round((1 - y / 4095) * 360))
        for x, y, fate in zip(points["x"], points["y"], points["fate"], strict=True)
        if fate == "selected"
    }
    drawn = map_.split("#0a66c2")[1].split("/>")[0]
    assert {(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h0", drawn)} == spots


def test_a_page_written_again_is_the_same_to_the_byte(small):
    small.select(**small.models)
    written = {path.name: path.read_bytes() for path in small.out.iterdir()}
    assert {REPORT, *PICTURES} <= written.keys()
    shutil.rmtree(small.store / MAPS)
    assert deita("report", small.out, cwd=small.folder).returncode == 0
    assert {path.name: path.read_bytes() for path in small.out.iterdir()} == written


def test_a_map_is_made_once_for_the_same_rows(small):
    small.select(**small.models)
    [map_] = (small.store / MAPS).iterdir()
    made = map_.stat().st_mtime_ns
    small.select(out=small.folder / "other", **{**small.models, "budget": 3})
    assert [path.stat().st_mtime_ns for path in (small.store / MAPS).iterdir()] == [made]


def test_a_removal_takes_the_reports_with_it_and_the_next_is_without_the_row(small):
    small.select(**small.models)
    text = ALPACA[0]["instruction"]
    id_ = small.id_of(text)
    assert id_[:10] in read_page(small.out / REPORT).content["points"]["id"]
    small.remove(ids=[id_])
    assert not (small.out / REPORT).exists() and not list((small.store / MAPS).iterdir())
    assert deita("report", small.out, cwd=small.folder).returncode == 0
    page = read_page(small.out / REPORT)
    assert id_[:10] not in page.content["points"]["id"]
    assert text not in json.dumps(page.content)
    assert page.figures["funnel.rejected"] == 1 and "removed" in "".join(page.words)
    with pytest.raises(InputError, match="name an id"):
        explained(small, id_)
    assert explained(small, "a.jsonl:1").reason.startswith("removed: ")
    assert id_ not in {
        row.id for row in rows_at_the_cut(Store(small.store), read_snapshot(Store(small.store))).selected
    }


def test_a_folder_without_a_selection_is_named(small):
    small.select(**small.models)
    done = deita("report", small.pool, "--store", small.store, cwd=small.folder)
    assert done.returncode == 2 and f"{small.pool} holds no selection" in done.stderr


# -- explain


def explained(place, row):
    store = Store(place.store)
    return explain(store, read_snapshot(store), row)


def test_a_row_is_found_by_its_id_its_place_and_its_words(place):
    id_ = place.id_of("Summarise Hamlet")
    for row in (id_, id_[:8], f"{place.pool}/b.jsonl:3", "b.jsonl:3", "summarise HAMLET"):
        assert explained(place, row).id == id_


@pytest.mark.parametrize("row", ["f" * 32, "no row says this", "b.jsonl:999", "", " "])
def test_a_row_that_is_not_there_is_said_so(place, row):
    with pytest.raises(InputError, match="name an id"):
        explained(place, row)


def test_words_of_several_rows_name_where_those_are(place):
    with pytest.raises(InputError, match=r"6 rows have these words \(.*b\.jsonl:\d+, .*FILE:LINE"):
        explained(place, "hostile")


def test_every_row_of_the_pool_is_explained_as_it_was_decided(place):
    for row in place.decisions.rows(named=True):
        found = explained(place, row["id"] or f"{row['file']}:{row['line']}")
        assert (found.fate, found.rank, found.reason) == (row["fate"], row["rank"], row["reason"])
        if row["id"]:
            assert len(found.places) == row["copies"]
            assert [(s.snapshot, s.fate) for s in found.snapshots] == [(1, row["fate"])]
        if row["fate"] in ("selected", "near_duplicate") and row["nearest"]:
            first = found.nearest[0]
            assert (first.id, first.above) == (row["nearest"], True)
            assert first.similarity == pytest.approx(row["similarity"], abs=1e-5)
        others = [other.similarity for other in found.nearest[1:]]
        assert others == sorted(others, reverse=True) and len(found.nearest) <= 5


def test_a_budget_that_reaches_a_row_is_told(small):
    small.select(**small.models)
    out = small.decisions.filter(pl.col("fate") == "over_budget").row(0, named=True)
    told = explained(small, out["id"]).would_be_selected
    assert f"a larger budget: {out['rank']} reaches it" in told
    small.update(budget=out["rank"])
    found = explained(small, out["id"])
    assert found.fate in ("selected", "near_duplicate")
    assert [(s.snapshot, s.fate) for s in found.snapshots] == [(1, "over_budget"), (2, found.fate)]


def test_a_near_duplicate_comes_in_at_the_threshold_told(place, tmp_path):
    copy = Place.__new__(Place)
    shutil.copytree(place.folder, tmp_path / "copy")
    copy.folder, copy.pool = tmp_path / "copy", place.pool
    copy.store, copy.out = copy.folder / "store", copy.folder / "out"
    near = min(
        (r for r in place.decisions.rows(named=True) if r["fate"] == "near_duplicate"), key=lambda r: r["similarity"]
    )
    told = explained(place, near["id"]).would_be_selected
    assert f"A threshold of {near['similarity']:.4f} or more" in told
    copy.select(out=copy.out, **{**_models(place), "threshold": min(1.0, near["similarity"] + 1e-6), "budget": None})
    assert explained(copy, near["id"]).fate == "selected"


def _models(place):
    settings = read_snapshot(Store(place.store)).report.job.settings
    return {name: getattr(settings, name) for name in ("encoder", "complexity_scorer", "quality_scorer")}


def test_without_a_row_the_ten_nearest_the_cut_are_told_on_both_sides(place):
    store = Store(place.store)
    found = rows_at_the_cut(store, read_snapshot(store))
    decisions = place.decisions
    for rows, fate, part in ((found.selected, "selected", -BUDGET), (found.left_out, "over_budget", 10)):
        ids = decisions.filter(pl.col("fate") == fate)["id"].to_list()
        assert [row.id for row in rows] == (ids[part:] if part < 0 else ids[:part])
    assert found.cut == found.selected[-1].score >= found.left_out[0].score


def test_without_a_full_budget_the_cut_is_the_threshold(small):
    small.write("b.jsonl", NEAR)
    small.select(**{**small.models, "budget": None})
    store = Store(small.store)
    found = rows_at_the_cut(store, read_snapshot(store))
    assert (found.cut_by, found.cut) == ("threshold", 0.99)
    assert all(row.fate == "near_duplicate" and row.similarity > 0.99 for row in found.left_out) and found.left_out
    assert all(row.fate == "selected" and row.similarity <= 0.99 for row in found.selected) and found.selected


def test_the_command_prints_what_the_library_finds_and_no_control_characters(place):
    id_ = place.id_of("Hostile six")
    text = deita("explain", id_, "--out", place.out, cwd=place.folder).stdout
    assert id_ in text and "fate" in text and "\x1b" not in text and "\x00" not in text
    as_json = deita("explain", id_, "--store", place.store, "--json", cwd=place.folder).stdout
    assert json.loads(as_json) == json.loads(explained(place, id_).model_dump_json())
    cut = deita("explain", "--out", place.out, cwd=place.folder).stdout
    assert "The last selected:" in cut and "The first left out:" in cut
    assert (
        len(json.loads(deita("explain", "--out", place.out, "--json", cwd=place.folder).stdout)["selected"]) == BUDGET
    )


# -- in a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    with Browser() as browser:
        yield browser


@pytest.mark.slow
def test_the_page_works_in_a_browser_and_asks_for_nothing(place, page, browser):
    browser.look()
    browser.open(place.out / REPORT)
    drawn = len(page.content["points"]["id"])
    assert browser.run("document.getElementById('found').children.length") == drawn
    assert browser.run("document.querySelectorAll('[data-list=best] article').length") == BUDGET
    shown = browser.run("[...document.querySelectorAll('.text')].map(p => p.textContent).join('\\n')")
    assert SCRIPT in shown
    assert browser.run("document.title") == f"{BUDGET} conversations selected"
    assert (
        browser.run("document.querySelectorAll('main img, main script, main iframe, main a[href^=javascript]').length")
        == 0
    )
    assert browser.requests == [(place.out / REPORT).resolve().as_uri()]
    assert browser.errors == []


@pytest.mark.slow
def test_the_page_works_as_it_is_served_by_deita_up(place, page, browser):
    with serving_reports(str(place.store), port=0) as address:
        browser.visit(f"{address}/{folder_key(place.out)}")
    assert browser.run("document.getElementById('found').children.length") == len(page.content["points"]["id"])
    assert browser.errors == []


@pytest.mark.slow
def test_the_map_can_be_searched_filtered_clicked_and_marked(place, page, browser):
    browser.look()
    browser.open(place.out / REPORT)
    points = page.content["points"]
    listed = "document.getElementById('found').children.length"
    browser.run("search.value = 'summarise hamlet'; search.dispatchEvent(new Event('input'))")
    browser.wait(f"{listed} === 1")
    browser.run("search.value = ''; search.dispatchEvent(new Event('input'))")
    browser.wait(f"{listed} === {len(points['id'])}")
    browser.run("document.querySelector('#fates input[value=selected]').click()")
    assert browser.run(listed) == len(points["id"]) - points["fate"].count("selected")
    browser.run("document.querySelector('#fates input[value=selected]').click()")
    for colour in ("score", "file", "cluster", "fate"):
        browser.run(f"colour.value = '{colour}'; colour.dispatchEvent(new Event('change'))")
        assert browser.run("legend.children.length") > 0
    browser.run("document.querySelector('.map').scrollIntoView({block: 'center'})")
    box = browser.run("(({left, top, width, height}) => [left, top, width, height])(canvas.getBoundingClientRect())")
    row = points["id"].index(place.id_of("Summarise Hamlet")[:10])
    x = box[0] + 8 + points["x"][row] / 4095 * (box[2] - 18)
    y = box[1] + 8 + (1 - points["y"][row] / 4095) * (box[3] - 18)
    browser.mouse((x, y))
    assert "Summarise Hamlet." in browser.run("document.getElementById('row').textContent")
    # A corner of the map is as good a place as any: the mouse is pressed inside, and may be released outside.
    start = (max(box[0] + 2, x - 15), max(box[1] + 2, y - 15))
    browser.mouse(start, (x, y), (x + 15, y + 15))
    assert 1 <= browser.run(listed) < len(points["id"])
    browser.run("document.getElementById('clear').click()")
    assert browser.run(listed) == len(points["id"])
    browser.run("document.querySelector('#found button').click()")
    assert browser.run("document.activeElement.id") == "row"
    assert browser.errors == []


@pytest.mark.slow
def test_the_page_is_dark_or_light_and_fits_a_phone(place, browser):
    browser.look(dark=True)
    browser.open(place.out / REPORT)
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = browser.run(paper)
    browser.run("document.getElementById('theme').click()")
    light = browser.run(paper)
    assert (dark, light) == ("rgb(20, 23, 28)", "rgb(255, 255, 255)")
    browser.look(width=390, height=844)
    browser.wait("innerWidth === 390")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.errors == []
