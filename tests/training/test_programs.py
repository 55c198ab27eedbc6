"""What programs share: where they may write, and how they end."""

from __future__ import annotations

import pytest

from fastmux.training.programs import options_of, run_program


def test_a_place_that_is_no_file_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for name, said in ((".", "is a folder, expected a file or a new name"), ("file/x.json", "file is a file")):
        with pytest.raises(SystemExit):
            options_of("A program.").parse_args(["--output", str(tmp_path / name)])
        assert said in capsys.readouterr().err
    assert options_of("A program.").parse_args(["--output", str(tmp_path / "a" / "b.json")]).output.name == "b.json"


def test_ctrl_c_ends_a_program_as_in_a_shell(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_program(interrupted)
    assert end.value.code == 130 and capsys.readouterr().err.endswith(": interrupted\n")
