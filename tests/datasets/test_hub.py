"""`push_to_hub` puts the card where the data went: a branch, a pull request, or main."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitInfo, DatasetCard
from huggingface_hub.errors import EntryNotFoundError

import prefmill as pm

datasets = pytest.importorskip("datasets")
import prefmill.datasets as pmd  # noqa: E402

URL = "https://huggingface.co/datasets/me/pairs"


class FakeHub:
    """The READMEs of one repository by revision, written by what a push calls."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, readmes: dict[str, str]
    ) -> None:
        self.folder, self.readmes = folder, dict(readmes)
        monkeypatch.setattr(datasets.Dataset, "push_to_hub", self.push_data)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.download)
        monkeypatch.setattr("huggingface_hub.repocard.hf_hub_download", self.download)
        hub = self

        def push_card(card: DatasetCard, repo_id: str, **options: Any) -> None:
            hub.readmes[options.get("revision") or "main"] = str(card)

        monkeypatch.setattr(DatasetCard, "push_to_hub", push_card)

    def push_data(self, repo_id: str, **options: Any) -> CommitInfo:
        """As `datasets` does: its configurations go into the README of the branch or the new PR."""
        place = "refs/pr/7" if options.get("create_pr") else options.get("revision") or "main"
        split = f"configs:\n- config_name: of-{place.replace('/', '-')}\n  data_files: data/*\n"
        old = self.readmes.get(place, "")
        self.readmes[place] = f"---\n{split}---\n\n{old.partition('---')[0] or 'Words of it.'}\n"
        pull = f"{URL}/discussions/7" if options.get("create_pr") else None
        return CommitInfo(f"{URL}/commit/1", "m", "d", oid="1", pr_url=pull)

    def download(self, repo_id: str, name: str, **options: Any) -> str:
        place = options.get("revision") or "main"
        if place not in self.readmes:
            raise EntryNotFoundError("no README")
        path = self.folder / place.replace("/", "-")
        path.write_text(self.readmes[place])
        return str(path)


MAIN = "---\nconfigs:\n- config_name: old\n  data_files: old/*\n---\n\nMain's words.\n"


def pushed(hub: FakeHub, **options: Any) -> None:
    rows = datasets.Dataset.from_dict(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}
    )
    plan = pm.Pairs()
    pmd.push_to_hub(
        pmd.pairs(rows), "me/pairs", plan=plan, report=pmd.report(plan, rows), **options
    )


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"revision": "v2"}, "v2"),
        ({"revision": "refs/pr/3"}, "refs/pr/3"),
        ({"create_pr": True}, "refs/pr/7"),
        ({"create_pr": True, "revision": "v2"}, "refs/pr/7"),
        ({}, "main"),
    ],
)
def test_the_card_goes_where_the_data_went(options, place, tmp_path, monkeypatch):
    hub = FakeHub(tmp_path, monkeypatch, {"main": MAIN})
    pushed(hub, **options)
    card = DatasetCard(hub.readmes[place])
    names = [config["config_name"] for config in card.data.to_dict()["configs"]]
    assert names == [f"of-{place.replace('/', '-')}"]
    assert pm.Pairs().hash() in card.text
    assert "Words of it." in card.text
    if place != "main":
        assert hub.readmes["main"] == MAIN


def test_a_branch_without_a_readme_gets_the_card_alone(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path, monkeypatch, {"main": MAIN})
    monkeypatch.setattr(datasets.Dataset, "push_to_hub", lambda *_, **__: None)
    pushed(hub, revision="v2")
    assert "Main's words." not in hub.readmes["v2"]
    assert pm.Pairs().hash() in hub.readmes["v2"]


def test_a_pull_request_that_nobody_names_gets_no_card_on_main(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path, monkeypatch, {"main": MAIN})
    monkeypatch.setattr(datasets.Dataset, "push_to_hub", lambda *_, **__: None)
    with pytest.raises(pm.PrefmillError, match="its pull request is not known"):
        pushed(hub, create_pr=True)
    assert hub.readmes == {"main": MAIN}
