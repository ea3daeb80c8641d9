from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import Sound, decode
from clapkit.audio.pool import DecodePool, DecodeRequest
from clapkit.audio.worker import ProtocolError, receive, send, unpack_sound
from clapkit.errors import AudioError, ClapkitError, SpecError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, chirp):
    """Six sounds of different lengths, a text, and an hour of silence that takes long to decode."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", chirp(16000, 0.2 + 0.1 * i), 16000)
    (folder / "text.wav").write_text("no sound at all")
    with soundfile.SoundFile(folder / "slow.flac", "w", 96000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(96000 * 60, np.int16))
    return folder


def slow(folder) -> DecodeRequest:
    return DecodeRequest(folder / "slow.flac", max_duration_s=4000)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def end_process(pid: int) -> None:
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order_and_equal_decoding_here(folder, workers):
    paths = [folder / f"{i}.wav" for i in range(6)] * 3
    with DecodePool(workers=workers) as pool:
        results = list(pool.map(DecodeRequest(p, rate_hz=8000, start_s=0.05) for p in paths))
    assert [i for i, _ in results] == list(range(18))
    for path, (_, sound) in zip(paths, results, strict=True):
        here = decode(path, rate_hz=8000, start_s=0.05)
        assert isinstance(sound, Sound) and np.array_equal(sound.samples, here.samples)
        assert {**vars(sound), "samples": 0} == {**vars(here), "samples": 0}


@pytest.mark.parametrize("workers", [0, 1])
def test_every_kind_of_source_and_every_argument_travels(folder, chirp, workers, monkeypatch):
    data = (folder / "1.wav").read_bytes()
    monkeypatch.chdir(folder)
    sources = ["1.wav", folder / "1.wav", data, bytearray(data), io.BytesIO(data), (decode(data).samples, 16000)]
    sources.append((np.stack([decode(data).samples] * 2, 1).astype(np.float64), np.int64(16000)))
    with DecodePool(workers=workers) as pool:
        for _, sound in pool.map(DecodeRequest(s, start_s=0.1, duration_s=0.1) for s in sources):
            assert np.array_equal(sound.samples, decode(data, start_s=0.1, duration_s=0.1).samples)
        ((_, error),) = pool.map([DecodeRequest(data, max_duration_s=0.1)])
        assert "longer than 0 s" in str(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_decoded_is_named_and_the_rest_goes_on(folder, workers):
    array = np.zeros(10, complex)
    sources = [folder / "0.wav", "missing.wav", (array, 8000), folder / "text.wav", b"", None, "a\0b", folder / "2.wav"]
    with DecodePool(workers=workers) as pool:
        results = [r for _, r in pool.map(DecodeRequest(s) for s in sources)]
    assert [isinstance(r, Sound) for r in results] == [True, False, False, False, False, False, False, True]
    assert results[1].source == "missing.wav" and results[1].reason == "no such file"
    assert "complex128" in results[2].reason and "not a known sound" in results[3].reason
    assert results[4].reason == "empty (0 bytes)" and "NoneType" in results[5].reason


def test_too_slow_costs_that_file_only(folder):
    requests = [DecodeRequest(folder / "0.wav"), slow(folder), *(DecodeRequest(folder / f"{i}.wav") for i in (1, 2))]
    with DecodePool(workers=1, deadline_s=0.5) as pool:
        results = [r for _, r in pool.map(requests)]
    assert [isinstance(r, Sound) for r in results] == [True, False, True, True]
    assert results[1].reason == "decoding took more than 0.5 s" and results[1].source == str(folder / "slow.flac")


def test_a_process_that_dies_costs_the_file_it_held(folder):
    with DecodePool(workers=1) as pool:
        list(pool.map([DecodeRequest(folder / "0.wav")]))
        (pid,) = pool.process_ids
        threading.Timer(0.3, end_process, [pid]).start()
        requests = [slow(folder), *(DecodeRequest(folder / f"{i}.wav") for i in (1, 2))]
        results = [r for _, r in pool.map(requests)]
        assert "the decoder process died (exit status" in results[0].reason
        assert isinstance(results[1], Sound) and isinstance(results[2], Sound)
        assert pool.process_ids and pool.process_ids != (pid,)


def test_a_process_that_dies_while_idle_costs_nothing(folder):
    with DecodePool(workers=1) as pool:
        list(pool.map([DecodeRequest(folder / "0.wav")]))
        for _ in range(3):
            end_process(*pool.process_ids)
            time.sleep(0.05)
            ((_, sound),) = pool.map([DecodeRequest(folder / "1.wav")])
            assert isinstance(sound, Sound)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited reliably on Linux only")
def test_memory_has_a_limit(folder):
    with DecodePool(workers=1, memory_limit_mib=1024) as pool:
        results = [r for _, r in pool.map([slow(folder), DecodeRequest(folder / "0.wav")])]
    assert "memory" in results[0].reason and isinstance(results[1], Sound)


def test_requests_are_taken_only_a_little_ahead(folder):
    taken = []

    def requests():
        for i in range(1000):
            taken.append(i)
            yield DecodeRequest(folder / "0.wav")

    for workers in (0, 2):
        with DecodePool(workers=workers) as pool:
            taken.clear()
            results = pool.map(requests())
            for done in range(1, 20):
                next(results)
                assert len(taken) <= done + 3 * workers
            results.close()


def test_closing_ends_all_processes_even_busy_ones(folder):
    pool = DecodePool(workers=2)
    results: list = []
    thread = threading.Thread(target=lambda: results.extend(pool.map([slow(folder), slow(folder)])))
    thread.start()
    while len(pool.process_ids) < 2:
        time.sleep(0.02)
    time.sleep(0.2)
    pids, started = pool.process_ids, time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5 and pool.process_ids == ()
    assert not any(alive(pid) for pid in pids)
    thread.join(5)
    assert [r.reason for _, r in results] == ["the decoder pool was closed"] * 2
    with pytest.raises(ClapkitError, match="pool is closed"):
        pool.map([DecodeRequest(folder / "0.wav")])
    pool.close()  # twice is fine


def test_results_that_were_not_begun_when_the_pool_closed(folder):
    with DecodePool(workers=1) as pool:
        few = pool.map([DecodeRequest(folder / "0.wav"), slow(folder), slow(folder)])
        many = pool.map([DecodeRequest(folder / "0.wav")] * 9)
        next(many)
        next(few)
        time.sleep(0.1)
    assert next(few)[1].reason == "the decoder pool was closed"
    for results in (few, many):
        with pytest.raises(ClapkitError, match="pool is closed"):
            next(results)


SCRIPT = """
import sys
from clapkit.audio.pool import DecodePool, DecodeRequest
pool = DecodePool(workers=2)
for i, sound in pool.map(DecodeRequest(sys.argv[1]) for _ in range(4)):
    print(i, len(sound.samples), flush=True)
