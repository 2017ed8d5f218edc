"""Commands to look at a selection and to share it: report, explain, publish."""

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import StoreOption
from flows.cli.snapshots import DEFAULT_STORE

if TYPE_CHECKING:
    from deita_core.stages.publishing import Publication

app = typer.Typer()


@app.command(epilog="Example:  deita report out/mine --open")
def report(
    out: Annotated[Path, typer.Argument(help="Folder that deita select wrote.")],
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    store: StoreOption = None,
) -> None:
    """Write report.html of a selection again: what was chosen and why, a page to look at.

    The page is one file that needs no network. Conversations removed since the selection are not in it. Also writes the
    pictures of the dataset card. The store is the one that the folder's manifest names, unless another is given.
    """
    from deita_core.stages.reporting import snapshot_of_folder, write_report
    from deita_core.stages.snapshots import store_of
    from deita_core.store import Store

    held = Store(store or store_of(out) or DEFAULT_STORE)
    path = write_report(held, snapshot_of_folder(held, out).report, out)
    typer.echo(f"Wrote {path}.")
    if open_ and not webbrowser.open(path.resolve().as_uri()):
        typer.echo(f"There is no browser here; open {path} in one.", err=True)


@app.command(
    epilog="Examples:  deita explain   ·   deita explain 0f3c81d2   ·   deita explain alpaca.jsonl:12   ·   "
    "deita explain 'rate limiter'"
)
def explain(
    row: Annotated[
        str | None, typer.Argument(help="An id or its first 8 digits, FILE:LINE, or words of the row.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of a selection. Default: the last of the store.")] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the texts in full.")] = False,
) -> None:
    """Explain why a row was selected or not, and what would have it selected.

    Without a row: the ten rows nearest the cut on both sides.
    """
    from deita_core.stages.explaining import explain as explain_row
    from deita_core.stages.explaining import rows_at_the_cut
    from deita_core.stages.reporting import snapshot_of_folder
    from deita_core.stages.snapshots import read_snapshot, store_of
    from deita_core.store import Store
    from flows.cli.explanation import print_at_the_cut, print_explanation

    held = Store(store or (store_of(out) if out else None) or DEFAULT_STORE)
    snapshot = snapshot_of_folder(held, out) if out else read_snapshot(held)
    if row is None:
        cut = rows_at_the_cut(held, snapshot)
        typer.echo(cut.model_dump_json(indent=2)) if as_json else print_at_the_cut(cut)
        return
    found = explain_row(held, snapshot, row)
    typer.echo(found.model_dump_json(indent=2)) if as_json else print_explanation(found)


@app.command(epilog="Examples:  deita publish out/mine --repo acme/mine --private --dry-run")
def publish(
    out: Annotated[Path, typer.Argument(help="Folder that deita select wrote.")],
    repo: Annotated[str, typer.Option(metavar="ORG/NAME", help="Dataset of the hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
    with_report: Annotated[bool, typer.Option("--with-report", help="Upload report.html as well.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be uploaded.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Upload a selection to the Hugging Face hub, as a dataset with its card.

    Only the files of the selection are uploaded. report.html stays here unless asked for: it holds texts of rows that
    were not selected. Without a token (`hf auth login`, or HF_TOKEN) nothing is uploaded, and the command says what
    would be.
    """
    from huggingface_hub import get_token

    from deita_core.stages.publishing import plan_publication, publish_selection

    planned = plan_publication(out, repo, private, with_report)
    _print_plan(planned)
    token = get_token()
    if dry_run or not token:
        reason = "" if dry_run else " There is no token: log in with `hf auth login` or set HF_TOKEN to upload."
        typer.echo(f"Nothing was uploaded.{reason}")
        return
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Upload to {repo}?", abort=True)
    typer.echo(f"Published at {publish_selection(planned, token)}.")


def _print_plan(planned: "Publication") -> None:
    from deita_core.export.files import REPORT

    kind = "private" if planned.private else "public, unless it is there and private"
    typer.echo(f"{planned.folder} to the dataset {planned.repo} ({kind}):")
    for name, size in planned.files.items():
        typer.echo(f"  {name:<18}{size:>15,} bytes")
    if REPORT not in planned.files:
        typer.echo(f"Not {REPORT}, which holds texts of rows that were not selected; --with-report uploads it too.")
