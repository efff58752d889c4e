"""The documents are true as far as a machine can tell: code runs, and what they name exists."""

import ast
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dime

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
RUN_DIRECTORY = ROOT / "docs" / "run-directory.md"
EXAMPLES = ROOT / "examples"
SHELLS = {"", "bash", "sh", "console", "text"}

# Runs scripts in which long trainings are cut short: the code is to run, not the agents to learn.
RUNNER = """
import contextlib, runpy, sys, tempfile
import dime.training.run

train = dime.training.run.train

def shortened(*args, **options):
    if options.get("num_env_steps", 1_000_000) > 200:
        options |= dict(num_env_steps=60, num_random_steps=40, batch_size=16)
        options |= dict(num_evaluation_episodes=1)
    return train(*args, **options)

dime.training.run.train = shortened
for script in sys.argv[1:]:
    sys.argv = [script]
    folder = tempfile.mkdtemp(dir=".")
    with contextlib.chdir(folder):
        runpy.run_path(script, run_name="__main__")
"""

# Reads commands (lists of words) and answers with what the command line says to each.
ASK_CLI = """
import contextlib, io, json, sys
import dime.cli.main as cli
from dime.errors import DimeError

def answer(words):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.parse(words)
        except DimeError as error:
            return str(error)
        except SystemExit as ended:
            return (said.getvalue() or "refused") if ended.code else ""
    return ""

def help_text(command):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        cli.parse([command, "--help"])
    return said.getvalue()

asked = json.load(sys.stdin)
json.dump({
    "help": {command: help_text(command) for command in cli.COMMANDS},
    "answers": [answer(words) for words in asked],
}, sys.stdout)
"""

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def run_script(*scripts, folder, runner=("-c", RUNNER)):
    """Runs scripts in one process, in new folders inside `folder`, warnings as errors."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", *runner, *scripts],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def files_in_git():
    """The repository's files, also new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted({name for name in listed.stdout.splitlines() if (ROOT / name).is_file()})


def code_lines(document):
    """Line number, language and text of every line in a code block; indented blocks have none."""
    fence, language = None, ""
    for number, line in enumerate(document.read_text().splitlines(), 1):
        stripped = line.strip()
        if fence is None and stripped.startswith(("```", "~~~")):
            fence, language = stripped[:3], stripped[3:].strip()
        elif fence is not None and stripped == fence:
            fence = None
        elif fence is not None:
            yield number, language, line
        elif line.startswith("    "):
            yield number, "", stripped


def prose(document):
    """The text outside fenced blocks."""
    return re.sub(r"^(```|~~~).*?^\1$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def code_spans(document):
    """What stands between single backticks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(document))]


def command_lines(document, program):
    """The words of every call of a program, in blocks and in the text."""
    lines = [line.removeprefix("$ ") for _, language, line in code_lines(document)
             if language in SHELLS]  # fmt: skip
    for line in "\n".join([*lines, *code_spans(document)]).replace("\\\n", " ").splitlines():
        if line.split()[:1] == [program]:
            yield shlex.split(line, comments=True)


def python_script(document):
    """The document's Python blocks, with its line numbers; empty where there are none."""
    lines = {number: line for number, language, line in code_lines(document)
             if language == "python"}  # fmt: skip
    return "".join(lines.get(number, "") + "\n" for number in range(1, max(lines, default=0) + 1))


def test_python_blocks_run(tmp_path):
    """All in one process, each document in a folder of its own; a traceback names the document."""
    for document in DOCUMENTS:
        if source := python_script(document):
            (tmp_path / f"{document.name}.py").write_text(source)
    scripts = sorted(tmp_path.glob("*.py"))
    assert len(scripts) > 5
    run_script(*scripts, folder=tmp_path)


@each_document
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), f"{target} in {document.name}"
        if anchor:
            assert anchor in headings(file), f"{target} in {document.name}"


