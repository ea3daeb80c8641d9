"""Graphs of ONNX in OpenVINO, in which lower precisions are quick on processors that have them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.errors import MissingExtraError
from clapkit.runtime.graphs.program import Front, Graph

_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # between the integers that a graph has itself


def openvino_graph(
    path: Path,
    *,
    threads: int | None = None,
    precision: str = "fp32",
    lanes: int = 1,
    front: Front | None = None,
) -> Graph:
    """A graph file in OpenVINO, on the processor; below fp32, what comes before the output "mel" stays in fp32.

    Log-mel spans more than short floats hold: computed in bf16, quiet bands beside loud ones would be noise.
    `lanes` threads may call the graph side by side; each gets its share of the threads. `front` makes the mel in place
    of the graph, where the graph tells what its mel is.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino", "Running a model with provider 'openvino'") from None
    core = openvino.Core()
    model = core.read_model(path)
    outputs = {name: output for output in model.outputs for name in output.get_names()}
    stages = [(_only(openvino, model, outputs["vectors"]), precision)]
    if "mel" not in outputs:
        front = None
    if front is not None:
        stages = [(_after_mel(openvino, model), precision)]
    elif precision != "fp32" and "mel" in outputs:
        stages = [(_only(openvino, model, outputs["mel"]), "fp32"), (_after_mel(openvino, model), precision)]
    more: dict[str, Any] = {"NUM_STREAMS": lanes}
    if threads is not None:
        more["INFERENCE_NUM_THREADS"] = threads
    compiled = [
        core.compile_model(stage, "CPU", {"INFERENCE_PRECISION_HINT": _PRECISIONS[kind], **more})
        for stage, kind in stages
    ]
    return _Runs(compiled, front)


class _Runs:
    """One stage behind the other, in one request for each thread that calls."""

    def __init__(self, compiled: list[Any], front: Front | None) -> None:
        self._compiled, self._front = compiled, front
        self._own = threading.local()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if not hasattr(self._own, "requests"):
            self._own.requests = [stage.create_infer_request() for stage in self._compiled]
        known = dict(inputs)
        if self._front is not None:
            known["mel"] = self._front(inputs["samples"])
        for stage, request in zip(self._compiled, self._own.requests, strict=True):
            wanted = {name for port in stage.inputs for name in port.get_names()}
            results = request.infer({name: value for name, value in known.items() if name in wanted})
            known |= {name: results[port] for port in stage.outputs for name in port.get_names()}
        return np.array(known["vectors"])  # the request's own memory is used again


def _only(openvino: Any, model: Any, output: Any) -> Any:
    """The model with one of its outputs."""
    return openvino.Model([output.get_node()], model.get_parameters(), output.get_any_name())


def _after_mel(openvino: Any, model: Any) -> Any:
    """The part that reads the mel, with the mel as an input. Takes the consumers of the mel out of `model`."""
    results = {name: output.get_node() for output in model.outputs for name in output.get_names()}
    mel = results["mel"].input_value(0)
    given = openvino.opset13.parameter(mel.get_partial_shape(), mel.get_element_type(), "mel")
    given.output(0).get_tensor().set_names({"mel"})
    for target in list(mel.get_target_inputs()):
        if target.get_node().get_type_name() != "Result":
            target.replace_source_output(given.output(0))
    return openvino.Model([results["vectors"]], [*model.get_parameters(), given], "tower")
