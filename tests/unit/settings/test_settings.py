"""The settings: every source, every origin, every mistake in one line, and no secret anywhere."""

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.settings import (
    WarmupSettings,
    call_settings,
    library_settings,
    load_settings,
)
from step37_flickr8k.settings.reference import (
    describe_settings,
    flags,
    json_schema,
    settings_table,
)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".toml"])
def test_the_stronger_source_wins(tmp_path: Path, suffix: str) -> None:
    """Command line before environment before file before the Hub's variables before defaults; each value knows its origin."""
    file = tmp_path / f"warmup{suffix}"
    pairs = {"split": "a", "caption-key": "a", "concurrency": 1, "endpoint": "http://file"}
    line = "{}: {}\n" if suffix != ".toml" else "{} = {}\n"
    file.write_text("".join(line.format(key, json.dumps(value)) for key, value in pairs.items()))
    environ = {
        "STEP37_SPLIT": "b",
        "STEP37_CAPTION_KEY": "b",
        "HF_ENDPOINT": "http://hub",
        "STEP37_SETTINGS": str(file),
    }
    loaded = load_settings({"split": "c"}, environ=environ)
    assert (loaded.settings.split, loaded.settings.caption_key, loaded.settings.concurrency) == (
        "c",
        "b",
        1,
    )
    assert loaded.settings.endpoint == "http://file"
    origins = {
        name: loaded.origins[name]
        for name in ("split", "caption_key", "concurrency", "endpoint", "repo_id")
    }
    assert origins == {
        "split": "--split",
        "caption_key": "STEP37_CAPTION_KEY",
        "concurrency": str(file),
        "endpoint": str(file),
        "repo_id": "default",
    }


@pytest.mark.parametrize("text", ["all", "null", "None"])
def test_every_row_is_all_or_null(text: str) -> None:
    """sample_count takes a number, or a word for every row."""
    assert load_settings({"sample_count": text}, environ={}).settings.sample_count is None
    assert load_settings({"sample_count": "3"}, environ={}).settings.sample_count == 3


