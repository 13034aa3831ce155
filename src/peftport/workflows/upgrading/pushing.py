"""Put the folders of ported modules on the hub, each as a private repository, unless it is there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peftport.core.errors import PushFailed, first_line
from peftport.core.libraries import huggingface_hub
from peftport.core.progress import Progress
from peftport.workflows.upgrading.ledger import UpgradeFolder, UpgradeRecord


def push_modules(
    repository: str, folder: UpgradeFolder, records: Sequence[UpgradeRecord], progress: Progress
) -> list[UpgradeRecord]:
    """Push every module that can be used and is not on the hub yet; one at a time, each in one commit.

    Raises:
        PushFailed: the hub cannot be reached or refuses; what was pushed before stays recorded.

    """
    usable = [record for record in records if record.usable and record.out and record.pushed is None]
    advance, done = progress.stage(f"pushing to {repository}", len(usable)), list(records)
    for record in usable:
        name = repository if len(records) == 1 else f"{repository}-{record.name}"
        address = _push(name, folder, record)
        done[records.index(record)] = folder.keep(record.model_copy(update={"pushed": address}))
        advance(1)
    return done


def _push(repository: str, folder: UpgradeFolder, record: UpgradeRecord) -> str:
    api = huggingface_hub.HfApi()
    try:
        with _without_bars():
            made = api.create_repo(repository, private=True, exist_ok=True)
            api.upload_folder(
                repo_id=made.repo_id, folder_path=folder.module(record.name),
                commit_message=f"{record.name}, ported by peftport ({record.method})",
            )  # fmt: skip
    except Exception as error:  # errors of the library's HTTP client come through, which differ between its versions
        raise PushFailed(
            f"--push {repository}: expected the hub to take {folder.module(record.name)}, got: {first_line(error)}; "
            "log in (hf auth login), check the name, and run the same command again: nothing is ported twice"
        ) from error
    return str(made)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Silence the library's own progress bars: ours count modules."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
