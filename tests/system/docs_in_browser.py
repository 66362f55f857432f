#!/usr/bin/env python3
"""Opens a running server's /docs in a headless Chromium that can reach nothing else, and tries POST /embed out.

usage: docs_in_browser.py BASE_URL [CHROMIUM]

Exits with 1, saying why, unless Swagger UI shows status 200 and an embedding for its own example, without a request
to any other host and without an error in the browser's console.
"""

import json
import shutil
import sys
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, expect, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main(base: str, chromium: str) -> None:
    host = urlsplit(base).hostname
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[*FLAGS, f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {host}"],
        )
        page = browser.new_page()
        foreign, complaints = watch(page, base)
        page.goto(f"{base}/docs")
        try_embed_out(page)
        browser.close()
    check(not foreign, f"the page asked other servers for {foreign}")
    check(not complaints, f"the browser's console has {complaints}")


def watch(page: Page, base: str) -> tuple[list[str], list[str]]:
    """Blocks and notes requests to other servers; notes the page's errors."""
    foreign: list[str] = []
    complaints: list[str] = []

    def only_this_server(route: Route) -> None:
        url = route.request.url
        if url.startswith((f"{base}/", "data:")):
            route.continue_()
        else:
            foreign.append(url)
            route.abort()

    page.route("**/*", only_this_server)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    return foreign, complaints


def try_embed_out(page: Page) -> None:
    operation = page.locator("#operations-Embeddings-embed")
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()
    request = json.loads(operation.locator("textarea.body-param__text").input_value())
    with page.expect_response("**/embed") as answered:
        operation.get_by_role("button", name="Execute").click()
    shown = operation.locator(".live-responses-table tr.response")
    expect(shown.locator(".response-col_status")).to_contain_text("200")
    expect(shown.locator(".response-col_description")).to_contain_text("\"embeddings\"")
    answer = answered.value.json()
    check(answered.value.status == 200, f"status {answered.value.status}: {answer}")
    check(answer["count"] == len(request["query"]), f"{answer['count']} vectors for {request}")
    for vector in answer["embeddings"]:
        length = sum(component * component for component in vector) ** 0.5
        check(len(vector) == answer["dimension"] > 0, f"{len(vector)} components instead of {answer['dimension']}")
        check(abs(length - 1) < 1e-5, f"a vector has length {length} instead of 1")
    print(f"Swagger UI: POST /embed gave {answer['count']} vectors of {answer['dimension']} components")


def check(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"docs_in_browser: {message}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    browser_path = sys.argv[2] if len(sys.argv) == 3 else shutil.which("chromium")
    check(browser_path is not None, "no chromium in PATH: install it (Debian: apt-get install chromium), or name one")
    main(sys.argv[1].rstrip("/"), browser_path)
