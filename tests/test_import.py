"""What importing costs and touches: little time, no network, no files, no torch."""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys

import numpy as np
import pytest

from clapkit.files import cache_folder

BLOCK_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""
WATCH = """
import sys
seen = []
def hook(event, args):
    # Byte code caches are the interpreter's business.
    if args and "__pycache__" in str(args[0]):
        return
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event.startswith("socket.") or event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen"):
        seen.append(f"{event} {args}")
sys.addaudithook(hook)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_import_takes_less_than_a_third_of_a_second():
    """Processor time, so that a busy machine does not matter; the median of three."""
    code = "import time; start = time.process_time(); import clapkit; print(time.process_time() - start)"
    seconds = [float(run(code)) for _ in range(3)]
    assert statistics.median(seconds) < 0.3, seconds


def test_the_import_opens_no_socket_writes_no_file_and_brings_no_torch():
    told = run(
        WATCH + "import clapkit\nprint(seen, [m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    assert told.strip() == "[] []"


def test_no_warnings_filter_is_left_behind():
    assert run("import warnings; n = len(warnings.filters); import clapkit; print(len(warnings.filters) - n)") == "0\n"


def test_exact_search_and_decoding_work_without_torch(tmp_path):
    code = """
import sys
import numpy as np, clapkit
from clapkit.search.exact import ExactIndex
index = ExactIndex.create(sys.argv[1], space_id="s", pipeline_id="p", dimension=3)
index.add(["a", "b"], np.eye(3, dtype=np.float32)[:2])
index.save()
opened = clapkit.Index.open(sys.argv[1])
print(opened.search_vector(np.array([0, 2.0, 0]))[0].id, len(clapkit.decode((np.ones(10, np.float32), 8000)).samples))
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", BLOCK_TORCH + code, str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["b", "10", "False"], done.stderr


def test_what_needs_torch_says_how_to_get_it():
    told = run(BLOCK_TORCH + "import clapkit\ntry: clapkit.load('x')\nexcept clapkit.ClapkitError as e: print(e)")
    assert 'pip install "clapkit[torch]"' in told


@pytest.mark.skipif(importlib.util.find_spec("clapkit.cli.main") is None, reason="there is no command line yet")
def test_the_help_needs_no_torch():
    code = BLOCK_TORCH + "sys.argv = ['clapkit', '--help']\nfrom clapkit.cli.main import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "train" in done.stdout and "search" in done.stdout, done.stderr


def test_one_variable_moves_every_cache(tiny_recipe, toy_clips, tmp_path, monkeypatch):
    """A whole run with its home and its usual cache folders made unwritable by not existing."""
    from clapkit.training.loop import train

    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name))
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "cache"))
    train(tiny_recipe.with_set("train.steps", 1), toy_clips, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "elsewhere").exists()
    assert cache_folder() == tmp_path / "cache"
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {"audio", "text"}
    stored = next((tmp_path / "cache" / "audio").rglob("*.npy"))
    assert np.load(stored, mmap_mode="r").dtype == np.int16
