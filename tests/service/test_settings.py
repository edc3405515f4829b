"""Settings and the command line of the service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd4rec.errors import ConfigError
from ssd4rec.service.settings import as_environment, load_settings


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('models = "file"\nport = 1\nworkers = 2\nmax_k = 7\n')
    environment = {"SSD4REC_PORT": "2", "SSD4REC_WORKERS": "3", "SSD4REC_OF_ANOTHER": "x", "SSD4REC_REQUIRE_KEY": "true"}
    settings = load_settings(file, environment, {"workers": 4, "host": None})
    assert (str(settings.models), settings.port, settings.workers, settings.max_k) == ("file", 2, 4, 7)
    assert settings.require_key is True
    assert settings.host == "127.0.0.1"
    assert load_settings(None, as_environment(settings), {}) == settings


def test_what_may_be_off_is_switched_off_by_the_word_none() -> None:
    settings = load_settings(None, {"SSD4REC_SNAPSHOT_EVENTS": "none", "SSD4REC_RETENTION_DAYS": "3"}, {"models": "m"})
    assert (settings.snapshot_events, settings.retention_days) == (None, 3.0)
    assert load_settings(None, as_environment(settings), {}) == settings  # also in the worker processes


def test_no_secret_is_shown() -> None:
    settings = load_settings(None, {}, {"models": "m", "store": "postgresql://me:hunter2@db/x"})
    assert "hunter2" not in str(settings.shown())
    assert settings.store == "postgresql+psycopg://me:hunter2@db/x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense = 1", "nonsense: is not a setting"),
        ("workers = 0", "workers"),
        ("port = 'x'", "port"),
        ("[", "not valid TOML"),
        ('store = "mysql://x"', "expected sqlite"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "service.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_settings(file, {}, {"models": "m"})


def test_files_and_folders_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.toml", {}, {"models": "m"})
    with pytest.raises(ConfigError, match="no model is named"):
        load_settings(None, {}, {})


@pytest.mark.slow
def test_mistakes_end_with_code_2_and_one_line(models: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ssd4rec", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False, timeout=200)

    store = f"sqlite:///{tmp_path / 'none' / 'events.db'}"
    for arguments, message in [
        (("serve",), "no model is named"),
        (("serve", str(models), "--store", "nonsense"), "is not an address"),
        (("serve", str(models), "--store", store, "--port", "0"), "unable to open database file"),
        (("keys", "create", "me", "--store", f"sqlite:///{tmp_path / 'a.db'}", "--scope", "all"), "is not a scope"),
        (("models", "activate", str(models.parent), "none"), "has no version"),
    ]:
        finished = run(*arguments)
        assert finished.returncode == 2, finished.stderr
        assert message in finished.stderr
        assert "Traceback" not in finished.stderr