def test_durations_may_carry_their_unit() -> None:
    """Seconds are the unit; s, m and h are understood."""
    flags_given = {
        "arrival_timeout": "15m",
        "read_timeout": "90s",
        "visibility_timeout": "1h",
        "stall_timeout": "0",
    }
    settings = load_settings(flags_given, environ={}).settings
    assert (settings.arrival_timeout, settings.read_timeout, settings.visibility_timeout) == (
        900,
        90,
        3600,
    )
    assert settings.stall_timeout == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("repo_id", value)
            for value in ("a b", "a/b/c", "a--b", "x.git", "../x", "a/", "", "-a", "a" * 97)
        ],
        *[("split", value) for value in ("..", "../train", "a/b", ".hidden", "")],
        *[("sample_count", value) for value in ("0", "-1", "many", "1.5")],
        *[("revision", value) for value in ("a b", "a..b", "")],
        *[("endpoint", value) for value in ("hub", "ftp://hub", "http://user:pw@hub", "http://")],
        *[
            ("endpoint", value)
            for value in (
                "http://[bad",
                "http://h:999999",
                "http://h:0",
                "http://:80",
                "http://h:x",
            )
        ],
        *[
            (name, value)
            for name in ("cache_dir", "report", "token_file")
            for value in ("", "~nosuchuser/x")
        ],
        *[("caption_key", value) for value in (" ",)],
        *[("concurrency", value) for value in ("0", "1025")],
        *[("attempts", value) for value in ("0",)],
        *[("read_timeout", value) for value in ("0", "-1", "soon")],
        *[("heartbeat_timeout", value) for value in ("0.5",)],
        *[("stall_timeout", value) for value in ("-1",)],
        *[("log_level", "loud"), ("log_format", "xml"), ("progress", "maybe")],
    ],
)
def test_a_bad_value_is_one_line_with_setting_origin_value_and_remedy(
    name: str, value: str
) -> None:
    """Each mistake names the setting, where it came from, the value, and what it should be."""
    with pytest.raises(InvalidSettings) as caught:
        load_settings({name: value}, environ={})
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{name}=")
    assert f"(--{name.replace('_', '-')})" in message
    assert value[:5] in message or "pw" in value
    assert "pw" not in message
    assert f"; {name} is " in message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """One line a mistake, whatever its source: a mistyped variable, an unknown key, a bad value."""
    file = tmp_path / "warmup.yaml"
    file.write_text("splitt: x\nconcurrency: 0\n")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(
            {"sample_count": "0"},
            file=file,
            environ={"STEP37_SAMPEL_COUNT": "3", "STEP37_QQQ": "1"},
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "STEP37_QQQ: no such setting: known are STEP37_REPO_ID" in lines[0]
    assert lines[1] == "STEP37_SAMPEL_COUNT: no such setting: did you mean STEP37_SAMPLE_COUNT?"
    assert lines[2] == f"splitt: no such setting in {file}: did you mean split?"
    with pytest.raises(InvalidSettings, match="retries: no such setting"):
        load_settings({"retries": "3"}, environ={})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("warmup.yaml", "a: [1\n", "line 2"),
        ("warmup.toml", "a = \n", "line 1"),
        ("warmup.ini", "", "name it .yaml"),
        ("warmup.yaml", None, "is not there"),
        (
            "warmup.yaml",
            "split: train\nrevision: v1\nsplit: test\n",
            "it sets split more than once",
        ),
        (
            "warmup.yaml",
            "sample-count: 8\nsample_count: 9\n",
            "it sets sample_count more than once",
        ),
        ("warmup.toml", "sample-count = 8\nsample_count = 9\n", "it sets sample_count more than"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    """A malformed, ambiguous, unknown or missing settings file is one line with its path."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidSettings, match=words) as caught:
        load_settings({}, file=tmp_path / name, environ={})
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def token_of(environ: dict[str, str], **flags_given: str) -> tuple[str | None, str]:
    loaded = load_settings(flags_given, environ=environ)
    token = loaded.settings.token
    return token.get_secret_value() if token else None, loaded.origins["token"]


def test_the_token_comes_from_where_users_keep_it(tmp_path: Path) -> None:
    """A token file, STEP37_TOKEN, HF_TOKEN, or huggingface_hub's own login; the stronger source wins."""
    file, home = tmp_path / "token-file", tmp_path / "home"
    file.write_text("hf_file\n")
    home.mkdir()
    (home / "token").write_text("hf_login")
    nobody = {"HF_HOME": str(tmp_path / "none")}
    assert token_of(nobody) == (None, "default")
    login = ("hf_login", f"huggingface_hub's login, {home / 'token'}")
    assert token_of({"HF_HOME": str(home)}) == login
    assert token_of({"HF_TOKEN_PATH": str(home / "token")}) == login
    assert token_of({"HF_HOME": str(home), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) == (
        None,
        "default",
    )
    assert token_of({"HF_HOME": str(home), "HF_TOKEN": "hf_env"}) == ("hf_env", "HF_TOKEN")
    assert token_of({"HF_TOKEN": "hf_env", "STEP37_TOKEN": "hf_own"}) == ("hf_own", "STEP37_TOKEN")
    assert token_of({"STEP37_TOKEN": "hf_own"}, token_file=str(file)) == ("hf_file", "--token-file")
    with pytest.raises(InvalidSettings, match="both set"):
        load_settings({}, environ={"STEP37_TOKEN": "hf_own", "STEP37_TOKEN_FILE": str(file)})


@pytest.mark.parametrize(
    "content", [None, b"", b"\n", b"\xff\xfe"], ids=["none", "empty", "blank", "binary"]
)
def test_a_login_that_is_none_disturbs_nobody(tmp_path: Path, content: bytes | None) -> None:
    """huggingface_hub's login file absent, empty or no text is no token, whatever else is set."""
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    login = {"HF_HOME": str(tmp_path)}
    assert token_of(login) == (None, "default")
    assert token_of({**login, "STEP37_TOKEN": "hf_own"}) == ("hf_own", "STEP37_TOKEN")


def test_the_login_is_where_huggingface_hub_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HOME is expanded, XDG_CACHE_HOME counts, and so does HUGGING_FACE_HUB_TOKEN."""
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    login = tmp_path / "huggingface" / "token"
    login.parent.mkdir()
    login.write_bytes(b"hf_login\r\n")
    found = ("hf_login", f"huggingface_hub's login, {login}")
    assert token_of({"HF_HOME": "$SCRATCH/huggingface"}) == found
    assert token_of({"HF_HOME": "${SCRATCH}/huggingface"}) == found
    assert token_of({"HF_TOKEN_PATH": "$SCRATCH/huggingface/token"}) == found
    assert token_of({"XDG_CACHE_HOME": str(tmp_path)}) == found
    assert token_of({"HF_HOME": "$NOT_SET/huggingface"}) == (None, "default")
    older = {"HUGGING_FACE_HUB_TOKEN": " hf_older\n", "XDG_CACHE_HOME": str(tmp_path)}
    assert token_of(older) == ("hf_older", "HUGGING_FACE_HUB_TOKEN")
    assert token_of({**older, "HF_TOKEN": "hf_env"}) == ("hf_env", "HF_TOKEN")
    assert token_of({**older, "HF_TOKEN": ""}) == ("hf_older", "HUGGING_FACE_HUB_TOKEN")
    assert token_of({"HF_TOKEN": " \n", "XDG_CACHE_HOME": str(tmp_path)}) == found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_before_a_token_is_named(tmp_path: Path, encoding: str) -> None:
    """A token that was saved with a BOM is refused with its file, unless another one holds."""
    file = tmp_path / "token"
    file.write_text("hf_login\n", encoding=encoding)
    named = f"{re.escape(str(file))}.*begins with a byte order mark"
    with pytest.raises(InvalidSettings, match=named) as caught:
        load_settings({}, environ={"HF_HOME": str(tmp_path)})
    assert "hf_login" not in str(caught.value)
    with pytest.raises(InvalidSettings, match=named):
        load_settings({"token_file": str(file)}, environ={})
    with pytest.raises(
        InvalidSettings, match=r"token \(HF_TOKEN\) .*begins with a byte order mark"
    ):
        load_settings({}, environ={"HF_TOKEN": "\ufeffhf_login"})
    environ = {"HF_HOME": str(tmp_path), "STEP37_TOKEN": "hf_own"}
    assert token_of(environ) == ("hf_own", "STEP37_TOKEN")


def test_a_token_in_quotation_marks_is_refused() -> None:
    """An env file that no shell reads keeps quotation marks, which are no part of a token."""
    with pytest.raises(InvalidSettings, match=r"token \(HF_TOKEN\) is wrong: .*quotation mark"):
        load_settings({}, environ={"HF_TOKEN": '"hf_x"'})


@pytest.mark.parametrize(
    ("environ", "origin"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_DATASETS_OFFLINE": "TRUE"}, "HF_DATASETS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, None),
        ({"TRANSFORMERS_OFFLINE": "no"}, None),
        ({"TRANSFORMERS_OFFLINE": "1", "STEP37_OFFLINE": "false"}, None),
    ],
    ids=str,
)
def test_offline_is_what_the_libraries_of_the_field_call_so(
    environ: dict[str, str], origin: str | None
) -> None:
    """Of the three variables of Hugging Face's libraries the first that isn't empty decides."""
    loaded = load_settings({}, environ=environ)
    assert loaded.settings.offline is (origin is not None)
    if origin:
        assert loaded.origins["offline"] == origin


def test_a_token_file_that_a_stronger_source_beats_is_not_read(tmp_path: Path) -> None:
    """STEP37_TOKEN beats a settings file's token_file, also one that isn't there; token_file: null is as if it weren't said."""
    file = tmp_path / "warmup.yaml"
    file.write_text(f"token_file: {tmp_path / 'none'}\n")
    environ = {"STEP37_SETTINGS": str(file), "HF_TOKEN_PATH": str(tmp_path / "none")}
    assert token_of({**environ, "STEP37_TOKEN": "hf_own"}) == ("hf_own", "STEP37_TOKEN")
    with pytest.raises(InvalidSettings, match="No such file"):
        load_settings({}, environ=environ)
    file.write_text("token_file: null\n")
    assert token_of(environ) == (None, "default")
    assert token_of({**environ, "HF_TOKEN": "hf_env"}) == ("hf_env", "HF_TOKEN")


def test_a_user_without_a_home_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user without HOME and passwd entry has no login, and no other trouble."""

    def nobody(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert load_settings({}, environ={}).settings.token is None


@pytest.mark.parametrize(
    "name", ["sample_count", "concurrency", "attempts", "read_timeout", "stall_timeout"]
)
def test_yes_is_no_number(tmp_path: Path, name: str) -> None:
    """YAML's yes is a mistake where a number belongs, never a 1."""
    file = tmp_path / "warmup.yaml"
    file.write_text(f"{name}: yes\ncache_dir: ''\n")
    with pytest.raises(InvalidSettings, match=f"{name}=True .*is wrong: not a number") as caught:
        load_settings({}, file=file, environ={})
    assert "cache_dir='' " in str(caught.value)


def test_a_settings_file_that_another_user_keeps_is_said(tmp_path: Path) -> None:
    """A settings file that this user may not read is one line with its path."""
    (tmp_path / "closed").mkdir()
    file = tmp_path / "closed" / "warmup.yaml"
    file.write_text("split: train\n")
    file.parent.chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)  # root reads everything
        with pytest.raises(
            InvalidSettings, match=r"warmup\.yaml can't be read: .*Permission denied"
        ):
            load_settings({}, file=file, environ={})
    finally:
        os.seteuid(user)
        file.parent.chmod(0o700)


def test_a_token_file_that_is_no_use_is_said(tmp_path: Path) -> None:
    """A missing, empty or binary token file is an error, never no token."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xffhf_x")
    for name, words in (("none", "No such file"), ("empty", "is empty"), ("binary", "no text")):
        with pytest.raises(InvalidSettings, match=words):
            load_settings({"token_file": str(tmp_path / name)}, environ={})


@pytest.mark.parametrize("token", ["hf bad", "hf_\nx", "hf_\u00e9"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    """An HTTP client would put the whole header into its error: such a token ends here, unnamed."""
    with pytest.raises(
        InvalidSettings, match=r"token \(HF_TOKEN\) is wrong: empty, or holds white space"
    ) as caught:
        load_settings({}, environ={"HF_TOKEN": token})
    assert token not in str(caught.value)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12).map("hf_{}".format))
def test_a_secret_never_shows(token: str) -> None:
    """Whatever the token is, no repr, table, dump or error of the settings holds it."""
    loaded = load_settings({}, environ={"HF_TOKEN": token})
    shown = [
        repr(loaded),
        str(loaded.settings),
        str(describe_settings(loaded)),
        loaded.settings.model_dump_json(),
    ]
    with pytest.raises(InvalidSettings) as caught:
        load_settings({"sample_count": "0"}, environ={"STEP37_TOKEN": token})
    assert not any(
        token in text for text in [*shown, str(caught.value), repr(caught.value.__cause__)]
    )


def test_settings_are_frozen_and_read_nothing_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keyword arguments alone make settings; they don't change afterwards."""
    monkeypatch.setenv("STEP37_SPLIT", "validation")
    settings = WarmupSettings()
    assert settings.split == "train"
    with pytest.raises(ValueError, match="frozen"):
        settings.split = "test"  # type: ignore[misc]


def test_a_library_call_takes_its_selection_from_its_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The environment gives connection and timeouts only, and an unknown STEP37_ variable is a warning: it may be others'."""
    environ = {
        "STEP37_SPLIT": "validation",
        "STEP37_READ_TIMEOUT": "7",
        "STEP37_TRAINER_LR": "1e-5",
        "HF_ENDPOINT": "http://hub",
    }
    with caplog.at_level(logging.WARNING):
        settings = library_settings(environ)
    assert settings.split == "train"
    assert (settings.read_timeout, settings.endpoint) == (7, "http://hub")
    assert "STEP37_TRAINER_LR" in caplog.text


def test_a_calls_arguments_are_validated_as_settings_are() -> None:
    """A call's selection comes out as it went in, and a value that can't be is named."""
    selection = Selection(
        repo_id="intro/flickr8k",
        split="train",
        caption_key="caption_0",
        sample_count=3,
        revision=None,
    )
    call = call_settings(selection, cache_dir="/cache", bad_images="error")
    assert call.selection() == selection
    assert (call.cache_dir, call.bad_images) == (Path("/cache"), "error")
    with pytest.raises(InvalidSettings, match=r"sample_count=0 \(the call\)"):
        call_settings(replace(selection, sample_count=0), cache_dir="/cache", bad_images="skip")


def test_a_library_call_takes_the_rest_from_the_settings_file_too(tmp_path: Path) -> None:
    """The file that STEP37_SETTINGS names gives what isn't asked for: below the environment, and never the selection."""
    file = tmp_path / "warmup.yaml"
    file.write_text(
        "endpoint: http://mirror\nread_timeout: 9\nsplit: validation\n", encoding="utf-8"
    )
    environ = {
        "STEP37_SETTINGS": str(file),
        "STEP37_READ_TIMEOUT": "7",
        "HF_ENDPOINT": "http://hub",
    }
    settings = library_settings(environ)
    assert (settings.endpoint, settings.read_timeout, settings.split) == (
        "http://mirror",
        7,
        "train",
    )
    file.write_text("endpiont: http://mirror\n", encoding="utf-8")
    with pytest.raises(InvalidSettings, match="endpiont: no such setting"):
        library_settings(environ)


def test_flags_table_and_schema_speak_of_the_same_settings() -> None:
    """Every setting has a flag but the secrets, a row of the README's table, and a place in the schema."""
    names = list(WarmupSettings.model_fields)
    assert [flag.setting for flag in flags()] == [
        name for name in names if name not in {"token", "headers"}
    ]
    assert [line.split("`")[1] for line in settings_table().splitlines()[2:]] == names
    assert list(json_schema()["properties"]) == names
    assert {flag.flag: flag.choices for flag in flags() if flag.choices} == {
        "--cache-scope": ("shared", "node"),
        "--fetch-mode": ("auto", "files", "parquet"),
        "--bad-images": ("skip", "error"),
        "--log-level": ("debug", "info", "warning", "error"),
        "--log-format": ("text", "json"),
        "--progress": ("auto", "on", "off"),
    }


def test_a_login_that_another_user_keeps_to_himself_is_none(tmp_path: Path) -> None:
    """A pod with a foreign home, or a shared HF_HOME that `hf auth login` has closed, runs without a token."""
    (tmp_path / "token").write_text("hf_secret", encoding="utf-8")
    tmp_path.chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)  # root reads everything
        assert load_settings({}, environ={"HF_HOME": str(tmp_path)}).settings.token is None
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert load_settings({}, environ={"HF_HOME": str(tmp_path)}).settings.token is not None


UNQUOTED = {
    "revision: 1.10": "revision=1.1 ({file}) is wrong: float, no text; quote it: '1.10'",
    "revision: 1234567": "quote it: '1234567'",
    "revision: no": "revision=False ({file}) is wrong: bool, no text; quote it: 'no'",
    "split: 2014": "split=2014 ({file}) is wrong: int, no text; quote it: '2014'",
    "caption-key: 5": "quote it: '5'",
    "revision = 1.10": "quote it: '1.10'",
}


@pytest.mark.parametrize(("line", "said"), UNQUOTED.items())
def test_a_text_that_a_settings_file_takes_for_a_number_is_to_be_quoted(
    tmp_path: Path, line: str, said: str
) -> None:
    """The message shows the value as the file has it: as a number 1.10 is 1.1."""
    file = tmp_path / f"warmup.{'toml' if '=' in line else 'yaml'}"
    file.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(InvalidSettings) as caught:
        load_settings({}, file=file, environ={})
    assert said.format(file=file) in str(caught.value)


def test_numbers_of_a_settings_file_are_decimal(tmp_path: Path) -> None:
    """What YAML 1.1 takes for octal, sexagesimal or a date is what is written there."""
    file = tmp_path / "warmup.yaml"
    file.write_text(
        "revision: 0123456\nsample_count: 010\nread_timeout: 1.5\noffline: yes\n", encoding="utf-8"
    )
    settings = load_settings({}, file=file, environ={}).settings
    assert (settings.revision, settings.sample_count) == ("0123456", 10)
    assert (settings.read_timeout, settings.offline) == (1.5, True)
    file.write_text("revision: 2024-01-01\nread_timeout: 1m\n", encoding="utf-8")
    assert load_settings({}, file=file, environ={}).settings.revision == "2024-01-01"
