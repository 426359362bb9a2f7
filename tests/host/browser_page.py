"""Opens the example workflows in ComfyUI's page, runs the first, takes pictures; run by the host's Python.

    python browser_page.py URL WORKFLOWS OUT    (needs a running server and playwright; Chromium by CHROMIUM or PATH)

Writes OUT/report.json and OUT/first_video_{classic,nodes2}.png. Nothing of this project is imported here.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

RENDERERS = {"classic": False, "nodes2": True}
"""The two ways in which the page draws nodes, and the setting that chooses."""
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader"]
RUN_SECONDS = 180
FIRST = "01_first_video"

READY = """() => window.app?.graph && window.app.extensionManager
    && window.LiteGraph?.registered_node_types?.CineSceneSampler"""

LOAD = "async ([workflow, name]) => { await app.loadGraphData(workflow, true, true, name) }"
# A node's box is drawn below its position, its title above it.
BOXES = """() => app.graph._nodes.map((node) => ({
    name: node.title, box: [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30] }))"""
GROUPS = "() => app.graph._groups.map((group) => ({ name: group.title, box: [...group.pos, ...group.size] }))"
PROMPT = "async () => (await app.graphToPrompt()).output"
MOVE = """(name) => {
    const node = app.graph._nodes.find((node) => node.type === 'CineSceneTrajectoryPreset')
    const move = node.widgets.find((widget) => widget.name === 'move')
    move.value = name
    return node.widgets.map((widget) => widget.name)
}"""
HISTORY = """async () => Object.fromEntries(
    Object.entries(await (await fetch('/history')).json()).map(([id, run]) => [id, run.status.status_str]))"""
FORGET = """() => fetch('/free', {
    method: 'POST', headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ unload_models: true, free_memory: true }) })"""
FIT = """() => {
    const view = app.canvas.ds, page = app.canvas.canvas
    const boxes = [...app.graph._groups.map((group) => [...group.pos, ...group.size]),
                   ...app.graph._nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30])]
    const left = Math.min(...boxes.map((box) => box[0])), right = Math.max(...boxes.map((box) => box[0] + box[2]))
    const top = Math.min(...boxes.map((box) => box[1])), bottom = Math.max(...boxes.map((box) => box[1] + box[3]))
    view.scale = Math.min((page.clientWidth - 110) / (right - left), (page.clientHeight - 130) / (bottom - top))
    view.offset[0] = 80 / view.scale - left
    view.offset[1] = 90 / view.scale - top
    app.canvas.setDirty(true, true)
}"""


def open_page(browser: Browser, url: str, nodes2: bool, errors: list[str]) -> Page:
    """Open ComfyUI and choose how it draws nodes; what goes wrong in the page is added to `errors`."""
    page = browser.new_page(viewport={"width": 1760, "height": 1040})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_function(READY, timeout=120_000)
    page.evaluate(
        """async (nodes2) => {
            const set = (name, value) => app.extensionManager.setting.set(name, value)
            await set('Comfy.VueNodes.Enabled', nodes2)
            await set('Comfy.Minimap.Visible', false)
        }""",
        nodes2,
    )
    page.wait_for_timeout(1000)
    return page


def look_at(page: Page, name: str, workflow: dict[str, Any]) -> dict[str, Any]:
    """Load a workflow and report what the page made of it."""
    page.evaluate(LOAD, [workflow, name])
    page.evaluate(FIT)
    page.wait_for_timeout(2500)  # nodes measure themselves once they are drawn
    return {"prompt": page.evaluate(PROMPT), "nodes": page.evaluate(BOXES), "groups": page.evaluate(GROUPS)}


def widgets_of_moves(page: Page, moves: list[str]) -> dict[str, list[str]]:
    """The widgets that Camera Move shows for each move."""
    found = {}
    for move in moves:
        page.evaluate(MOVE, move)
        page.wait_for_timeout(300)
        found[move] = page.evaluate(MOVE, move)
    return found


def run_workflow(page: Page) -> str:
    """Press Run and wait; the status the server gives. Nothing is left from earlier runs: every node works."""
    page.evaluate(FORGET)
    page.wait_for_timeout(1500)
    known = set(page.evaluate(HISTORY))
    page.evaluate("async () => { await app.queuePrompt(0) }")
    for _ in range(2 * RUN_SECONDS):
        page.wait_for_timeout(500)
        ended = {number: status for number, status in page.evaluate(HISTORY).items() if number not in known}
        if ended:
            return next(iter(ended.values()))
    return f"not ended after {RUN_SECONDS} s"


def main(url: str, workflows: Path, out: Path) -> None:
    """Everything, in both renderers."""
    report: dict[str, Any] = {}
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(workflows.glob("*.json"))}
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for renderer, nodes2 in RENDERERS.items():
            errors: list[str] = []
            page = open_page(browser, url, nodes2, errors)
            found = {name: look_at(page, name, workflow) for name, workflow in files.items()}
            look_at(page, FIRST, files[FIRST])
            moves = widgets_of_moves(page, ["static", "dolly_in", "pan_right"])
            page.close()

            page = open_page(browser, url, nodes2, errors)
            look_at(page, FIRST, files[FIRST])
            status = run_workflow(page)
            page.evaluate(FIT)
            page.wait_for_timeout(4000)  # previews load
            page.evaluate("() => app.canvas.setDirty(true, true)")
            page.wait_for_timeout(500)
            page.screenshot(path=out / f"first_video_{renderer}.png")
            report[renderer] = {
                "workflows": found,
                "moves": moves,
                "status": status,
                "after_run": {"nodes": page.evaluate(BOXES), "groups": page.evaluate(GROUPS)},
                "videos": page.evaluate("() => document.querySelectorAll('video').length"),
                "errors": errors,
                "front_end": page.evaluate("window.__COMFYUI_FRONTEND_VERSION__"),
            }
            page.close()
        browser.close()
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
