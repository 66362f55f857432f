"""The dashboard's and the alerts' expressions, asked of a real Prometheus that watches a live server.

usage: python3 dashboard.py http://127.0.0.1:8000    (needs Debian's package prometheus)
"""

import json
import math
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
# Scrapes of a second, and a window of several: else this would take minutes.
VARIABLES = {"$__rate_interval": "15s", "$instance": ".*"}
PATIENCE = 120


def post(base, path, body):
    """Status of a request."""
    request = urllib.request.Request(base + path, body.encode(), {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def traffic(base):
    """Something of everything that panels show."""
    assert post(base, "/embed", json.dumps({"query": ["a text", "and another"]})) == 200
    assert post(base, "/embed", json.dumps({"query": "word " * 1000, "truncate": True})) == 200
    assert post(base, "/embed", "{") == 400


def ask(prometheus, path, **parameters):
    """The data that Prometheus answers with."""
    try:
        url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        return json.load(urllib.request.urlopen(url))["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"dashboard: {parameters}\n{error.read().decode()}")


def expressions():
    """Those of the dashboard, each with its panel's title."""
    for panel in json.loads((DEPLOY / "grafana/danaus.json").read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


def without_data(prometheus):
    def has_data(expression):
        result = ask(prometheus, "query", query=expression)["result"]
        return any(math.isfinite(float(series["value"][1])) for series in result)

    return [(title, expression) for title, expression in expressions() if not has_data(expression)]


def start(base, folder):
    """A Prometheus with this repository's configuration, but for address and pace."""
    config = (DEPLOY / "prometheus/prometheus.yml").read_text()
    config, count = re.subn("localhost:8000", base.removeprefix("http://"), config)
    assert count == 1, "prometheus.yml names the server's address once"
    (folder / "prometheus.yml").write_text(re.sub(r"_interval: \w+", "_interval: 1s", config))
    (folder / "alerts.yml").write_text((DEPLOY / "prometheus/alerts.yml").read_text())
    subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    log = (folder / "log").open("w")
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    return process, f"http://{address}"


def check_panels(base, prometheus, process):
    lacking, end = [("all", "")], time.monotonic() + PATIENCE
    while lacking and time.monotonic() < end and process.poll() is None:
        traffic(base)
        time.sleep(1)
        try:
            lacking = without_data(prometheus)
        except urllib.error.URLError:
            pass  # Prometheus is not up yet
    assert not lacking, f"no data for {lacking}"
    print(f"dashboard: {len(list(expressions()))} expressions of panels have data")


def check_alerts(prometheus):
    known = set(ask(prometheus, "label/__name__/values"))
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        ask(prometheus, "query", query=rule["query"])
        metrics = set(re.findall(r"\b(?:danaus|process)_\w+|\bup\b", rule["query"]))
        assert metrics and metrics <= known, f"{rule['name']} asks for {metrics - known}, which are not there"
        assert not rule.get("lastError"), rule
    print(f"dashboard: {len(rules)} alerts ask for metrics that are there")


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    process, prometheus = start(sys.argv[1].rstrip("/"), folder)
    try:
        check_panels(sys.argv[1].rstrip("/"), prometheus, process)
        check_alerts(prometheus)
    except BaseException:
        print((folder / "log").read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()
