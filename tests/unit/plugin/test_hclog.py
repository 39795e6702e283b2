"""Logs: the form that OpenBao reads, without the text of exceptions."""

import json
import logging
import sys

from popsigner_plugin.hclog import HclogFormatter


def test_a_record_is_one_json_line_with_go_hclogs_names() -> None:
    record = logging.LogRecord("engine", logging.WARNING, "", 0, "a\nb %s", ("c",), None)
    line = HclogFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["@level"], fields["@message"], fields["@module"]) == ("warn", "a\nb c", "engine")


def test_an_exception_is_named_by_its_type_and_never_quoted() -> None:
    try:
        int("hunter2")
    except ValueError:
        record = logging.LogRecord("engine", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    line = HclogFormatter().format(record)
    assert "ValueError" in line
    assert "hunter2" not in line
