"""A finished model on disk: whole or absent, exact, and never believed without its hashes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from processes import dead_process
from ssd4rec.artifact import FILES, FORMAT, FUSION, MANIFEST, REPORT_PAGE, check_writable, load_artifact, save_artifact
from ssd4rec.artifact import contents as module
from ssd4rec.artifact import folder as folder_module
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import Config, DataConfig, FusionConfig, PairModel, SSD4RecConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.errors import ArtifactError, BackendError, ConfigError
from ssd4rec.fusion import PAIR_MODELS, ScoreFusion, look_up
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec

ITEMS = 5
COUNTS = np.array([0, 4, 3, 3, 1, 0])
CONFIG = Config(
    data=DataConfig(min_interactions=3),
    backbone=SSD4RecConfig(width=8, state_dim=4, head_width=4, layers=2, dropout=0.5, norm_embedding=True),
)


def catalogue_of(items: int = ITEMS) -> Catalog:
    titles = pl.Series("title", ["Alpha", None, "Gamma, the third", "Δ", "E"], dtype=pl.String)[:items]
    return Catalog(pl.Series("id", ["007", "7", "x", "é", "z"])[:items], titles)


def save(directory: Path, report: dict[str, object] | None = None, seed: int = 0) -> NextItemModel:
    torch.manual_seed(seed)
    model = NextItemModel(SSD4Rec(CONFIG.backbone), ITEMS)
    save_artifact(directory, model, catalogue_of(), CONFIG, {"run": 1} if report is None else report, COUNTS)
    return model


def scores(model: NextItemModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.score(model.eval().encode(torch.tensor([1, 2, 3, 5, 4]), torch.tensor([0, 3, 5])))


def seal(directory: Path) -> None:
    """Write the manifest that a save of these very files would have written."""
    (directory / MANIFEST).write_text(json.dumps(folder_module.make_manifest(directory)), encoding="utf-8")


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "model")
    return tmp_path / "model"


def test_a_loaded_model_gives_the_same_scores_bit_for_bit(tmp_path: Path) -> None:
    """Saved and loaded, a model scores as it did, without dropout."""
    model = save(tmp_path / "model")
    loaded = load_artifact(tmp_path / "model").model
    assert not loaded.training
    assert torch.equal(scores(loaded), scores(model))


def test_all_parts_are_restored(saved: Path) -> None:
    """Ids and titles, settings, report and training counts are what they were."""
    loaded = load_artifact(saved)
    assert loaded.catalog.ids.to_list() == ["007", "7", "x", "é", "z"]
    assert loaded.catalog.titles is not None
    assert loaded.catalog.titles.to_list() == ["Alpha", None, "Gamma, the third", "Δ", "E"]
    assert loaded.config == CONFIG
    assert loaded.report == {"run": 1}
    assert loaded.training_counts.tolist() == COUNTS.tolist()


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    """The weights come from the file: torch's generator stands where it stood."""
    before = torch.get_rng_state()
    load_artifact(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_loaded_weights_can_be_trained_on(saved: Path) -> None:
    """Every weight is a parameter that asks for its gradient."""
    parameters = list(load_artifact(saved, device="cpu").model.parameters())
    assert len(parameters) > 5
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in parameters)


def test_metrics_that_are_not_finite_become_null(tmp_path: Path) -> None:
    """A model is not lost over a NaN in its report, and the report stays JSON."""
    save(tmp_path / "model", {"ndcg@10": float("nan"), "history": [{"loss": float("inf")}, 1.5], "file": Path("a")})
    assert load_artifact(tmp_path / "model").report == {"ndcg@10": None, "history": [{"loss": None}, 1.5], "file": "a"}


def test_a_file_name_that_is_not_utf8_in_the_report(tmp_path: Path) -> None:
    """The bytes of a name that are no UTF-8 are written as a person can read them."""
    name = "caf\udce9.csv"  # as Python reads the file b"caf\xe9.csv"
    save(tmp_path / "model", {"data": {"read": {"source": name}}, "from": Path(name), "notes": [name, "caf\u00e9"]})
    report = load_artifact(tmp_path / "model").report
    shown = "caf\\udce9.csv"
    assert report == {"data": {"read": {"source": shown}}, "from": shown, "notes": [shown, "caf\u00e9"]}
    assert json.dumps(report, ensure_ascii=False).encode()


