from pathlib import Path

from local.folders import folder_of_run


def test_a_run_removes_what_ended_runs_left_and_nothing_of_those_that_live(tmp_path: Path) -> None:
    (tmp_path / "demo-old").mkdir()
    (tmp_path / "stack").mkdir()
    with folder_of_run(tmp_path, "demo-") as ended:
        (ended / "emulator.log").write_text("a log")
    assert ended.is_dir()
    assert not (tmp_path / "demo-old").exists()
    with folder_of_run(tmp_path, "demo-") as first:
        assert not ended.exists()
        with folder_of_run(tmp_path, "demo-") as second:
            assert first.is_dir()
            assert second.is_dir()
    assert (tmp_path / "stack").is_dir()


def test_a_run_that_removes_its_folder_leaves_nothing(tmp_path: Path) -> None:
    with folder_of_run(tmp_path, "demo-") as folder:
        folder.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["demo-runs"]
