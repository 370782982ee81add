"""The rules of the house that a program can check: who imports whom, what stands nowhere, which words are not used."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "daskgmm"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
NAMES = {
    ".".join(("daskgmm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in MODULES
}

# Imports point one way, from the last to the first.
LAYERS = ["version", "errors", "mixture", "kernels", "sources", "passes", "stores", "fitting", "places", "interface"]
#: What is only mathematics, and what a worker imports for a pass.
MATHEMATICS, ON_WORKERS = {"mixture", "kernels"}, {"mixture", "kernels", "sources", "passes"}
KINDS = {"full", "tied", "diag", "spherical"}
#: The modules that may import numba and its llvmlite, and are themselves imported only where numba is installed.
WHERE_LOOPS_ARE_COMPILED = {
    Path(f"kernels/compiled{name}.py")
    for name in ("", "_errors", "_error_rows", "_gap_factors", "_gap_tiles", "_gaps", "_lanes", "_softmax")
}
SHAPES = Path("mixture/shapes")
OF_COVARIANCES = re.compile("covarian|precision|cholesky|central|factor")
#: Lines of a file at most: what is longer says more than one thing.
MOST_LINES = 400
WORDS_NOT_USED = {"gamma", "nll", "loss", "losses", "batch", "batches"}
#: Rooms whose messages name flags, and what one looks like.
NAME_FLAGS = {"cli", "demo"}
FLAG = re.compile(r"(?<![\w-])(?<!dask scheduler )(?<!dask worker )--[a-z][a-z-]*")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


Rule = Callable[[ast.Module, Path], Iterator[str]]


def layer_of(name: str) -> str:
    """The layer of a module, by its name without the leading "daskgmm."."""
    first = name.split(".")[0]
    return first if first in LAYERS else "interface"


def imports_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Dotted names that the module imports, wherever: also inside functions and for type checking only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "ruff's TID252 keeps imports absolute"
            if node.module == "daskgmm":
                # `from daskgmm import x`: x is a layer, or something that the interface offers.
                yield from ((f"daskgmm.{alias.name}", node.lineno) for alias in node.names)
            elif node.module is not None:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from ((name if name in NAMES else node.module, node.lineno) for name in names)


def imports_point_down(tree: ast.Module, path: Path) -> Iterator[str]:
    own = layer_of(path.with_suffix("").parts[0])
    for name, line in imports_of(tree):
        head, _, rest = name.partition(".")
        if head != "daskgmm":
            if own == "errors" and head not in sys.stdlib_module_names:
                yield f"{line}: errors imports {name}"
            elif head in {"llvmlite", "numba"} and path in WHERE_LOOPS_ARE_COMPILED:
                continue
            elif own in MATHEMATICS and head not in {"numpy", "scipy", *sys.stdlib_module_names}:
                yield f"{line}: {own} imports {name}, and is mathematics alone"
            elif own in {*ON_WORKERS, "stores"} and head == "sklearn":
                yield f"{line}: {own} imports {name}"
        elif LAYERS.index(layer_of(rest)) > LAYERS.index(own):
            yield f"{line}: {own} imports {name}"
        elif own == "errors":
            yield f"{line}: errors imports {name}"


def kinds_are_not_told_apart(tree: ast.Module, path: Path) -> Iterator[str]:
    """No comparison with, match on, or table by the names of the covariance kinds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            told = {
                element.value
                for side in [node.left, *node.comparators]
                for element in (side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side])
                if isinstance(element, ast.Constant)
            }
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            told = {node.value.value}
        elif isinstance(node, ast.Dict):
            told = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            told = told if len(told & KINDS) > 1 else set()
        else:
            continue
        for kind in told & KINDS:
            yield f"{node.value.lineno if isinstance(node, ast.MatchValue) else node.lineno}: tells {kind!r} apart"


def sources_are_told_apart_in_their_own_files(tree: ast.Module, path: Path) -> Iterator[str]:
    """No `isinstance` of one kind of source: what others must know of it is a member of `Source`."""
    if path.stem.endswith("_source"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"isinstance", "issubclass"}:
            for named in ast.walk(node.args[1]):
                name = named.id if isinstance(named, ast.Name) else getattr(named, "attr", "")
                if name.endswith("Source") and name != "Source":
                    yield f"{node.lineno}: asks for {name}"