def test_a_second_model_replaces_the_first(saved: Path) -> None:
    """The second one replaces the first, and no other file remains."""
    second = save(saved, seed=1)
    assert torch.equal(scores(load_artifact(saved).model), scores(second))
    assert names_in(saved.parent) == ["model"]
    assert names_in(saved) == sorted([*FILES, MANIFEST])


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_all_files_have_the_same_permissions(tmp_path: Path, umask: int, mode: int) -> None:
    """Every file has the mode that the account gives its files, the weights and the fusion too: a service may be another's."""
    before = os.umask(umask)
    try:
        save_with_fusion(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys([*FILES, FUSION, MANIFEST], mode)


def lay_beside(directory: Path) -> None:
    """Files that a user may keep with a model."""
    (directory / "notes.md").write_text("the one of May")
    (directory / "plots").mkdir()
    (directory / "plots" / "loss.svg").write_text("<svg/>")
    (directory / "data").symlink_to("../elsewhere.csv")  # of something that is not there


def check_beside(directory: Path) -> None:
    assert names_in(directory) == sorted([*FILES, MANIFEST, "notes.md", "plots", "data"])
    assert (directory / "notes.md").read_text() == "the one of May"
    assert (directory / "plots" / "loss.svg").read_text() == "<svg/>"
    assert (directory / "data").readlink() == Path("../elsewhere.csv")


def test_other_files_in_the_folder_are_kept(tmp_path: Path) -> None:
    """A second model takes the place of the first one's files alone; a fusion that it does not have goes."""
    save_with_fusion(tmp_path / "model")
    lay_beside(tmp_path / "model")
    save(tmp_path / "model", {"run": 2})
    assert load_artifact(tmp_path / "model").report == {"run": 2}
    check_beside(tmp_path / "model")
    assert names_in(tmp_path) == ["model"]


def test_the_page_of_the_report_goes_with_its_model(saved: Path) -> None:
    """It is not verified, and a page about another model would be wrong."""
    (saved / REPORT_PAGE).write_text("about the first model")
    load_artifact(saved)
    save(saved)
    assert not (saved / REPORT_PAGE).exists()


def test_other_files_in_the_folder_survive_a_kill(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the renames and before it was moved: the new model is there, and the next save brings it over."""
    lay_beside(saved)
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_remove_old", interrupt)
        patch.setattr(module, "recover", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            save(saved, {"run": 2})
    assert load_artifact(saved).report == {"run": 2}
    assert names_in(saved.parent) == [".model.old", "model"]
    save(saved, {"run": 3})
    assert load_artifact(saved).report == {"run": 3}
    check_beside(saved)
    assert names_in(saved.parent) == ["model"]


def test_missing_parents_are_created_and_an_empty_folder_is_used(tmp_path: Path) -> None:
    """The folder may lie in folders that are not there yet, and may be there if it is empty."""
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "a" / "b", tmp_path / "empty"):
        save(directory)
        assert load_artifact(directory).report == {"run": 1}


def test_a_link_is_followed(saved: Path) -> None:
    """Saving through a symbolic link replaces what it points to; the link stays."""
    link = saved.with_name("latest")
    link.symlink_to(saved)
    save(link, {"run": 2})
    assert link.is_symlink()
    assert load_artifact(saved).report == {"run": 2}


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_one_flipped_bit_is_detected(saved: Path, name: str) -> None:
    """A bit at the beginning, in the middle or near the end of any file: the file is named and not believed."""
    original = (saved / name).read_bytes()
    for place in (0, len(original) // 2, len(original) - 2):
        changed = bytearray(original)
        changed[place] ^= 1
        (saved / name).write_bytes(changed)
        with pytest.raises(ArtifactError, match=rf"{name}.*is damaged.*copy the model again"):
            load_artifact(saved)


def test_every_byte_of_the_manifest_is_checked(saved: Path) -> None:
    """The manifest holds its own hash: not even the version of the package in it can be changed."""
    original = (saved / MANIFEST).read_bytes()
    for place in range(0, len(original), 3):
        (saved / MANIFEST).write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        with pytest.raises(ArtifactError):
            load_artifact(saved)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_truncated_file_is_detected(saved: Path, name: str) -> None:
    """Half of a file is not the file."""
    (saved / name).write_bytes((saved / name).read_bytes()[: (saved / name).stat().st_size // 2])
    with pytest.raises(ArtifactError, match=rf"{name}.*is damaged"):
        load_artifact(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    """Half an artifact is none."""
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=rf"incomplete: {name} is missing; copy the model again"):
        load_artifact(saved)


def test_a_missing_folder_and_another_folder_have_different_errors(tmp_path: Path) -> None:
    """The message says what to give, or the command that makes it."""
    with pytest.raises(ArtifactError, match=r"the folder does not exist; train one with `ssd4rec train DATA --out .*nothing`"):
        load_artifact(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"is not a model of ssd4rec: manifest\.json is missing; pass a folder written by"):
        load_artifact(tmp_path)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    """A data file in place of a model: the advice does not suggest to overwrite it."""
    (tmp_path / "small.csv").write_text("user,item\n")
    with pytest.raises(ArtifactError, match=r"small\.csv is a file, expected the folder of a model") as raised:
        load_artifact(tmp_path / "small.csv")
    assert "no such folder" not in str(raised.value)


@pytest.mark.parametrize("name", [*FILES, FUSION, MANIFEST])
def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is not damaged: the message says what the system says, of which file."""
    save_with_fusion(tmp_path / "model")
    opened = Path.open

    def refuse(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ArtifactError, match=rf"cannot read .*model/{name}: Permission denied; check its permissions") as raised:
        load_artifact(tmp_path / "model")
    assert "damaged" not in str(raised.value)


def test_an_unsearchable_folder_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a model to read nor a place for a new one."""
    looked = Path.stat

    def refuse(path: Path, **how: Any) -> Any:
        if saved in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path, **how)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ArtifactError, match=r"cannot read .*model/manifest\.json: Permission denied; check its permissions"):
        load_artifact(saved)
    with pytest.raises(ArtifactError, match=r"cannot write to .*model: Permission denied; choose another folder"):
        check_writable(saved)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    """Of a model to read, and of one to make."""
    with pytest.raises(ArtifactError, match=r"cannot read .*aaa: File name too long; choose another folder"):
        load_artifact(tmp_path / ("a" * 300))
    with pytest.raises(ArtifactError, match=r"cannot write to .*aaa: File name too long; choose another folder"):
        check_writable(tmp_path / ("a" * 300))


def test_a_folder_name_that_is_not_utf8_is_rejected_before_training(tmp_path: Path) -> None:
    """safetensors cannot read what it has written there."""
    with pytest.raises(ArtifactError, match=r"safetensors needs a path in UTF-8; choose another folder"):
        check_writable(tmp_path / "mod\udce9l")


def test_another_format_is_rejected(saved: Path) -> None:
    """A later format is rejected, and the version that wrote it is named."""
    manifest = json.loads((saved / MANIFEST).read_text(encoding="utf-8"))
    (saved / MANIFEST).write_text(json.dumps({**manifest, "format": FORMAT + 1, "ssd4rec": "9.1"}), encoding="utf-8")
    with pytest.raises(
        ArtifactError,
        match=rf"has format {FORMAT + 1}, but this version of ssd4rec reads format {FORMAT}; train the model again .*9\.1",
    ):
        load_artifact(saved)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"format": 1, "sha256": 3}'])
def test_a_malformed_manifest_is_damaged(saved: Path, content: str) -> None:
    """Nothing, or JSON of another shape, is said to be damaged."""
    (saved / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        load_artifact(saved)


def test_missing_and_unexpected_weights_are_named(saved: Path) -> None:
    """Hashes that hold do not make other weights fit."""
    weights = load_file(saved / module.WEIGHTS)
    weights["stranger"] = weights.pop("table.weight")
    save_file(weights, saved / module.WEIGHTS)
    seal(saved)
    with pytest.raises(ArtifactError, match=r"do not match: table.weight is missing; stranger is unexpected"):
        load_artifact(saved)


def test_a_catalog_of_another_size(saved: Path) -> None:
    """Four items cannot name the five that the weights score."""
    catalogue_of(4).write(saved / module.CATALOG)
    seal(saved)
    with pytest.raises(
        ArtifactError, match=r"catalog of 4 items do not match.*table.weight has shape \[6, 8\], expected \[5, 8\]"
    ):
        load_artifact(saved)


def test_unknown_settings_are_rejected(saved: Path) -> None:
    """An unknown setting is named, and what to do."""
    (saved / module.CONFIG).write_text("[backbone]\nwings = 2\n", encoding="utf-8")
    seal(saved)
    with pytest.raises(ArtifactError, match=r"cannot read .*unknown setting 'backbone\.wings'.*train the model again"):
        load_artifact(saved)


def test_a_missing_device_is_an_error(saved: Path) -> None:
    """The device is named, and one that is always there."""
    with pytest.raises(BackendError, match=r'the device "warp" is not available on this machine; use "cpu"'):
        load_artifact(saved, device="warp")


def test_parts_of_different_sizes_are_not_saved(tmp_path: Path) -> None:
    """Five items in the model, four in the catalog: nothing is written."""
    model = NextItemModel(SSD4Rec(CONFIG.backbone), ITEMS)
    with pytest.raises(ArtifactError, match=r"the model has 5 items, the catalog 4 .*pass the parts of one training run"):
        save_artifact(tmp_path / "model", model, catalogue_of(4), CONFIG, {}, COUNTS)
    assert names_in(tmp_path) == []


def test_other_folders_are_left_unchanged(tmp_path: Path) -> None:
    """A folder of somebody's letters, or a file, is not overwritten."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("letters", "file"):
        with pytest.raises(ArtifactError, match=rf"{name} exists and is not a model of ssd4rec, so it is left unchanged"):
            save(tmp_path / name)
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"
    assert names_in(tmp_path) == ["file", "letters"]


def test_an_unwritable_location_is_detected_before_training(tmp_path: Path) -> None:
    """A file stands where a folder is needed."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"cannot write to .*file: .*; choose another folder"):
        check_writable(tmp_path / "file" / "model")


# Files may not grow past a limit, which is what a full disk does to a program.
SAVE_WITHOUT_SPACE = """
import resource, signal, sys
from pathlib import Path
import test_artifact
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (100, 1000, 5000, 20000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        test_artifact.save(Path(sys.argv[1]), {"long": "x" * 30000})
    except test_artifact.ArtifactError as error:
        print(error)
"""


@pytest.mark.thorough
def test_a_full_disk_leaves_the_old_model(saved: Path) -> None:
    """A full disk at any file: one clear error, the old model, and no other file."""
    done = subprocess.run(
        [sys.executable, "-c", SAVE_WITHOUT_SPACE, saved],
        env=subprocess_environment(),
        capture_output=True,
        check=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("cannot write the model to" in line and "choose another folder or free disk space" in line for line in lines)
    assert load_artifact(saved).report == {"run": 1}
    assert names_in(saved.parent) == ["model"]


def test_an_interrupted_save_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the files are written: the old model, and no other file."""
    monkeypatch.setattr(module, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(saved, {"run": 2})
    assert load_artifact(saved).report == {"run": 1}
    assert names_in(saved.parent) == ["model"]


def test_a_kill_between_the_renames_leaves_the_old_model_readable(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only .model.old and a new one that has no name yet are there: the old one is read, and not lost by a save that fails."""
    saved.rename(saved.with_name(".model.old"))
    shutil.copytree(saved.with_name(".model.old"), saved.with_name(f".model.new-{dead_process()}"))
    assert load_artifact(saved).report == {"run": 1}
    with monkeypatch.context() as patch:
        patch.setattr(module, "sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(saved, {"run": 2})
    assert names_in(saved.parent) == ["model"]
    assert load_artifact(saved).report == {"run": 1}


def test_folders_of_running_processes_are_not_touched(saved: Path) -> None:
    """A save takes away what a dead one has left, and not the half of another that is under way."""
    alive, dead = (saved.with_name(f".model.new-{process}") for process in (os.getppid(), dead_process()))
    for folder in (alive, dead):
        folder.mkdir()
    save(saved, {"run": 2})
    assert load_artifact(saved).report == {"run": 2}
    assert names_in(saved.parent) == [alive.name, "model"]


def test_a_report_that_json_cannot_represent_is_an_error(saved: Path) -> None:
    """The old model stays, and no other file remains."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(saved, {"models": {1, 2}})
    assert load_artifact(saved).report == {"run": 1}
    assert names_in(saved.parent) == ["model"]


# Importing torch takes seconds: one process does, and forks of it are killed. Polars is left to them, for it begins threads: what
# a thread holds in the moment of a fork is held in the child for ever.
SAVE_FOREVER = """
import os, sys
from pathlib import Path
import pytest, ssd4rec.models.next_item
threads = Path("/proc/self/task")
assert not threads.is_dir() or len(list(threads.iterdir())) == 1
for line in sys.stdin:
    if child := os.fork():
        os.waitpid(child, 0)
        print("gone", flush=True)
        continue
    import test_artifact  # and with it polars
    print(os.getpid(), flush=True)
    run = int(line)
    while True:
        run += 1
        test_artifact.save(Path(sys.argv[1]), {"run": run})
        print("saved", flush=True)
"""


@pytest.mark.thorough
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork")
def test_a_kill_while_saving_leaves_a_complete_model(tmp_path: Path) -> None:
    """A process that saves over and over is killed twenty times, up to two saves and a part of one after it began.

    There is a complete model each time: of the last reported save, or of the one in progress.
    """
    directory, chance, runs = tmp_path / "model", np.random.default_rng(7), [0]
    began = time.monotonic()
    save(directory, {"run": 0})
    took = time.monotonic() - began
    command = [sys.executable, "-c", SAVE_FOREVER, directory]
    with subprocess.Popen(
        command, env=subprocess_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(20):
            parent.stdin.write(f"{runs[-1]}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            messages = [parent.stdout.readline() for _ in range(chance.integers(3))]
            time.sleep(chance.uniform(0, took))
            os.kill(child, signal.SIGKILL)
            while messages[-1:] != ["gone\n"]:
                messages.append(parent.stdout.readline())
                assert messages[-1], "the process that saves is gone"
            assert messages[:-1] == ["saved\n"] * (len(messages) - 1)
            runs.append(load_artifact(directory).report["run"])
            assert runs[-1] - runs[-2] - len(messages[:-1]) in (0, 1)
        parent.stdin.close()
    assert runs[-1] > 10
    save(directory)
    assert names_in(tmp_path) == ["model"]


def subprocess_environment() -> dict[str, str]:
    """The environment of a process that can import this file."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}


def fusion_of(items: int, model: PairModel = "sequential-rules") -> ScoreFusion:
    packed = np.array([1, 2, 3, 1, 2, 4]), np.array([0, 3, 6])
    return ScoreFusion(PAIR_MODELS[model].fit(*packed, items), 1.5, -2.0)


def save_with_fusion(directory: Path, items: int = ITEMS, model: PairModel = "sequential-rules") -> ScoreFusion:
    fusion = fusion_of(items, model)
    save_artifact(directory, NextItemModel(SSD4Rec(CONFIG.backbone), ITEMS), catalogue_of(), CONFIG, {}, COUNTS, fusion)
    return fusion


def test_settings_with_fusion_require_it(tmp_path: Path) -> None:
    """They would say of figures without it that they have it; one that validation found to be worth nothing is none missing."""
    asks = CONFIG.model_copy(update={"fusion": FusionConfig(cooccurrence="tuned")})
    parts = (NextItemModel(SSD4Rec(CONFIG.backbone), ITEMS), catalogue_of(), asks, {}, COUNTS)
    with pytest.raises(
        ConfigError, match=r"'tuned', fusion\.repeat_bias = 0\.0.* but none was passed; pass the result of tune_fusion"
    ):
        save_artifact(tmp_path / "model", *parts)
    assert not (tmp_path / "model").exists()
    save_artifact(tmp_path / "model", *parts, ScoreFusion(SequentialRules.nothing(ITEMS), 0.0))
    assert load_artifact(tmp_path / "model").fusion is None


@pytest.mark.parametrize("model", PAIR_MODELS)
def test_fusion_is_restored_bit_for_bit(tmp_path: Path, model: PairModel) -> None:
    """Counts and both numbers; a model that was saved without any has none, also where it takes the place of one that had."""
    fusion = save_with_fusion(tmp_path / "model", model=model)
    loaded = load_artifact(tmp_path / "model").fusion
    assert loaded is not None
    assert (loaded.weight, loaded.repeat_bias, loaded.pairs.name) == (fusion.weight, fusion.repeat_bias, model)
    for name in ("edges", "columns", "weights"):
        actual, expected = (getattr(each.pairs, name) for each in (loaded, fusion))
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    save(tmp_path / "model")
    assert load_artifact(tmp_path / "model").fusion is None


def test_damaged_fusion_is_rejected(tmp_path: Path) -> None:
    """It has a hash like every other file; a file that the manifest does not name is not read."""
    save_with_fusion(tmp_path / "model")
    content = (tmp_path / "model" / FUSION).read_bytes()
    (tmp_path / "model" / FUSION).write_bytes(content[:-1] + b"x")
    with pytest.raises(ArtifactError, match="is damaged"):
        load_artifact(tmp_path / "model")
    (tmp_path / "model" / FUSION).unlink()
    with pytest.raises(ArtifactError, match=f"{FUSION} is missing"):
        load_artifact(tmp_path / "model")
    save(tmp_path / "other")
    (tmp_path / "other" / FUSION).write_bytes(content)
    assert load_artifact(tmp_path / "other").fusion is None


def test_fusion_of_another_size_is_rejected(tmp_path: Path) -> None:
    """A fusion over more items than the model scores cannot be added to its scores."""
    save_with_fusion(tmp_path / "model", ITEMS + 2)
    with pytest.raises(ArtifactError, match="do not match"):
        load_artifact(tmp_path / "model")


def test_unused_cooccurrence_is_not_saved(tmp_path: Path) -> None:
    """Of a fusion that only knows of repeat_bias a few bytes are written, and it does what it did."""
    fusion = replace(fusion_of(ITEMS), weight=0.0)
    save_artifact(tmp_path / "model", NextItemModel(SSD4Rec(CONFIG.backbone), ITEMS), catalogue_of(), CONFIG, {}, COUNTS, fusion)
    loaded = load_artifact(tmp_path / "model").fusion
    assert loaded is not None
    assert (loaded.weight, loaded.repeat_bias, len(loaded.pairs.columns)) == (0.0, -2.0, 0)
    raised = []
    for each in (fusion, loaded):
        scores = torch.zeros(1, ITEMS)
        each.add(scores, look_up(each.pairs, torch.tensor([1, 2, 1]), torch.tensor([0, 3]), slice(0, 1)))
        raised.append(scores.tolist())
    assert raised[0] == raised[1] == [[-2.0, -2.0, *[0.0] * (ITEMS - 2)]]


def test_an_unexpected_file_is_rejected(tmp_path: Path) -> None:
    """A model that is whole only with a file that this version cannot read is refused, not read without it."""
    save_with_fusion(tmp_path / "model")
    (tmp_path / "model" / FUSION).rename(tmp_path / "model" / "later.safetensors")
    manifest = json.loads((tmp_path / "model" / MANIFEST).read_text())
    manifest["sha256"]["later.safetensors"] = manifest["sha256"].pop(FUSION)
    manifest["sha256"][MANIFEST] = folder_module._hash_of_manifest(manifest)
    (tmp_path / "model" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"contains later\.safetensors, which this version cannot read"):
        load_artifact(tmp_path / "model")
