"""What a Mac's GPU may use, with a stand-in for MLX's report of the device."""

from __future__ import annotations

from typing import Any

import pytest
from helpers_checkpoint import small, write_checkpoint

from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.load import inspect, load
from tinylane.commands.cli import main
from tinylane.commands.inspect import format_report
from tinylane.core.errors import TinylaneError
from tinylane.files import memory

mx = pytest.importorskip("mlx.core")
GIB = 1 << 30
MAC = {"max_recommended_working_set_size": 12 * GIB, "memory_size": 16 * GIB}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A Mac of 16 GiB whose GPU may use 12; gives the wired limits that are set."""
    wired: list[int] = []
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_info", lambda: MAC)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 0)
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * GIB)
    return wired


def test_the_forecast_counts_what_the_gpu_may_use(mac: Any, monkeypatch: Any) -> None:
    config = parse_config(small(max_position_embeddings=1 << 30))
    row = memory.forecast(config).kv_per_token
    fits, over = (int(gib * GIB) // row for gib in (11.9, 12.1))
    for tokens, gpu in ((fits, True), (over, False)):
        one = memory.forecast(config, max_tokens=tokens, backend="mlx")
        assert (one.available, one.gpu, one.fits) == (12 * GIB, 12 * GIB, gpu)
        other = memory.forecast(config, max_tokens=tokens)  # NumPy may use all
        assert (other.available, other.gpu, other.fits) == (16 * GIB, None, True)
    with pytest.raises(TinylaneError, match=r"12\.0 GiB are available to the GPU: fewer lanes"):
        memory.forecast(config, max_tokens=over, backend="mlx").check()
    monkeypatch.setattr(mx, "get_active_memory", lambda: 5 * GIB)  # another model is loaded
    assert memory.gpu_memory() == 7 * GIB


def test_less_free_memory_than_the_gpu_may_use_counts(mac: Any, monkeypatch: Any) -> None:
    """A control group, or a machine whose memory is taken."""
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GIB)
    one = memory.forecast(parse_config(small()), backend="mlx")
    assert (one.available, one.gpu) == (3 * GIB, 12 * GIB)


def test_on_a_cpu_and_where_mlx_does_not_say_all_memory_counts(monkeypatch: Any) -> None:
    assert memory.gpu_memory() is None or mx.default_device().type == mx.DeviceType.gpu
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "an NVIDIA card"})
    assert memory.gpu_memory() is None


def test_inspect_says_that_it_is_the_gpu_s_share(mac: Any, tmp_path: Any) -> None:
    folder = write_checkpoint(tmp_path)
    lines = "\n".join(format_report(inspect(folder, backend="mlx")))
    assert "available      12.0 GiB (the GPU's share): fits" in lines
    assert "16.0 GiB: fits" in "\n".join(format_report(inspect(folder, backend="numpy")))


def test_memory_is_wired_on_request_only(mac: list[int], tmp_path: Any, capsys: Any) -> None:
    folder = str(write_checkpoint(tmp_path))
    load(folder, "mlx")
    assert mac == []
    memory.wire(0)
    memory.wire(3.5)
    assert mac == [12 * GIB, int(3.5 * GIB)]
    with pytest.raises(TinylaneError, match=r"13 GiB; this Mac's GPU may use 12\.0 GiB"):
        memory.wire(13)
    run = ["verify", folder, "--dtype", "float32", "--backend"]
    assert main([*run, "numpy", "--wired-limit"]) == 2
    assert "--wired-limit needs --backend mlx" in capsys.readouterr().err
    assert main([*run, "mlx", "--wired-limit", "-1"]) == 2
    assert "--wired-limit is -1" in capsys.readouterr().err
    assert len(mac) == 2


def test_nothing_is_wired_without_a_mac_s_gpu(monkeypatch: Any) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: pytest.fail("wired"))
    with pytest.raises(TinylaneError, match="only"):
        memory.wire(0)
