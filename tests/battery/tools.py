#!/usr/bin/env python3
"""Real tools as stages, each run twice: the second run must have nothing to do, and a change of a file
that the tool read must be noticed.

    python tests/battery/tools.py target/release/repro [NAME]

What is not installed is skipped and named. Ends with 1 if anything is wrong."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap

REPRO = os.path.abspath(sys.argv[1])
PYTHON = sys.executable


def has_module(name):
    return subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True).returncode == 0


def has(program):
    return shutil.which(program) is not None


NOTEBOOK = """{"cells": [{"cell_type": "code", "execution_count": null, "id": "a", "metadata": {}, "outputs": [],
"source": ["import helper\\n", "print(open('data.txt').read(), helper.X)"]}], "metadata": {"kernelspec":
{"display_name": "Python 3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}"""

# Name, whether it is here, files, line of shell, the file whose change must be noticed.
TOOLS = [
    (
        "pytest",
        lambda: has_module("pytest"),
        {"src/m.py": "def f(): return 1\n", "tests/test_m.py": "from m import f\ndef test(): assert f() == 1\n",
         "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['src']\n"},
        f"{PYTHON} -m pytest -q tests > {{out.x}}",
        ("src/m.py", "def f(): return 0 + 1\n"),
    ),
    (
        "matplotlib",
        lambda: has_module("matplotlib"),
        {"plot.py": "import sys, matplotlib; matplotlib.use('Agg')\nimport matplotlib.pyplot as p\n"
         "p.plot([float(l) for l in open('data.csv')]); p.savefig(sys.argv[1], format='png')\n", "data.csv": "1\n2\n"},
        f"{PYTHON} plot.py {{out.x}}",
        ("data.csv", "1\n3\n"),
    ),
    (
        "pip install -e",
        lambda: has_module("setuptools") and has_module("wheel"),
        {"setup.py": "from setuptools import setup\nsetup(name='thing', version='1', py_modules=['thing'])\n",
         "thing.py": "X = 1\n"},
        f"test -d ../venv || {PYTHON} -m venv ../venv; PYTHONPATH={sysconfig.get_path('purelib')} "
        "../venv/bin/python -m pip install -q --no-build-isolation --no-deps --no-index -e . && "
        "cd / && $OLDPWD/../venv/bin/python -c 'import thing; print(thing.X)' > {out.x}",
        ("thing.py", "X = 22\n"),
    ),
    (
        "jupyter nbconvert",
        lambda: has_module("nbconvert") and has_module("ipykernel"),
        {"n.ipynb": NOTEBOOK, "helper.py": "X = 1\n", "data.txt": "1\n"},
        f"{PYTHON} -m nbconvert --to notebook --execute n.ipynb --stdout > {{out.x}}",
        ("helper.py", "X = 22\n"),
    ),
    (
        "make with a depfile",
        lambda: has("make") and has("gcc"),
        {"Makefile": "prog: main.o\n\tgcc -o prog main.o\nmain.o: main.c\n\tgcc -MMD -c main.c\n-include main.d\n",
         "main.c": "#include \"h.h\"\nint main(void) { return X; }\n", "h.h": "#define X 0\n"},
        "make -s && ./prog && cp prog {out.x}",
        ("h.h", "#define X  0 /* */\n"),
    ),
    (
        "make, all up to date",
        lambda: has("make") and has("gcc"),
        {"Makefile": "prog: main.c\n\tgcc -o prog main.c\n", "main.c": "int main(void) { return 0; }\n"},
        "make -s && cp prog {out.x}",
        ("main.c", "int main(void) { return 0; } // changed\n"),
    ),
    (
        "cargo",
        lambda: has("cargo"),
        {"Cargo.toml": "[package]\nname = 'p'\nversion = '0.1.0'\nedition = '2021'\n", "src/main.rs": "fn main() {}\n"},
        "cargo build -q --offline && cp target/debug/p {out.x}",
        ("src/main.rs", "fn main() { print!(\"\") }\n"),
    ),
    (
        "R",
        lambda: has("Rscript"),
        {"a.R": "source('b.R')\nwriteLines(as.character(x), commandArgs(TRUE)[1])\n", "b.R": "x <- 1\n"},
        "Rscript a.R {out.x}",
        ("b.R", "x <- 22\n"),
    ),
    (
        "Julia",
        lambda: has("julia"),
        {"a.jl": "include(\"b.jl\")\nwrite(ARGS[1], string(x))\n", "b.jl": "x = 1\n"},
        "julia a.jl {out.x}",
        ("b.jl", "x = 22\n"),
    ),
    (
        "perl",
        lambda: has("perl"),
        {"a.pl": "use lib '.'; use B; print B::x();\n", "B.pm": "package B; sub x { 1 } 1;\n"},
        "perl a.pl > {out.x}",
        ("B.pm", "package B; sub x { 22 } 1;\n"),
    ),
    (
        "node",
        lambda: has("node"),
        {"a.js": "console.log(require('./b').x)\n", "b.js": "exports.x = 1\n"},
        "node a.js > {out.x}",
        ("b.js", "exports.x = 22\n"),
    ),
    (
        "sqlite written in the project",
        lambda: True,
        {"a.py": "import sqlite3, sys\nd = sqlite3.connect('cache.db')\nd.execute('create table if not exists t (x)')\n"
         "d.execute('insert into t values (1)')\nd.commit()\nopen(sys.argv[1], 'w').write(open('in').read())\n", "in": "1\n"},
        f"{PYTHON} a.py {{out.x}}",
        ("in", "2\n"),
    ),
    (
        "git describe",
        lambda: has("git"),
        {"a": "1\n"},
        "test -d .git || git init -q; git describe --always --dirty 2> /dev/null || :; cat a > {out.x}",
        ("a", "2\n"),
    ),
]


def run(folder):
    done = subprocess.run([REPRO, "run"], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def probe(files, line, change):
    with tempfile.TemporaryDirectory() as above:
        folder = pathlib.Path(above, "project")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "pipeline.toml").write_text(f"[stage.a]\nkind = 'command'\nshell = '''{line}'''\nout.x = 'x'\n")
        code, said = run(folder)
        if code != 0:
            return f"the first run failed: {textwrap.shorten(said, 300)}"
        code, said = run(folder)
        if "nothing to do" not in said:
            return f"FALSE ALARM: {textwrap.shorten(said, 300)}"
        name, text = change
        (folder / name).write_text(text)
        code, said = run(folder)
        if "nothing to do" in said:
            return f"UNSEEN: {name} was changed"
        code, said = run(folder)
        return "right" if "nothing to do" in said else f"FALSE ALARM after the change: {textwrap.shorten(said, 300)}"


def main():
    wrong = 0
    for name, there, files, line, change in TOOLS:
        if len(sys.argv) > 2 and sys.argv[2] not in name:
            continue
        verdict = probe(files, line, change) if there() else "SKIPPED: not installed"
        wrong += verdict not in ("right", "SKIPPED: not installed")
        print(f"{name:32} {verdict}", flush=True)
    sys.exit(1 if wrong else 0)


main()