def shapes_alone_look_into_covariances(tree: ast.Module, path: Path) -> Iterator[str]:
    """No `.pooled`, and no number of dimensions of covariances, outside the shapes, which have methods instead."""
    if path.is_relative_to(SHAPES):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr="pooled" | "ndim" as asked):
                pass
            case ast.Call(func=ast.Attribute(attr="ndim" as asked), args=[value]):
                pass
            case _:
                continue
        if asked == "pooled" or OF_COVARIANCES.search(ast.unparse(value)):
            yield f"{node.lineno}: asks {ast.unparse(node)}"


def nothing_dangerous_is_called(tree: ast.Module, path: Path) -> Iterator[str]:
    """No pickle is loaded, nothing is evaluated, and no assert checks what a user gave."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{node.lineno}: assert"
        elif isinstance(node, ast.Name) and node.id in {"eval", "exec"}:
            yield f"{node.lineno}: {node.id}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{node.value.lineno}: allow_pickle"
    for name, line in imports_of(tree):
        if name.split(".")[0] in {"pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}:
            yield f"{line}: imports {name}"


def words_are_the_projects_own(tree: ast.Module, path: Path) -> Iterator[str]:
    """Identifiers that the project chooses; what third parties call their things is theirs."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                pass
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case _:
                continue
        used = WORDS_NOT_USED & set(name.lower().split("_"))
        if used:
            yield f"{node.lineno}: {name}"


