"""Values that nobody can have meant are refused by name; Kubernetes' own variables are ignored."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import cli, get_flickr8k_dataset_file, prepare_flickr8k_samples
from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import library_settings, load_settings

# Each with what the message says of it; VALUE stands for a value that is right
UNMEANT = {
    "VALUE\n": "a line break",
    "VALUE\r": "a line break",
    "VALUE\r\nx": "a line break",
    "\tVALUE": "a control character",
    "VALUE\0": "a control character",
    " VALUE": "a blank",
    "VALUE ": "a blank",
    "VALUE\u00a0": "a blank",
    '"VALUE"': "its quotes",
    "'VALUE'": "its quotes",
    "\u201cVALUE\u201d": "its quotes",
    "VALUE$SCRATCH": r"expanded \$SCRATCH",
    "$SCRATCHVALUE": r"expanded \$SCRATCH",
    "VALUE${SCRATCH}": r"expanded \$\{SCRATCH\}",
    "VALUE${SCRATCH:-": r"expanded \$\{SCRATCH:-",
    "VALUE$(NODE)": r"expanded \$\(NODE\)",
    "VALUE`hostname`": "expanded `hostname`",
    "VALUE{{ scratch }}": "expanded {{ scratch }}",
}
PATHS = {
    "None": "a template's word",
    "null": "a template's word",
    "<no value>": "a template's word",
    "file:///scratch": "an address is no path",
    "s3://bucket/x": "an address is no path",
    "/scratch/~/x": "at the beginning alone",
    "./~": "at the beginning alone",
}
RIGHT = {
    "repo_id": "a/b",
    "revision": "v1",
    "split": "train",
    "caption_key": "caption_0",
    "cache_dir": "/scratch/x",
    "token_file": "/scratch/x",
    "report": "/scratch/x",
    "endpoint": "https://hub",
}
NAMED = ("cache_dir", "token_file", "report")


def refusal(name: str, value: str, source: str, tmp_path: Path) -> str:
    """Return what is said of a setting's value from one source."""
    flags, environ = dict[str, str](), dict[str, str]()
    if source == "flag":
        flags[name] = value
    elif source == "environment":
        environ[f"STEP37_{name.upper()}"] = value
    else:
        file = tmp_path / "settings.yaml"
        file.write_text(json.dumps({name: value}))
        environ["STEP37_SETTINGS"] = str(file)
    with pytest.raises(InvalidSettings) as caught:
        load_settings(flags, environ=environ)
    return str(caught.value)


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_cannot_be_meant_is_refused_by_name(name: str, source: str, tmp_path: Path) -> None:
    """Every name, address and path says what is wrong with it and what to do, from every source."""
    for form, said in UNMEANT.items():
        if name == "caption_key" and form in {" VALUE", "VALUE "}:
            continue  # the table strips the names of its columns
        message = refusal(name, form.replace("VALUE", RIGHT[name]), source, tmp_path)
        assert message.startswith(f"{name}="), form
        assert re.search(said, message), (form, message)
    if name in NAMED:
        for value, said in PATHS.items():
            assert said in refusal(name, value, source, tmp_path)


def test_what_is_right_is_taken() -> None:
    """Dollar signs before digits, tildes in names, inner blanks and quotes are nobody's mistake."""
    for value in ("/a/b~", "/a/~b", "/a b/it's", "/cost$", "a=b", "/données", "C:/x", "/none"):
        settings = load_settings({"cache_dir": value}, environ={}).settings
        assert settings.cache_dir == Path(value)
    for name, value in RIGHT.items():
        if name != "token_file":
            load_settings({name: value}, environ={})
    settings = load_settings({"caption_key": " caption_0"}, environ={}).settings
    assert settings.caption_key == " caption_0"


@pytest.mark.parametrize("token", ["$HF_TOKEN", "${HF_TOKEN}", "$(TOKEN)", "{{ token }}"])
def test_a_token_that_nothing_has_expanded_is_refused(token: str) -> None:
    """It would be sent, and the Hub would be blamed; no part of it is repeated."""
    for name in ("HF_TOKEN", "STEP37_TOKEN"):
        with pytest.raises(InvalidSettings, match="which nothing has expanded") as caught:
            load_settings({}, environ={name: token})
        assert token not in str(caught.value)


