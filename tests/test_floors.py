"""A module may import from its own room and from rooms on lower floors."""

import ast
from pathlib import Path

import pytest

FLOORS = [
    {"lazy", "resources", "testing"},
    {
        "shapes",
        "units",
        "scan",
        "validation",
        "console",
        "threads",
        "reading",
        "instructions_numba",
    },
    {"files"},
    {"solvers", "tomography"},
    {"physics"},
    {"decomposition", "phantoms", "montecarlo"},
    {"scatter"},
    {"chain", "patients"},
    {"scans"},  # of patients
    {"losses"},  # on the stages of a chain
    {"calibration"},  # of a chain, by a loss
    {"bench"},  # to files of scans and of calibrations
    {"metrics"},
    {"training"},
    {"figures"},
    {"runs"},  # with their figures
    {"simulation", "evaluation"},
    {"studies"},
    {"app"},
    {"__main__"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(__file__).parents[1] / "pcctlearn"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported_rooms(source):
    """Rooms of pcctlearn that a module imports, also within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("pcctlearn."))


def climbs(room, source):
    return {
        other for other in imported_rooms(source) if other != room and FLOOR[other] >= FLOOR[room]
    }


@pytest.mark.parametrize("file", FILES, ids=Path.as_posix)
def test_imports_point_down(file):
    room = file.parts[0].removesuffix(".py")
    if room != "__init__":
        assert not climbs(room, (PACKAGE / file).read_text())


@pytest.mark.parametrize(
    "line",
    [
        "import pcctlearn.training.threshold_module",
        "import torch, pcctlearn.training as t",
        "from pcctlearn.training.threshold_module import ThresholdModule",
        "from pcctlearn import training",
        "def late():\n    from pcctlearn.training import threshold_module",
    ],
)
def test_an_upward_import_is_caught(line):
    assert climbs("physics", line) == {"training"}
    assert not climbs("studies", line)


def test_a_neighbour_on_the_same_floor_is_caught():
    assert climbs("solvers", "from pcctlearn.tomography.fbp import fbp") == {"tomography"}


def test_every_room_has_its_floor_and_no_floor_is_empty():
    rooms = {file.parts[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert rooms == set(FLOOR)