def text_of(node: ast.AST) -> str:
    """What stands in a string, with a mark for each value of an f-string."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def flags_are_named_by_the_command_line_alone(tree: ast.Module, path: Path) -> Iterator[str]:
    """Messages name options as they are declared; what a person types for them, the command line says.

    (Docstrings and declarations may name flags, and so may commands of Dask's that a person runs.)
    """
    if path.parts[0] in NAME_FLAGS:
        return
    free: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            free.add(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"Option", "_option"}:
            free.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node not in free and FLAG.search(text_of(node)):
            yield f"{node.lineno}: {FLAG.findall(text_of(node))}"


def errors_are_made_of_their_fields(tree: ast.Module, path: Path) -> Iterator[str]:
    """No error of ours is made of a finished sentence, but by `text`, and that only where it has another form."""
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "daskgmm.errors"
        for alias in node.names
        if alias.name.endswith("Error")
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called not in ours and re.fullmatch(r"errors\.\w+Error", called) is None:
            continue
        fields = [*node.args, *(keyword for keyword in node.keywords if keyword.arg != "text")]
        if len(fields) == 1 and not isinstance(fields[0], ast.Starred):
            yield f"{node.lineno}: {called} of a sentence"
        for keyword in node.keywords:
            if keyword.arg == "text" and re.search(" must .*; got ", text_of(keyword.value), re.DOTALL):
                yield f"{node.lineno}: {called} of a text that has the usual form"


RULES: list[Rule] = [
    imports_point_down,
    kinds_are_not_told_apart,
    shapes_alone_look_into_covariances,
    sources_are_told_apart_in_their_own_files,
    nothing_dangerous_is_called,
    words_are_the_projects_own,
    flags_are_named_by_the_command_line_alone,
    errors_are_made_of_their_fields,
]


IMPORTED = "from daskgmm.errors import DataError\n"


@pytest.mark.parametrize("path", [path.relative_to(PACKAGE) for path in MODULES], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_module_keeps_the_rule(rule: Rule, path: Path) -> None:
    tree = parsed(path)
    assert [f"daskgmm/{path}:{what}" for what in rule(tree, path)] == []


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (imports_point_down, "kernels/estep.py", "import dask"),
        (imports_point_down, "kernels/estep.py", "import numba"),
        (imports_point_down, "kernels/estep.py", "def f():\n    from daskgmm.passes.tree import run"),
        (imports_point_down, "kernels/estep.py", "from daskgmm import fitting"),
        (imports_point_down, "mixture/__init__.py", "from daskgmm import GaussianMixture"),
        (imports_point_down, "passes/survey.py", "from daskgmm.fitting.start import start"),
        (imports_point_down, "passes/survey.py", "import sklearn.cluster"),
        (imports_point_down, "fitting/loop.py", "from daskgmm.estimator import GaussianMixture"),
        (imports_point_down, "errors.py", "import numpy"),
        (imports_point_down, "errors.py", "from daskgmm.mixture import family"),
        (kinds_are_not_told_apart, "estimator.py", "if covariance_type == 'tied': pass"),
        (kinds_are_not_told_apart, "estimator.py", "if kind in ('tied', 'full'): pass"),
        (kinds_are_not_told_apart, "estimator.py", "match kind:\n    case 'diag' | 'full': pass"),
        (kinds_are_not_told_apart, "fitting/start.py", "table = {'full': 1, 'diag': 2}"),
        (shapes_alone_look_into_covariances, "fitting/start.py", "if options.family.shape.pooled: pass"),
        (shapes_alone_look_into_covariances, "kernels/plan.py", "diagonal = p.precisions.ndim == 2"),
        (shapes_alone_look_into_covariances, "mixture/family.py", "np.ndim(covariances)"),
        (sources_are_told_apart_in_their_own_files, "passes/rows.py", "if isinstance(rows.X, DaskSource): pass"),
        (sources_are_told_apart_in_their_own_files, "estimator.py", "isinstance(x, str | array_source.ArraySource)"),
        (nothing_dangerous_is_called, "stores/output.py", "import pickle"),
        (nothing_dangerous_is_called, "stores/output.py", "from cloudpickle import loads"),
        (nothing_dangerous_is_called, "stores/output.py", "eval('1')"),
        (nothing_dangerous_is_called, "stores/output.py", "assert x > 0"),
        (nothing_dangerous_is_called, "stores/output.py", "np.load(path, allow_pickle=True)"),
        (words_are_the_projects_own, "kernels/estep.py", "gamma = 1"),
        (words_are_the_projects_own, "kernels/estep.py", "def f(batch_size): pass"),
        (words_are_the_projects_own, "kernels/estep.py", "class Loss: pass"),
        (words_are_the_projects_own, "kernels/estep.py", "self.nll_ = 0"),
        (flags_are_named_by_the_command_line_alone, "stores/output.py", "hint = 'Use --force.'"),
        (flags_are_named_by_the_command_line_alone, "places/lost.py", "raise ClusterError(f'{x} (--scheduler-wait)')"),
        (flags_are_named_by_the_command_line_alone, "pictures/page.py", "name = {'key': '--tls-key'}"),
        (flags_are_named_by_the_command_line_alone, "selection.py", "say(f'{a} more --restarts ' f'{b}')"),
        (errors_are_made_of_their_fields, "passes/rows.py", f"{IMPORTED}raise DataError('X must be 1; got 2.')"),
        (errors_are_made_of_their_fields, "passes/rows.py", f"{IMPORTED}raise DataError(f'X must be {{1}}; got 2.')"),
        (errors_are_made_of_their_fields, "passes/rows.py", f"{IMPORTED}raise DataError(message) from error"),
        (
            errors_are_made_of_their_fields,
            "passes/rows.py",
            f"{IMPORTED}DataError(text=f'X must be 1; got {{2}}.')",
        ),
        (errors_are_made_of_their_fields, "cli/work.py", "from daskgmm import errors\nerrors.DataError('X is bad.')"),
    ],
)
def test_rule_notices(rule: Rule, path: str, source: str) -> None:
    assert list(rule(ast.parse(source), Path(path)))


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (
            imports_point_down,
            "kernels/estep.py",
            "import math\nimport scipy.stats\nfrom daskgmm.errors import DataError",
        ),
        (imports_point_down, "passes/survey.py", "import dask\nimport zarr\nfrom daskgmm.kernels.block import Block"),
        (
            imports_point_down,
            "fitting/loop.py",
            "from daskgmm import version\nfrom daskgmm.passes import tree",
        ),
        (imports_point_down, "cli.py", "from daskgmm import estimator"),
        (imports_point_down, "__init__.py", "from daskgmm.estimator import GaussianMixture"),
        (shapes_alone_look_into_covariances, "mixture/shapes/shape.py", "covariances.ndim - 1"),
        (shapes_alone_look_into_covariances, "sources/source.py", "array.ndim not in (1, 2)"),
        (kinds_are_not_told_apart, "cli.py", "choices = ['full', 'tied']"),
        (
            sources_are_told_apart_in_their_own_files,
            "sources/opening.py",
            "isinstance(x, Source) or isinstance(x, str)",
        ),
        (sources_are_told_apart_in_their_own_files, "sources/dask_source.py", "isinstance(x, DaskSource)"),
        (words_are_the_projects_own, "kernels/estep.py", "scipy.special.gammaln(x); random.gamma(2.0)"),
        (flags_are_named_by_the_command_line_alone, "cli/outputs.py", "hint = 'Use --force.'"),
        (flags_are_named_by_the_command_line_alone, "demo/demo.py", "shared = ['--force']"),
        (flags_are_named_by_the_command_line_alone, "fitting/options.py", "declare(0, Option(flag='--tol', help='a'))"),
        (flags_are_named_by_the_command_line_alone, "places/mine.py", "_option(None, '--queue', 'Where to wait.')"),
        (flags_are_named_by_the_command_line_alone, "mixture/family.py", "def f():\n    'Known to `--covariance`.'"),
        (
            flags_are_named_by_the_command_line_alone,
            "places/cluster.py",
            "say(f'dask worker --nthreads 1; a -- {x}')",
        ),
        (errors_are_made_of_their_fields, "passes/rows.py", f"{IMPORTED}raise DataError('`X`', 'be 1', 2, 'Set it.')"),
        (errors_are_made_of_their_fields, "passes/rows.py", f"{IMPORTED}raise DataError(text=f'{{who}} is too old.')"),
        (errors_are_made_of_their_fields, "passes/rows.py", f"{IMPORTED}raise DataError(*error.fields)"),
        (errors_are_made_of_their_fields, "passes/rows.py", "raise ValueError('of no user')"),
    ],
)
def test_rule_allows(rule: Rule, path: str, source: str) -> None:
    assert list(rule(ast.parse(source), Path(path))) == []


@pytest.mark.parametrize("path", [path.relative_to(PACKAGE) for path in MODULES], ids=str)
def test_a_file_is_short(path: Path) -> None:
    assert len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_there_is_no_circle() -> None:
    """No file imports another that, by whatever way, imports it: in functions, in `__init__` and for types, too."""
    graph = {}
    for name, path in NAMES.items():
        tree = parsed(path.relative_to(PACKAGE))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}  # (for `import_module`)
        imported = {found for found, _ in imports_of(tree)} | (strings - {"daskgmm"})  # (a logger)
        graph[name] = imported & NAMES.keys()
    assert graph["daskgmm"] >= {"daskgmm.estimator", "daskgmm.selection"}
    list(TopologicalSorter(graph).static_order())  # (a CycleError names a circle)


def test_reg_covar_is_known_to_few() -> None:
    """Its option, its prior, and messages that name it as a remedy; all else sees a prior, and the floor of one."""
    named = [path for path in MODULES if "reg_covar" in path.read_text(encoding="utf-8")]
    assert len(named) <= 11, named


def test_workers_need_no_scikit_learn() -> None:
    """What a worker imports for a pass: without scikit-learn and pandas it is a second and some 100 MB less."""
    program = """
import importlib, pkgutil, sys
import daskgmm.kernels, daskgmm.mixture, daskgmm.passes, daskgmm.sources, daskgmm.stores
for package in daskgmm.kernels, daskgmm.mixture, daskgmm.passes, daskgmm.sources, daskgmm.stores:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
never = (
    "sklearn", "matplotlib", "scipy.optimize", "scipy.stats", "dask.array", "pandas", "pyarrow", "xarray",
    "daskgmm.estimator", "daskgmm.fitting",
)
print([name for name in never if name in sys.modules])
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert completed.stdout.strip() == "[]"


def test_the_map_names_every_file() -> None:
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+\.(?:py|html)\b", text))
    shapes = PACKAGE / "mixture" / "shapes"
    missing = [
        str(path.relative_to(PACKAGE))
        for path in sorted([*MODULES, *PACKAGE.rglob("*.html")])
        if path.name not in named and path.name != "__init__.py" and path.parent != shapes
    ]
    assert not missing
    there = {path.name for path in PACKAGE.rglob("*")}
    assert not {name for name in named if name not in there and not name.startswith("test_")}, "names of files gone"
