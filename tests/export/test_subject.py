"""What is exported: a coefficients file, a run, or both, with the server and lengths that these say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runfolder import RunFolder, requests

from roofml.export.subject import INPUT, OUTPUT, is_fit, parse_lengths, read_subject
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError

NOTHING = ServerOverrides()


def test_the_server_is_what_the_file_says_of_it(coefficients: Callable[..., Path]) -> None:
    server = read_subject([coefficients()], NOTHING).server
    assert (server.max_num_seqs, server.num_gpu_blocks, server.block_size) == (128, 7462, 16)
    assert (server.model, server.gpu, server.tensor_parallel) == ("meta-llama/Llama-2-7b-hf", "H100", 1)
    assert server.max_num_batched_tokens == 8192  # vLLM's for the GPU, where the file says nothing
    assert server.max_model_len == 4096  # the model's positions


def test_the_user_comes_before_the_file(coefficients: Callable[..., Path]) -> None:
    said = ServerOverrides(max_num_seqs=32, num_gpu_blocks=3000, max_num_batched_tokens=2048, prefix_caching=False)
    server = read_subject([coefficients()], said).server
    assert (server.max_num_seqs, server.num_gpu_blocks, server.max_num_batched_tokens) == (32, 3000, 2048)
    assert not server.prefix_caching


def test_a_run_gives_its_server_and_its_lengths(coefficients: Callable[..., Path], tmp_path: Path) -> None:
    folder = RunFolder(rows=requests(60)).write(tmp_path / "quiet")
    for sources in ([coefficients(), folder], [folder]):
        subject = read_subject(sources, ServerOverrides(gpu="H100"))
        assert subject.run is not None
        assert subject.server == subject.run.server
        assert subject.lengths.input_mean == subject.run.prompt_tokens.mean()
        assert subject.calibration.fitted is (len(sources) == 2)
    other = read_subject([folder], ServerOverrides(gpu="H100"), (300, 50))
    assert other.lengths.input_mean == pytest.approx(300, rel=0.1)


def test_lengths_are_around_what_was_asked(coefficients: Callable[..., Path]) -> None:
    lengths = read_subject([coefficients()], NOTHING).lengths
    assert (lengths.input_mean, lengths.output_mean) == pytest.approx((INPUT, OUTPUT), rel=0.1)
    lengths = read_subject([coefficients()], NOTHING, (10, 2)).lengths
    assert lengths.prompt_tokens.min() >= 1
    assert lengths.output_tokens.min() >= 2
    assert [part.tolist() for part in lengths.drawn(9)] == [part.tolist() for part in lengths.drawn(9)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "schema: roofml/1\n", True),
        ("a.yml", "# c\nschema: 'roofml/1'\n", True),
        ("a.yaml", "trace_version: 2\n", False),
        ("a.csv", "schema: roofml/1\n", False),
    ],
)
def test_a_coefficients_file_is_known_by_its_schema(tmp_path: Path, name: str, text: str, expected: bool) -> None:
    (tmp_path / name).write_text(text)
    assert is_fit(tmp_path / name) is expected


def test_two_of_a_kind_are_refused(coefficients: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="one coefficients file, one run, or one of each; found 2 and 0"):
        read_subject([coefficients(), coefficients("b.yaml")], NOTHING)
    with pytest.raises(InputError, match="found 0 and 2"):
        read_subject([Path("x"), Path("y")], NOTHING)


def test_another_parallel_size_is_refused(coefficients: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"--tp 4: .* is of tensor parallel size 1"):
        read_subject([coefficients()], ServerOverrides(tensor_parallel=4))


def test_requests_that_the_server_cannot_answer_are_refused(coefficients: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"up to .* together, expected at most 4096"):
        read_subject([coefficients()], NOTHING, (4000, 100))


@pytest.mark.parametrize("text", ["", "1024", "x", "1024x", "0x10", "10x1", "1e3x10", "-1x10", "9999999x10", "1x2x3"])
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--lengths"):
        parse_lengths(text)
    assert parse_lengths("1024x256") == (1024, 256)
    assert parse_lengths(None) is None
