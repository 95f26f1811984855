"""Every error class and exit code is met by a test, and a table says why a user meets it."""

import ast
from pathlib import Path

import pytest

from step37_flickr8k import errors

ROOT = Path(__file__).parents[2]

# By class: the test that raises it, and why a user meets it.
CLASSES = {
    "InvalidSettings": (
        "unit/settings/test_settings.py::test_all_mistakes_are_told_at_once",
        "a setting is mistyped, or its value can't be meant",
    ),
    "InvalidWorld": (
        "unit/cluster/test_launcher.py::test_a_partial_set_of_variables_is_refused",
        "a script exports RANK without WORLD_SIZE",
    ),
    "CallMismatch": (
        "ranks/test_ranks.py::test_different_arguments_are_a_mismatch_on_every_rank",
        "one rank asks for another split than rank 0",
    ),
    "RepositoryNotFound": (
        "unit/test_loader.py::test_each_mistake_has_its_own_error",
        "the repository's name is wrong, or the token may not see it",
    ),
    "RevisionNotFound": (
        "unit/test_loader.py::test_each_mistake_has_its_own_error",
        "a branch, tag or commit was deleted or mistyped",
    ),
    "AccessDenied": (
        "unit/test_loader.py::test_a_gated_repository_says_so",
        "the repository is gated, and nobody has accepted its terms",
    ),
    "CertificateNotTrusted": (
        "unit/hub/test_certificates.py::test_the_certificate_of_a_cdn_is_named",
        "the site's proxy signs with an authority of its own",
    ),
    "ProxyRefused": (
        "unit/hub/test_who_said_it.py::test_a_proxys_refusal_is_the_proxys",
        "the proxy wants a login, or forbids the host",
    ),
    "SplitNotFound": (
        "unit/test_loader.py::test_each_mistake_has_its_own_error",
        "the split is called otherwise in this repository",
    ),
    "CaptionKeyNotFound": (
        "unit/test_loader.py::test_each_mistake_has_its_own_error",
        "the captions are in another column",
    ),
    "EmptySelection": (
        "unit/test_loader.py::test_an_empty_selection_is_a_runtime_error",
        "no row has both a name and a caption",
    ),
    "ImageNotFound": (
        "unit/test_loader.py::test_a_missing_image_is_named_before_anything_is_fetched",
        "the table names an image that was never pushed",
    ),
    "InvalidMetadata": (
        "unit/dataset/test_csv_table.py::test_the_cases_that_users_met_are_refused",
        "a quote is never closed, or a comma stands without quotes",
    ),
    "DecoderMissing": (
        "unit/images/test_kinds.py::test_a_pillow_without_avif_is_told_by_workers",
        "the images are AVIF, and the container's Pillow is an old one",
    ),
    "BadImages": (
        "unit/images/test_bad_images.py::test_bad_images_can_be_an_error",
        "an upload was cut short, and bad_images is error",
    ),
    "FolderNotUsable": (
        "unit/cache/test_unusable.py::test_a_directory_that_cannot_be_is_a_configuration_error",
        "cache_dir is a file, or another user's",
    ),
    "HubUnavailable": (
        "unit/hub/test_weather.py::test_a_host_that_never_answered_is_given_up_in_seconds",
        "compute nodes have no way to the Hub",
    ),
    "FetchFailed": (
        "unit/hub/test_who_said_it.py::test_a_cdn_that_keeps_refusing_is_named",
        "a CDN refuses some files for longer than the retries last",
    ),
    "FolderFull": (
        "ranks/test_faults.py::test_a_full_disk_without_a_store_is_one_try_and_eight_errors",
        "the project's quota is used up",
    ),
    "CacheDamaged": (
        "unit/job/test_verify.py::test_verify_names_what_is_missing_and_wrong",
        "a disk loses bytes, or a hand deletes files",
    ),
    "NotVisible": (
        "ranks/test_faults.py::test_a_directory_that_is_not_shared_is_said_with_the_ranks",
        "cache_dir is on each node's own disk",
    ),
    "CommitChanged": (
        "ranks/test_faults.py::test_another_commit_meanwhile_is_said",
        "two jobs fill one directory with different commits",
    ),
    "LeaseLost": (
        "ranks/test_faults.py::test_a_frozen_lease_holder_stops_before_its_next_rename",
        "the downloader's node hung for minutes, and another one took over",
    ),
    "Stalled": (
        "unit/cluster/test_share.py::test_a_rank_zero_without_progress_has_stalled_for_all",
        "rank 0's file system hangs",
    ),
    "RankZeroLost": (
        "unit/cluster/test_share.py::test_silence_is_a_lost_rank_zero",
        "rank 0's node went down",
    ),
    "Terminated": (
        "unit/cluster/test_share.py::test_a_signalled_rank_zero_is_lost_to_the_other_ranks",
        "the scheduler ends the job",
    ),
}
# By exit code: the test of a whole process, and why a user meets it.
EXIT_CODES = {
    0: ("ranks/test_ranks.py::test_the_command_under_torchrun", "the cache is ready"),
    1: (
        "unit/cli/test_cli.py::test_an_unforeseen_error_is_one_line",
        "something that nobody foresaw",
    ),
    2: ("unit/cli/test_cli.py::test_a_mistake_is_one_line_and_exit_code_2", "a setting is wrong"),
    75: ("unit/cli/test_cli.py::test_a_failure_is_in_the_report", "the Hub doesn't answer"),
    76: (
        "slurm/on_slurm.py::test_rank_zero_is_killed_in_mid_download",
        "rank 0 was killed",
    ),
    130: ("unit/download/test_bulk.py::test_a_signal_in_mid_stream_ends_it_at_once", "Ctrl-C"),
    143: ("unit/download/test_bulk.py::test_a_signal_in_mid_stream_ends_it_at_once", "SIGTERM"),
}


def test_every_class_is_in_the_table() -> None:
    """A class that no test raises can't stay unnoticed; bases are raised by nobody."""
    known = {name: each for name, each in vars(errors).items() if isinstance(each, type)}
    raised = {
        name
        for name, each in known.items()
        if issubclass(each, errors.Step37Error | errors.Terminated)
        and (not each.__subclasses__() or each is errors.RankZeroLost)
    }
    assert set(CLASSES) == raised


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_raised_by_a_test(name: str) -> None:
    """The test is there, and it or its parameters name the class or its exit code."""
    test, why = CLASSES[name]
    code = getattr(errors, name).exit_code
    assert why
    assert name in source_of(test) or str(code) in source_of(test)


@pytest.mark.parametrize("code", EXIT_CODES)
def test_every_exit_code_is_that_of_a_process(code: int) -> None:
    """The test is there, and names the exit code."""
    test, why = EXIT_CODES[code]
    assert why
    assert str(code) in source_of(test) or code == 0


def source_of(test: str) -> str:
    """Return the source of a test with its parameters; the test has a sentence that says why."""
    path, _, name = test.partition("::")
    text = (ROOT / "tests" / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            assert ast.get_docstring(node)
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise AssertionError(f"no test {test}")
