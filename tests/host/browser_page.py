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

from playwright.sync_api import Page, sync_playwright

RENDERERS = {"classic": False, "nodes2": True}
"""The two ways in which the page draws nodes, and the setting that chooses."""
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader"]
RUN_SECONDS = 180

LOAD = "async (workflow) => { await app.loadGraphData(workflow) }"
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
FIT = """() => {
    const view = app.canvas.ds, page = app.canvas.canvas
    const boxes = [...app.graph._groups.map((group) => [...group.pos, ...group.size]),
                   ...app.graph._nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30])]
    const left = Math.min(...boxes.map((box) => box[0])), top = Math.min(...boxes.map((box) => box[1]))
    const right = Math.max(...boxes.map((box) => box[0] + box[2])), bottom = Math.max(...boxes.map((box) => box[1] + box[3]))
    view.scale = Math.min((page.clientWidth - 110) / (right - left), (page.clientHeight - 100) / (bottom - top))
    view.offset[0] = 80 / view.scale - left
    view.offset[1] = 80 / view.scale - top
    app.canvas.setDirty(true, true)
}"""


def open_page(page: Page, url: str, nodes2: bool) -> None:
    """Wait for the page and choose how it draws nodes."""
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_function(
        "() => window.app?.graph && window.app.extensionManager && window.LiteGraph?.registered_node_types?.CineSceneSampler",
        timeout=120_000,
    )
    page.evaluate(
        """async (nodes2) => {
            const set = (name, value) => app.extensionManager.setting.set(name, value)
            await set('Comfy.VueNodes.Enabled', nodes2)
            await set('Comfy.Minimap.Visible', false)
        }""",
        nodes2,
    )
    page.wait_for_timeout(1000)


def look_at(page: Page, workflow: dict[str, Any]) -> dict[str, Any]:
    """Load a workflow and report what the page made of it."""
    page.evaluate(LOAD, workflow)
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
    """Press Run and wait; the status the server gives."""
    known = page.evaluate("async () => Object.keys(await (await fetch('/history')).json())")
    page.evaluate("async () => { await app.queuePrompt(0) }")
    ended = page.wait_for_function(
        """async (known) => {
            const history = await (await fetch('/history')).json()
            const mine = Object.entries(history).filter(([id, run]) => !known.includes(id) && run.status?.completed !== undefined)
            return mine.length ? mine[0][1].status.status_str : false
        }""",
        arg=known,
        timeout=RUN_SECONDS * 1000,
        polling=500,
    )
    return ended.json_value()


def main(url: str, workflows: Path, out: Path) -> None:
    """Everything, in both renderers."""
    report: dict[str, Any] = {}
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(workflows.glob("*.json"))}
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for renderer, nodes2 in RENDERERS.items():
            page = browser.new_page(viewport={"width": 1760, "height": 1040})
            errors: list[str] = []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            open_page(page, url, nodes2)
            found = {name: look_at(page, workflow) for name, workflow in files.items()}
            look_at(page, files["01_first_video"])
            moves = widgets_of_moves(page, ["static", "dolly_in", "pan_right"])
            look_at(page, files["01_first_video"])
            status = run_workflow(page)
            page.evaluate(FIT)
            page.wait_for_timeout(4000)  # previews load
            page.screenshot(path=out / f"first_video_{renderer}.png")
            after = page.evaluate(BOXES)
            report[renderer] = {
                "workflows": found,
                "moves": moves,
                "status": status,
                "after_run": after,
                "videos": page.evaluate("() => document.querySelectorAll('video').length"),
                "errors": errors,
                "front_end": page.evaluate("window.__COMFYUI_FRONTEND_VERSION__"),
            }
            page.close()
        browser.close()
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