def headings(document):
    """The anchors that GitHub gives to a document's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_named_files_exist(document):
    """`src/dime/cli/main.py`, or the end of a path as `cli.py`; your own begin with `my_`."""
    known = files_in_git()
    folders = {f"{part}/" for name in known for part in map(str, Path(name).parents)}
    ours = r"(?:src|tests|docs|scripts|examples|requirements|benchmarks|\.ci)/[\w.*/-]*"
    of_a_run = ("traceback.txt", "wandb_id.txt")
    pattern = re.compile(rf"{ours}|[\w*/-][\w.*/-]*\.(?:py|md|toml|cff|csv|npz|txt)")
    for span in code_spans(document):
        if not pattern.fullmatch(span) or span.startswith("my_") or span in of_a_run:
            continue
        hits = [name for name in {*known, *folders} if fnmatch.fnmatch(f"/{name}", f"*/{span}")]
        assert hits, f"{span} in {document.name}"


@each_document
def test_named_functions_are_defined(document):
    """`networks/dense.py::Dense`, with paths below src/dime."""
    for span in code_spans(document):
        path, found, name = span.partition("::")
        if not (found and path.endswith(".py")):
            continue
        node = ast.parse((ROOT / "src" / "dime" / path).read_text())
        for part in name.split("."):
            inside = [child for child in ast.walk(node) if getattr(child, "name", None) == part]
            assert inside, f"{span} in {document.name}"
            node = inside[0]


def complete_commands():
    """The calls of dime that have no placeholders but ENV and RUN_DIR, with their documents."""
    for document in DOCUMENTS:
        for words in command_lines(document, "dime"):
            odd = {word for word in words if word.isupper() or set(word) & set("[<{")}
            if len(words) > 2 and "--config" not in words and odd <= {"ENV", "RUN_DIR"}:
                yield document.name, words[1:]


@pytest.fixture(scope="module")
def asked_cli():
    """Help texts by command, and what the command line says to the documents' complete commands."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK_CLI],
        input=json.dumps([words for _, words in complete_commands()]),
        env=os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def has_option(help_text, option):
    return re.search(rf"(?<![\w.-]){re.escape(option)}(?![\w.-])", help_text) is not None


@each_document
def test_commands_and_their_options_exist(document, asked_cli):
    help_texts = asked_cli["help"]
    for words in command_lines(document, "dime"):
        if len(words) == 1 or words[1] in ("--help", "--version") or words[1].isupper():
            continue
        assert words[1] in help_texts, f"{words} in {document.name}"
        for word in words[2:]:
            option = word.lstrip("[").rstrip("]").partition("=")[0]
            if option.startswith("-"):
                assert has_option(help_texts[words[1]], option), f"{words} in {document.name}"


@each_document
def test_options_exist(document, asked_cli):
    for span in code_spans(document):
        if span.startswith("--"):
            option = span.split()[0].partition("=")[0]
            assert any(has_option(text, option) for text in asked_cli["help"].values()), option


def test_commands_are_accepted(asked_cli):
    answers = zip(complete_commands(), asked_cli["answers"], strict=True)
    refused = [(name, words, answer) for (name, words), answer in answers if answer]
    assert refused == []


@each_document
def test_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in command_lines(document, "make"):
        assert set(words[1:]) <= targets, f"{words} in {document.name}"


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def table_keys(document, heading):
    """The code in the first cells of the tables under a heading."""
    section = prose(document).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\|([^|]*)\|", section, flags=re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def test_first_example_runs_and_its_run_is_documented(tmp_path):
    run_script(EXAMPLES / "train_and_use.py", folder=tmp_path)
    (config_file,) = tmp_path.rglob("config.json")
    run, spans = config_file.parent, set(code_spans(RUN_DIRECTORY))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        recorded = {key for record in read_lines(run / name) for key in record}
        assert recorded == table_keys(RUN_DIRECTORY, name)
    assert set(json.loads((run / "status.json").read_text())) == (
        table_keys(RUN_DIRECTORY, "status.json") - {"running", "finished"}
    )
    (newest, *_) = sorted(run.glob("checkpoints/step-*"), reverse=True)
    for content in (
        json.loads(config_file.read_text()),
        json.loads((newest / "run.json").read_text()),
        *json.loads((run / "provenance.json").read_text())["starts"],
    ):
        assert set(content) <= spans
    named = {part for span in spans for part in span.split("/")}
    assert {path.name for path in [*run.iterdir(), *newest.iterdir()]} <= named


def test_second_example_runs(tmp_path):
    assert "returns" in run_script(EXAMPLES / "own_environment.py", folder=tmp_path)


def test_a_new_algorithm_learns(tmp_path, optimised):
    told = run_script(EXAMPLES / "new_algorithm.py", folder=tmp_path, runner=())
    returns = json.loads(told.splitlines()[-1].removeprefix("returns: "))
    assert sum(returns) / len(returns) > -70.0  # below -130 before training, -19 after it


def test_there_is_no_other_example_and_none_is_long():
    examples = sorted(path for path in EXAMPLES.iterdir() if path.suffix == ".py")
    names = ["new_algorithm.py", "own_environment.py", "train_and_use.py"]
    assert [path.name for path in examples] == names
    assert all(len(path.read_text().splitlines()) < 60 for path in examples)


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    required = [*project["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.match(r"[\w.-]+", requirement).group() for requirement in required}
    assert names <= set(code_spans(ROOT / "docs" / "dependencies.md"))


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [dime.__version__]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## ([\d.]+)", changes, re.MULTILINE)[0] == dime.__version__


def test_no_file_names_a_machine_or_an_index():
    forbidden = re.compile(
        r"(?<![\w.~-])/(?:work|root|home)(?![\w-])|pypi\.org|files\.pythonhosted\.org"
    )
    for name in files_in_git():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            found = forbidden.search(content.decode())
            assert found is None, f"{found.group()} in {name}"