@pytest.mark.parametrize("cache_dir", ["$SCRATCH/x", "${SCRATCH}", "/x\n", "'/x'", "None", "\0"])
def test_the_library_refuses_them_too(cache_dir: str) -> None:
    """Python expands no variable: the text would become a directory's name, wherever it runs."""
    with pytest.raises(InvalidSettings, match=r"cache_dir=.* \(the call\) is wrong"):
        prepare_flickr8k_samples(cache_dir=cache_dir)
    given: Any = cache_dir
    with pytest.raises(InvalidSettings, match=r"cache_dir=.* \(the call\) is wrong"):
        get_flickr8k_dataset_file(repo_id="a/b", filename="x", cache_dir=given)
    with pytest.raises(InvalidSettings, match="STEP37_TOKEN_FILE"):
        library_settings({"STEP37_TOKEN_FILE": cache_dir})


def test_a_path_object_names_a_directory_as_it_is(hub: LocalHub, tmp_path: Path) -> None:
    """A directory that is really called $x can be named: no shell makes a pathlib.Path."""
    assert hub.commit
    cache = tmp_path / "$x"
    assert len(prepare_flickr8k_samples(cache_dir=cache)) == 8  # type: ignore[arg-type]
    assert (cache / "train" / "metadata.csv").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STEP37_RUN_ID", "$SLURM_JOB_ID"),
        ("STEP37_RUN_ID", "$(UID)"),
        ("STEP37_NODE_NAME", "n1\n"),
        ("STEP37_SETTINGS", "$HOME/x.yaml"),
        ("STEP37_SETTINGS", "'x.yaml'"),
    ],
)
def test_the_other_variables_are_refused_likewise(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run id that nothing has expanded is the same for all runs, so one would believe another."""
    monkeypatch.setenv(name, value)
    assert cli.run(["status"]) == 2
    assert f"{name}={value!r} is wrong: " in capsys.readouterr().err
    with pytest.raises(InvalidSettings, match=name):
        prepare_flickr8k_samples()


def test_a_settings_file_may_be_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leading ~ is expanded for the settings file as for every other path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("split: validation")
    assert load_settings({}, environ={"STEP37_SETTINGS": "~/x.yaml"}).settings.split == "validation"


def service(base: str, address: str = "10.96.0.7") -> dict[str, str]:
    """Return what kubelet puts into the environment of every pod for a Service with two ports."""
    url = f"tcp://{address}:80"
    return {
        f"{base}_SERVICE_HOST": address,
        f"{base}_SERVICE_PORT": "80",
        f"{base}_SERVICE_PORT_HTTP": "80",
        f"{base}_SERVICE_PORT_DNS_UDP": "53",
        f"{base}_PORT": url,
        f"{base}_PORT_80_TCP": url,
        f"{base}_PORT_80_TCP_PROTO": "tcp",
        f"{base}_PORT_80_TCP_PORT": "80",
        f"{base}_PORT_80_TCP_ADDR": address,
        f"{base}_PORT_53_UDP": f"udp://{address}:53",
        f"{base}_PORT_5_SCTP_ADDR": address,
    }


@pytest.mark.parametrize("base", ["STEP37_WARMUP", "STEP37_FLICKR8K_HUB", "STEP37_PORT", "STEP37"])
@pytest.mark.parametrize("address", ["10.96.0.7", "fd00::7"])
def test_a_service_of_kubernetes_is_ignored(
    base: str, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A Service called step37-… is no setting, and no reason for a warning."""
    environ = service(base, address) | {"STEP37_SPLIT": "validation"}
    assert load_settings({}, environ=environ).settings.split == "validation"
    with caplog.at_level(logging.WARNING):
        library_settings(environ)
    assert not caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "STEP37_WARMUP_PROT",
        "STEP37_CACHE_DIR_PORT",
        "STEP37_WARMUP_PORT_80",
        "STEP37_WARMUP_PORT_80_TCP_HOST",
        "step37_warmup_port",
        "STEP37_OTHER_SERVICE_PORT",
    ],
)
def test_a_mistyped_setting_beside_a_service_is_still_refused(name: str) -> None:
    """Only what Kubernetes documents, and only of a Service whose address is there."""
    with pytest.raises(InvalidSettings, match=f"{name}: no such setting"):
        load_settings({}, environ=service("STEP37_WARMUP") | {name: "tcp://10.96.0.7:80"})
    with pytest.raises(InvalidSettings, match="STEP37_REPORT_SERVICE_HOST: no such"):
        load_settings({}, environ={"STEP37_REPORT_SERVICE_HOST": "localhost"})
