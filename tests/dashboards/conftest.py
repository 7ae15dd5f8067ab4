"""No account, no settings of the machine, and nothing of W&B in the home directory."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc-none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
