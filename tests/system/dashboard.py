"""The dashboard's and the alerts' expressions, asked of a real Prometheus that watches a live server.

usage: python3 dashboard.py http://127.0.0.1:8000    (needs Debian's package prometheus, and a server with --cache-size)
"""

import itertools
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
DASHBOARD = json.loads((DEPLOY / "grafana/danaus.json").read_text())
# Scrapes of a second, and a window of several: else this would take minutes.
VARIABLES = {"$__rate_interval": "15s", "$instance": ".*", "$max_inflight_mib": "128"}
PATIENCE = 120

# By a panel's title and a label: the series that it must show of what `traffic` makes happen.
SERIES = {
    "Requests by route": {"route": {"/embed"}},
    "Requests by status": {"status": {"200", "400"}},
    "Rejected by reason": {"reason": {"malformed_json"}},
    "Latency by stage, 95%": {"stage": {"read", "tokenise", "queue", "compute", "finish", "respond"}},
    "Texts looked up in the cache": {"result": {"hit", "miss"}},
}


def post(base, path, body):
    """Status of a request."""
    request = urllib.request.Request(base + path, body.encode(), {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def traffic(base, round):
    """Something of everything that panels show: texts that are new, known and twice in a request, one too long, a bad request."""
    new = f"text {round}"
    assert post(base, "/embed", json.dumps({"query": [new, new, "a text"]})) == 200
    assert post(base, "/embed", json.dumps({"query": "word " * 1000, "truncate": True})) == 200
    assert post(base, "/embed", "{") == 400


def ask(prometheus, path, **parameters):
    """The data that Prometheus answers with."""
    try:
        url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        return json.load(urllib.request.urlopen(url))["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"dashboard: {parameters}\n{error.read().decode()}")


def expression(query):
    """A query with values for the dashboard's variables."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query, f"{query} has a variable that nothing is known of"
    return query


def panels():
    """Title, expression and, by label, the values that series must have (None: any), of all that is shown."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))
            yield panel["title"], expression(target["expr"]), dict.fromkeys(named) | SERIES.get(panel["title"], {})


def variables():
    """The same of the variables whose values are a label's."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            yield variable["name"], metric, {label: None}


def lacking(prometheus, query, labels):
    """What an expression has not got, or nothing."""
    result = ask(prometheus, "query", query=query)["result"]
    if not result:
        return "any data"
    if not all(math.isfinite(float(series["value"][1])) for series in result):
        return "numbers alone"
    for label, wanted in labels.items():
        values = {series["metric"].get(label) for series in result}
        if None in values or not (wanted or set()) <= values:
            return f"{label} of {wanted or 'each series'}, but {values}"
    return None


def all_lacking(prometheus):
    shown = [*panels(), *variables()]
    lacks = ((title, query, lacking(prometheus, query, labels)) for title, query, labels in shown)
    return [f"{title}: {query} has not {lack}" for title, query, lack in lacks if lack]


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
    assert SERIES.keys() <= {panel["title"] for panel in DASHBOARD["panels"]}, "series of a panel that is not there"
    lacks, end = ["Prometheus"], time.monotonic() + PATIENCE
    for round in itertools.count():
        traffic(base, round)
        time.sleep(1)
        try:
            lacks = all_lacking(prometheus)
        except urllib.error.URLError:
            pass  # Prometheus is not up yet
        if not lacks or time.monotonic() > end or process.poll() is not None:
            break
    assert not lacks, "\n".join(lacks)
    print(f"dashboard: {len([*panels(), *variables()])} expressions of panels and variables have the data that they must have")


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
