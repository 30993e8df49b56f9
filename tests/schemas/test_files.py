import stat
from pathlib import Path

import pytest

from driftline.schemas.files import make_private


def mode_of(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def is_ours(names: set[str]) -> bool:
    return "mark" in names


def test_a_new_an_empty_and_an_own_folder_are_their_owner_s_alone(tmp_path: Path) -> None:
    for name in ("new", "empty", "own"):
        folder = tmp_path / name
        if name != "new":
            folder.mkdir()
            folder.chmod(0o777)
        if name == "own":
            (folder / "mark").touch()
        make_private(folder, is_ours)
        assert mode_of(folder) == 0o700, name


def test_somebody_s_folder_stays_as_it_is_and_is_refused_where_others_write(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    make_private(tmp_path, is_ours)
    assert mode_of(tmp_path) == 0o755
    for mode in (0o775, 0o757, 0o1777):
        tmp_path.chmod(mode)
        with pytest.raises(PermissionError, match="others can write to it"):
            make_private(tmp_path, is_ours)
        assert mode_of(tmp_path) == mode