print("torch" in sys.modules, *pool.process_ids, flush=True)
"""


def test_a_script_from_stdin_without_a_guard_leaves_no_orphans(folder):
    done = subprocess.run(
        [sys.executable, "-", str(folder / "0.wav")], input=SCRIPT, capture_output=True, text=True, timeout=60
    )
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines == [f"{i} 3200" for i in range(4)]
    torch_loaded, *pids = last.split()
    assert torch_loaded == "False" and len(pids) == 2
    for _ in range(50):  # the pipes closed with the parent: the workers end on their own
        if not any(alive(int(pid)) for pid in pids):
            break
        time.sleep(0.1)
    assert not any(alive(int(pid)) for pid in pids)


@pytest.mark.skipif(sys.platform == "win32", reason="a console interrupt cannot be sent to one process there")
def test_ctrl_c_ends_everything(folder):
    script = SCRIPT.replace("for i,", "print(0, flush=True)\nfor i,") + "\nimport time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "0.wav")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    lines = [process.stdout.readline() for _ in range(6)]
    for _ in range(5):  # Python drops an interrupt that falls into a destructor: people press the keys again
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=4)
            break
    assert process.returncode not in (None, 0)
    process.stdout.close()
    pids = [int(pid) for pid in lines[-1].split()[1:]]
    assert len(pids) == 2
    time.sleep(0.5)
    assert not any(alive(pid) for pid in pids)


def test_workers_never_import_torch(folder):
    code = "import clapkit.audio.worker, clapkit.audio.pool, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_process_that_cannot_start_is_no_fault_of_the_file(folder, monkeypatch, tmp_path):
    (tmp_path / "soundfile.py").write_text("raise ImportError('no libsndfile on this machine')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        DecodePool(workers=1) as pool,
        pytest.raises(
            ClapkitError, match=r"no decoder process could be started.*no libsndfile on this machine"
        ) as raised,
    ):
        list(pool.map([DecodeRequest(folder / "0.wav")]))
    assert not isinstance(raised.value, AudioError)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"deadline_s": 0}, "deadline_s is 0"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"memory_limit_mib": 10}, "memory_limit_mib is 10"),
    ],
)
def test_settings_that_cannot_be_are_named(arguments, named):
    with pytest.raises(SpecError, match=named):
        DecodePool(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"rate_hz": -1}, "-1 is not"), ({"start_s": -2.0}, "start_s"), ({"duration_s": 0}, "duration_s")],
)
def test_requests_that_cannot_be_are_named_at_once(arguments, named):
    with pytest.raises(SpecError, match=named):
        DecodeRequest("a.wav", **arguments)


def test_messages_survive_the_pipe_and_nonsense_does_not():
    pipe = io.BytesIO()
    send(pipe, {"a": [1, None, "ü"]}, np.arange(3, dtype=np.float32))
    send(pipe, {})
    pipe.seek(0)
    header, payload = receive(pipe, max_bytes=12)
    assert header == {"a": [1, None, "ü"]} and np.frombuffer(payload, np.float32).tolist() == [0, 1, 2]
    assert receive(pipe, max_bytes=0) == ({}, bytearray())
    with pytest.raises(ProtocolError, match="closed"):
        receive(pipe, max_bytes=0)
    pipe.seek(0)
    with pytest.raises(ProtocolError, match="12 bytes is too long"):
        receive(pipe, max_bytes=11)
    with pytest.raises(ProtocolError, match="not JSON"):
        receive(io.BytesIO(bytes([2]) + bytes(15) + b"{]"), max_bytes=0)
    for answer in ({}, {"sound": {}}, {"sound": {"notes": [], "pwned": 1}}):
        with pytest.raises(ProtocolError, match="no sound"):
            unpack_sound(answer, bytearray(3))
