"""Logs: JSON lines always, services by name; no step twice, and no service ends a training."""

from __future__ import annotations

import json
import sys
import types

import pytest

from clapkit.errors import MissingExtraError, SpecError
from clapkit.training.log import SERVICES, JsonLines, Logs, check_services


class Fake(types.ModuleType):
    """A service such as trackio or wandb: notes every call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.inits: list[dict] = []
        self.logged: list[tuple[int, dict]] = []
        self.finished = 0

    def init(self, **given):
        self.inits.append(given)

    def log(self, values, *, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["trackio", "wandb"])
def service(request, monkeypatch):
    fake = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


@pytest.fixture
def board(monkeypatch):
    """Stands for tensorboard and for torch's writer of its files."""
    written: list[tuple] = []

    class Writer:
        def __init__(self, folder, *, purge_step):
            written.append(("open", folder, purge_step))

        def add_text(self, name, text, step):
            written.append(("text", name, step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append(("close",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return written


def steps_of(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_go_on_where_the_run_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonLines(path, first_step=0) as log:
        for step in range(5):
            log.write({"step": step, "loss": 0.123456789})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')  # a kill cut it in half
    with JsonLines(path, first_step=3) as log:
        log.write({"step": 3, "loss": float("inf")})
    assert steps_of(path) == [0, 1, 2, 3]
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["loss"] == 0.123457
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["loss"] == "inf"


def test_without_services_nothing_is_imported(tmp_path):
    before = set(sys.modules)
    with Logs(tmp_path, first_step=0) as log:
        log.write({"step": 0, "loss": 1.0})
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in SERVICES}
    assert steps_of(tmp_path / "log.jsonl") == [0] and [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_service_is_sent_every_step_once_although_a_run_goes_back(service, tmp_path):
    name = service.__name__
    with Logs(tmp_path, first_step=0, services=[name], about={"lr": 1}) as log:
        for step in (9, 19, 29):
            log.write({"step": step, "loss": 1.0 / step, "nothing": float("nan"), "note": "text"})
    with Logs(tmp_path, first_step=15, services=[name, name], about={"lr": 1}) as log:  # its checkpoint was older
        for step in (19, 29, 39):
            log.write({"step": step, "loss": 1.0 / step})
    assert [step for step, _ in service.logged] == [9, 19, 29, 39]
    assert service.logged[0][1] == {"loss": 1 / 9}
    assert steps_of(tmp_path / "log.jsonl") == [9, 19, 29, 39]
    assert service.finished == 2
    first, second = service.inits
    assert first == second and first["project"] == "clapkit" and first["config"] == {"lr": 1}
    assert first["name"].startswith(tmp_path.name) and first["resume"] == "allow"
    assert first.get("id", first["name"]) == first["name"]


def test_two_runs_in_folders_of_one_name_are_two(service, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place / "run").mkdir(parents=True)
        Logs(tmp_path / place / "run", first_step=0, services=[service.__name__]).close()
    assert service.inits[0]["name"] != service.inits[1]["name"]


def test_tensorboard_purges_what_comes_again(board, tmp_path):
    with Logs(tmp_path, first_step=0, services=["tensorboard"], about={"lr": 1}) as log:
        log.write({"step": 4, "loss": 2.0, "note": "text"})
    with Logs(tmp_path, first_step=3, services=["tensorboard"]) as log:
        log.write({"step": 4, "loss": 2.0})
    folder = str(tmp_path / "tensorboard")
    assert board[:4] == [("open", folder, 0), ("text", "recipe", 0), ("loss", 2.0, 4), ("close",)]
    assert board[4:] == [("open", folder, 3), ("loss", 2.0, 4), ("close",)]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_service_that_fails_is_left_out_with_a_warning(service, tmp_path, monkeypatch, where):
    def fails(**_):
        raise OSError("no network")

    monkeypatch.setattr(service, where, lambda *a, **k: fails())
    warned = pytest.warns(UserWarning, match=rf"--log {service.__name__} failed.*no network")
    with warned as told, Logs(tmp_path, first_step=0, services=[service.__name__]) as log:
        log.write({"step": 0, "loss": 1.0})
        log.write({"step": 1, "loss": 1.0})
    assert len(told) == 1
    assert steps_of(tmp_path / "log.jsonl") == [0, 1]


@pytest.mark.parametrize("name", list(SERVICES))
def test_a_missing_package_is_named_with_what_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "clapkit\[{name}\]"'):
        Logs(tmp_path, first_step=0, services=[name])
    assert not list(tmp_path.iterdir())


def test_an_unknown_service_is_corrected():
    with pytest.raises(SpecError, match="did you mean 'wandb'"):
        check_services(["wandbb"])
