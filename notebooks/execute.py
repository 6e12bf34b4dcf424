"""Write each .ipynb from its py:percent source, executed: ``uv run python notebooks/execute.py``."""

import pathlib

import jupytext
from nbclient import NotebookClient

for source in sorted(pathlib.Path(__file__).parent.glob("[0-9]*.py")):
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps would change every run
        cell.id = str(notebook.cells.index(cell))
    jupytext.write(notebook, source.with_suffix(".ipynb"))
    print(source.stem, "executed")
