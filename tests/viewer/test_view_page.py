"""docs/view.md runs as it stands, and the command of it begins and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request

from pages import ROOT, make_targets, run_page

PAGE = (ROOT / "docs" / "view.md").read_text("utf-8")


def test_every_block_of_the_page_of_view_runs(tmp_path):
    wrong = run_page(PAGE, tmp_path, make_targets(), "docs/view.md")
    assert not wrong, "\n\n".join(wrong)


def test_the_command_prints_its_address_and_ends_with_ctrl_c(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,completion,score\np,a,1\n")
    words = [sys.executable, "-m", "prefmill", "view", "rows.csv", "--no-open"]
    pipe = subprocess.PIPE
    running = subprocess.Popen(words, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
    try:
        url = running.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, said) == (
        0,
        "view: flags go to rows-flags.jsonl; Ctrl-C ends it.\n",
    )
    assert os.listdir(tmp_path) == ["rows.csv"]
